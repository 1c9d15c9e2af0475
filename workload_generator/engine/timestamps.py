"""The first byte is stamped here: the kernel's receive time stamps, on the monotonic clock.

The kernel stamps each segment when it arrives, long before a busy event loop reads it: `stamp_receipts` asks for that,
and each read returns the stamp as ancillary data. Stamps are wall-clock times, and the wall clock may be set at any
moment: `ReceiveClock` converts them. `connection.Connection._on_data` calls it for the first bytes of a response.

Rules:
- the offset of the clocks comes from pairs of readings close together; it is compared after each batch of reads, before
  their data is dated, and a new pair is taken when it has moved
- an offset that moved further than a clock can be slewed was a step: stamps from before it was noticed are not trusted,
  nor is a stamp later than the read
- data without a trusted stamp has the time at which it was read (`Stamp.USER`)
- data of several segments has the stamp of the last one: `segments` counts them

Sources: Linux, Documentation/networking/timestamping.rst (SO_TIMESTAMPNS), include/uapi/linux/tcp.h (tcp_info).
"""

from __future__ import annotations

import platform
import socket
import struct
import time
from collections.abc import Callable, Sequence

from workload_generator.base.clock import NS_PER_S, NS_PER_US, Anchor, monotonic_ns

_SO_TIMESTAMPNS = 35  # on architectures with Linux's generic numbers, whose `long` has 64 bits
_GENERIC = {"x86_64", "aarch64", "riscv64", "s390x", "ppc64le", "loongarch64"}
_TIMESPEC = struct.Struct("@qq")
_unpack_timespec = _TIMESPEC.unpack
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
"""The size of the ancillary data of a read."""

_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_TCP_INFO_BYTES = 156
_unpack_segments = struct.Struct("@I").unpack_from
_SEGMENTS_AT = 152  # tcpi_data_segs_in, since Linux 4.6

_JITTER_NS = 4 * NS_PER_US  # between two undisturbed readings
_SLEW = 0.001  # twice the limit of adjtimex, 500 ppm
_STEP_NS = 50 * NS_PER_US  # a smaller step looks like a disturbed pair of readings

Ancillary = Sequence[tuple[int, int, bytes]]


def stamp_receipts(sock: socket.socket) -> bool:
    """Have the kernel stamp received data; returns whether it does."""
    if platform.machine() not in _GENERIC:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def keep_stamping() -> socket.socket:
    """A socket that keeps the kernel stamping while it is open.

    The kernel begins to stamp some time after the first socket asks for it, and ends with the last such socket.
    """
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stamp_receipts(keeper)
    return keeper


def segments_received(sock: socket.socket) -> int:
    """The number of segments with data that `sock` has received; 0 when unknown."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    return int(_unpack_segments(info, _SEGMENTS_AT)[0]) if len(info) == _TCP_INFO_BYTES else 0


class ReceiveClock:
    """Dates received data in monotonic nanoseconds.

    `steps` counts how often the wall clock was set; `stepped_ns` is the sum of the steps without their signs.
    """

    __slots__ = ("_monotonic", "_offset_ns", "_paired_ns", "_trusted_ns", "_wall", "stepped_ns", "steps")

    def __init__(self, monotonic: Callable[[], int] = monotonic_ns, wall: Callable[[], int] = time.time_ns) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self.steps = 0
        self.stepped_ns = 0
        self._offset_ns, self._paired_ns = self._pair()
        self._trusted_ns = 0

    def compare(self) -> None:
        """Compare the clocks. Call it after a batch of reads, before `arrived_ns`."""
        drift_ns = self._wall() - self._monotonic() - self._offset_ns
        if drift_ns > _JITTER_NS or drift_ns < -_JITTER_NS:
            self.check()

    def arrived_ns(self, ancillary: Ancillary, now_ns: int) -> int | None:
        """The arrival time of data that was read at `now_ns`, or None when there is no stamp or it is not trusted."""
        if not ancillary:
            return None
        seconds, rest_ns = _unpack_timespec(ancillary[0][2])
        arrived_ns: int = seconds * NS_PER_S + rest_ns - self._offset_ns
        return arrived_ns if self._trusted_ns <= arrived_ns <= now_ns else None

    def check(self) -> None:
        """Take a new pair of readings. Call it regularly while nothing is read."""
        offset_ns, paired_ns = self._pair()
        moved_ns = abs(offset_ns - self._offset_ns)
        if moved_ns > _STEP_NS + (paired_ns - self._paired_ns) * _SLEW:
            self.steps += 1
            self.stepped_ns += moved_ns
            self._trusted_ns = paired_ns
        self._offset_ns, self._paired_ns = offset_ns, paired_ns

    def _pair(self) -> tuple[int, int]:
        """The offset of the wall clock, and the time of that reading."""
        anchor = Anchor.now(self._monotonic, self._wall)
        return anchor.wall_ns - anchor.mono_ns, anchor.mono_ns
