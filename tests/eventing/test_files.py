"""The event logger's files on a disk that fails temporarily."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from workload_generator.eventing.logger import INSTANCES, AppendFile, EventLogger
from workload_generator.eventing.receipts import InstanceReport, ReceiptBatch


def test_a_failed_sync_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(tmp_path / "events.csv", b"head\n")
    synced: list[int] = []

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    monkeypatch.setattr(os, "fdatasync", synced.append)
    file.sync()
    file.sync()
    assert len(synced) == 1
    file.close()


def test_workers_that_start_at_once_write_one_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, both = tmp_path / "events.csv", os.write, threading.Barrier(2)

    def slow(fd: int, data: bytes) -> int:
        time.sleep(0.2)  # the other one looks at the file meanwhile
        return real(fd, data)

    def begin() -> None:
        both.wait()
        AppendFile(path, b"head\n").close()

    monkeypatch.setattr(os, "write", slow)
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == b"head\n"


async def test_reports_are_kept_until_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = EventLogger(tmp_path, 60)
    report = InstanceReport(3, 0, 3, None, None)
    logger._reports["receiver-a"] = ReceiptBatch("receiver-a", 1, report, [])
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        logger._write_reports()
    monkeypatch.setattr(os, "write", real)
    await logger.stop()
    assert (tmp_path / INSTANCES).read_text().count("receiver-a") == 1
