"""Deadlines on the real clock: never early, and what is waited out is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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


async def test_what_is_waited_out_is_no_work_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Woken much too early, it waits for nearly as long, and says so."""
    monkeypatch.setattr(timers, "_LEAD_NS", 2 * NS_PER_MS)
    spun = Spun()
    await fire(20, 3 * NS_PER_MS, spun)
    assert 0 < spun.spun_ns <= 20 * 2 * NS_PER_MS


async def test_a_deadline_that_has_passed_is_met_at_once_and_teaches_nothing() -> None:
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


async def test_what_was_spun_is_told_without_the_time_that_others_had(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, disturbed = Spun(), Spun()
    _, late_ns = await fire(50, 3 * NS_PER_MS, alone, precise=True)
    assert 0 < alone.spun_ns < 50 * (timers._SPIN_NS + NS_PER_MS) + sum(late_ns)
    monkeypatch.setattr(timers, "_AWAY_NS", 20 * NS_PER_US)
    monkeypatch.setattr(timers.os, "sched_yield", _busy_for(30 * NS_PER_US))
    await fire(50, 3 * NS_PER_MS, disturbed, precise=True)
    assert disturbed.spun_ns <= 50 * (timers._ROOM_NS + timers._AWAY_NS), "what is left when nobody else gets the core"


def _busy_for(ns: int) -> Callable[[], None]:
    def busy() -> None:
        end_ns = time.monotonic_ns() + ns
        while time.monotonic_ns() < end_ns:
            pass

    return busy
