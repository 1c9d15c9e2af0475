"""Experiments: what loads, what does not, and what a problem says about it."""

import json
import pickle
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.experiment.arrival_processes import StepArrivals, arrivals_by_name
from workload_generator.experiment.bundled import bundled_experiments, find_experiment
from workload_generator.experiment.fields import sections_in
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.model import Experiment

ORIGINAL = """\
targets:
  - url: "http://empty-go-http-0.functions.svc.cluster.local"
    weight: 1
    headers: {Content-Type: "application/json"}
    body: ""
rate:
  requestsPerSecond: 1000
  duration: 10m
  maxIdleConns: 100
  maxIdleConnsPerHost: 100
  idleConnTimeout: 90s
  timeout: 30s
baseUrl: ""
store: {logDirPath: "/logs"}
"""
SHORTEST = """\
targets:
  - url: http://a
rate:
  requestsPerSecond: 10
  duration: 1m
"""


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def load_text(text: str | bytes, **options: bool) -> Experiment:
        path = tmp_path / "some.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path, **options)

    return load_text


@pytest.fixture
def problems(load: Any):  # type: ignore[no-untyped-def]
    def problems_of(text: str | bytes) -> list[tuple[int, str, str]]:
        with pytest.raises(ExperimentError) as caught:
            load(text)
        return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]

    return problems_of


# What loads


def test_the_originals_fields_load_unchanged(load: Any) -> None:
    experiment = load(ORIGINAL)
    (target,) = experiment.targets
    assert (experiment.name, experiment.base_url, experiment.store.log_dir_path) == ("some", "", "/logs")
    assert target.url == "http://empty-go-http-0.functions.svc.cluster.local"
    assert (target.weight, target.headers, target.body) == (1, {"Content-Type": "application/json"}, "")
    rate = experiment.rate
    assert (rate.requests_per_second, rate.duration_ns, rate.timeout_ns) == (1000, 600 * NS_PER_S, 30 * NS_PER_S)
    assert (rate.max_idle_conns, rate.max_idle_conns_per_host, rate.idle_conn_timeout_ns) == (100, 100, 90 * NS_PER_S)


def test_defaults(load: Any) -> None:
    experiment = load(SHORTEST)
    target, rate = experiment.targets[0], experiment.rate
    assert (target.method, target.weight, target.headers, target.body, target.tls) == ("GET", 1, {}, None, None)
    assert (rate.timeout_ns, rate.ramp_up_ns, rate.connections) == (30 * NS_PER_S, 15 * NS_PER_S, 100)
    assert (rate.max_in_flight, experiment.limits.lag_ns, experiment.seed) == (None, None, None)
    assert experiment.cold_start.gap_ns == 7 * NS_PER_S


@pytest.mark.parametrize("name", bundled_experiments())
def test_a_bundled_experiment_loads_and_has_a_comment(name: str) -> None:
    path = find_experiment(name)
    assert load_experiment(path).name == name
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "hosts", "rps", "seconds"),
    [
        ("serving-scenario-1-go", ["empty-go-http-0"], "1000", 600),
        ("serving-scenario-1-python", ["empty-python-http-0"], "1000", 600),
        ("serving-scenario-1-quarkus", ["empty-quarkus-http-0"], "1000", 600),
        ("serving-scenario-1-rust", ["empty-rust-http-0"], "1000", 600),
        ("serving-scenario-1-springboot", ["empty-springboot-http-0"], "1000", 600),
        ("serving-scenario-1-ts", ["empty-ts-http-0"], "1000", 600),
        ("serving-scenario-1-node", ["empty-ts-http-0"], "1000", 600),
        ("serving-scenario-2-python", ["empty-python-http-0"], "0.05", 1200),
        ("serving-scenario-2-quarkus", ["empty-quarkus-http-0"], "0.05", 1200),
        ("serving-scenario-2-rust", ["empty-rust-http-0"], "0.05", 1200),
        ("serving-scenario-2-springboot", ["empty-springboot-http-0"], "0.05", 1200),
        ("serving-scenario-2-ts", ["empty-ts-http-0"], "0.05", 1200),
        ("serving-scenario-2-go", "all", "0.016", 1200),
        ("serving-scenario-2-go-long", "all", "0.016", 3600),
        ("serving-scenario-2-debug", "all", "0.05", 180),
        *[(f"serving-scenario-3-{rps}rps-go", ["sleep-go-http-0"], str(rps), 180) for rps in (10, 15, 20, 40)],
        ("serving-scenario-3-100rps-go", ["sleep-go-http-0"], "100", 300),
        *[(f"eventing-scenario-1-{rps}rps", ["sink"], str(rps), 120) for rps in range(100, 1001, 100)],
        *[(f"cloudevent-{rps}", ["sink"], str(rps), 120) for rps in (250, 500, 1000)],
    ],
)
def test_bundled_experiments_have_not_changed(name: str, hosts: list[str] | str, rps: str, seconds: int) -> None:
    experiment = load_experiment(find_experiment(name))
    if hosts == "all":
        hosts = [f"empty-{language}-http-0" for language in ("go", "python", "quarkus", "rust", "springboot", "ts")]
    assert [target.url.removeprefix("http://").split(".")[0] for target in experiment.targets] == hosts
    assert experiment.rate.requests_per_second == Fraction(rps)
    assert experiment.rate.duration_ns == seconds * NS_PER_S
    if hosts == ["sink"]:
        headers = experiment.targets[0].headers
        assert {"ce-type", "ce-source", "ce-id", "ce-specversion", "Content-Type"} == set(headers)
        assert json.loads(experiment.targets[0].body or "")


@pytest.mark.parametrize(
    ("line", "ns"),
    [
        ("duration: 90s", 90 * NS_PER_S),
        ("duration: 1h30m", 5400 * NS_PER_S),
        ('duration: "500ms"', 500 * NS_PER_MS),
        ("duration: 1.5h", 5400 * NS_PER_S),
        ("duration: 250µs", 250_000),
    ],
)
def test_durations_are_gos(load: Any, line: str, ns: int) -> None:
    assert load(SHORTEST.replace("duration: 1m", line)).rate.duration_ns == ns


@pytest.mark.parametrize(
    ("text", "rps"),
    [
        ("0.016", Fraction(2, 125)),
        ("10_000", 10_000),
        ("1e3", 1000),
        (".5", Fraction(1, 2)),
        ("0", 0),
        ("1000.0", 1000),
    ],
)
def test_rates_are_exact(load: Any, text: str, rps: Fraction) -> None:
    assert load(SHORTEST.replace(": 10\n", f": {text}\n")).rate.requests_per_second == rps


@pytest.mark.parametrize(
    ("text", "served", "not_served"),
    [
        ("200", [200], [201, 404]),
        ("2xx", [200, 204, 299], [199, 300]),
        ("[200, 404]", [200, 404], [204]),
        ("[2xx, 4xx]", [226, 418], [500]),
        ('"503"', [503], [200]),
    ],
)
def test_expected_statuses(load: Any, text: str, served: list[int], not_served: list[int]) -> None:
    (target,) = load(SHORTEST.replace("http://a", f"http://a\n    expectStatus: {text}")).targets
    assert all(target.expects(status) for status in served)
    assert not any(target.expects(status) for status in not_served)


@pytest.mark.parametrize(
    ("lines", "method"),
    [("body: x", "POST"), ('body: ""', "GET"), ("body: x\n    method: PUT", "PUT"), ("method: HEAD", "HEAD")],
)
def test_a_body_makes_a_post(load: Any, lines: str, method: str) -> None:
    assert load(SHORTEST.replace("http://a", f"http://a\n    {lines}")).targets[0].method == method


@pytest.mark.parametrize(
    ("rps", "extra", "ramp_s"),
    [("1", "", 0), ("1.01", "", 15), ("0.016", "", 0), ("0", "", 0), ("10", "rampUp: 0s", 0)],
)
def test_only_a_constant_rate_above_one_ramps_up_by_itself(load: Any, rps: str, extra: str, ramp_s: int) -> None:
    text = SHORTEST.replace(": 10\n", f": {rps}\n  {extra}\n")
    assert load(text).rate.ramp_up_ns == ramp_s * NS_PER_S


def test_zero_means_what_it_means_in_go(load: Any) -> None:
    rate = load(SHORTEST + "  maxIdleConns: 0\n  maxIdleConnsPerHost: 0\n  idleConnTimeout: 0s\n").rate
    assert (rate.max_idle_conns, rate.max_idle_conns_per_host, rate.idle_conn_timeout_ns) == (0, 2, 0)


def test_headers_keep_the_text_of_their_values(load: Any) -> None:
    headers = "{a: 1, b: yes, c: 1.50, d: ~, e: '', ce-id: \"x\"}"
    loaded = load(SHORTEST.replace("http://a", f"http://a\n    headers: {headers}")).targets[0].headers
    assert loaded == {"a": "1", "b": "yes", "c": "1.50", "d": "", "e": "", "ce-id": "x"}


def test_aliases_and_merges_are_yaml_too(load: Any) -> None:
    experiment = load("""\
targets:
  - &first {url: http://a, headers: &h {x: 1}, weight: 2}
  - {<<: *first, url: http://b}
  - {url: http://c, headers: *h}
rate: {requestsPerSecond: 1, duration: 1m}
""")
    assert [(t.url, t.weight, t.headers) for t in experiment.targets] == [
        ("http://a", 2, {"x": "1"}),
        ("http://b", 2, {"x": "1"}),
        ("http://c", 1, {"x": "1"}),
    ]


def test_a_byte_order_mark_and_empty_keys_change_nothing(load: Any) -> None:
    plain = load(SHORTEST)
    assert load("\ufeff" + SHORTEST).resolved() == plain.resolved()
    assert load(SHORTEST + "  timeout:\nstore: ~\n").resolved() == plain.resolved()


def test_a_ca_file_is_relative_to_the_experiment(load: Any, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    experiment = load(SHORTEST.replace("http://a", "https://a\n    tls: {caFile: ca.pem}"))
    assert experiment.targets[0].tls.ca_file == str(tmp_path / "ca.pem")
    assert experiment.resolved()["targets"][0]["tls"] == {"caFile": "ca.pem"}


def test_every_bad_ca_file_is_a_problem(problems: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    targets = [f"  - {{url: https://a, tls: {{caFile: {name}}}}}" for name in ("nowhere.pem", "empty.pem")]
    found = problems(SHORTEST.replace("  - url: http://a", "\n".join(targets)))
    assert [(line, key) for line, key, _ in found] == [(2, "targets[0].tls.caFile"), (3, "targets[1].tls.caFile")]
    assert "cannot be read" in found[0][2] and "has no certificates" in found[1][2]


def test_events_need_no_url(load: Any, problems: Any) -> None:
    text = SHORTEST.replace("url: http://a", "body: x")
    assert load(text, event=True).targets[0].url == ""
    assert problems(text) == [(2, "targets[0].url", "is missing")]


PROCESS_TEXTS = {
    "constant": "arrival: constant\n  requestsPerSecond: 10\n  duration: 1m",
    "poisson": "arrival: poisson\n  requestsPerSecond: 10\n  duration: 1m",
    "ramp": "arrival: {process: ramp, from: 0.5, to: 20}\n  duration: 1m",
    "steps": "arrival:\n    process: steps\n    steps:\n"
    "      - {requestsPerSecond: 5, duration: 10s}\n      - {requestsPerSecond: 30, duration: 1m}",
    "sine": "arrival: {process: sine, amplitude: 0.5, period: 20s}\n  requestsPerSecond: 10\n  duration: 1m",
    "trace": "arrival: {process: trace, file: trace.csv, minute: 30s, scale: 0.5, row: f}",
}


def process_text(process: str) -> str:
    return SHORTEST[: SHORTEST.index("  requests")] + "  " + PROCESS_TEXTS[process] + "\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("HashFunction,1,2\nf,4,6\ng,1,1\n")
    return path


@pytest.mark.parametrize(
    ("process", "start_rps", "peak_rps", "display", "seconds"),
    [
        ("constant", 10, 10, "10", 60),
        ("poisson", 10, 10, "10", 60),
        ("ramp", Fraction(1, 2), 20, "0.5 to 20", 60),
        ("steps", 5, 30, "up to 30", 70),
        ("sine", 10, 15, "10", 60),
        ("trace", 0, Fraction(1, 10), "up to 0.1", 60),
    ],
)
def test_arrival_processes(
    load: Any, trace: Path, process: str, start_rps: Fraction, peak_rps: Fraction, display: str, seconds: int
) -> None:
    experiment = load(process_text(process))
    rate = experiment.rate
    assert rate.arrival.process == process
    arrival = rate.arrival
    assert (arrival.start_rps(), arrival.peak_rps(), arrival.display_rps()) == (start_rps, peak_rps, display)
    assert rate.duration_ns == seconds * NS_PER_S


def test_every_process_has_a_case() -> None:
    assert set(PROCESS_TEXTS) == set(arrivals_by_name())


# What is resolved


@pytest.mark.parametrize("process", PROCESS_TEXTS)
def test_resolved_is_json_and_loads_as_an_equal_experiment(load: Any, trace: Path, process: str) -> None:
    experiment = load(process_text(process) + "seed: 5\nlimits: {lag: 2ms}\n")
    resolved = json.loads(json.dumps(experiment.resolved()))
    again = load(yaml.safe_dump(resolved, sort_keys=False))
    assert again.resolved() == experiment.resolved()
    assert again.sha256 == experiment.sha256
    assert (again.rate, again.targets, again.seed) == (experiment.rate, experiment.targets, experiment.seed)


def test_resolved_has_the_keys_of_the_file(load: Any) -> None:
    assert load(SHORTEST).resolved() == {
        "targets": [{"url": "http://a", "weight": 1, "headers": {}, "method": "GET", "expectStatus": ["2xx"]}],
        "rate": {
            "arrival": {"process": "constant"},
            "requestsPerSecond": 10,
            "duration": "1m",
            "rampUp": "15s",
            "maxIdleConns": 100,
            "maxIdleConnsPerHost": 100,
            "idleConnTimeout": "1m30s",
            "timeout": "30s",
            "connections": 100,
            "preconnect": 0,
        },
        "baseUrl": "",
        "store": {"logDirPath": "/logs"},
        "coldStart": {"gap": "7s"},
        "limits": {},
    }


def test_the_hash_ignores_formatting(load: Any) -> None:
    spelled_out = SHORTEST.replace("1m", "60s") + "  timeout: 30s # the default\n"
    assert load(spelled_out).sha256 == load(SHORTEST).sha256
    assert load(SHORTEST.replace("1m", "61s")).sha256 != load(SHORTEST).sha256


def test_the_hash_covers_the_trace(load: Any, trace: Path) -> None:
    before = load(process_text("trace")).sha256
    trace.write_text("HashFunction,1,2\nf,4,7\ng,1,1\n")
    assert load(process_text("trace")).sha256 != before


def test_an_experiment_can_be_pickled(load: Any) -> None:
    experiment = load(SHORTEST)
    assert pickle.loads(pickle.dumps(experiment)).sha256 == experiment.sha256


def test_flags_replace_values_of_the_file(load: Any) -> None:
    changed = load(SHORTEST, rps=Fraction("0.016"), duration_ns=5 * NS_PER_S, seed=7)
    assert (changed.rate.requests_per_second, changed.rate.duration_ns, changed.seed) == (
        Fraction(2, 125),
        5 * NS_PER_S,
        7,
    )
    assert (changed.name, changed.rate.ramp_up_ns) == ("some", 0)
    assert load(SHORTEST.replace("10\n", "1\n"), rps=Fraction(100)).rate.ramp_up_ns == 15 * NS_PER_S


@pytest.mark.parametrize("rps", ["0", "0.016", "1"])
def test_a_low_rps_flag_drops_the_ramp_of_the_file(load: Any, rps: str) -> None:
    assert load(SHORTEST + "  rampUp: 5s\n", rps=Fraction(rps)).rate.ramp_up_ns == 0
    assert load(SHORTEST + "  rampUp: 5s\n", rps=Fraction(2)).rate.ramp_up_ns == 5 * NS_PER_S


def test_flags_add_missing_values(load: Any) -> None:
    shortest = load("targets: [{url: http://a}]\nrate: {}\n", rps=Fraction(3), duration_ns=NS_PER_S)
    assert (shortest.rate.requests_per_second, shortest.rate.duration_ns) == (3, NS_PER_S)


def test_a_problem_of_a_flag_names_it(load: Any) -> None:
    with pytest.raises(ExperimentError, match="--rps: .*has its own rates") as caught:
        load(process_text("steps"), rps=Fraction(5), duration_ns=NS_PER_S)
    assert "--duration: the steps last 1m10s" in str(caught.value)


def test_secrets_in_headers_are_not_logged(load: Any) -> None:
    headers = "{Authorization: Bearer s3cret, X-API-Key: s3cret, Cookie: s3cret, Accept: text/plain}"
    experiment = load(SHORTEST.replace("http://a", f"http://a\n    headers: {headers}"))
    assert experiment.targets[0].headers["Authorization"] == "Bearer s3cret", "they are sent"
    assert "s3cret" not in json.dumps(experiment.resolved())
    assert experiment.resolved()["targets"][0]["headers"]["Accept"] == "text/plain"


@pytest.mark.parametrize("url", ["http://a", "HTTP://a"])
def test_only_https_has_certificates_to_verify(problems: Any, tmp_path: Path, url: str) -> None:
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    ((line, key, message),) = problems(SHORTEST.replace("http://a", f"{url}\n    tls: {{caFile: ca.pem}}"))
    assert (line, key) == (3, "targets[0].tls") and "only an https:// target" in message


@pytest.mark.parametrize("url", ["K_SINK", "${K_SINK}", "sink", "''", "~"])
def test_event_mode_accepts_any_url(load: Any, url: str) -> None:
    text = SHORTEST.replace("http://a", url)
    assert load(text, event=True).targets[0].method == "GET"
    with pytest.raises(ExperimentError, match=r"targets\[0\].url"):
        load(text)


# What does not load


def test_every_problem_is_reported_at_once_with_its_line_and_key(load: Any, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as caught:
        load("""\
targets:
  - url: "ftp://x"
    weigth: 1
    headers: {"Content Type": "a", X: "a\\nb", Content-Length: 3}
    expectStatus: [200, 9xx]
    method: get
  - weight: -1
    tls: {cafile: x}
rate:
  requestsPerSecond: "5"
  duration: 10 minutes
  preconnect: -3
  arrival: {process: poison}
  rampUp: 10
  maxIdleConns: 1.5
  maxIdleConns: 2
store: /logs
duration: 3m
""")
    file = tmp_path / "some.yaml"
    unit = "is not a duration: write a number with its unit, such as 90s, 1h30m or 500ms"
    assert str(caught.value).splitlines() == [
        f"{file}:2: targets[0].url: 'ftp://x' is not an http:// or https:// URL",
        f"{file}:3: targets[0].weigth: unknown key; did you mean weight?",
        f"{file}:4: targets[0].headers.Content Type: is not a header name: use letters, digits and hyphens",
        f"{file}:4: targets[0].headers.X: a header value must not contain line breaks or other control characters",
        f"{file}:4: targets[0].headers.Content-Length: is computed from the body: remove it",
        f"{file}:5: targets[0].expectStatus: '9xx' is not a status: use 200, 2xx or [200, 404]",
        f"{file}:6: targets[0].method: 'get' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT; "
        "did you mean GET?",
        f"{file}:7: targets[1].url: is missing",
        f"{file}:7: targets[1].weight: -1 is not a whole number of 0 or more",
        f"{file}:8: targets[1].tls.caFile: is missing",
        f"{file}:8: targets[1].tls.cafile: unknown key; did you mean caFile?",
        f"{file}:10: rate.requestsPerSecond: must be a number, not text: remove the quotes",
        f"{file}:11: rate.duration: '10 minutes' {unit}",
        f"{file}:12: rate.preconnect: -3 is not a whole number of 0 or more",
        f"{file}:13: rate.arrival.process: 'poison' is not one of constant, poisson, ramp, steps, sine, trace; "
        "did you mean poisson?",
        f"{file}:14: rate.rampUp: '10' {unit}",
        f"{file}:15: rate.maxIdleConns: 1.5 is not a whole number of 0 or more",
        f"{file}:16: rate.maxIdleConns: duplicate key; the first is in line 15",
        f"{file}:17: store: must be a mapping, with lines of `key: value`",
        f"{file}:18: duration: unknown key; it belongs under rate",
    ]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("url", [
    "http://",
    "http:///path",
    "//host/path",
    "host.example",
    "http://ho st/",
    "http://a/\u00e9",
    "http://user:secret@a/",
    "http://a:0/",
    "http://a:99999/",
    "http://a:b/",
    "http://[::1/",
    "http://a/#top",
    "http://{host}/",
    "http://..",
    "http://-/",
    "http://a..b/",
    "http://.a/",
    "5",
])  # fmt: skip
def test_bad_urls(problems: Any, url: str) -> None:
    ((line, key, _message),) = problems(SHORTEST.replace("http://a", json.dumps(url, ensure_ascii=False)))
    assert (line, key) == (2, "targets[0].url")


@pytest.mark.parametrize("url", ["https://a:8443/x?y=%20", "HTTP://A", "http://127.0.0.1:80", "http://[::1]:8080/"])
def test_good_urls(load: Any, url: str) -> None:
    assert load(SHORTEST.replace("http://a", url)).targets[0].url == url


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ("duration: 1m", "", 3, "rate.duration", "is missing"),
        ("duration: 1m", "duration:", 5, "rate.duration", "has no value"),
        ("duration: 1m", "duration: 0s", 5, "rate.duration", "must be longer than 0"),
        ("duration: 1m", "duration: -1s", 5, "rate.duration", "negative"),
        ("duration: 1m", "duration: [1m]", 5, "rate.duration", "must be a duration"),
        ("duration: 1m", "duration: 1m\n  timeout: 0", 6, "rate.timeout", "longer than 0"),
        (": 10\n", ": 10\n  duration: 1m\n", 6, "rate.duration", "duplicate key"),
        ("  requestsPerSecond: 10\n", "", 3, "rate.requestsPerSecond", "is missing"),
        (": 10\n", ": 10\n  duration_ns: 1m\n", 5, "rate.duration_ns", "did you mean"),
        (": 10\n", ": -1\n", 4, "rate.requestsPerSecond", "negative"),
        (": 10\n", ": .nan\n", 4, "rate.requestsPerSecond", "not a number"),
        (": 10\n", ": 1e99\n", 4, "rate.requestsPerSecond", "more than"),
        (": 10\n", f": {'1' * 5000}\n", 4, "rate.requestsPerSecond", "not a number"),
        (": 10\n", ": {a: 1}\n", 4, "rate.requestsPerSecond", "must be a number"),
        ("rate:", "rate: [", 5, "", "not YAML"),
        ("url: http://a", "url: http://a\n    weight: 100001", 1, "targets", "sum of the weights"),
        ("url: http://a", "url: http://a\n    weight: 00", 1, "targets", "weight 0"),
        ("url: http://a", "url: http://a\n    headers: {X: 1, x: 2}", 3, "targets[0].headers", "the same header"),
        ("url: http://a", "url: http://a\n    headers: [X]", 3, "targets[0].headers", "mapping"),
        ("url: http://a", 'url: http://a\n    body: "\\ud800"', 3, "targets[0].body", "surrogate"),
        ("url: http://a", "url: http://a\n    expectStatus: []", 3, "targets[0].expectStatus", "an empty list"),
        ("url: http://a", "url: http://a\n    body: {a: 1}", 3, "targets[0].body", "must be text"),
        ("url: http://a", "url: !secret http://a", 2, "targets[0].url", "!secret"),
        ("  - url: http://a", "  {}", 1, "targets", "must be a list"),
        ("  - url: http://a", "  []", 1, "targets", "at least one"),
        ("  - url: http://a", "  - ", 2, "targets[0]", "mapping"),
        ("rate:", "? [a]\n: b\nrate:", 3, "", "a key must be a scalar"),
        ("rate:", "seed: -3\nrate:", 3, "seed", "whole number"),
        ("rate:", f"seed: {2**63}\nrate:", 3, "seed", "too large"),
        ("rate:", "baseUrl: here\nrate:", 3, "baseUrl", "not an http:// or https:// URL"),
        ("rate:", "baseUrl: http://h/x\nrate:", 3, "baseUrl", "scheme, host and port only"),
        ("rate:", "baseUrl: http://h?x\nrate:", 3, "baseUrl", "scheme, host and port only"),
        ("url: http://a", "url: http://a\n    tls: {}", 3, "targets[0].tls.caFile", "is missing"),
        ("Second: 10", "Second: 0.71428571428571428571", 4, "rate.requestsPerSecond", "more digits"),
        ("rate:", "event: {type: ''}\nrate:", 3, "event.type", "must not be empty"),
        ("rate:", "event: {typ: x}\nrate:", 3, "event.typ", "did you mean type"),
        ("rate:", "thresholds: errors < 1%\nrate:", 3, "thresholds", "must be a list"),
        ("rate:", "thresholds:\n  - errors < 1%\n  - ttfb.p99 < 5\nrate:", 5, "thresholds[1]", "not a duration"),
        ("rate:", "thresholds: [tfb.p99 < 5ms]\nrate:", 3, "thresholds[0]", "did you mean ttfb?"),
        ("rate:", "coldStart: {wait: one}\nrate:", 3, "coldStart.wait", "not one of zero, interval"),
        ("rate:", "coldStart: {maxWait: 0s}\nrate:", 3, "coldStart.maxWait", "longer than 0"),
        ("rate:", "coldStart: {burst: 0}\nrate:", 3, "coldStart.burst", "from 1 to 10,000"),
        ("rate:", "coldStart: {order: any}\nrate:", 3, "coldStart.order", "not one of listed, random"),
        ("rate:", "elsewhere: 1\nrate:", 3, "elsewhere", "valid keys are targets, rate"),
        ("rate:", "elsewhere:\nrate:", 3, "elsewhere", "unknown key"),
        ("rate:\n", "rate:\n  maxInFlight: 0\n", 4, "rate.maxInFlight", "at least 1"),
        ("rate:\n", "rate:\n  preconnect: 101\n", 4, "rate.preconnect", "the limit of idle connections is 100"),
        ("rate:\n", "rate:\n  connections: 0\n", 4, "rate.connections", "at least 1"),
        ("rate:\n", "rate:\n  requests_per_second: 3\n", 4, "rate.requests_per_second", "mean requestsPerSecond?"),
        ("rate:\n", "rate:\n  arrival: {}\n", 4, "rate.arrival.process", "one of constant"),
        ("rate:\n", "rate:\n  arrival: [poisson]\n", 4, "rate.arrival", "mapping"),
        ("rate:\n", "rate:\n  arrival: {process: poisson, rate: 3}\n", 4, "rate.arrival.rate", "unknown key"),
        ("rate:\n", "rate:\n  arrival: {process: ramp, from: 1, to: 2}\n", 5, "rate.requestsPerSecond", "own rates"),
        ("rate:\n", "rate:\n  arrival: {process: sine, amplitude: 1.5, period: 1m}\n", 4, "rate.arrival.amplitude", ""),
        ("rate:\n", "rate:\n  arrival: {process: sine, amplitude: 1, period: 1ms}\n", 4, "rate.arrival.period", "1s"),
        (": 10\n", ": 0\n  arrival: poisson\n", 4, "rate.requestsPerSecond", "above 0"),
        (": 10\n", ": 0\n  rampUp: 1s\n", 5, "rate.rampUp", "remove rampUp"),
        (": 10\n", ": 1\n  rampUp: 1s\n", 5, "rate.rampUp", "remove rampUp"),
    ],
)  # fmt: skip
def test_a_problem_names_line_and_key(problems: Any, old: str, new: str, line: int, key: str, message: str) -> None:
    assert old in SHORTEST
    found = problems(SHORTEST.replace(old, new))
    assert [(line, key)] == [(line, key) for line, key, _ in found]
    assert message in found[0][2]


@pytest.mark.parametrize(
    ("arrival", "key", "message"),
    [
        ("{process: ramp, from: 0, to: 0}", "rate.arrival.to", "no arrivals"),
        ("{process: ramp, from: 0}", "rate.arrival.to", "is missing"),
        ("{process: steps, steps: []}", "rate.arrival.steps", "at least one"),
        ("{process: steps, steps: [{requestsPerSecond: 0, duration: 1m}]}", "rate.arrival.steps", "rate of 0"),
        ("{process: steps, steps: [{rps: 1, duration: 1m}]}", "rate.arrival.steps[0].requestsPerSecond", "missing"),
        ("{process: steps, steps: [{requestsPerSecond: 1, duration: 2m}]}", "rate.duration", "the steps last 2m"),
        ("{process: trace, file: nowhere.csv}", "", "cannot be read"),
        ("{process: trace, file: trace.csv, row: h}", "", "no row has 'h'"),
        ("{process: trace, file: trace.csv, scale: 0}", "rate.arrival.scale", "factor"),
        ("{process: trace, file: trace.csv, sha256: abc}", "rate.arrival.sha256", "the file's is"),
        ("{process: trace, file: offsets.csv, scale: 2}", "rate.arrival.scale", "only minute counts"),
        ("{process: trace, file: offsets.csv, row: f}", "", "no rows to select"),
    ],
)
def test_arrival_problems(problems: Any, trace: Path, tmp_path: Path, arrival: str, key: str, message: str) -> None:
    (tmp_path / "offsets.csv").write_text("1\n2\n")
    found = problems(SHORTEST.replace("  requestsPerSecond: 10\n", f"  arrival: {arrival}\n"))
    assert (key, message in found[0][2]) == (found[0][1], True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", (0, "", "is empty")),
        (b"# nothing\n", (0, "", "is empty")),
        (b"just text", (1, "", "is not an experiment")),
        (b"- a\n", (1, "", "is not an experiment")),
        (b"targets:\n\xff\n", (2, "", "byte 0xff is not UTF-8")),
        (b"targets: [\n", (2, "", "not YAML: while parsing a flow node")),
        (b"a: b: c\n", (1, "", "not YAML: mapping values")),
        (b"a: \x01\n", (1, "", "not YAML: a control character")),
        (b"\ta: 1\n", (1, "", "not YAML")),
        (b"a: 1\n---\nb: 1\n", (2, "", "not YAML: expected a single document")),
        (b"[" * 5000, (0, "", "nested too deeply")),
        (b'a: "\\UFFFFFFFF"', (0, "", "not YAML")),
        (b"a: *nowhere\n", (1, "", "not YAML: found undefined alias")),
    ],
)
def test_files_that_are_not_experiments(problems: Any, content: bytes, problem: tuple[int, str, str]) -> None:
    ((line, key, message),) = problems(content)
    assert (line, key) == problem[:2]
    assert problem[2] in message


def test_aliases_are_limited(problems: Any) -> None:
    assert any("an alias must not contain itself" in text for _, _, text in problems("targets: &a [*a]\nrate: 1\n"))
    laughs = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{this}: &{this} [{','.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdef", "bcdefg", strict=True)
    )
    assert "too large" in problems(laughs)[0][2]
    assert any("<< needs" in text for _, _, text in problems(SHORTEST + "  <<: 3\n"))
    assert any("<< needs" in text for _, _, text in problems("rate: &r {duration: 1m, <<: *r}\n"))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read: No such file"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ExperimentError, match="cannot be read: Is a directory"):
        load_experiment(tmp_path)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("1s"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["targets", "rate", "url", "headers", "duration", "arrival", "process", "steps", "tls", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["targets", "rate", "store", "limits", "coldStart", "seed"]), yaml_values))
def test_any_yaml_is_an_experiment_or_a_list_of_problems(tmp_path_factory: Any, data: Any) -> None:
    _load_any(tmp_path_factory, yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=60) | st.text(":-[]{}&*!|>'\"%@`#?, \n\tab1<", max_size=40).map(str.encode))
def test_any_bytes_are_an_experiment_or_a_list_of_problems(tmp_path_factory: Any, raw: bytes) -> None:
    _load_any(tmp_path_factory, raw)


def _load_any(tmp_path_factory: Any, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    try:
        load_experiment(path)
    except ExperimentError as error:
        assert error.problems
        lines = raw.count(b"\n") + raw.count(b"\r") + 2
        assert all(0 <= problem.line <= lines and problem.message for problem in error.problems)


@given(
    rps=st.decimals(min_value="0.001", max_value=100_000, places=3),
    duration_ns=st.integers(1, 10**15),
    weights=st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any),
)
def test_numbers_survive_the_way_through_json(
    tmp_path_factory: Any, rps: Any, duration_ns: int, weights: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers.yaml"
    targets = "".join(f"  - {{url: http://t, weight: {weight}}}\n" for weight in weights)
    path.write_text(
        f"targets:\n{targets}rate: {{requestsPerSecond: {rps}, duration: {format_duration(duration_ns)}}}\n"
    )
    experiment = load_experiment(path)
    assert experiment.rate.requests_per_second == Fraction(str(rps))
    path.write_text(json.dumps(experiment.resolved()))
    again = load_experiment(path)
    assert again.rate == experiment.rate
    assert [target.weight for target in again.targets] == weights


# Where experiments are found


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = find_experiment("serving-scenario-1-go.yaml")
    assert find_experiment("serving-scenario-1-go") == bundled
    (tmp_path / "serving-scenario-1-go.yaml").write_text(SHORTEST)
    assert find_experiment("serving-scenario-1-go.yaml") == Path("serving-scenario-1-go.yaml")
    assert find_experiment("serving-scenario-1-go") == bundled


def test_experiments_dir_comes_before_the_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serving-scenario-1-go.yaml").write_text(SHORTEST)
    (tmp_path / "mine.yaml").write_text(SHORTEST)
    monkeypatch.setenv("EXPERIMENTS_DIR", str(tmp_path))
    assert find_experiment("serving-scenario-1-go") == tmp_path / "serving-scenario-1-go.yaml"
    assert find_experiment("mine.yaml") == tmp_path / "mine.yaml"
    assert find_experiment("serving-scenario-1-ts").parent != tmp_path


@pytest.mark.parametrize("name", ["serving-scenario-1-goo", "serving-scenario-1-gø.yaml", "../experiments/none", "x"])
def test_an_unknown_name_lists_those_that_exist(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_experiment(name)
    _, listed = str(caught.value).splitlines()
    assert listed == f"The bundled experiments are {', '.join(bundled_experiments())}."
    assert ("did you mean serving-scenario-1-go?" in str(caught.value)) == name.startswith("serving")


def test_a_folder_is_not_an_experiment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=": is a folder, and no experiment of that name"):
        find_experiment(str(tmp_path))


def test_steps_have_a_duration(load: Any) -> None:
    arrival = load(process_text("steps")).rate.arrival
    assert isinstance(arrival, StepArrivals)
    assert arrival.own_duration_ns == 70 * NS_PER_S


# The reference

REFERENCE = Path(__file__).parents[2] / "docs" / "experiments.md"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL))
def test_the_examples_of_the_reference_load(load: Any, tmp_path: Path, block: str) -> None:
    (trace_text,) = re.findall(r"```\n(HashOwner.*?)```", REFERENCE.read_text(), re.DOTALL)
    (tmp_path / "minutes.csv").write_text(trace_text)
    load(block)


def test_the_reference_has_every_key_and_every_bundled_experiment() -> None:
    text = REFERENCE.read_text()
    keys = {key for _, section in sections_in(Experiment) for key in section.keys()}
    assert len(keys) > 30
    around_others = {"rate", "tls", "store", "coldStart", "limits", "event", "process"}  # named with what is in them
    for key in keys - around_others:
        assert re.search(rf"`([A-Za-z\[\].]+\.)?{key}`", text), key
    named = re.findall(r"^\| `([a-z0-9-]+)(\{.*?\})?([a-z-]*)`", text, re.MULTILINE)
    assert all(
        any(name.startswith(begin) and name.endswith(end) for begin, _, end in named) for name in bundled_experiments()
    )
