"""The limits of this machine for a run, and its use by one: descriptors, ports, disk, CPU, memory."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

from workload_generator.base.clock import NS_PER_MS, NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.base.quantities import format_bytes
from workload_generator.experiment.model import Experiment

LINE_BYTES = 340
"""The typical length of a request line of the log, for the check of the disk."""

_SPARE_DESCRIPTORS = 256
_LEAST_DESCRIPTORS = 64
_PORT_SHARE = 0.9
_TIMEOUT_GRID_NS = 100 * NS_PER_MS  # time-outs fire late; a dead target must not look like a limit of the generator
_CHANCE_SIGMAS = 6  # standard deviations by which a random number of arrivals may exceed its mean
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_PORT_RANGE = (32768, 60999)
_CGROUP = Path("/sys/fs/cgroup")


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
    peak_rps = rate.arrival.peak_rps() / shards
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
    if stat.f_blocks and needed > free:  # others are file systems without a size, such as /proc
        raise UsageError(
            f"{directory} has {format_bytes(free)} free, but the log of {requests:,} requests needs about "
            f"{format_bytes(needed)}; choose another folder with --log-dir or a shorter run"
        )


def cpu_limit() -> float | None:
    """The cgroup's CPU limit in cores (v2 or v1), or None."""
    cpu = _CGROUP / "cpu"
    words = _words(_CGROUP / "cpu.max") or _words(cpu / "cpu.cfs_quota_us") + _words(cpu / "cpu.cfs_period_us")
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def auto_processes() -> int:
    """The number of processes that can run at the same time: the cgroup's CPU limit, or the usable cores."""
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


def peak_memory_bytes() -> int | None:
    """The peak resident memory of this process, or None. (getrusage also counts the parent before the fork.)"""
    words = _words(Path("/proc/self/status"))
    return int(words[words.index("VmHWM:") + 1]) * 1024 if "VmHWM:" in words else None


def _ephemeral_ports() -> int:
    low, high = map(int, _words(_PORT_RANGE) or _DEFAULT_PORT_RANGE)
    return high - low + 1


def _words(path: Path) -> list[str]:
    """The words in a file of the kernel; none when it does not exist."""
    try:
        return path.read_text().split()
    except OSError:
        return []
