"""`kn-bench functions`: builds and tests with tools that the tests make themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workload_generator.commands import kn_bench
from workload_generator.functions.toolchain import missing_needs, program_version

KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs; the PATH has only it and the system's own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    program_version.cache_clear()
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Writes a catalog of entries and runs the command: its exit code and what it printed."""
    folder = tmp_path / "functions"
    monkeypatch.setenv("FUNCTIONS_DIR", str(folder))

    def command(entries: dict[str, dict[str, Any]], *arguments: str) -> tuple[int, str]:
        write_catalog(folder, entries)
        code = kn_bench.main(["functions", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


def write_catalog(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    common = {"language": "sh", "framework": "none", "run": "true"}
    for name in entries:
        (folder / name).mkdir(parents=True, exist_ok=True)
    functions = [{"name": name, "image": name, **common, **entry} for name, entry in entries.items()]
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"functions": functions}))


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("said", "need", "complaint"),
    [
        ("echo tool 1.24.0", "tool 1.24", None),
        ("echo 'tool version tool1.26.8 linux/amd64'", "tool 1.9", None),
        ("echo v20.20.2", "tool 20", None),
        ("printf '\\033[1mApache Tool 3.8.7\\033[m\\nHome: /usr'", "tool 3.8", None),
        ("echo 'tool 17.0.15' >&2", "tool 17", None),
        ("echo tool 1.9.2", "tool 1.24", "tool 1.24 or newer (here: 1.9.2)"),
        ("echo hello", "tool 2", "tool 2 or newer (here: unknown version)"),
        ("echo 3.0; exit 1", "tool 2", "tool 2 or newer (here: unknown version)"),
        ("exit 1", "tool", None),
        (None, "tool", "tool (not on the PATH)"),
        (None, "tool 2", "tool 2 or newer (not on the PATH)"),
    ],
)
def test_missing_programs_are_named(tools: Path, said: str | None, need: str, complaint: str | None) -> None:
    if said is not None:
        program(tools, "tool", said)
    assert missing_needs([need]) == ([complaint] if complaint else [])


def test_a_build_runs_its_commands_in_the_functions_folder(tools: Path, run: Run, tmp_path: Path) -> None:
    entry = {"build": ["mkdir -p out", "touch 'out/a b'"], "produces": ["out/a b"]}
    code, shown = run({"one": entry, "other": entry}, "build")
    assert code == 0 and "2 built, 0 failed in" in shown
    assert (tmp_path / "functions" / "one" / "out" / "a b").exists()


def test_a_test_builds_the_function_first(tools: Path, run: Run, tmp_path: Path) -> None:
    program(tools, "note", 'echo "$1" >> notes')
    entry = {"build": ["note build", "touch made"], "produces": ["made"], "test": "note test"}
    assert run({"one": entry}, "test")[0] == run({"one": entry}, "test")[0] == 0
    assert (tmp_path / "functions" / "one" / "notes").read_text().split() == ["build", "test", "test"]


def test_a_failure_shows_the_end_of_its_output(tools: Path, run: Run) -> None:
    program(tools, "fails", "seq 1 100; echo '[red]no such thing'; exit 7")
    code, shown = run({"bad": {"build": ["fails now", "touch never"]}, "good": {"build": ["true"]}}, "build")
    assert code == 1 and "`fails now` ended with exit code 7" in shown
    assert "\n    [red]no such thing\n" in shown and "    100\n" in shown and "    50\n" not in shown
    assert "1 built, 1 failed in" in shown


def test_a_build_that_produces_nothing_has_failed(tools: Path, run: Run) -> None:
    code, shown = run({"bad": {"build": ["true"], "produces": ["bin/a", "bin/b"]}}, "build")
    assert code == 1 and "did not produce bin/a, bin/b" in shown


def test_a_missing_program_is_a_failure(tools: Path, run: Run) -> None:
    code, shown = run({"bad": {"build": ["no-such-program x"]}}, "build")
    assert code == 1 and "cannot be started: no-such-program: No such file" in shown


@pytest.mark.parametrize(
    ("arguments", "code"), [((), 0), (("--all",), 1), (("good",), 0), (("good", "lacking", "good"), 1)]
)
def test_a_skip_is_a_failure_only_if_the_function_was_requested(
    tools: Path, run: Run, arguments: tuple[str, ...], code: int
) -> None:
    entries = {"good": {"build": ["true"]}, "lacking": {"needs": ["no-such-tool 2"], "build": ["false"]}}
    ended, shown = run(entries, "build", *arguments)
    assert ended == code
    assert "1 built, 0 failed" in shown
    assert ("needs no-such-tool 2 or newer (not on the PATH)" in shown) == (arguments != ("good",))


def test_unknown_names_list_those_that_exist(tools: Path, run: Run) -> None:
    code, shown = run({"empty-go-http": {}}, "test", "empty-goo-http")
    assert code == 2 and "did you mean empty-go-http?" in shown


def test_needs_are_a_program_and_a_version(tools: Path, run: Run) -> None:
    code, shown = run({"bad": {"needs": ["go >= 1.24"]}}, "build")
    assert code == 2 and "functions[0].needs[0]" in shown


EARLY_CTRL_C = """
import os, signal, subprocess, time
from pathlib import Path

class Early(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        if options.get("process_group") == 0:
            while not Path(os.environ["WRITTEN"]).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # while another thread would take the signal

subprocess.Popen = Early
"""
"""A Ctrl-C that comes once a child has children and before the parent has the child, as on a busy machine."""


def test_ctrl_c_while_a_build_starts_ends_its_children(tools: Path, tmp_path: Path) -> None:
    program(tools, "slow", "sleep 600 & echo $! > part; mv part pid; wait")
    write_catalog(tmp_path / "functions", {"slow": {"build": ["slow"]}})
    written = tmp_path / "functions" / "slow" / "pid"
    ran = subprocess.run(
        [sys.executable, "-c", EARLY_CTRL_C + KN_BENCH, "functions", "build"],
        env={**os.environ, "FUNCTIONS_DIR": str(tmp_path / "functions"), "WRITTEN": str(written)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ran.returncode == 130 and "Traceback" not in ran.stderr, ran.stderr
    deadline = time.monotonic() + 20
    while Path(f"/proc/{written.read_text().strip()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_ends_the_children_of_a_build(tools: Path, tmp_path: Path) -> None:
    program(tools, "slow", "sleep 600 & echo $! > pid; wait")
    write_catalog(tmp_path / "functions", {"slow": {"build": ["slow"]}})
    process = subprocess.Popen(
        [sys.executable, "-c", KN_BENCH, "functions", "build"],
        env={**os.environ, "FUNCTIONS_DIR": str(tmp_path / "functions")},
        stderr=subprocess.PIPE,
        text=True,
    )
    written = tmp_path / "functions" / "slow" / "pid"
    deadline = time.monotonic() + 60
    while not written.exists() or not written.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    while Path(f"/proc/{written.read_text().strip()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
