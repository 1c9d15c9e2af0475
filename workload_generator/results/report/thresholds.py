"""The thresholds of a run's experiment, judged again from the database by the code that judged them after the run."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import orjson

from workload_generator.base.histogram import Histogram
from workload_generator.experiment.thresholds import TIMES, Judged, judge_thresholds, threshold
from workload_generator.experiment.yaml_lines import Scalar
from workload_generator.results.database import Store
from workload_generator.results.report.runs import Run


@dataclass(frozen=True, slots=True)
class Demands:
    """What became of one run's thresholds; `judged` None when it cannot be known: a shard's trailer is not there."""

    run: Run
    texts: tuple[str, ...]
    judged: tuple[Judged, ...] | None


def read_demands(store: Store, run: Run) -> Demands | None:
    """None when the run's experiment has no thresholds."""
    texts = run.config.get("thresholds")
    if not isinstance(texts, list) or not texts:
        return None
    texts = tuple(str(text) for text in texts)
    try:
        wanted = [threshold(Scalar(text)) for text in texts]
    except ValueError:  # of a newer version
        return Demands(run, texts, None)
    histograms = merged_histograms(store, run.id)
    counts = {name: run.row[name] for name in ("sent", "failed", "dropped")}
    if histograms is None or None in counts.values():
        return Demands(run, texts, None)
    return Demands(run, texts, judge_thresholds(wanted, counts, histograms))


def merged_histograms(store: Store, experiment: int) -> dict[str, Histogram] | None:
    """Those of a run's shards together, by name; None unless every shard has its trailer."""
    shards = store.execute("SELECT histograms, complete FROM shards WHERE experiment_id = ?", (experiment,))
    if not shards or not all(shard["complete"] and shard["histograms"] for shard in shards):
        return None
    whole: dict[str, Histogram] = {}
    try:
        for shard in shards:
            documents = orjson.loads(shard["histograms"]) or {}
            for name in TIMES:
                if name in documents:
                    whole.setdefault(name, Histogram()).merge(Histogram.from_json(documents[name]))
    except (KeyError, TypeError, ValueError, zlib.error):  # not ours
        return None
    return whole
