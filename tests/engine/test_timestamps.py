"""Receive stamps on the monotonic clock, under clocks that the test controls and on a real socket."""

from __future__ import annotations

import socket
import struct
import time

from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, NS_PER_US, monotonic_ns
from workload_generator.engine.timestamps import ANCILLARY_BYTES, ReceiveClock, segments_received, stamp_receipts

WALL_NS = 1_764_000_000 * NS_PER_S
READ_NS = 60  # what reading a clock takes here


class Clocks:
    """A monotonic clock and a wall clock that may be set."""

    def __init__(self) -> None:
        self.mono_ns = 10 * NS_PER_S
        self.ahead_ns = WALL_NS

    def monotonic(self) -> int:
        self.mono_ns += READ_NS
        return self.mono_ns

    def wall(self) -> int:
        self.mono_ns += READ_NS
        return self.mono_ns + self.ahead_ns

    def stamp(self) -> list[tuple[int, int, bytes]]:
        """What the kernel would say of a byte that arrives now."""
        return [(socket.SOL_SOCKET, 35, struct.pack("@qq", *divmod(self.mono_ns + self.ahead_ns, NS_PER_S)))]


def read(clocks: Clocks, clock: ReceiveClock, stamp: list[tuple[int, int, bytes]]) -> int | None:
    """What the clock says of bytes that are read now."""
    now_ns = clocks.monotonic()
    clock.compare()
    return clock.arrived_ns(stamp, now_ns)


def make() -> tuple[Clocks, ReceiveClock]:
    clocks = Clocks()
    return clocks, ReceiveClock(clocks.monotonic, clocks.wall)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20))
def test_a_byte_arrived_when_it_did_however_late_it_is_read(waits: list[tuple[int, int]]) -> None:
    clocks, clock = make()
    for before, unread in waits:
        clocks.mono_ns += before
        arrived_ns, stamp = clocks.mono_ns, clocks.stamp()
        clocks.mono_ns += unread
        found = read(clocks, clock, stamp)
        assert found is not None and abs(found - arrived_ns) < NS_PER_US
    assert clock.steps == 0


@given(
    st.integers(100 * NS_PER_US, 3600 * NS_PER_S) | st.integers(-3600 * NS_PER_S, -100 * NS_PER_US),
    st.integers(0, NS_PER_MS),
    st.integers(0, NS_PER_MS),
    st.integers(0, 10),
)
def test_a_step_of_the_wall_clock_changes_no_time(step_ns: int, before_ns: int, after_ns: int, reads: int) -> None:
    """Whatever arrived before the step and is read after it gets no time, rather than a wrong one."""
    clocks, clock = make()
    for _ in range(reads):
        clocks.mono_ns += 50 * NS_PER_US
        assert read(clocks, clock, clocks.stamp()) is not None
    arrived_ns, stamp = clocks.mono_ns, clocks.stamp()
    clocks.mono_ns += before_ns
    clocks.ahead_ns += step_ns
    clocks.mono_ns += after_ns
    found = read(clocks, clock, stamp)
    assert found is None, f"{found - arrived_ns} ns off"
    assert clock.steps == 1 and abs(clock.stepped_ns - abs(step_ns)) < NS_PER_US
    clocks.mono_ns += NS_PER_MS
    arrived_ns, stamp = clocks.mono_ns, clocks.stamp()
    clocks.mono_ns += NS_PER_MS
    found = read(clocks, clock, stamp)
    assert found is not None and abs(found - arrived_ns) < NS_PER_US, "what arrives later is trusted again"
    assert clock.steps == 1


def test_a_slewed_clock_was_not_stepped() -> None:
    clocks, clock = make()
    for _ in range(2000):
        clocks.mono_ns += NS_PER_MS
        clocks.ahead_ns += 500  # 500 ppm, the most that adjtimex allows
        arrived_ns, stamp = clocks.mono_ns, clocks.stamp()
        clocks.mono_ns += 50 * NS_PER_US
        found = read(clocks, clock, stamp)
        assert found is not None and abs(found - arrived_ns) < 10 * NS_PER_US
    assert clock.steps == 0


def test_without_a_stamp_there_is_no_time() -> None:
    clocks, clock = make()
    assert read(clocks, clock, []) is None


def test_a_stamp_of_the_future_is_not_trusted() -> None:
    clocks, clock = make()
    clocks.mono_ns += NS_PER_MS
    stamp = clocks.stamp()
    clocks.mono_ns -= NS_PER_MS
    assert read(clocks, clock, stamp) is None


def test_the_real_kernel_stamps_when_bytes_come_and_counts_their_segments() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sock,
        listening.accept()[0] as peer,
    ):
        assert stamp_receipts(sock)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamped = False
        while not stamped:  # the kernel begins some time after the first socket on the machine asks for it
            peer.sendall(b"first")
            stamped = bool(sock.recvmsg(100, ANCILLARY_BYTES)[1])
        clock = ReceiveClock()
        before_ns = monotonic_ns()
        peer.sendall(b"head")
        sent_ns = monotonic_ns()
        time.sleep(0.05)
        data, ancillary, _, _ = sock.recvmsg(100, ANCILLARY_BYTES)
        arrived_ns = clock.arrived_ns(ancillary, monotonic_ns())
        assert data == b"head" and arrived_ns is not None
        assert before_ns - 10 * NS_PER_US <= arrived_ns <= sent_ns + 10 * NS_PER_MS, "long before it was read"
        assert segments_received(sock) >= 1
        peer.sendall(b"a")
        peer.sendall(b"b")
        while len(sock.recv(2, socket.MSG_PEEK)) < 2:
            pass
        assert sock.recv(2) == b"ab" and segments_received(sock) >= 3  # more when the peer probes


def test_where_the_kernel_cannot_stamp_nothing_fails() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert segments_received(ours) == 0
