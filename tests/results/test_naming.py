"""What names tell."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.results.ingest.naming import language_of, read_file_name, read_name, sink_of


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("serving-scenario-1_2000rps_go", {"scenario": "serving-scenario-1", "language": "go", "rps": 2000}),
        ("serving-scenario-2_all", {"scenario": "serving-scenario-2", "language": "all"}),
        ("serving-scenario-1_all", {"scenario": "serving-scenario-1", "language": "all"}),
        (
            "serving-scenario-3_400rps_go",
            {"scenario": "serving-scenario-3", "language": "go", "rps": 400, "concurrency": 1},
        ),
        (
            "serving-scenario-3_400rps_go_5concurrency",
            {"scenario": "serving-scenario-3", "language": "go", "rps": 400, "concurrency": 5},
        ),
        ("eventing-scenario-2_4triggers_3000rps", {"scenario": "eventing-scenario-2", "rps": 3000, "triggers": 4}),
        ("eventing-scenario-3_10000rps_5workers", {"scenario": "eventing-scenario-3", "rps": 10000, "workers": 5}),
        ("eventing-scenario-1_1triggers_0.5rps", {"scenario": "eventing-scenario-1", "rps": 0.5, "triggers": 1}),
        ("serving-scenario-2-go-long", {"scenario": "serving-scenario-2", "language": "go"}),
        (
            "serving-scenario-3-10rps-go",
            {"scenario": "serving-scenario-3", "language": "go", "rps": 10, "concurrency": 1},
        ),
        ("serving-scenario-1-springboot", {"scenario": "serving-scenario-1", "language": "springboot"}),
        ("serving-scenario-12_typescript", {"scenario": "serving-scenario-12", "language": "typescript"}),
        ("workload-generator", {}),
        ("cloudevent-250", {}),
        ("mango_rpsx", {}),
        ("", {}),
    ],
)
def test_a_prefix_tells_the_experiment(prefix: str, names: dict[str, object]) -> None:
    assert read_name(prefix) == names


@pytest.mark.parametrize(
    ("name", "prefix", "begun"),
    [
        ("a_b_2025-02-09_10-11-12.log", "a_b", datetime(2025, 2, 9, 10, 11, 12, tzinfo=UTC)),
        ("a_2025-02-09_10-11-12_s3.log", "a", datetime(2025, 2, 9, 10, 11, 12, tzinfo=UTC)),
        ("a_2025-02-31_10-11-12.log", "a_2025-02-31_10-11-12", None),
        ("a_2025-02-09.log", "a_2025-02-09", None),
        ("a", "a", None),
    ],
)
def test_a_file_name_tells_prefix_and_time(name: str, prefix: str, begun: datetime | None) -> None:
    assert read_file_name(name) == (prefix, begun)


@given(st.text(), st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)), st.none() | st.integers(0, 999))
def test_every_prefix_reads_back_from_a_file_name(prefix: str, begun: datetime, shard: int | None) -> None:
    begun = begun.replace(microsecond=0, tzinfo=UTC)
    suffix = "" if shard is None else f"_s{shard}"
    name = f"{prefix}_{begun.year:04d}-{begun:%m-%d_%H-%M-%S}{suffix}.log"
    assert read_file_name(name) == (prefix, begun)


@pytest.mark.parametrize(
    ("targets", "language"),
    [
        (["http://empty-go-http-0.functions.svc.cluster.local"], "go"),
        (["http://go-handler-event.functions"], "go"),
        (["https://empty-ts-http-0:8443/path-rust", "http://sleep-ts-http"], "ts"),
        (["http://empty-go-http-0", "http://empty-rust-http-0"], "all"),
        (["http://empty-go-http-0", "http://other"], "all"),
        (["http://other"], None),
        (["http://127.0.0.1:8080"], None),
        (["http://[not-a-url"], None),
        ([], None),
    ],
)
def test_hosts_tell_the_language(targets: list[str], language: str | None) -> None:
    assert language_of(targets) == language


@pytest.mark.parametrize(
    ("target", "sink"),
    [
        ("http://broker-ingress.knative-eventing.svc.cluster.local/eventing/default", "broker eventing/default"),
        ("http://kafka-broker-ingress.knative-eventing.svc/eventing/default", "broker eventing/default"),
        ("http://default-broker-ingress.eventing.svc.cluster.local", "broker eventing/default"),
        ("http://default-broker-ingress.eventing.svc.cluster.local/", "broker eventing/default"),
        ("http://127.0.0.1:18085/broker/default/default", "broker default/default"),
        ("http://localhost:8080/broker/a/b?x=1", "broker a/b"),
        ("http://receiver.eventing.svc.cluster.local/t/receiver-0", "receiver"),
        ("http://127.0.0.1:8081/t/a", "receiver"),
        ("http://receiver-service.eventing.svc.cluster.local", "receiver-service"),
        ("http://127.0.0.1:8081/", "127.0.0.1"),
        ("http://[::1]:8081/", "::1"),
        ("http://sink", "sink"),
        ("http://broker-ingress", "broker broker-ingress"),
        ("http://[not-a-url", None),
        ("", None),
    ],
)
def test_a_sink_has_a_name(target: str, sink: str | None) -> None:
    assert sink_of(target) == sink
