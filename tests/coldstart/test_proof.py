"""What proves a cold start, what refutes it, and what cannot be decided; and the order of send and questions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from workload_generator.coldstart.proof import InstanceLife, Moment, Zero, is_proven
from workload_generator.coldstart.timeline import InstanceTimeline
from workload_generator.log.records import Arrival, Phase
from workload_generator.run.cold_start import ColdStarts, FromZero
from workload_generator.run.dispatcher import OneByOne

MS = 1_000_000
SENT_NS = 100 * MS


@pytest.mark.parametrize(
    ("created", "proven", "reason"),
    [
        (Moment(150 * MS, 49 * MS), True, ""),
        (Moment(50 * MS, 49 * MS), False, "f-1 was created before the request"),
        (
            Moment(133 * MS, 45 * MS + MS // 10),
            None,
            "f-1 was created between 12.1 ms before and 78.1 ms after the request",
        ),
        (
            Moment(400 * MS, 500 * MS, grid=True),
            None,
            "f-1 was created between 200.0 ms before and 800.0 ms after the request by the API server's clock, "
            "in whole seconds",
        ),
    ],
)
def test_the_creation_against_the_request(created: Moment, proven: bool | None, reason: str) -> None:
    """The reason speaks of a clock only where one was involved: a watch and readings are on our own."""
    assert is_proven(Zero(True, 0), InstanceLife("f-1", {"created": created}), SENT_NS) == (proven, reason)


def test_zero_at_the_send_is_not_changed_by_what_came_later() -> None:
    timeline = InstanceTimeline()
    timeline.mark("f", "old", "created", Moment(1 * MS))
    timeline.gone("f", "old", 60 * MS)
    timeline.mark("f", "new", "created", Moment(150 * MS, 10 * MS))
    assert timeline.zero("f", 0).living == ("new",)
    assert timeline.zero_at("f", 0, SENT_NS) == Zero(True, 60 * MS)
    assert timeline.zero_at("f", 0, 50 * MS) == Zero(False, None, ("old",))
    timeline.gone("f", "new", 300 * MS)
    assert timeline.zero_at("f", 0, SENT_NS) == Zero(True, 60 * MS)
    timeline.mark("f", "unclear", "created", Moment(101 * MS, 5 * MS))
    assert timeline.zero_at("f", 0, SENT_NS).reached is True, "its own proof decides"


async def test_nothing_is_awaited_between_a_deadline_and_its_send(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def visit(_self: ColdStarts, _arrival: Arrival) -> tuple[Any, None]:
        order.append("sent")
        await asyncio.sleep(0.01)
        order.append("response")
        return None, None

    async def look(_host: str) -> Zero:
        order.append("asked")
        await asyncio.sleep(0.1)
        order.append("answered")
        return Zero(True, 0)

    async def logged(*_: object) -> None:
        order.append("logged")

    monkeypatch.setattr(OneByOne, "visit", visit)
    watcher = SimpleNamespace(expect=lambda: None, look=look)
    rounds = ColdStarts.__new__(ColdStarts)
    rounds._lines = SimpleNamespace(watcher=watcher, hosts=["f.functions"], sent=logged)  # type: ignore[assignment]
    await rounds.visit(Arrival(0, Phase.MEASURE, 0, 0))
    assert order == ["sent", "asked", "response", "answered", "logged"]


async def test_a_burst_is_sent_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def visit(_self: FromZero, arrival: Arrival) -> None:
        order.append(f"sent {arrival.seq}")

    async def ask() -> None:
        order.append("asked")

    async def until_zero(*_: object) -> None:
        await asyncio.sleep(0.01)

    monkeypatch.setattr(FromZero, "visit", visit)
    asked: list[asyncio.Task[None]] = []
    watcher = SimpleNamespace(expect=lambda: asked.append(asyncio.create_task(ask())), until_zero=until_zero)
    bursts = FromZero.__new__(FromZero)
    bursts._burst, bursts._max_wait_ns = 3, 0
    lines = SimpleNamespace(watcher=watcher, hosts=["f.functions"], burst=lambda *_: order.append("logged"))
    bursts._lines = lines  # type: ignore[assignment]
    await bursts._visit_at_once(Arrival(0, Phase.MEASURE, 0, 0), Zero(True, 0), 0)
    assert order == ["sent 0", "sent 1", "sent 2", "asked", "logged"]
