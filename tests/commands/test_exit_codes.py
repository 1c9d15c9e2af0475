"""The exit codes of README.md, tried from outside. Commands of a cluster have their own tests for the rest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from workload_generator.base.exit_codes import ExitCode, of_signal

Start = Callable[[str], subprocess.Popen[str]]
PROGRAMS = Path(sys.executable).parent
EXPERIMENT = """
targets: [{{url: "http://127.0.0.1:{port}/"}}]
rate: {{requestsPerSecond: 20, duration: {duration}, rampUp: 0s}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two experiments against a closed port, one with a threshold, an empty folder, and a text as a database."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.db").write_text("not a database, but long enough for a header" * 4)
    port = free_port()
    missed = EXPERIMENT.format(port=port, duration="300ms") + "thresholds: [errors < 1%]\n"
    (tmp_path / "short.yaml").write_text(missed)
    (tmp_path / "long.yaml").write_text(EXPERIMENT.format(port=port, duration="1h"))
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a command; what still runs after the test is killed."""
    with contextlib.ExitStack() as stack:

        def popen(words: str) -> subprocess.Popen[str]:
            process = _popen(words, folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield popen


def _popen(words: str, folder: Path) -> subprocess.Popen[str]:
    program, *flags = words.format(folder=folder).split()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KUBE")},
        "TMPDIR": str(folder),
        "HOME": str(folder),
    }
    pipe = subprocess.PIPE
    return subprocess.Popen([PROGRAMS / program, *flags], env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("workload-generator --version", ExitCode.OK),
        ("workload-generator --config=quickstart-warm --check", ExitCode.OK),
        ("workload-generator --no-such-flag", ExitCode.USAGE),
        ("workload-generator --config=no-such-experiment", ExitCode.USAGE),
        ("workload-generator --config=cloudevent-250 --event --log-dir={folder}", ExitCode.USAGE),
        ("workload-generator --config={folder}/short.yaml --log-dir={folder}/text.db", ExitCode.USAGE),
        ("workload-generator --config={folder}/short.yaml --log-dir={folder}", ExitCode.INVALID),
        ("kn-bench --help", ExitCode.OK),
        ("kn-bench", ExitCode.USAGE),
        ("kn-bench no-such-command", ExitCode.USAGE),
        ("kn-bench quickstart --data={folder}/text.db", ExitCode.USAGE),
        ("kn-bench local --parallelism=3", ExitCode.USAGE),
        ("kn-bench functions build no-such-function", ExitCode.USAGE),
        ("kn-bench extract --logs={folder}/empty --db={folder}/x.db", ExitCode.FAILURE),
        ("kn-bench extract --logs={folder}/empty --db={folder}/text.db", ExitCode.FAILURE),
        ("kn-bench combine --db={folder}/none.db --metrics={folder}/none.db", ExitCode.FAILURE),
        ("kn-bench report --db={folder}/none.db --out={folder}/x.html", ExitCode.FAILURE),
        ("kn-bench compare {folder}/none.db", ExitCode.USAGE),
        ("kn-bench compare {folder}/none.db {folder}/none.db", ExitCode.FAILURE),
        ("kn-bench scenario no-such-scenario", ExitCode.USAGE),
        ("kn-bench scenario serving-1 --platform=cluster --dry-run", ExitCode.OK),
        ("kn-bench prometheus local --output-dir={folder}/empty", ExitCode.USAGE),
        ("kn-bench top --nodes=false --pods=false", ExitCode.USAGE),
        ("kn-bench top --kubeconfig={folder}/none", ExitCode.USAGE),
        ("kn-bench doctor --kubeconfig={folder}/none", ExitCode.USAGE),
        ("kn-bench deploy --kubeconfig={folder}/none", ExitCode.USAGE),
        ("kn-bench delete --kubeconfig={folder}/none", ExitCode.USAGE),
        ("kn-bench patch", ExitCode.USAGE),
        ("kn-bench trigger --config=no-such-experiment", ExitCode.USAGE),
        ("kn-bench extract-logs --kubeconfig={folder}/none", ExitCode.USAGE),
        ("receiver --port=0", ExitCode.USAGE),
        ("event-logger --sync-interval=0", ExitCode.USAGE),
    ],
)
def test_a_command_ends_with_its_code(words: str, code: ExitCode, start: Start) -> None:
    process = start(words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "begun"),
    [
        ("workload-generator --config={folder}/long.yaml --log-dir={folder} --progress=none", "*.log"),
        ("kn-bench local --port=0 --bind=127.0.0.1", None),
    ],
)
def test_a_signal_ends_a_command_with_128_and_its_number(
    words: str, begun: str | None, by: signal.Signals, start: Start, folder: Path
) -> None:
    process = start(words)
    if begun is None:
        assert process.stdout is not None
        assert process.stdout.readline()  # the address that it serves
    else:
        while not any(path.stat().st_size for path in folder.glob(begun)):
            assert process.poll() is None
            time.sleep(0.02)
    process.send_signal(by)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == of_signal(by) == 128 + by, errors
    assert "Traceback" not in errors


def test_one_run_at_a_time_in_a_pod(start: Start, folder: Path) -> None:
    first = start("workload-generator --config={folder}/long.yaml --log-dir={folder} --progress=none")
    while not any(path.stat().st_size for path in folder.glob("*.log")):
        assert first.poll() is None
        time.sleep(0.02)
    second = start("workload-generator --config={folder}/short.yaml --log-dir={folder}")
    _, errors = second.communicate(timeout=60)
    first.terminate()
    first.communicate(timeout=60)
    assert second.returncode == ExitCode.USAGE, errors
