"""Services with real processes: scaling, queues, failures and faults."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.platforms import CALMLY, FUNCTION, SOON, Answer, local, until
from workload_generator.base.backoff import Backoff
from workload_generator.emulator import service

NAME = f"{FUNCTION}-0"
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{at}: &m{at}\n" + f"  <<: *m{at - 1}\n" * 2 for at in range(1, 40))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


async def abandon(tasks: list[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_at_zero_all_requests_wait_for_one_start(tmp_path: Path) -> None:
    async with local(tmp_path, faults={"slow-start": "500ms"}, target=1000) as platform:  # one is enough for all
        answers = await asyncio.gather(*(platform.ask() for _ in range(200)))
        assert Counter(answer.text for answer in answers) == {"true": 1, "false": 199}
        assert all(answer.ms[1] > 0 for answer in answers)
        assert platform.kinds().count("spawned") == 1


async def test_concurrency_and_the_queue_are_limited(tmp_path: Path) -> None:
    async with local(tmp_path, containerConcurrency=2, max_scale=1, queue_limit=5) as platform:
        await platform.ask()
        asked = [asyncio.create_task(platform.ask("/slow?3600")) for _ in range(20)]
        async with asyncio.timeout(20):
            refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            while len(refused) < 13:
                more, _ = await asyncio.wait(set(asked) - refused, return_when=asyncio.FIRST_COMPLETED)
                refused |= more
        assert {(task.result().status, task.result().text) for task in refused} == {
            (503, f"the queue of {NAME} is full: 5 requests (queue-limit)\n")
        }
        state = await platform.state()
        assert (state["in_flight"], state["queued"], state["instances"][0]["in_flight"]) == (7, 5, 2)
        assert state["counts"] == {"requests": 21, "answered": 1, "refused": 13, "abandoned": 0}
        await abandon(asked)
        await until(lambda: platform.platform.to_json()["in_flight"] == 0)


async def test_the_queue_time_is_in_the_response(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"env": {"DELAY_MS": "400"}}}, containerConcurrency=1, max_scale=1) as platform:
        await platform.ask()
        answers = await asyncio.gather(*(platform.ask() for _ in range(4)))
        waits = [answer.ms[0] for answer in answers]
        assert max(waits) > 400 > min(waits), "the last waits for three others, if they came at once"
        assert all(answer.ms[1] == 0 and answer.ms[2] > 395 for answer in answers)
        assert (await platform.ask("/most")).text == "1"


async def test_with_spare_capacity_requests_queue_at_an_instance(tmp_path: Path) -> None:
    services = {NAME: {"containerConcurrency": 1, "max-scale": 1, "target-burst-capacity": 0}}
    async with local(tmp_path, services, **CALMLY) as platform:
        async with asyncio.timeout(20):
            while not platform.events or (await platform.state())["autoscaler"]["excess_burst_capacity"] is None:
                await platform.ask()
        asked = [asyncio.create_task(platform.ask("/slow?3600")) for _ in range(15)]
        await until(lambda: sum(task.done() for task in asked) == 4)
        assert {(task.result().status, task.result().text) for task in asked if task.done()} == {
            (503, f"the queues of {NAME}'s instances are full: 10 requests (10 × containerConcurrency)\n")
        }
        (instance,) = (await platform.state())["instances"]
        assert (instance["in_flight"], instance["queued"]) == (1, 10)
        os.kill(instance["pid"], signal.SIGKILL)  # its queue moves; requests that it has already taken fail
        await until(lambda: platform.kinds().count("ready") == 2)
        lost = [task.result().status for task in asked if task.done() and task.result().status != 503]
        assert set(lost) <= {502} and (await platform.state())["in_flight"] == 11 - len(lost) >= 8
        await abandon(asked)


async def test_a_slot_that_comes_too_late_is_given_back(tmp_path: Path) -> None:
    async with local(tmp_path, containerConcurrency=1, max_scale=1) as platform:
        await platform.ask()
        service = platform.platform._services[NAME]
        instance = await service._slot()
        waiting = asyncio.create_task(service._slot())
        await asyncio.sleep(0)
        instance.in_flight -= 1
        service._offer(instance)  # its turn comes in the moment in which its client goes
        assert instance.in_flight == 1 and waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert instance.in_flight == 0 and (await platform.ask()).status == 200


async def test_it_scales_up_under_load_and_to_zero_without(tmp_path: Path) -> None:
    limits = {"containerConcurrency": 1, "max-scale": 3, "env": {"DELAY_MS": "50"}}
    async with local(tmp_path, {NAME: limits}, **CALMLY) as platform:
        answers: list[Answer] = []

        async def keep_asking() -> None:
            while platform.kinds().count("ready") < 3:
                answers.append(await platform.ask())

        async with asyncio.timeout(25):
            await asyncio.gather(*(keep_asking() for _ in range(6)))
        for _ in range(10):
            answers += await asyncio.gather(*(platform.ask() for _ in range(3)))
        assert statuses(answers) == {200: len(answers)}
        seen = {answer.headers["x-instance"] for answer in answers}
        first = Counter(answer.headers["x-instance"] for answer in answers if answer.text == "true")
        assert first == dict.fromkeys(seen, 1) and len(seen) == 3, "exactly one `true` an instance"
        await until(lambda: platform.kinds().count("exited") == 3)
        state = await platform.state()
        assert (state["state"], state["desired"], state["actual"]) == ("zero", 0, 0)
        assert (await platform.ask()).text == "true", "and up again"


async def test_min_scale_and_initial_scale(tmp_path: Path) -> None:
    services = {NAME: {"min-scale": 2}, f"{FUNCTION}-1": {"initial-scale": 3}}
    async with local(tmp_path, services, **SOON) as platform:
        await until(lambda: platform.kinds().count("ready") == 2)
        assert (await platform.ask(service=f"{FUNCTION}-1")).status == 200
        await until(lambda: platform.kinds(f"{FUNCTION}-1").count("spawned") == 3)
        await until(lambda: platform.kinds(f"{FUNCTION}-1").count("exited") == 3)
        assert (await platform.state())["actual"] == 2
        pid = (await platform.state())["instances"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: platform.kinds().count("ready") == 3)
        assert (await platform.state())["state"] == "ready"


async def test_max_instances_limits_the_platform(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"initial-scale": 5}}, max_instances=2) as platform:
        assert (await platform.ask()).status == 200
        state = await platform.state()
        assert (state["desired"], state["actual"]) == (5, 2)
        assert platform.kinds().count("capped") == 1


async def test_a_function_that_cannot_start_fails_after_the_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BACKOFF", Backoff(0.1, 0.1))
    monkeypatch.setattr(service, "MOST_RETRIES", 2)
    async with local(tmp_path, {NAME: {"env": {"CRASH": "1"}}}) as platform:
        answers = await asyncio.gather(*(platform.ask() for _ in range(5)))
        assert statuses(answers) == {504: 5}
        assert all(
            "ended with exit code 1 before it was ready: this function cannot start" in answer.text
            for answer in answers
        )
        assert "the next start is in" in answers[0].text
        state = await platform.state()
        assert (state["state"], state["failures_in_a_row"]) == ("backing-off", 1)
        assert (await platform.ask()).status == 504
        assert platform.kinds().count("spawned") == 1, "not at once again"
        async with asyncio.timeout(20):
            while (await platform.state())["state"] != "failed":
                assert (await platform.ask()).status == 504
                await asyncio.sleep(0.05)
        for _ in range(3):
            await asyncio.sleep(0.1)
            answer = await platform.ask()
            assert answer.status == 504 and "has failed: 3 starts in a row failed" in answer.text
        assert platform.kinds().count("spawned") == 3 and platform.kinds()[-1] == "failed"
        assert (await platform.own(f"/services/{NAME}", "DELETE")).status == 200
        assert "next start" in (await platform.ask()).text
        assert platform.kinds().count("spawned") == 4


async def test_a_start_that_takes_too_long_is_reported(tmp_path: Path) -> None:
    late = {"env": {"READY_AFTER_S": "3600"}, "progress-deadline": "1500ms"}
    async with local(tmp_path, {NAME: late}) as platform:
        answer = await platform.ask()
        assert answer.status == 504 and "was not ready within 1.5 s" in answer.text
        assert platform.kinds()[:3] == ["scale", "spawned", "listening"]
        await until(lambda: "exited" in platform.kinds())


async def test_a_function_that_does_not_exist_cannot_be_started(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        function = platform.platform._functions[FUNCTION]
        object.__setattr__(function, "entry", replace(function.entry, run="./no-such-program"))
        answer = await platform.ask()
        assert answer.status == 504 and "cannot be started" in answer.text and "no-such-program" in answer.text


async def test_requests_wait_for_readiness(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"env": {"READY_AFTER_S": "1"}}}) as platform:
        assert (await platform.ask()).text == "true"
        (instance,) = (await platform.state())["instances"]
        assert instance["phases"]["ready_ms"] - instance["phases"]["listening_ms"] > 300


async def test_a_crash_fails_its_requests_and_is_replaced(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        await platform.ask()
        others = [asyncio.create_task(platform.ask("/slow?3600", method="POST", body=b"x")) for _ in range(3)]
        await until(lambda: platform.platform.to_json()["in_flight"] == 3)
        crashed = await platform.ask("/crash", method="POST", body=b"x")
        assert statuses([crashed, *await asyncio.gather(*others)]) == {502: 4}
        assert "closed the connection" in crashed.text
        await until(lambda: platform.kinds().count("ready") == 2)
        assert (await platform.ask()).text == "true"
        exited = next(event for event in platform.events if event.kind == "exited")
        assert exited.message == "ended with exit code 7: the end of the function"


async def test_an_instance_that_accepts_no_connections_is_replaced(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        assert (await platform.ask("/deaf-from-now-on")).text == "bye"
        answer = await platform.ask(method="POST", body=b"x")  # never sent, so that even a POST goes elsewhere
        assert (answer.status, answer.text) == (200, "true")
        await until(lambda: "exited" in platform.kinds())
        assert (await platform.state())["actual"] == 1


async def test_a_crash_before_the_first_response_backs_off(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        assert (await platform.ask("/crash", method="POST", body=b"x")).status == 502
        await until(lambda: "exited" in platform.kinds())
        answer = await platform.ask()
        assert answer.status == 504 and "exit code 7" in answer.text


async def test_a_timeout_is_a_504(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"min-scale": 1, "timeoutSeconds": 1}}) as platform:
        await until(lambda: "ready" in platform.kinds())
        answer = await platform.ask("/slow?3600")
        assert (answer.status, answer.text) == (504, f"{NAME} did not respond within 1 s (timeoutSeconds)\n")
        assert (await platform.state())["in_flight"] == 0


async def test_a_deleted_service_completes_its_requests(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        await platform.ask()
        slow = asyncio.create_task(platform.ask("/slow?1"))
        await until(lambda: platform.platform.to_json()["in_flight"] == 1)
        assert (await platform.own(f"/services/{NAME}", "DELETE")).json() == {"deleted": NAME}
        assert (await platform.ask()).text == "true", "the next request makes the service again"
        assert (await slow).text == "slow"
        await until(lambda: "exited" in platform.kinds())


async def test_an_instance_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workload_generator.emulator.instance._STOP_S", 0.3)
    async with local(tmp_path, {NAME: {"env": {"STUBBORN": "1"}}}) as platform:
        await platform.ask()
        (instance,) = (await platform.state())["instances"]
        await platform.own(f"/services/{NAME}", "DELETE")
        await until(lambda: "exited" in platform.kinds())
        assert not alive(instance["pid"])
        assert platform.events[-1].message == "SIGKILL"


# Faults


async def fault(platform: Any, **faults: object) -> Answer:
    answer: Answer = await platform.own("/faults", "POST", {"service": NAME, **faults})
    return answer


async def test_faults_are_set_and_cleared(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        await platform.ask()
        assert (await fault(platform, **{"error-rate": 1, "error-status": 418})).status == 200
        answer = await platform.ask()
        assert (answer.status, answer.text) == (418, f"injected error of {NAME} (error-rate)\n")
        await fault(platform, **{"reset-rate": 1})
        with pytest.raises(ConnectionResetError):
            await platform.ask()
        await fault(platform, latency="150ms")
        assert (await platform.ask()).ms[0] > 140
        assert (await platform.own("/faults")).json()[NAME]["latency"] == "150ms"
        assert (await platform.own(f"/faults?service={NAME}", "DELETE")).json()[NAME]["latency"] == "0s"
        assert (await platform.ask()).status == 200


async def test_rates_are_shares_drawn_from_the_seed(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"faults": {"error-rate": 0.5}}}) as platform:
        answers = [await platform.ask() for _ in range(60)]
        assert 10 < statuses(answers)[500] < 50 and statuses(answers).keys() == {200, 500}


async def test_injected_kills_are_not_failures_of_the_function(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        await platform.ask()
        for number in range(4):
            assert (await fault(platform, kill=1)).json()["killed"] == 1
            await until(lambda at=number: platform.kinds().count("exited") == at + 1)  # type: ignore[misc]
            await until(lambda at=number: platform.kinds().count("ready") == at + 2)  # type: ignore[misc]
        state = await platform.state()
        assert (state["state"], state["failures_in_a_row"]) == ("ready", 0)
        assert {event.message for event in platform.events if event.kind == "exited"} == {"SIGKILL (killed by a fault)"}
        await fault(platform, **{"kill-every": "100ms"})
        await fault(platform, kill=1)  # which leaves the others
        await until(lambda: platform.kinds().count("exited") >= 6)


async def test_a_slow_start_is_a_longer_cold_start(tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"faults": {"slow-start": "700ms"}}}) as platform:
        assert (await platform.ask()).ms[1] > 690


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("", 400, "is empty"),
        ("{", 400, "not YAML"),
        ('{"service": "x-0", "latncy": "1s"}', 400, "request:1: latncy: unknown key; did you mean latency?"),
        ("service: x-0\nlatency: soon\nerror-rate: 2\n", 400, "request:3: error-rate: 2 is not a share"),
        ('{"latency": "1s"}', 400, "service: is missing"),
        ('{"service": "unknown"}', 404, "no function for the service unknown"),
        pytest.param("x" * 9000, 413, "more than 8,192 bytes", id="long"),
        pytest.param("[" * 8000, 400, "nested too deeply", id="deep"),
        pytest.param("- " * 4000, 400, "nested too deeply", id="deep by indentation"),
        pytest.param(MERGES, 400, "too large", id="exponential merges"),
    ],
)
async def test_invalid_fault_requests(tmp_path: Path, body: str, status: int, reason: str) -> None:
    async with local(tmp_path) as platform:
        answer = await platform.own("/faults", "POST", body)
        assert answer.status == status and reason in answer.text


# Its own pages


async def test_pages_of_the_platform(tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        state = (await platform.own()).json()
        assert (state["platform"], state["pid"], state["services"]) == ("local", os.getpid(), {})
        assert state["functions"] == {FUNCTION: {"built": True}, "empty-cobol-http": {"built": False}}
        head = await platform.own(method="HEAD")
        assert (head.status, head.body, head.headers["x-platform"]) == (200, b"", "local")
        for path, method, status in [
            ("", "POST", 405),
            ("/events", "POST", 405),
            ("/events?after=x", "GET", 400),
            (f"/events?after={'9' * 5000}", "GET", 400),
            ("/faults", "PUT", 405),
            ("/faults?service=x", "DELETE", 404),
            ("/services/x", "GET", 405),
            ("/services/x", "DELETE", 404),
            ("/nothing", "GET", 404),
        ]:
            assert (await platform.own(path, method)).status == status, (path, method)
        assert (await platform.ask("/_platformer", service="unknown")).status == 404
        chunked = (
            b"POST /_platform/faults HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % platform.token.encode()
        )
        body = b'{"service": "' + NAME.encode() + b'"}'
        raw = await platform.all(chunked, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert raw.startswith(b"HTTP/1.1 200")
        await platform.ask()
        events = (await platform.own("/events")).json()
        assert [event["kind"] for event in events] == ["scale", "spawned", "listening", "ready", "first-byte"]
        assert events == [{**event, "id": number} for number, event in enumerate(events, 1)]
        assert (await platform.own("/events?after=3")).json() == events[3:]
