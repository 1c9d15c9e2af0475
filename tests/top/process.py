"""`kn-bench top` as a process of its own, and what it has stored so far."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

WAIT_S = 30.0
COMMAND = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"


def wait_for(what: str, holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    path = folder / "metrics.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []


class Running:
    """The command as a process of its own."""

    def __init__(self, config: Path, out: Path, *flags: str) -> None:
        self.out, self.config = out, config
        command = [sys.executable, "-c", COMMAND, "top", f"--kubeconfig={self.config}", f"--output-dir={self.out}"]
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)

    def has(self, sql: str, count: int = 1) -> None:
        what = f"{count} rows of {sql}"
        try:
            wait_for(what, lambda: len(rows(self.out, sql)) >= count or self.process.poll() is not None)
        except AssertionError as error:
            raise AssertionError(f"{error}; gaps: {rows(self.out, 'SELECT * FROM metric_gaps LIMIT 20')}") from None
        assert self.process.poll() is None, self.process.communicate()

    def end(self, by: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(by)
        _, text = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, text
