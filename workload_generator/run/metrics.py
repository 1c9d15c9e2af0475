"""The status files of a run as Prometheus metrics, with a label for the shard.

Names and types follow https://prometheus.io/docs/practices/naming/ and .../instrumenting/exposition_formats/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from workload_generator import __version__
from workload_generator.base.clock import NS_PER_S
from workload_generator.base.histogram import Histogram

_P = "workload_generator"
_US_PER_S = 1_000_000
_QUANTILES = (0.5, 0.9, 0.99, 0.999)


def families(statuses: Sequence[dict[str, Any]], in_progress: bool) -> Iterator[Metric]:
    """All metrics. `statuses` is empty before the first run."""
    build = GaugeMetricFamily(f"{_P}_build_info", "Version of the generator.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
    yield GaugeMetricFamily(f"{_P}_run_in_progress", "Whether a run is in progress.", value=in_progress)
    names = ["run_id", "experiment", "mode", "prefix", "phase", "verdict", "shard", "shards"]
    info = GaugeMetricFamily(f"{_P}_run_info", "The run in progress, or the last one.", labels=names)
    for status in statuses:
        info.add_metric([str(status[name] or "") if name != "shard" else str(status[name]) for name in names], 1)
    yield info
    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    for family, metric, text, key, unit in (
        (gauge, "run_elapsed_seconds", "Time since the start of the schedule.", "elapsed_ns", NS_PER_S),
        (gauge, "run_planned_seconds", "Length of the schedule.", "total_ns", NS_PER_S),
        (gauge, "run_updated_timestamp_seconds", "Time of the last update.", "written_ns", NS_PER_S),
        (gauge, "requests_in_flight", "Requests without a result.", "in_flight", 1),
        (counter, "arrivals_planned", "Arrivals that were due, dropped ones included.", "planned", 1),
        (counter, "arrivals_started", "Requests that were sent.", "started", 1),
        (counter, "arrivals_finished", "Requests with a result.", "finished", 1),
        (counter, "arrivals_dropped", "Arrivals dropped at the limit of requests in flight.", "dropped", 1),
    ):
        by_shard = family(f"{_P}_{metric}", text, labels=["shard"])
        for status in statuses:
            by_shard.add_metric([str(status["shard"])], status[key] / unit)
        yield by_shard
    yield from _outcomes(statuses)
    for name, text in (("ttfb", "Time to first byte of the measure phase."), ("lag", "Lag of the measure phase.")):
        yield _summary(statuses, name, text)


def _outcomes(statuses: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    results = CounterMetricFamily(f"{_P}_results", "Arrivals by outcome.", labels=["shard", "phase", "outcome"])
    responses = CounterMetricFamily(f"{_P}_responses", "Responses by status.", labels=["shard", "phase", "status"])
    errors = CounterMetricFamily(f"{_P}_errors", "Failed requests by error kind.", labels=["shard", "phase", "kind"])
    for status in statuses:
        shard = str(status["shard"])
        for phase, counts in status["counts"].items():
            for outcome in ("ok", "failed", "dropped"):
                results.add_metric([shard, phase, outcome], counts[outcome])
            for code, count in counts["statuses"].items():
                responses.add_metric([shard, phase, code], count)
            for kind, count in counts["errors"].items():
                errors.add_metric([shard, phase, kind], count)
    yield from (results, responses, errors)


def _summary(statuses: Sequence[dict[str, Any]], name: str, text: str) -> Metric:
    """Quantiles among failed or dropped arrivals are +Inf."""
    summary = Metric(f"{_P}_{name}_seconds", f"{text} +Inf: among the failed.", "summary")
    for status in statuses:
        shard = str(status["shard"])
        histogram = Histogram.from_json(status["histograms"][name])
        for quantile in _QUANTILES:
            value_us = histogram.quantile_us(quantile)
            labels = {"shard": shard, "quantile": str(quantile)}
            seconds = math.nan if value_us is None else value_us / _US_PER_S
            summary.add_sample(f"{_P}_{name}_seconds", labels, seconds)
        summary.add_sample(f"{_P}_{name}_seconds_count", {"shard": shard}, histogram.count)
    return summary
