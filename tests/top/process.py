"""Runs `kn-bench top` in a process of its own or in this one, and reads what it has stored so far."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from workload_generator.commands import kn_bench

WAIT_S = 30.0
COMMAND = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"


def wait_for(what: str, holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
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
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            COMMAND,
            "top",
            f"--kubeconfig={self.config}",
            f"--output-dir={self.out}",
        ]
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
        try:
            _, text = self.process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # says where it stands
            raise AssertionError(f"it did not end: {self.process.communicate()[1]}") from None
        return self.process.returncode, text


class Recording:
    """The command in this process and its main thread, while `script` runs in another one; then it gets a signal."""

    def __init__(
        self, config: Path, out: Path, *flags: str, script: Callable[[Recording], None], by: int = signal.SIGTERM
    ) -> None:
        self.config, self.out = config, out
        self._script, self._by = script, by
        self._ended = threading.Event()
        self._fault: BaseException | None = None
        before = signal.signal(by, lambda _number, _frame: None)  # the command replaces it
        thread = threading.Thread(target=self._play)
        thread.start()
        try:
            self.code = kn_bench.main(["top", f"--kubeconfig={config}", f"--output-dir={out}", *flags])
        finally:
            self._ended.set()
            thread.join()
            signal.signal(by, before)
            if self._fault is not None:
                raise self._fault

    def has(self, sql: str, count: int = 1) -> None:
        """Wait until so many rows are stored."""
        self.wait_for(f"{count} rows of {sql}", lambda: len(rows(self.out, sql)) >= count)

    def wait_for(self, what: str, holds: Callable[[], Any]) -> None:
        wait_for(what, lambda: holds() or self._ended.is_set())
        assert not self._ended.is_set(), f"it ended before {what}"

    def _play(self) -> None:
        try:
            self._script(self)
        except BaseException as fault:
            self._fault = fault
        if not self._ended.is_set():
            os.kill(os.getpid(), self._by)
