"""`python -m tests.cluster up|down|build|cached`: the commands of the justfile's cluster recipes."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster import build
from tests.cluster.plane import Plane, PlaneFailed

LONG_S = 180.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description="Runs a control plane on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="build the program unless it is cached, and print its path")
    builds.add_argument("--within", type=float, metavar="SECONDS", help="stop the build after this time")
    commands.add_parser("cached", help="exit with 0 if the program is cached")
    for name, text in {
        "up": "start a plane in the background, and print its KUBECONFIG",
        "down": "stop it",
        "serve": "run a plane until a signal",
    }.items():
        each = commands.add_parser(name, help=text)
        each.add_argument("--folder", type=Path, default=_default_folder(), help="default %(default)s")
    options = parser.parse_args()
    try:
        if options.command == "cached":
            return 0 if build.cached() else 1
        if options.command == "build":
            _say(str(build.build(options.within)))
            return 0
        return {"up": _up, "down": _down, "serve": _serve}[options.command](options.folder)
    except (build.CannotBuild, PlaneFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"knative-bench-cluster-{os.getuid()}"


def _up(folder: Path) -> int:
    if _owner(folder) is None:
        build.build()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "plane.log").open("wb") as log:
            command = [sys.executable, "-m", "tests.cluster", "serve", f"--folder={folder}"]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + LONG_S
        while not (folder / "ready").exists():
            if process.poll() is not None:
                raise PlaneFailed((folder / "plane.log").read_text())
            if time.monotonic() > deadline:
                process.terminate()
                raise PlaneFailed(f"the plane is not ready after {LONG_S:.0f} s; its logs are in {folder}")
            time.sleep(0.1)
    _say(f"export KUBECONFIG={next(folder.glob('*-admin.kubeconfig'))}")
    return 0


def _down(folder: Path) -> int:
    owner = _owner(folder)
    if owner is None:
        _say("no plane is running")
        return 0
    os.kill(owner, signal.SIGTERM)
    while folder.exists() and _owner(folder) is not None:
        time.sleep(0.05)
    return 0


def _serve(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only one plane uses the folder, so files in it are left over from a killed one.
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "plane.log":
            path.unlink()
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    (folder / "pid").write_text(str(os.getpid()))
    with Plane(build.build(), folder) as plane:
        (folder / "ready").touch()
        while signal.sigtimedwait(wanted, 1.0) is None:
            plane.check()
    return 0


def _owner(folder: Path) -> int | None:
    """The process id of the plane of this folder, or None if it is not running."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int((folder / "pid").read_text())
        if b"tests.cluster" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
