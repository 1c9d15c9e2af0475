"""The program of the control plane: its cache, and the message if it cannot be built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import needs

ROOT = Path(__file__).parents[2]


def ask(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.cluster` with an empty cache."""
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster", *arguments],
        cwd=ROOT, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}, capture_output=True, text=True,
    )  # fmt: skip


@needs.mark(needs.GO)
def test_a_build_that_times_out_prints_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    ran = ask(tmp_path, "build", "--within=0.01")
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert "did not finish within" in ran.stderr
    assert not [path for path in (tmp_path / "knative-bench").rglob("*") if path.is_file()]
    assert ask(tmp_path, "cached").returncode == 1


def test_a_missing_go_is_reported_in_one_line(tmp_path: Path) -> None:
    ran = ask(tmp_path, "build", PATH="/nonexistent")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "go is not installed\n")


@needs.mark(needs.GO)
def test_a_cached_program_is_not_built_again(tmp_path: Path) -> None:
    """The folder's name is the hash of modules, code and Go; any file in it is used."""
    ask(tmp_path, "build", "--within=0.01")
    (folder,) = (tmp_path / "knative-bench" / "controlplane").iterdir()
    (folder / "controlplane").touch()
    ran = ask(tmp_path, "build", "--within=0.01")
    assert (ran.returncode, ran.stdout.strip()) == (0, str(folder / "controlplane"))
    assert ask(tmp_path, "cached").returncode == 0
