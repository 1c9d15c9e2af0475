"""The program of the control plane (`binaries/`), built once and kept in the user's cache.

A change of its modules, its code or the version of Go causes a new build. An interrupted build is not lost: Go caches
the compiled packages, and the next build uses them.
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
    """The program cannot be built; the message is one line."""


def cached() -> Path | None:
    """The path of the cached program, or None."""
    program = _place()
    return program if program.exists() else None


def build(within_s: float | None = None) -> Path:
    """The path of the program, which is built unless it is cached.

    Raises CannotBuild if Go is not installed, the build fails or it takes longer than `within_s`.
    """
    program = _place()
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_name(f"unfinished-{os.getpid()}")
    scratch = tempfile.TemporaryDirectory()  # go does not delete its own when it is killed
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTMPDIR": scratch.name}
    command = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(unfinished), "."]
    try:
        # A separate process group, so that go's compilers end with it after a time-out.
        process = subprocess.Popen(
            command, cwd=SOURCES, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise CannotBuild(f"go build did not finish within {within_s:.0f} s; run it again to continue") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()
        if process.returncode:
            raise CannotBuild(f"go build: {' | '.join(errors.splitlines()[-3:])}")
        unfinished.rename(program)
    finally:
        unfinished.unlink(missing_ok=True)
        scratch.cleanup()
    return program


def _place() -> Path:
    if shutil.which("go") is None:
        raise CannotBuild("go is not installed")
    go = subprocess.run(["go", "env", "GOVERSION", "GOARCH"], cwd=SOURCES, capture_output=True, text=True)
    if go.returncode:
        raise CannotBuild(f"go env: {go.stderr.strip()}")
    digest = hashlib.sha256(go.stdout.encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "knative-bench" / "controlplane" / digest.hexdigest()[:16] / "controlplane"
