"""The image and its containers. The base image is built here, since an image registry may not be reachable.

Rules:
- images and the tar file of the base are cached outside the repository; a change of a recipe builds new ones
- containers have no network: they send their load to their own `--serve`, over loopback
- a test removes its containers
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import needs

ROOT = Path(__file__).parents[2]
MAKE_BASE = Path(__file__).with_name("make-base")
BASE = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile.wg").read_text(), re.MULTILINE)[-1]
UID = 65532
READY_S = 60.0

# runc and cgroupfs also work with cgroup v1; these ulimits need no privileges.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(needs.mark(needs.IMAGE))


class Podman:
    """podman and buildah with separate storage."""

    def __init__(self, cache: Path) -> None:
        self._where = ["--root", str(cache / "storage"), "--runroot", str(cache / "run")]
        config = cache / "containers.conf"
        config.write_text(CONTAINERS_CONF)
        self._environment = {**os.environ, "CONTAINERS_CONF": str(config)}

    def start(self, *arguments: str, program: str = "podman", **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([program, *self._where, *arguments], env=self._environment, **options)

    def run(
        self, *arguments: str, program: str = "podman", check: bool = True, data: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.start(*arguments, program=program, **pipes)
        stdout, stderr = process.communicate(data)
        ran = subprocess.CompletedProcess(arguments, process.returncode, stdout.decode(), stderr.decode())
        assert not check or ran.returncode == 0, f"{program} {' '.join(arguments)}: {ran.stdout[-3000:]}{ran.stderr}"
        return ran


@dataclass(frozen=True)
class Image:
    """The built image: its id, its size, and the size that it adds to its base."""

    id: str
    bytes: int
    added_bytes: int


@pytest.fixture(scope="session")
def cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knative-bench" / "image"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def podman(cache: Path) -> Podman:
    return Podman(cache)


@pytest.fixture(scope="session")
def image(podman: Podman, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    base = _make_base(podman, cache)
    folder = tmp_path_factory.mktemp("build")
    trust = folder / "pip.conf"
    trust.write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    system = folder / "uv.toml"
    system.write_text("system-certs = true\n")
    mounts = {
        "/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
        str(trust): "/etc/pip.conf",
        str(system): "/etc/uv/uv.toml",
    }
    podman.run(
        "bud",
        *("--pull=never", "--isolation=chroot", "--network=host", "--layers", "--format=docker"),
        *(f"--volume={ours}:{theirs}:ro" for ours, theirs in mounts.items()),
        f"--iidfile={folder / 'id'}",
        f"--file={ROOT / 'Dockerfile.wg'}",
        str(ROOT),
        program="buildah",
    )
    podman.run("image", "prune", "--force", "--filter", "until=72h", check=False)
    name = (folder / "id").read_text().strip()
    sizes = [int(podman.run("image", "inspect", "--format={{.Size}}", each).stdout) for each in (name, base)]
    return Image(name, sizes[0], sizes[0] - sizes[1])


def _make_base(podman: Podman, cache: Path) -> str:
    python = _find_python(BASE.partition(":")[2].partition("-")[0])
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    key = hashlib.sha256(MAKE_BASE.read_bytes() + version.encode()).hexdigest()[:12]
    name = f"localhost/bench-base:{key}"
    if podman.run("image", "exists", name, check=False).returncode:
        tar = cache / f"base-{key}.tar"
        if not tar.exists():
            subprocess.run([MAKE_BASE, python, tar], check=True, stdin=subprocess.DEVNULL)
        podman.run("import", str(tar), name)
    podman.run("tag", name, BASE)
    return name


def _find_python(version: str) -> str:
    """A Python of that version if there is one, else our own. The wheels in the image are chosen by its version."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"versions/{version}.*/bin/python{version}"))]
    for each in filter(None, candidates):
        ran = subprocess.run([each, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True)
        if ran.returncode == 0:
            return ran.stdout.strip()
    return sys.executable


class Pod:
    """A container with the restrictions of the generator's pod: read-only, unprivileged, limited."""

    def __init__(self, podman: Podman, name: str, logs: Path) -> None:
        self._podman = podman
        self.name = name
        self.logs = logs

    def start_exec(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        return self._podman.start("exec", self.name, *command, **options)

    def exec(self, *command: str, data: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as `kubectl exec` does."""
        flags = ["--interactive"] if data is not None else []
        return self._podman.run("exec", *flags, self.name, *command, check=False, data=data or b"")

    def write(self, path: str, text: str) -> None:
        assert self.exec("sh", "-c", f"cat > {path}", data=text.encode()).returncode == 0

    def get(self, path: str) -> tuple[int, str]:
        """GET from PID 1: status and body; status 0 if it does not listen."""
        ran = self.exec("python", "-c", GET, path)
        status, _, text = ran.stdout.partition("\n")
        return int(status or 0), text

    def signal(self, name: str) -> None:
        self._podman.run("kill", f"--signal={name}", self.name)

    def wait(self) -> int:
        """Wait for the end of PID 1; its exit code."""
        return int(self._podman.run("wait", self.name).stdout)

    def log_lines(self) -> list[dict[str, Any]]:
        """The complete lines of the newest log."""
        newest = max(self.logs.glob("*.log"), key=lambda path: path.stat().st_mtime_ns, default=None)
        data = newest.read_bytes() if newest is not None else b""
        return [orjson.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the newest log has `count` lines of this event; its lines."""
        deadline = time.monotonic() + READY_S
        while True:
            lines = self.log_lines()
            if [doc["event"] for doc in lines].count(event) >= count:
                return lines
            assert time.monotonic() < deadline, lines[-3:]
            time.sleep(0.05)

    def clear(self) -> None:
        for path in self.logs.glob("*.log"):
            path.unlink()


GET = """
import sys, urllib.error, urllib.request
directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = directly.open("http://127.0.0.1:8080" + sys.argv[1])
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit(0)
print(answer.status)
print(answer.read().decode())
"""


@contextlib.contextmanager
def running(
    podman: Podman, image: Image, folder: Path, *flags: str, command: tuple[str, ...] = (), serves: bool = True
) -> Iterator[Pod]:
    """Run a pod and, if it `serves`, wait until PID 1 listens; `flags` are for `podman run`."""
    logs = folder / "logs"
    logs.mkdir()
    os.chown(logs, UID, UID)
    name = f"bench-{secrets.token_hex(4)}"
    restrictions = [
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,size=64m,mode=1777", f"--volume={logs}:/logs"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"),
        *("--memory=512m", "--pids-limit=200"),
    ]
    podman.run("run", "--detach", f"--name={name}", *restrictions, *flags, image.id, *command)
    pod = Pod(podman, name, logs)
    try:
        deadline = time.monotonic() + READY_S
        while serves and not pod.get("/healthz")[0]:
            assert time.monotonic() < deadline, podman.run("logs", name).stderr
        yield pod
    finally:
        podman.run("rm", "--force", "--time=0", name, check=False)
