"""The control plane's one program (`binaries/`), built once and kept in the user's cache.

A change of its modules, its code or the Go that builds it makes a new one. A build that is cut off is not lost: what
it compiled is in Go's own cache, and the next build goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("binaries")
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "metrics-server")


class CannotBuild(Exception):
    """Why there is no control plane to start; the message is one line."""


def cached() -> Path | None:
    """The program, where it was built before."""
    program = _place()
    return program if program.exists() else None


def build(within_s: float | None = None) -> Path:
    """The program, built now unless it is cached.

    Raises CannotBuild: no Go here, the build failed, or it took longer than `within_s`.
    """
    program = _place()
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_name(f"unfinished-{os.getpid()}")
    scratch = tempfile.TemporaryDirectory()  # go leaves its own behind when it is ended
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTMPDIR": scratch.name}
    command = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(unfinished), "."]
    try:
        # A group of its own: go's compilers have to end with it when the time is over.
        process = subprocess.Popen(
            command, cwd=SOURCES, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise CannotBuild(f"go build did not end within {within_s:.0f} s; what it compiled is kept") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()
        if process.returncode:
            raise CannotBuild(f"go build: {' | '.join(said.splitlines()[-3:])}")
        unfinished.rename(program)
    finally:
        unfinished.unlink(missing_ok=True)
        scratch.cleanup()
    return program


def _place() -> Path:
    if shutil.which("go") is None:
        raise CannotBuild("there is no go here")
    go = subprocess.run(["go", "env", "GOVERSION", "GOARCH"], cwd=SOURCES, capture_output=True, text=True)
    if go.returncode:
        raise CannotBuild(f"go env: {go.stderr.strip()}")
    digest = hashlib.sha256(go.stdout.encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "knative-bench" / "controlplane" / digest.hexdigest()[:16] / "controlplane"
