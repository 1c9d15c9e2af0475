"""The timeline by itself: any order, repeats, what is gone, and that it stays small."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from workload_generator.coldstart.api_clock import ServerClock
from workload_generator.coldstart.proof import Moment
from workload_generator.coldstart.timeline import InstanceTimeline

MARKS = st.lists(
    st.tuples(
        st.sampled_from(["created", "scheduled", "ready"]), st.builds(Moment, st.integers(0, 99), st.integers(0, 9))
    ),
    min_size=1,
    max_size=8,
)


@given(MARKS, st.randoms())
def test_marks_may_come_in_any_order_and_twice(marks: list[tuple[str, Moment]], drawn: object) -> None:
    timelines = [InstanceTimeline(), InstanceTimeline()]
    shuffled = marks * 2
    drawn.shuffle(shuffled)  # type: ignore[attr-defined]
    for timeline, order in zip(timelines, [marks, shuffled], strict=True):
        for point, moment in order:
            timeline.mark("f", "f-1", point, moment)
    assert timelines[0].start("f", "f-1", 0) == timelines[1].start("f", "f-1", 0)
    start = timelines[0].start("f", "f-1", 0)
    assert start is not None
    for point, moment in start.points.items():
        assert moment.error_ns == min(each.error_ns for name, each in marks if name == point)


def test_a_decision_that_is_stored_late_is_not_later_than_the_creation() -> None:
    timeline = InstanceTimeline()
    timeline.mark("f", "f-1", "created", Moment(1000, 10))
    timeline.scale("f", Moment(1040, 60))
    start = timeline.start("f", "f-1", 900)
    assert start is not None and start.points["scale"] == Moment(1000, 20)
    timeline = InstanceTimeline()
    timeline.mark("f", "f-1", "created", Moment(1000, 10))
    timeline.scale("f", Moment(1200, 50))
    start = timeline.start("f", "f-1", 900)
    assert start is not None and "scale" not in start.points, "it came after what it should have led to"


def test_a_million_instances_leave_it_small_and_fast() -> None:
    timeline = InstanceTimeline(kept=100)
    durations = []
    for batch in range(10):
        began = time.process_time()
        for number in range(2000):
            name = f"f-{batch}-{number}"
            timeline.mark("f", name, "created", Moment(number))
            timeline.scale("f", Moment(number))
            assert timeline.zero("f", 0).reached is False
            timeline.gone("f", name, batch * 2000 + number)
            assert timeline.zero("f", 0).since_ns == batch * 2000 + number
        durations.append(time.process_time() - began)
    assert len(timeline.lives("f", 0)) == 100
    assert timeline.start("f", "f-9-1999", 0) is not None and timeline.start("f", "f-0-0", 0) is None
    assert min(durations[5:]) < 5 * min(durations[:5]), "the last take as long as the first"


def test_lives_are_the_instances_that_existed_since() -> None:
    timeline = InstanceTimeline()
    for name, gone_ns in (("early", 10), ("late", 50)):
        timeline.mark("f", name, "created", Moment(1))
        timeline.gone("f", name, gone_ns)
    timeline.exists("f", "there")
    assert {each.instance: each.gone_ns for each in timeline.lives("f", 20)} == {"late": 50, "there": None}


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 5 * 10**7), st.integers(0, 5 * 10**7)), min_size=1),
)
def test_the_clocks_bounds_hold_the_truth(offset_ns: int, samples: list[tuple[int, int, int]]) -> None:
    """The true offset is within the bounds, whatever the round trips, and the bounds only get narrower."""
    clock, now_ns, width = ServerClock(), 10**15, None
    for gap, there, back in samples:
        sent_ns = now_ns = now_ns + gap
        at_server = sent_ns + there + offset_ns
        now_ns = sent_ns + there + back
        clock.add(sent_ns, at_server // 10**9 * 10**9, now_ns)
        known = clock.offset(now_ns)
        assert known is not None
        middle, error = known
        assert abs(middle - offset_ns) <= error + 1 and error <= (10**9 + there + back) // 2 + 1
        assert width is None or error <= width + 10**8 * 500 // 10**6 + 10**5
        width = error
        low, high = clock.second_of(at_server // 10**9 * 10**9) or (0, 0)
        assert low <= sent_ns + there <= high
    assert clock.steps == 0
