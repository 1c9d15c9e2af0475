"""What the kernel says of throttling, waiting and steal, in each of its forms; and a loop that stalls."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.run.machine import Monitor, read_steal, read_throttling, read_waited_ns

V2 = "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 1500\n"
V1 = "nr_periods 9\nnr_throttled 4\nthrottled_time 1500000\n"


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/\n", "cpu.stat", V2),  # a container's own view
        ("0::/a/b\n", "a/b/cpu.stat", V2),  # a host's
        ("0::/not/mounted\n", "cpu.stat", V2),
        ("3:cpu,cpuacct:/a\n1:name=systemd:/\n", "cpu,cpuacct/a/cpu.stat", V1),
        ("3:cpu:/a\n", "cpu/a/cpu.stat", V1),
        ("3:cpu:/elsewhere\n", "cpu/cpu.stat", V1),
    ],
)
def test_throttling_of_both_versions(tmp_path: Path, membership: str, file: str, text: str) -> None:
    (tmp_path / "membership").write_text(membership)
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text(text)
    assert read_throttling(tmp_path / "fs", tmp_path / "membership") == (4, 1_500_000)


def test_a_missing_kernel_file_means_unknown(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert read_throttling(nothing, nothing) == (None, None)
    assert read_waited_ns(nothing) is None and read_steal(nothing) == (None, None)
    (tmp_path / "odd").write_text("odd\n")
    assert read_waited_ns(tmp_path / "odd") is None and read_steal(tmp_path / "odd") == (None, None)


def test_waiting_and_steal(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("123 456 7\n")
    assert read_waited_ns(tmp_path / "schedstat") == 456
    (tmp_path / "stat").write_text("cpu  10 1 5 80 2 0 1 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert read_steal(tmp_path / "stat") == (3, 102)


async def test_a_stall_is_seen_with_its_length() -> None:
    monitor = Monitor(asyncio.get_running_loop(), ReceiveClock())
    monitor.start()
    for _ in range(2):
        await asyncio.sleep(0.05)
        (lambda: time.sleep(0.15))()
        await asyncio.sleep(0.05)
    strain = monitor.stop()
    assert strain.stalls >= 2 and strain.longest_stall_ns > 100_000_000
    assert strain.elapsed_ns > 400_000_000 and 0 < strain.cpu_ns < strain.elapsed_ns


async def test_a_stall_at_the_very_end_is_seen_too() -> None:
    monitor = Monitor(asyncio.get_running_loop(), ReceiveClock())
    monitor.start()
    (lambda: time.sleep(0.15))()
    assert monitor.stop().stalls == 1


async def test_a_clock_that_is_set_is_seen_without_any_request() -> None:
    ahead_ns = 0
    monitor = Monitor(asyncio.get_running_loop(), ReceiveClock(wall=lambda: time.time_ns() + ahead_ns))
    monitor.start()
    ahead_ns = 10**9
    strain = monitor.stop()
    assert strain.clock_steps == 1 and abs(strain.clock_stepped_ns - 10**9) < 10**7
