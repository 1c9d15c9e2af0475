"""The generator's logs, from its pod to a folder here: resumable, checked, and nothing in the pod is touched.

    python fetch_logs.py FOLDER

A file that is here with the pod's checksum is not fetched again. Each is written beside its place and renamed once its
checksum is right. Exit 1 names every file that could not be fetched whole: that of a run in progress, for instance.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

NAMESPACE = "workload-generator"


class FetchError(Exception):
    """kubectl failed, or the pod's answer is not what was asked for."""


def kubectl(*args: str) -> bytes:
    ran = subprocess.run(["kubectl", "-n", NAMESPACE, *args], capture_output=True, check=False)
    if ran.returncode:
        raise FetchError(f"kubectl {' '.join(args)}: {ran.stderr.decode(errors='replace').strip()}")
    return ran.stdout


def checksums(pod: str) -> dict[str, str]:
    """File name → SHA-256, of all logs in the pod."""
    found = {}
    said = kubectl("exec", pod, "--", "sh", "-c", "cd /logs && find . -maxdepth 1 -name '*.log' -exec sha256sum {} +")
    for line in said.decode().splitlines():
        parsed = re.fullmatch(r"([0-9a-f]{64})  \./([^/]+\.log)", line)
        if not parsed:
            raise FetchError(f"the pod's list of logs has a line that is no checksum: {line!r}")
        found[parsed[2]] = parsed[1]
    return found


def fetch(pod: str, name: str, expected: str, folder: Path) -> str:
    """What became of the file: `here already`, `fetched`; FetchError when it is not whole."""
    target = folder / name
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == expected:
        return "here already"
    content = kubectl("exec", pod, "--", "cat", f"/logs/{name}")
    if hashlib.sha256(content).hexdigest() != expected:
        raise FetchError(
            f"{name}: {len(content)} bytes came, with another checksum; is a run in progress? Run this again"
        )
    part = folder / f"{name}.part"
    part.write_bytes(content)
    part.replace(target)
    return "fetched"


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: python fetch_logs.py FOLDER\n")
        return 2
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    try:
        pods = kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "name").decode().split()
        if not pods:
            raise FetchError(f"no pod is running in namespace {NAMESPACE}")
        for name, expected in sorted(checksums(pods[0]).items()):
            try:
                sys.stdout.write(f"{name}: {fetch(pods[0], name, expected, folder)}\n")
            except FetchError as problem:
                problems.append(str(problem))
    except FetchError as problem:
        problems.append(str(problem))
    for line in problems:
        sys.stderr.write(line + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
