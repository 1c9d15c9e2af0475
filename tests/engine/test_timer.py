"""Deadlines on the real clock: never early, and what is waited out is bounded."""

from __future__ import annotations

import asyncio

import pytest

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, NS_PER_US, monotonic_ns
from workload_generator.engine import timer as timers
from workload_generator.engine.timer import DeadlineTimer


class Spun:
    """Adds up what was spun."""

    spun_ns = 0


async def fire(
    count: int, period_ns: int, spinner: Spun | None = None, *, precise: bool = False
) -> tuple[DeadlineTimer, list[int]]:
    """Fire `count` deadlines; the timer, closed, and how late each was."""
    late_ns: list[int] = []
    done = asyncio.Event()
    deadline_ns = monotonic_ns() + period_ns

    def on_due() -> None:
        nonlocal deadline_ns
        late_ns.append(monotonic_ns() - deadline_ns)
        if len(late_ns) == count:
            done.set()
            return
        deadline_ns = max(deadline_ns, monotonic_ns()) + period_ns
        timer.arm(deadline_ns)

    timer = DeadlineTimer(asyncio.get_running_loop(), on_due, spinner, precise=precise)
    timer.arm(deadline_ns)
    await asyncio.wait_for(done.wait(), 30)
    timer.close()
    return timer, late_ns


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("period_ns", [30 * NS_PER_US, 400 * NS_PER_US, 3 * NS_PER_MS])
async def test_no_deadline_is_met_early(period_ns: int, spins: bool) -> None:
    timer, late_ns = await fire(200, period_ns, Spun() if spins else None, precise=spins)
    assert len(late_ns) == 200 and min(late_ns) >= 0
    assert 0 <= timer._lead_ns <= timers._MOST_LEAD_NS


async def test_the_lead_follows_what_a_wake_up_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0

    def tick() -> int:
        nonlocal now_ns
        now_ns += NS_PER_US
        return now_ns

    monkeypatch.setattr(timers, "monotonic_ns", tick)
    timer = DeadlineTimer(asyncio.get_running_loop(), lambda: None)

    def wake(late_ns: int) -> int:
        nonlocal now_ns
        now_ns = 0
        timer.arm(NS_PER_MS)
        now_ns = NS_PER_MS + late_ns
        timer._on_readable()
        return timer._lead_ns

    lead_ns = timer._lead_ns
    late, early = 3 * NS_PER_US, -3 * NS_PER_US
    assert [wake(late), wake(late), wake(early)] == [lead_ns + step * timers._STEP_NS for step in (1, 2, 1)]
    assert max(wake(late) for _ in range(200)) == timers._MOST_LEAD_NS
    assert min(wake(early) for _ in range(200)) == 0
    timer.close()


async def test_the_time_until_the_deadline_is_spun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for early_ns in (300 * NS_PER_US, 3 * NS_PER_US):
        spun_ns = clock.wake(early_ns)
        assert spun_ns == early_ns, "the clock's first reading is the beginning, its last one the deadline"
    assert clock.wake(0) == clock.wake(-NS_PER_MS) == 0


async def test_a_deadline_that_has_passed_fires_at_once_and_does_not_change_the_lead() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    timer = DeadlineTimer(loop, done.set)
    lead_ns = timer._lead_ns
    for deadline_ns in (0, 1, monotonic_ns() - NS_PER_S):
        done.clear()
        timer.arm(deadline_ns)
        await asyncio.wait_for(done.wait(), 10)
    assert timer._lead_ns == lead_ns
    timer.close()
    timer.close()


async def test_a_new_deadline_replaces_the_one_before_and_a_closed_timer_is_silent() -> None:
    fired: list[int] = []
    timer = DeadlineTimer(asyncio.get_running_loop(), lambda: fired.append(monotonic_ns()))
    later_ns = monotonic_ns() + 60 * NS_PER_MS
    timer.arm(monotonic_ns() + 20 * NS_PER_MS)
    timer.arm(later_ns)
    while not fired:
        await asyncio.sleep(0.005)
    assert fired[0] >= later_ns
    timer.arm(monotonic_ns() + 10 * NS_PER_MS)
    timer.close()
    await asyncio.sleep(0.05)
    assert len(fired) == 1


async def test_time_that_other_tasks_had_is_not_spun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    others_ns = 30 * NS_PER_US
    monkeypatch.setattr(timers.os, "sched_yield", lambda: clock.forward(others_ns))
    assert 0 < clock.wake(timers._SPIN_NS, precise=True) <= timers._ROOM_NS
    others_ns = 1 * NS_PER_US
    assert clock.wake(timers._SPIN_NS, precise=True) == timers._SPIN_NS, "too short for another task"


class Clock:
    """A monotonic clock that advances by a microsecond with each reading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(timers, "monotonic_ns", self._read)

    def _read(self) -> int:
        self.now_ns += NS_PER_US
        return self.now_ns

    def forward(self, ns: int) -> None:
        self.now_ns += ns

    def wake(self, early_ns: int, *, precise: bool = False) -> int:
        """Wake a timer so long before its deadline; what it spins."""
        spun = Spun()
        self.now_ns = 0
        timer = DeadlineTimer(asyncio.get_running_loop(), lambda: None, spun, precise=precise)
        timer.arm(NS_PER_S)
        self.now_ns = NS_PER_S - early_ns - NS_PER_US  # the next reading is the moment of waking
        timer._on_readable()
        timer.close()
        return spun.spun_ns
