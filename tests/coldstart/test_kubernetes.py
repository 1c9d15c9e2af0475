"""Cold starts from a Kubernetes API whose watches are torn, late, repeated or out of order, and whose clock is off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.coldstart.played import HOST, NAMESPACE, Cluster, ms, watcher_of
from tests.kube.conftest import api  # noqa: F401 - a fixture
from tests.kube.fake_api import FakeApi
from workload_generator.coldstart.kubernetes import KubernetesSource
from workload_generator.coldstart.proof import InstanceLife, Zero, is_proven
from workload_generator.coldstart.watcher import Watcher
from workload_generator.kube.resources import PODS, REVISIONS

pytestmark = pytest.mark.usefixtures("api")
SETTLE_NS, MAX_WAIT_NS = 50_000_000, 20_000_000_000
DELAYS = {"scale": 0.1, "created": 0.15, "scheduled": 0.1, "started": 0.4, "ready": 0.25}


@pytest.fixture(params=[0.0, 7.3, -4.9], ids=["in step", "ahead", "behind"])
def skew_s(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def cluster(api: FakeApi) -> Cluster:  # noqa: F811
    return Cluster(api)


@contextlib.asynccontextmanager
async def opened(api: FakeApi, folder: Path) -> AsyncIterator[tuple[Watcher, KubernetesSource]]:  # noqa: F811
    watcher, source = watcher_of(api, folder)
    assert await watcher.open() is None
    try:
        yield watcher, source
    finally:
        await watcher.close()


@pytest_asyncio.fixture
async def watched(cluster: Cluster, tmp_path: Path) -> AsyncIterator[tuple[Watcher, KubernetesSource]]:
    cluster.api.skew_s = (0.94 - time.time()) % 1  # clocks are compared at a second's edge: here that is near
    async with opened(cluster.api, tmp_path) as both:
        yield both


async def cold_start(watcher: Watcher, cluster: Cluster, pod: str) -> tuple[Zero, int, InstanceLife]:
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    assert zero.reached is True, zero
    watcher.expect()
    sent_ns = time.monotonic_ns()
    await cluster.start(pod, DELAYS)
    start = await watcher.start_of(HOST, pod, sent_ns)
    assert start is not None
    return zero, sent_ns, start


async def test_a_start_is_proven_and_shows_its_delays_whatever_the_servers_clock(
    api: FakeApi, tmp_path: Path, skew_s: float  # noqa: F811
) -> None:  # fmt: skip
    api.skew_s = skew_s
    cluster = Cluster(api)
    async with opened(api, tmp_path) as (watcher, source):
        zero, sent_ns, start = await cold_start(watcher, cluster, "f-1")
        assert is_proven(zero, start, sent_ns) == (True, "")
        cluster.holds(start, "scale", "created", "scheduled", "started", "queue_ready", "ready")
        assert not any(moment.grid for moment in start.points.values())
        for earlier, later in [("scale", "created"), ("scheduled", "started"), ("started", "ready")]:
            first, second = start.points[earlier], start.points[later]
            happened = cluster.moments["f-1"]
            delay_ms = (happened[later][0] - happened[earlier][0]) / 1e6
            assert delay_ms >= 1000 * DELAYS[later] - 1 and abs(ms(first, second) - delay_ms) < 300, "a known delay"
            assert first.error_ns < 500_000_000, "not the API's whole seconds"
        ahead_ms, error_ms = watcher.clock() or (0, 0)
        assert abs(ahead_ms - 1000 * skew_s) <= error_ms + 1 and error_ms < 100
        assert source.missed_readings == 0
        # A second start has no points of the first one, and a terminating pod exists until it is gone.
        cluster.end("f-1")
        await asyncio.sleep(0.1)
        ending = await watcher.look(HOST)
        assert (ending.reached, ending.living) == (False, ("f-1",))
        cluster.scale(0)
        cluster.remove("f-1")
        _, _, again = await cold_start(watcher, cluster, "f-2")
        cluster.holds(again, "scale", "created", "ready")
        late = is_proven(Zero(True), start, time.monotonic_ns())
        assert late[0] is False and "before the request" in late[1]


@pytest.mark.parametrize("at", ["created", "scheduled", "started"])
async def test_a_watch_that_breaks_in_the_middle_loses_nothing(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster, at: str
) -> None:
    watcher, _ = watched
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watcher.expect()
    sent_ns = time.monotonic_ns()
    for point in ("scale", "created", "scheduled", "started", "ready"):
        if point == at:
            cluster.api.fail("GET .*(pods|autoscalers)\\?watch", disconnect=True, times=6)
            cluster.api.tear_watches()
        await asyncio.sleep(0.15)
        cluster.step("f-1", point)
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "created", "scheduled", "started", "ready")
    assert not any(moment.grid for moment in start.points.values()), "versions say what watches did not"
    assert is_proven(zero, start, sent_ns)[0] is True


async def test_the_version_is_read_at_the_send_whatever_is_still_unanswered(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    """A real start created its pod 107 ms after the send, and an answer to an earlier question came later."""
    watcher, _ = watched
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    cluster.api.fail("GET .*pods$", delay_s=2)
    watcher.expect()
    await asyncio.sleep(0.05)
    cluster.api.faults.clear()
    watcher.expect()
    sent_ns = time.monotonic_ns()
    await cluster.start("f-1", {"scale": 0.06, "created": 0.2, "scheduled": 0.02, "started": 0.3, "ready": 0.2})
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "created", "ready")
    assert is_proven(zero, start, sent_ns) == (True, "")


async def test_a_pod_that_a_list_shows_first_gets_its_moment_from_the_watch(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watcher.expect()
    sent_ns = time.monotonic_ns()
    await asyncio.sleep(0.1)
    watchers, cluster.api._watchers = cluster.api._watchers, []
    cluster.step("f-1", "created")
    assert (await watcher.look(HOST)).living == ("f-1",), "by the list"
    cluster.api._watchers = watchers
    (created,) = cluster.states["f-1"]
    cluster.api.replay("ADDED", PODS, created)
    for point in ("started", "ready"):
        cluster.step("f-1", point)
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "created", "ready")
    assert not start.points["created"].grid and is_proven(zero, start, sent_ns) == (True, "")


async def test_the_api_is_asked_around_a_send_only(watched: tuple[Watcher, KubernetesSource], cluster: Cluster) -> None:
    """The watcher's CPU time is that of its requests: a minute of fifty a second cost ten percent of a core."""
    watcher, _ = watched

    def asked() -> int:
        return sum("watch=1" not in line for line in cluster.api.requests)

    before = asked()
    await watcher.until_zero(HOST, 1_500_000_000, MAX_WAIT_NS)
    assert asked() - before <= 3, "one at the beginning and one at the end of the settle time"
    before = asked()
    watcher.expect()
    sent_ns = time.monotonic_ns()
    await cluster.start("f-1", DELAYS)
    assert await watcher.start_of(HOST, "f-1", sent_ns) is not None
    assert 3 <= asked() - before <= 25, "the pauses grow"
    before = asked()
    for _ in range(20):
        assert (await watcher.look(HOST)).living == ("f-1",)
        await asyncio.sleep(0.05)
    assert asked() - before <= 1, "the start is known: one may have been under way"


async def test_many_starts_in_a_minute_share_the_readings(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, source = watched
    now_ns = time.monotonic_ns()
    source._readings.extend((now_ns, now_ns, 1) for _ in range(200))
    before = len(cluster.api.requests)
    watcher.expect()
    await asyncio.sleep(1)
    assert 1 <= len(cluster.api.requests) - before <= 6


async def test_what_happened_in_a_gap_is_known_to_the_second(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    api = cluster.api  # noqa: F811
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watcher.expect()
    sent_ns = time.monotonic_ns()
    watchers, api._watchers = api._watchers, []  # changes from here on are not sent
    await asyncio.sleep(1.6)  # so that even a second tells before from after
    for point in ("scale", "created", "scheduled", "started", "ready"):
        cluster.step("f-1", point)
        await asyncio.sleep(0.05)
    api.compact()
    api._watchers = watchers
    api.end_watches(expired=True)
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "created", "scheduled", "started", "ready")
    assert "queue_ready" not in start.points, "nothing says when"
    assert all(start.points[point].grid for point in ("created", "scheduled", "started", "ready"))
    assert is_proven(zero, start, sent_ns)[0] is True


async def test_a_pod_that_came_and_went_in_a_gap_breaks_the_time_at_zero(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    api = cluster.api  # noqa: F811
    before = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watchers, api._watchers = api._watchers, []
    cluster.step("f-1", "created")
    cluster.remove("f-1")
    gone_ns = time.monotonic_ns()
    api.compact()
    api._watchers = watchers
    api.end_watches(expired=True)
    async with asyncio.timeout(20):
        while (zero := await watcher.look(HOST)).since_ns == before.since_ns:
            await asyncio.sleep(0.02)
    assert zero.reached is True and zero.since_ns is not None and zero.since_ns >= gone_ns


async def test_a_silent_watch_does_not_prove_zero(watched: tuple[Watcher, KubernetesSource], cluster: Cluster) -> None:
    watcher, _ = watched
    assert (await watcher.look(HOST)).reached is True
    watchers, cluster.api._watchers = cluster.api._watchers, []
    cluster.step("f-1", "created")
    assert (await watcher.look(HOST)).living == ("f-1",)
    cluster.api._watchers = watchers


async def test_a_gone_pod_stays_gone_whatever_comes_late(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    _, sent_ns, start = await cold_start(watcher, cluster, "f-1")
    cluster.remove("f-1")
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    for state in cluster.states["f-1"]:
        cluster.api.replay("MODIFIED", PODS, state)
        cluster.api.replay("ADDED", PODS, state)
    await asyncio.sleep(0.2)
    later = await watcher.look(HOST)
    assert (later.reached, later.since_ns) == (True, zero.since_ns)
    again = await watcher.start_of(HOST, "f-1", sent_ns)
    assert again == start


@pytest.mark.parametrize("seed", range(6))
async def test_out_of_order_and_repeated(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster, seed: int
) -> None:
    """The pod's states come in any order, some of them twice, and none when it happened: no point is wrong."""
    watcher, _ = watched
    drawn = random.Random(seed)
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watcher.expect()
    sent_ns = time.monotonic_ns()
    watchers, cluster.api._watchers = cluster.api._watchers, []
    await asyncio.sleep(0.1)
    for point in ("created", "scheduled", "started", "ready"):
        cluster.step("f-1", point)
        await asyncio.sleep(0.08)
    cluster.api._watchers = watchers
    states = cluster.states["f-1"] * 2
    drawn.shuffle(states)
    for state in states:
        cluster.api.replay(drawn.choice(["ADDED", "MODIFIED"]), PODS, state)
        await asyncio.sleep(drawn.choice([0, 0.02]))
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "created", "scheduled", "started", "ready")
    assert is_proven(zero, start, sent_ns)[0] is True


async def test_events_add_the_image_and_microseconds_where_they_may_be_read(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, source = watched
    zero = await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
    watcher.expect()
    sent_ns = time.monotonic_ns()
    await asyncio.sleep(0.1)
    cluster.event("f-1", "Pulling")  # says nothing of ours
    cluster.step("f-1", "created")
    await asyncio.sleep(0.1)
    cluster.step("f-1", "scheduled")
    moment = datetime.now(UTC) + timedelta(seconds=cluster.api.skew_s)
    cluster.event("f-1", "Scheduled", eventTime=f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}")
    await asyncio.sleep(0.1)
    cluster.event("f-1", "Pulled", lastTimestamp=cluster.api.now())
    await asyncio.sleep(0.1)
    cluster.event("f-1", "Pulled", lastTimestamp=cluster.api.now())
    cluster.step("f-1", "started")
    cluster.step("f-1", "ready")
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    await asyncio.sleep(0.1)
    start = await watcher.start_of(HOST, "f-1", sent_ns)
    assert start is not None
    cluster.holds(start, "scheduled", "pulled", "ready")
    assert is_proven(zero, start, sent_ns)[0] is True


async def test_without_the_right_to_read_events_everything_else_is_observed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.api.forbidden |= {("list", "events"), ("watch", "events")}
    async with opened(cluster.api, tmp_path) as (watcher, _):
        _, _, start = await cold_start(watcher, cluster, "f-1")
        assert "pulled" not in start.points and "scheduled" in start.points


@pytest.mark.parametrize("plural", ["pods", "revisions", "podautoscalers"])
async def test_without_a_right_nothing_is_observed_and_the_reason_is_reported(
    cluster: Cluster, tmp_path: Path, plural: str
) -> None:
    cluster.api.forbidden.add(("list", plural))
    watcher, _ = watcher_of(cluster.api, tmp_path)
    fault = await watcher.open()
    assert fault is not None and plural in fault and "forbidden" in fault
    await watcher.close()


async def test_a_server_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    nowhere = FakeApi()
    nowhere.url = "http://127.0.0.1:1"
    watcher, _ = watcher_of(nowhere, tmp_path)
    assert "cannot be reached" in (await watcher.open() or "")
    await watcher.close()


async def test_a_service_that_cannot_be_observed_is_unknown(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    other = await watcher.look("f.elsewhere.svc.cluster.local")
    assert other.reached is None and "namespace functions" in other.why
    unknown = await watcher.look(f"g.{NAMESPACE}.svc.cluster.local")
    assert unknown.reached is None and unknown.missing and "no revision of g" in unknown.why
    assert "no revision of g" in is_proven(unknown, None, 0)[1]
    assert (await watcher.look(HOST)).reached is True
    cluster.api.fail("GET .*pods", status=403, reason="Forbidden", times=100)
    lost = await watcher.look(HOST)
    assert lost.reached is None and "fault of 403" in lost.why


async def test_a_service_that_is_missing_is_not_waited_for(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    missing = f"g.{NAMESPACE}.svc.cluster.local"
    waiting = asyncio.create_task(watcher.until_zero(HOST, 3_600_000_000_000, 7_200_000_000_000))
    while not watcher.waiting():
        await asyncio.sleep(0)
    service = HOST.partition(".")[0]
    assert re.fullmatch(rf"waiting \d+ s of at most 7200 s until {service} has no instance", watcher.waiting())
    waiting.cancel()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
    assert watcher.waiting() == ""
    assert await watcher.missing([HOST, missing]) == ["there is no revision of g in the namespace functions"]
    before = await watcher.look(HOST)
    zero = await watcher.until_zero(missing, SETTLE_NS, 3_600_000_000_000)
    assert zero.missing and zero.reached is None
    assert (await watcher.look(HOST)).since_ns == before.since_ns, "what is known of other services stays known"


async def test_a_right_that_is_taken_away_makes_the_rest_unknown(
    watched: tuple[Watcher, KubernetesSource], cluster: Cluster
) -> None:
    watcher, _ = watched
    assert (await watcher.look(HOST)).reached is True
    cluster.api.forbidden.add(("watch", "pods"))
    cluster.api.end_watches()
    async with asyncio.timeout(20):
        while (await watcher.look(HOST)).reached is not None:
            await asyncio.sleep(0.05)
    assert "forbidden" in (watcher.fault or "")


async def test_the_servers_clock_may_be_set(api: FakeApi, tmp_path: Path) -> None:  # noqa: F811
    cluster = Cluster(api)
    async with opened(api, tmp_path) as (watcher, source):
        await watcher.until_zero(HOST, SETTLE_NS, MAX_WAIT_NS)
        api.skew_s = 30
        _, _, start = await cold_start(watcher, cluster, "f-1")
        cluster.holds(start, "created", "ready")
        assert source._clock.steps >= 1
        ahead_ms, error_ms = watcher.clock() or (0, 0)
        assert abs(ahead_ms - 30_000) <= error_ms + 1


async def test_lives_have_their_ends(watched: tuple[Watcher, KubernetesSource], cluster: Cluster) -> None:
    """What a burst asks for: every pod since the send, which had two here, from its creation to its end."""
    watcher, _ = watched
    _, sent_ns, _ = await cold_start(watcher, cluster, "f-1")
    cluster.step("f-2", "created")
    for pod in ("f-1", "f-2"):
        cluster.remove(pod)
    cluster.scale(0)
    await watcher.until_zero(HOST, 0, MAX_WAIT_NS)
    lives = {each.instance: each for each in watcher.lives(HOST, sent_ns)}
    assert set(lives) == {"f-1", "f-2"} and "ready" not in lives["f-2"].points
    for name, life in lives.items():
        assert life.gone_ns is not None and 0 <= life.gone_ns - cluster.moments[name]["gone"][0] < 2_000_000_000
    assert watcher.lives(HOST, time.monotonic_ns()) == []


async def test_a_new_revision_is_known_at_once(watched: tuple[Watcher, KubernetesSource], cluster: Cluster) -> None:
    watcher, _ = watched
    host = f"g.{NAMESPACE}.svc.cluster.local"
    assert (await watcher.look(host)).reached is None
    labels = {"serving.knative.dev/service": "g"}
    cluster.api.put(REVISIONS, {"metadata": {"name": "g-1", "namespace": NAMESPACE, "labels": labels}})
    async with asyncio.timeout(20):
        while (await watcher.look(host)).reached is None:
            await asyncio.sleep(0.02)
