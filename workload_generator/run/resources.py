"""The limits of this machine for a run, and its use by one: descriptors, ports, disk, CPU, memory."""

from __future__ import annotations

import math
import os
import re
import resource
from pathlib import Path

from workload_generator.base.clock import NS_PER_MS, NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.experiment.model import Experiment

LINE_BYTES = 340
"""The typical length of a request line of the log, for the check of the disk."""

_SPARE_DESCRIPTORS = 256
_LEAST_DESCRIPTORS = 64
_PORT_SHARE = 0.9
_TIMEOUT_GRID_NS = 100 * NS_PER_MS  # time-outs fire late; a dead target must not look like a limit of the generator
_CHANCE_SIGMAS = 6  # standard deviations by which a random number of arrivals may exceed its mean
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return it. Raises UsageError when it is below 64."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < _LEAST_DESCRIPTORS:
        raise UsageError(f"the limit of open files is {hard}; a run needs {_LEAST_DESCRIPTORS}: raise `ulimit -Hn`")
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**20


def max_in_flight(experiment: Experiment, descriptors: int, shards: int = 1) -> int:
    """A shard's share of the experiment's limit, else the smallest of its rps × timeout, its descriptors − 256 and its
    share of 90 % of the ports, since shards may share an address."""
    rate = experiment.rate
    if rate.max_in_flight is not None:
        return max(1, rate.max_in_flight // shards)
    limits = [descriptors - _SPARE_DESCRIPTORS, math.floor(_ephemeral_ports() * _PORT_SHARE) // shards]
    peak_rps = experiment.peak_rps / shards
    if peak_rps:
        most = peak_rps * (rate.timeout_ns + _TIMEOUT_GRID_NS) / NS_PER_S
        chance = _CHANCE_SIGMAS * math.sqrt(most) if rate.arrival.varies else 0
        limits.append(math.ceil(most + chance))
    return max(1, min(limits))


def check_disk(directory: Path, requests: int) -> None:
    """Raise UsageError when the log of a run would not fit in `directory`, which need not exist yet."""
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        stat = os.statvfs(there)
    except OSError as error:
        raise UsageError(f"log folder {directory}: {error.strerror}; choose another one with --log-dir") from None
    free, needed = stat.f_bavail * stat.f_frsize, requests * LINE_BYTES
    if needed > free:
        raise UsageError(
            f"{directory} has {free / 2**20:,.0f} MiB free, but the log of {requests:,} requests needs about "
            f"{needed / 2**20:,.0f} MiB; choose another folder with --log-dir or a shorter run"
        )


def cpu_limit() -> float | None:
    """The cgroup's CPU limit in cores (v2 or v1), or None."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((base / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def auto_processes() -> int:
    """The number of processes that can run at the same time: the cgroup's CPU limit, or the usable cores."""
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


def peak_memory_bytes() -> int | None:
    """The peak resident memory of this process, or None. (getrusage also counts the parent before the fork.)"""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s+([0-9]+) kB$", status, re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None


def _ephemeral_ports() -> int:
    try:
        low, high = map(int, _PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return 28232  # Linux's default range
    return high - low + 1
