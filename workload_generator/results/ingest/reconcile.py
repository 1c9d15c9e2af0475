"""Runs and their shards: which log belongs to which run, their counts, and a run's verdict.

Counts are of the measure phase. They come from the shard's trailer. Without one, or with one that counts fewer results
than there are rows, they are counted from the rows, and requests that the last heartbeat counts as started, but that
have no row, are missing. `sent` is ok + failed + missing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, ClassVar

import orjson

from workload_generator.results.database import Store
from workload_generator.results.ingest import naming
from workload_generator.results.ingest.files import InputFile, SkippedFile

_SUMS = ", ".join(
    f"iif(count({name}) = count(*), sum({name}), NULL) AS {name}"
    for name in ("planned", "sent", "ok", "failed", "dropped", "missing")
)
_RESULTS = ("ok", "failed", "dropped")
_NO_TRAILER = "the log has no trailer: the run was killed or is still running"
_COUNTED = """
    SELECT coalesce(sum(ok), 0) AS ok,
           coalesce(sum(NOT ok AND error_kind IS NOT 'dropped'), 0) AS failed,
           coalesce(sum(error_kind IS 'dropped'), 0) AS dropped,
           sum(is_cold) AS cold,
           coalesce(sum(error_kind IS NOT 'dropped' AND timestamp <= ?), 0) AS started_by_then
    FROM requests WHERE experiment_id = ? AND shard = ?
"""


class RunLog(InputFile):
    """A log of a run, or of one of its `shards`.

    `experiment` has columns of the table `experiments`; `origin` columns of `shards`: where and when it was written.
    The original's logs have no `run_id`, but the `moments` (seconds) at which its own database may have their runs.
    """

    table = "shards"
    into = "results"
    format: ClassVar[str]
    run_id: str | None = None
    shard, shards = 0, 1
    moments: tuple[str, ...] = ()
    experiment: dict[str, object]
    origin: dict[str, object]

    def join(self, store: Store) -> dict[str, object]:
        """The columns of a new shard; inserts the experiment for the first log of a run. Raises SkippedFile."""
        experiment_id = self._known_run(store) or store.insert("experiments", self.experiment)
        return {"experiment_id": experiment_id, "shard": self.shard, "format": self.format, **self.origin}

    def resume(self, row: Mapping[str, Any]) -> None:
        """Rows end with the run and its shard."""
        self.experiment_id: int = row["experiment_id"]
        self.mine = (self.experiment_id, self.shard)

    def finish(self, store: Store, row: Mapping[str, Any]) -> None:
        """Update the counts."""
        _refresh_shard(store, row["id"], is_original=self.run_id is None)
        _refresh_experiment(store, self.experiment_id)

    def _known_run(self, store: Store) -> int | None:
        if self.run_id is None:
            _refuse_migrated(store, self)
            return None
        rows = store.execute("SELECT id, config_sha256, shards FROM experiments WHERE run_id = ?", (self.run_id,))
        if rows and tuple(rows[0])[1:] != (self.experiment["config_sha256"], self.shards):
            raise SkippedFile(f"run {self.run_id} is in the database with another experiment or number of shards")
        return rows[0]["id"] if rows else None


def warnings_of(store: Store, experiment_id: int) -> list[str]:
    """Warnings about the run's logs."""
    (experiment,) = store.execute("SELECT * FROM experiments WHERE id = ?", (experiment_id,))
    if experiment["run_id"] is None:
        return []
    warnings = []
    shards = store.execute("SELECT * FROM shards WHERE experiment_id = ? ORDER BY shard", (experiment_id,))
    for shard in shards:
        if not shard["complete"]:
            lost = f"{shard['missing'] or 0:,} requests started without a result"
            warnings.append(f"{shard['file']}: {_why_incomplete(shard)}; {lost}")
        elif (counted := _results_counted(shard)) != shard["rows"]:
            text = f"its trailer counts {counted:,} results, but only {shard['rows']:,} could be read"
            warnings.append(f"{shard['file']}: {text}")
    if absent := _absent({shard["shard"] for shard in shards}, experiment["shards"]):
        warnings.append(f"run {experiment['run_id']}: no log of {absent}")
    return warnings + _silent_triggers(store, experiment)


def _silent_triggers(store: Store, experiment: Mapping[str, Any]) -> list[str]:
    """A warning if the run's name counts triggers that delivered nothing: their losses are unknown."""
    if not experiment["triggers"] or not store.execute("SELECT 1 FROM events LIMIT 1"):
        return []
    (row,) = store.execute(
        "SELECT coalesce(sum(copies), 0) FROM event_triggers WHERE experiment_id = ?", (experiment["id"],)
    )
    if row[0] >= experiment["triggers"]:
        return []
    seen = f"{row[0]} of {experiment['triggers']} triggers delivered events"
    return [f"run {experiment['run_id']}: {seen}; losses of the others are not counted"]


def _results_counted(shard: Mapping[str, Any]) -> int:
    phases = [phase for phase in orjson.loads(shard["counts"]).values() if isinstance(phase, dict)]
    return sum(phase["sent"] + phase["dropped"] for phase in phases)


def _refuse_migrated(store: Store, log: RunLog) -> None:
    """Refuse a log whose run came with the original's own database: such experiments have no shards."""
    rows = store.execute(
        f"""
        SELECT id FROM experiments AS e
        WHERE run_id IS NULL AND NOT EXISTS (SELECT 1 FROM shards WHERE experiment_id = e.id)
          AND substr(replace(timestamp, ' ', 'T'), 1, 19) IN ({", ".join("?" * len(log.moments))})
          AND scenario IS ? AND language IS ?
          AND (rps IS ? OR rps IS NULL)
        """,
        (*log.moments, *(log.experiment.get(column) for column in ("scenario", "language", "rps"))),
    )
    if rows:
        raise SkippedFile(
            f"this run is already in the database as experiment {rows[0]['id']}, from the original's own database; "
            "extract into a new database to read it from the log"
        )


def _refresh_shard(store: Store, shard_id: int, is_original: bool) -> None:
    """Update the shard's counts, unless they are its trailer's."""
    (shard,) = store.execute("SELECT * FROM shards WHERE id = ?", (shard_id,))
    heartbeat = {"time": "", "planned": 0, "started": 0} | orjson.loads(shard["heartbeat"] or "{}")
    (row,) = store.execute(_COUNTED, (heartbeat["time"], shard["experiment_id"], shard["shard"]))
    counts = dict(row)
    if shard["complete"]:
        more = [f"{counts[each]:,} {each}, not {shard[each]:,}" for each in _RESULTS if counts[each] > shard[each]]
        if not more:
            return
        reason = f"its trailer contradicts its results: {' and '.join(more)}"
        counts |= {"verdict": None, "reasons": orjson.dumps([reason]).decode()}
    missing = max(0, heartbeat["started"] - counts.pop("started_by_then"))
    sent = counts["ok"] + counts["failed"] + missing
    planned = max(heartbeat["planned"], sent + counts["dropped"])
    counts |= {"sent": sent, "planned": planned, "missing": missing, "complete": 0}
    if is_original:  # it logs neither its plan nor what it dropped
        counts |= dict.fromkeys(("planned", "dropped", "missing", "complete"))
    store.update("shards", shard_id, counts)


def _why_incomplete(shard: Mapping[str, Any]) -> str:
    return "; ".join(orjson.loads(shard["reasons"] or "[]")) or _NO_TRAILER


def _refresh_experiment(store: Store, experiment_id: int) -> None:
    """Update the experiment's counts and verdict from its shards."""
    shards = store.execute("SELECT * FROM shards WHERE experiment_id = ? ORDER BY shard", (experiment_id,))
    (experiment,) = store.execute("SELECT run_id, language, shards FROM experiments WHERE id = ?", (experiment_id,))
    (sums,) = store.execute(
        f"SELECT {_SUMS}, sum(cold) AS cold, min(started) AS timestamp FROM shards WHERE experiment_id = ?",
        (experiment_id,),
    )
    fields: dict[str, object] = dict(sums)
    if experiment["run_id"] is not None:
        fields |= _verdict(shards, experiment["shards"])
    elif experiment["language"] is None:
        targets = store.execute("SELECT DISTINCT target FROM requests WHERE experiment_id = ?", (experiment_id,))
        fields["language"] = naming.language_of(row["target"] for row in targets)
    store.update("experiments", experiment_id, fields)


def _verdict(shards: Iterable[Mapping[str, Any]], count: int) -> dict[str, object]:
    """Invalid when a shard is; valid when all shards are there and valid; otherwise unknown, with reasons."""
    reasons: list[str] = []
    for shard in shards:
        own = orjson.loads(shard["reasons"] or "[]") if shard["complete"] else [_why_incomplete(shard)]
        reasons += [f"shard {shard['shard']}: {reason}" if count > 1 else reason for reason in own]
    absent = _absent({shard["shard"] for shard in shards}, count)
    if absent:
        reasons.append(f"no log of {absent}")
    complete = not absent and all(shard["complete"] for shard in shards)
    words = {shard["verdict"] for shard in shards}
    verdict = "invalid" if "invalid" in words else "valid" if complete and words == {"valid"} else None
    return {"complete": int(complete), "verdict": verdict, "reasons": orjson.dumps(reasons).decode()}


def _absent(present: Container[int], count: int) -> str:
    """`shards 1, 3 of 4`, or the empty text."""
    absent = [str(index) for index in range(count) if index not in present]
    return f"shard{'s' if len(absent) > 1 else ''} {', '.join(absent)} of {count}" if absent else ""
