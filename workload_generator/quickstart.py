"""`kn-bench quickstart`: the main job on this machine, from a function to a database, by the code of any other run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from workload_generator.children import die_with_parent
from workload_generator.errors import BenchError, UsageError
from workload_generator.extraction import extract_and_show
from workload_generator.local.process import FunctionProcess, free_port
from workload_generator.results.store import open_store

_FUNCTION = "empty-python-http"
_EXPERIMENT = "quickstart-warm"
_PREFIX = "serving-scenario-1_200rps_python"
_FINISHED = (0, 3)  # a valid run, and one whose verdict is invalid: both have a whole log
_GRACE_S = 15.0


def quickstart(data: Path, port: int | None, console: Console) -> None:
    """Run it. `data` gets `logs/` and `benchmark.db`. Raises BenchError; nothing is left running."""
    logs, db = data / "logs", data / "benchmark.db"
    _prepare(logs)
    open_store(db).close()  # what is wrong with it is better known before the run than after
    with FunctionProcess(_FUNCTION, free_port(port)) as function:
        console.print(f"{_FUNCTION} answers at {function.url} (process {function.pid})")
        _generate(function.url, logs)
    extract_and_show(logs, db, console)


def _prepare(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {logs}: {error.strerror}; choose another folder with --data") from None


def _generate(url: str, logs: Path) -> None:
    command = [sys.executable, "-m", "workload_generator", f"--config={_EXPERIMENT}", f"--prefix={_PREFIX}"]
    command += [f"--dev-url={url}", f"--log-dir={logs}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent())
    try:
        code = process.wait()
    except BaseException:
        process.terminate()  # when the Ctrl-C reached it too, this is its second signal: it ends at once
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    if code not in _FINISHED:
        raise BenchError(f"the workload generator ended with exit code {code}")
