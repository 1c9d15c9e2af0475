"""The platform's configuration, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import ExperimentError
from workload_generator.emulator.settings import (
    Faults,
    PlatformConfig,
    Settings,
    TriggerSettings,
    function_of,
    load_config,
    read_fault_request,
)

FUNCTIONS = ("empty-go-http", "empty-python-http")
PAGE = (Path(__file__).parents[2] / "docs" / "local.md").read_text()


def load(tmp_path: Path, text: str, **flags: object) -> PlatformConfig:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return load_config(path, FUNCTIONS, flags)


def problems(tmp_path: Path, text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, text)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def test_services_override_defaults_and_flags_override_both(tmp_path: Path) -> None:
    text = """
defaults: {stable-window: 6s, max-scale: 5, faults: {latency: 1ms}}
services:
  empty-go-http-0: {max-scale: 7, containerConcurrency: 1}
  other: {function: empty-go-http, stable-window: 8s, faults: {error-rate: 0.5}}
  empty-go-http-3:
seed: 4
"""
    config = load(tmp_path, text)
    zero, other, third = (config.settings_of(name) for name in ("empty-go-http-0", "other", "empty-go-http-3"))
    assert (zero.stable_window_ns, zero.max_scale, zero.container_concurrency) == (6 * NS_PER_S, 7, 1)
    assert (other.stable_window_ns, other.max_scale, other.faults.latency_ns) == (8 * NS_PER_S, 5, 0)
    assert third == config.settings_of("empty-python-http-9") == config.defaults
    assert config.seed == 4
    flagged = load(tmp_path, text, stable_window_ns=60 * NS_PER_S)
    assert {flagged.settings_of(name).stable_window_ns for name in ("other", "new-0")} == {60 * NS_PER_S}


def test_without_a_file_and_with_an_empty_one(tmp_path: Path) -> None:
    assert load_config(None, FUNCTIONS, {}) == load(tmp_path, "") == load(tmp_path, "defaults:\nservices:\n")


def test_every_problem_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
defaults:
  stable-windw: 3s
  stable-window: 2500ms
services:
  empty-go-http-0: {max-scale: 2, min-scale: 3}
  empty-go-http-1: {faults: {latncy: 3ms, error-rate: 2, error-status: 200}}
  foo-1: {function: empty-goo-http}
  bar: {containerConcurrency: -1}
  baz:
  empty-go-http-2: {env: {A=B: 1}, target: 0, max-scale-up-rate: 1, target-burst-capacity: -2}
  empty-go-http-3: [1]
max-scale: 3
latency: 1ms
"""
    assert problems(tmp_path, "defaults: {tick-interval: 9ms, faults: {kill-every: 0s}}") == [
        (1, "defaults.tick-interval", "9ms is not an interval of at least 10ms"),
        (1, "defaults.faults.kill-every", "must be longer than 0"),
    ]
    assert problems(tmp_path, text) == [
        (2, "defaults.stable-windw", "unknown key; did you mean stable-window?"),
        (
            3,
            "defaults.stable-window",
            "2500ms is not a whole number of seconds",
        ),
        (5, "services.empty-go-http-0.min-scale", "min-scale is 3, which is above the max-scale of 2"),
        (6, "services.empty-go-http-1.faults.error-rate", "2 is not a share from 0 to 1"),
        (
            6,
            "services.empty-go-http-1.faults.error-status",
            "200 is not an error status: from 400 to 599",
        ),
        (6, "services.empty-go-http-1.faults.latncy", "unknown key; did you mean latency?"),
        (
            7,
            "services.foo-1.function",
            "no function 'empty-goo-http'; did you mean empty-go-http? The catalog has "
            "empty-go-http, empty-python-http",
        ),
        (8, "services.bar.function", "is missing: the service's name is not that of a function and a number"),
        (8, "services.bar.containerConcurrency", "-1 is not a whole number of 0 or more"),
        (9, "services.baz.function", "is missing: the service's name is not that of a function and a number"),
        (10, "services.empty-go-http-2.env.A=B", "is not the name of an environment variable"),
        (10, "services.empty-go-http-2.target", "0 is not above 0"),
        (
            10,
            "services.empty-go-http-2.max-scale-up-rate",
            "1 is not a factor above 1",
        ),
        (
            10,
            "services.empty-go-http-2.target-burst-capacity",
            "-2 is not a number of requests, or -1 for no limit",
        ),
        (11, "services.empty-go-http-3", "must be a mapping, with lines of `key: value`"),
        (12, "max-scale", "unknown key; it belongs under defaults or a service"),
        (13, "latency", "unknown key; it belongs under faults"),
    ]


@pytest.mark.parametrize(
    "text", ["- a\n", "just text", "services: [a]\n", "defaults: 3\n", "a: b: c\n", "services: {1: 2}"]
)
def test_invalid_configurations(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", FUNCTIONS, {})


@pytest.mark.parametrize("value", ["0.7", "70"])
def test_percentages_as_knative_takes_them(tmp_path: Path, value: str) -> None:
    config = load(tmp_path, f"defaults: {{container-concurrency-target-percentage: {value}}}")
    assert config.defaults.container_concurrency_target_percentage == 70


@pytest.mark.parametrize(
    ("policy", "delays"), [("exponential", [0.2, 0.4, 0.8, 1.6]), ("linear", [0.2, 0.4, 0.6, 0.8])]
)
def test_delays_between_deliveries_grow_by_the_policy_to_30_s(policy: str, delays: list[float]) -> None:
    trigger = TriggerSettings(subscriber="http://a", backoff_policy=policy)
    assert [trigger.retry_delay_s(retry) for retry in range(4)] == pytest.approx(delays)
    assert trigger.retry_delay_s(1000) == 30


def test_resolved_settings_load_as_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, "defaults: {target: 0.5, max-scale: 3, stable-window: 1m30s, env: {A: b}}")
    text = "defaults: " + str(config.defaults.resolved()).replace("'", '"')
    assert load(tmp_path, text.replace('"', "")).defaults == config.defaults


@pytest.mark.parametrize(
    ("service", "function"),
    [
        ("empty-go-http-0", "empty-go-http"), ("empty-go-http-12", "empty-go-http"), ("empty-go-http", "empty-go-http"),
        ("empty-go-http-", None), ("empty-go-http-x", None), ("empty-go-http-1-1", None), ("0", None), ("", None),
    ],
)  # fmt: skip
def test_functions_of_services(service: str, function: str | None) -> None:
    assert function_of(service, FUNCTIONS) == function


def test_a_fault_request_is_json_or_yaml() -> None:
    for text in ('{"service": "a-0", "latency": "5ms", "kill": 2}', "service: a-0\nlatency: 5ms\nkill: 2\n"):
        request = read_fault_request(text)
        assert (request.service, request.kill) == ("a-0", 2)
        assert request.faults == Faults(latency_ns=5_000_000)


def test_the_page_has_every_key_and_default() -> None:
    for key in (*Settings.keys(), *Faults.keys()):
        assert f"`{key}`" in PAGE, key
    for key, default in Settings().resolved().items():
        row = next((line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |")), "")
        if row and default != {}:
            assert row.split("|")[2].strip().startswith(f"`{default}`"), (key, default)
