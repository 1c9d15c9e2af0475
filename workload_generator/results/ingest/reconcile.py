"""Runs and their shards: which log belongs to which run, their counts, and a run's verdict.

Counts are of the measure phase. They come from the shard's trailer. Without one they are counted from the rows, and
requests that the last heartbeat counts as started, but that have no row, are missing. `sent` is ok + failed + missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from workload_generator.results.database import Store
from workload_generator.results.ingest import naming
from workload_generator.results.ingest.files import SkippedFile
from workload_generator.results.ingest.readers import FORMAT, LogReader

_SUMS = ("planned", "sent", "ok", "failed", "dropped", "missing")


def shard_of(store: Store, identity: str) -> Mapping[str, Any] | None:
    """The row of `shards` for a file's identity."""
    rows = store.execute("SELECT * FROM shards WHERE identity = ?", (identity,))
    return dict(rows[0]) if rows else None


def join_run(store: Store, reader: LogReader) -> int:
    """The id of the experiment of the reader's file, inserted for the first file of a run. Raises SkippedFile."""
    if reader.run_id is None:
        _refuse_migrated(store, reader)
        return store.insert("experiments", reader.experiment)
    rows = store.execute("SELECT id, config_sha256, shards FROM experiments WHERE run_id = ?", (reader.run_id,))
    if not rows:
        return store.insert("experiments", reader.experiment)
    row = rows[0]
    if row["config_sha256"] != reader.experiment["config_sha256"] or row["shards"] != reader.shards:
        raise SkippedFile(f"run {reader.run_id} is in the database with another experiment or number of shards")
    return int(row["id"])


def refresh_shard(store: Store, shard_id: int, trailer: dict[str, Any] | None) -> None:
    """Update the shard's counts. `trailer` is the one that was just read, if any."""
    shard = store.execute("SELECT * FROM shards WHERE id = ?", (shard_id,))[0]
    if trailer is not None:
        store.update("shards", shard_id, _from_trailer(trailer))
    elif shard["format"] != FORMAT:
        counts = _counted(store, shard, "")
        known = {name: counts[name] for name in ("ok", "failed", "cold")}
        unknown = {"planned": None, "dropped": None, "missing": None}
        store.update("shards", shard_id, {**known, **unknown, "sent": counts["ok"] + counts["failed"]})
    elif not shard["complete"]:
        store.update("shards", shard_id, _so_far(store, shard))


def refresh_experiment(store: Store, experiment_id: int) -> None:
    """Update the experiment's counts and verdict from its shards."""
    shards = store.execute("SELECT * FROM shards WHERE experiment_id = ? ORDER BY shard", (experiment_id,))
    (experiment,) = store.execute("SELECT run_id, language, shards FROM experiments WHERE id = ?", (experiment_id,))
    fields: dict[str, object] = {name: _sum([shard[name] for shard in shards]) for name in _SUMS}
    cold = [shard["cold"] for shard in shards if shard["cold"] is not None]
    fields["cold"] = sum(cold) if cold else None
    fields["timestamp"] = min(shard["started"] for shard in shards)
    if experiment["run_id"] is not None:
        fields.update(_verdict(shards, experiment["shards"]))
    elif experiment["language"] is None:
        targets = store.execute("SELECT DISTINCT target FROM requests WHERE experiment_id = ?", (experiment_id,))
        fields["language"] = naming.language_of(row["target"] for row in targets)
    store.update("experiments", experiment_id, fields)


def warnings_of(store: Store, experiment_id: int) -> list[str]:
    """Warnings about the run's logs."""
    (experiment,) = store.execute("SELECT * FROM experiments WHERE id = ?", (experiment_id,))
    if experiment["run_id"] is None:
        return []
    warnings = []
    present = {}
    for shard in store.execute("SELECT * FROM shards WHERE experiment_id = ? ORDER BY shard", (experiment_id,)):
        present[shard["shard"]] = shard
        if not shard["complete"]:
            lost = f"{shard['missing'] or 0:,} requests started without a result"
            warnings.append(f"{shard['file']}: no trailer: the run was killed or is still running; {lost}")
        elif (counted := _results_counted(shard)) != shard["rows"]:
            text = f"its trailer counts {counted:,} results, but only {shard['rows']:,} could be read"
            warnings.append(f"{shard['file']}: {text}")
    absent = _absent(present, experiment["shards"])
    if absent:
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
    return sum(phase.get("sent", 0) + phase.get("dropped", 0) for phase in phases)


def _refuse_migrated(store: Store, reader: LogReader) -> None:
    """Refuse a log whose run came with the original's own database: such experiments have no shards."""
    moments = reader.moments
    rows = store.execute(
        f"""
        SELECT id FROM experiments AS e
        WHERE run_id IS NULL AND NOT EXISTS (SELECT 1 FROM shards WHERE experiment_id = e.id)
          AND substr(replace(timestamp, ' ', 'T'), 1, 19) IN ({", ".join("?" * len(moments))})
          AND scenario IS ? AND language IS ?
          AND (rps IS ? OR rps IS NULL)
        """,
        (*moments, *(reader.experiment[column] for column in ("scenario", "language", "rps"))),
    )
    if rows:
        raise SkippedFile(
            f"this run is already in the database as experiment {rows[0]['id']}, from the original's own database; "
            "extract into a new database to read it from the log"
        )


def _from_trailer(trailer: dict[str, Any]) -> dict[str, object]:
    measured = trailer["counts"]["measure"]
    cold = measured.get("cold")
    is_known = isinstance(cold, dict) and bool(cold.get("true", 0) or cold.get("false", 0))
    return {
        **{name: measured[name] for name in ("planned", "sent", "ok", "failed", "dropped")},
        "missing": 0,
        "cold": cold.get("true", 0) if is_known else None,
        "complete": 1,
        "verdict": trailer["verdict"],
        "reasons": orjson.dumps(trailer["reasons"]).decode(),
        "counts": orjson.dumps(trailer["counts"]).decode(),
        "histograms": orjson.dumps(trailer.get("histograms")).decode(),
        "resources": orjson.dumps(trailer.get("resources")).decode(),
    }


def _so_far(store: Store, shard: Mapping[str, Any]) -> dict[str, object]:
    heartbeat: dict[str, Any] = {"time": "", "planned": 0, "started": 0}
    if shard["heartbeat"]:
        heartbeat = orjson.loads(shard["heartbeat"])
    counts = _counted(store, shard, heartbeat["time"])
    missing = max(0, heartbeat["started"] - counts.pop("started_by_then"))
    sent = counts["ok"] + counts["failed"] + missing
    planned = max(heartbeat["planned"], sent + counts["dropped"])
    return {**counts, "planned": planned, "sent": sent, "missing": missing, "complete": 0}


def _counted(store: Store, shard: Mapping[str, Any], heartbeat_time: str) -> dict[str, Any]:
    (row,) = store.execute(
        """
        SELECT coalesce(sum(ok), 0) AS ok,
               coalesce(sum(NOT ok AND error_kind IS NOT 'dropped'), 0) AS failed,
               coalesce(sum(error_kind IS 'dropped'), 0) AS dropped,
               sum(is_cold) AS cold,
               coalesce(sum(error_kind IS NOT 'dropped' AND timestamp <= ?), 0) AS started_by_then
        FROM requests WHERE experiment_id = ? AND shard = ?
        """,
        (heartbeat_time, shard["experiment_id"], shard["shard"]),
    )
    return dict(row)


def _verdict(shards: list[Any], count: int) -> dict[str, object]:
    """Invalid when a shard is; valid when all shards are there and valid; otherwise unknown, with reasons."""
    reasons: list[str] = []
    for shard in shards:
        own = orjson.loads(shard["reasons"]) if shard["reasons"] else []
        if not shard["complete"]:
            own = ["the log has no trailer: the run was killed or is still running"]
        reasons += [f"shard {shard['shard']}: {reason}" if count > 1 else reason for reason in own]
    absent = _absent({shard["shard"] for shard in shards}, count)
    if absent:
        reasons.append(f"no log of {absent}")
    complete = not absent and all(shard["complete"] for shard in shards)
    words = {shard["verdict"] for shard in shards}
    verdict = "invalid" if "invalid" in words else "valid" if complete and words == {"valid"} else None
    return {"complete": int(complete), "verdict": verdict, "reasons": orjson.dumps(reasons).decode()}


def _absent(present: Any, count: int) -> str:
    """`shards 1, 3 of 4`, or the empty text."""
    absent = [str(index) for index in range(count) if index not in present]
    return f"shard{'s' if len(absent) > 1 else ''} {', '.join(absent)} of {count}" if absent else ""


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
