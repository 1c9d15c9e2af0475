"""When bytes arrived: the kernel's receive stamps, brought onto the monotonic clock.

The kernel stamps each segment when the network hands it over, long before a busy event loop reads it. Its stamps are
wall-clock times, and the wall clock may be set at any moment.

Rules:
- the offset between both clocks is known from pairs of readings taken close together; it is compared after each batch
  of reads, before anything of it is dated, and a new pair is taken when it seems to have moved
- an offset that moved by more than a clock can be slewed has been stepped: what arrived before that was noticed is not
  trusted; nor is a byte that arrives after it was read
- what is not trusted, or has no stamp, gets the time at which it was read (`Stamp.USER`)
- when the data of several segments is read at once, its stamp is the last one's: `segments` counts them

Sources: Linux, Documentation/networking/timestamping.rst (SO_TIMESTAMPNS), include/uapi/linux/tcp.h (tcp_info).
"""

from __future__ import annotations

import platform
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

from workload_generator.base.clock import NS_PER_S, NS_PER_US, monotonic_ns

_SO_TIMESTAMPNS = 35  # of the architectures that use Linux's generic numbers; their `long` has 64 bits
_GENERIC = {"x86_64", "aarch64", "riscv64", "s390x", "ppc64le", "loongarch64"}
_TIMESPEC = struct.Struct("@qq")
_unpack_timespec = _TIMESPEC.unpack
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
"""Room that a read has to leave for the stamp."""

_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_TCP_INFO_BYTES = 156
_unpack_segments = struct.Struct("@I").unpack_from
_SEGMENTS_AT = 152  # tcpi_data_segs_in, since Linux 4.6

_JITTER_NS = 4 * NS_PER_US  # what two readings one after the other may differ in, undisturbed
_SLEW = 0.001  # twice of what adjtimex allows: 500 ppm
_STEP_NS = 50 * NS_PER_US  # less than this cannot be told from a disturbed pair of readings
_PAIRS = 5

Ancillary = Sequence[tuple[int, int, bytes]]


def stamp_receipts(sock: socket.socket) -> bool:
    """Have the kernel stamp what `sock` receives; False where it cannot."""
    if not sys.platform.startswith("linux") or platform.machine() not in _GENERIC:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def keep_stamping() -> socket.socket:
    """A socket that has the kernel stamp as long as it is open.

    The kernel begins to stamp some time after the first socket has asked for it, and ends when none does any more: what
    comes meanwhile has no stamp.
    """
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stamp_receipts(keeper)
    return keeper


def segments_received(sock: socket.socket) -> int:
    """Segments with data that `sock` has received so far; 0 where the kernel does not tell."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    return int(_unpack_segments(info, _SEGMENTS_AT)[0]) if len(info) == _TCP_INFO_BYTES else 0


class ReceiveClock:
    """Says when bytes arrived, in monotonic nanoseconds. `steps` and `stepped_ns` tell how often the wall clock was
    set meanwhile, and by how much in all (signs aside).
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
        """See whether the wall clock has moved. To be called after reads, before `arrived_ns` is asked about them."""
        drift_ns = self._wall() - self._monotonic() - self._offset_ns
        if drift_ns > _JITTER_NS or drift_ns < -_JITTER_NS:
            self.check()

    def arrived_ns(self, ancillary: Ancillary, now_ns: int) -> int | None:
        """When the bytes of a read that ended at `now_ns` arrived, or None when the kernel's word is not to be had or
        not to be trusted."""
        if not ancillary:
            return None
        seconds, rest_ns = _unpack_timespec(ancillary[0][2])
        arrived_ns: int = seconds * NS_PER_S + rest_ns - self._offset_ns
        return arrived_ns if self._trusted_ns <= arrived_ns <= now_ns else None

    def check(self) -> None:
        """Compare the clocks anew. To be called now and then when nothing is read."""
        offset_ns, paired_ns = self._pair()
        moved_ns = abs(offset_ns - self._offset_ns)
        if moved_ns > _STEP_NS + (paired_ns - self._paired_ns) * _SLEW:
            self.steps += 1
            self.stepped_ns += moved_ns
            self._trusted_ns = paired_ns
        self._offset_ns, self._paired_ns = offset_ns, paired_ns

    def _pair(self) -> tuple[int, int]:
        """The offset of the wall clock, and when it was taken: the closest out of a few pairs of readings."""
        best_gap_ns, best = 2**63, (0, 0)
        for _ in range(_PAIRS):
            before_ns, wall_ns, after_ns = self._monotonic(), self._wall(), self._monotonic()
            if after_ns - before_ns < best_gap_ns:
                middle_ns = (before_ns + after_ns) // 2
                best_gap_ns, best = after_ns - before_ns, (wall_ns - middle_ns, middle_ns)
        return best
