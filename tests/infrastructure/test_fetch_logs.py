"""Logs come back whole or not at all: against a stand-in of kubectl that has a pod's folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infrastructure.recipes import INFRASTRUCTURE

STAND_IN = """#!{python}
import hashlib, os, pathlib, sys
args = sys.argv[1:]
logs = pathlib.Path(os.environ["POD"])
with open(os.environ["CALLS"], "a") as calls:
    calls.write(" ".join(args) + "\\n")
if "get" in args:
    sys.stdout.write(os.environ.get("PODS", "pod/one\\n"))
elif "cat" in args:
    content = (logs / pathlib.Path(args[-1]).name).read_bytes()
    sys.stdout.buffer.write(content[: int(os.environ.get("CUT", len(content)))])
else:
    for path in sorted(logs.glob("*.log")):
        sys.stdout.write(hashlib.sha256(path.read_bytes()).hexdigest() + "  ./" + path.name + "\\n")
"""


class Pod:
    def __init__(self, folder: Path) -> None:
        self.logs, self.here, self.calls_file = folder / "pod", folder / "here", folder / "calls"
        self.logs.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "kubectl").write_text(STAND_IN.format(python=sys.executable))
        (self.bin / "kubectl").chmod(0o755)
        (self.logs / "a_1.log").write_bytes(os.urandom(70_000))
        (self.logs / "b_2.log").write_bytes(b"")

    def fetch(self, **env: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.unlink(missing_ok=True)
        return subprocess.run(
            [sys.executable, str(INFRASTRUCTURE / "fetch_logs.py"), str(self.here)],
            env={"PATH": str(self.bin), "POD": str(self.logs), "CALLS": str(self.calls_file), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def copied(self) -> list[str]:
        return [line.rpartition("/")[2] for line in self.calls_file.read_text().splitlines() if " cat " in line]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def same(pod: Pod) -> bool:
    names = sorted(path.name for path in pod.logs.iterdir())
    return names == sorted(path.name for path in pod.here.iterdir()) and all(
        hashlib.sha256((pod.here / name).read_bytes()).digest()
        == hashlib.sha256((pod.logs / name).read_bytes()).digest()
        for name in names
    )


def test_logs_come_whole_and_only_once(pod: Pod) -> None:
    assert pod.fetch().returncode == 0
    assert same(pod) and pod.copied == ["a_1.log", "b_2.log"]
    assert pod.fetch().returncode == 0
    assert pod.copied == []


def test_what_grew_or_was_damaged_comes_again(pod: Pod) -> None:
    pod.fetch()
    with (pod.logs / "a_1.log").open("ab") as log:
        log.write(b"more")
    (pod.here / "b_2.log").write_bytes(b"not what it was")
    assert pod.fetch().returncode == 0
    assert same(pod)


def test_a_cut_copy_is_named_and_leaves_nothing_that_looks_whole(pod: Pod) -> None:
    ran = pod.fetch(CUT="1000")
    assert ran.returncode == 1
    assert "a_1.log: 1000 bytes came" in ran.stderr
    assert [path.name for path in pod.here.iterdir()] == ["b_2.log"], "the others come all the same"
    assert pod.fetch().returncode == 0 and same(pod)


def test_no_pod_is_said(pod: Pod) -> None:
    ran = pod.fetch(PODS="")
    assert ran.returncode == 1 and "no pod is running" in ran.stderr


def test_nothing_in_the_pod_is_deleted(pod: Pod) -> None:
    before = {path.name: path.read_bytes() for path in pod.logs.iterdir()}
    pod.fetch()
    assert {path.name: path.read_bytes() for path in pod.logs.iterdir()} == before
    assert json.dumps(pod.calls_file.read_text()).count(" rm ") == 0
