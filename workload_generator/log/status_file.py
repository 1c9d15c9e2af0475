"""The status of a run for `--serve`: a small JSON file for each shard, replaced every second.

Rules:
- files are written only if the folder exists; `--serve` creates it
- the recorder writes them, away from the event loop; a write error leaves the file as it was, and the log continues
- a rename is atomic, so that readers see a complete file
- the last status of a run stays until the next run, since scrapes may be 15 s apart
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.private_folder import private_folder
from workload_generator.log.totals import Totals

_COUNTS = ("planned", "started", "finished", "dropped")


def status_folder() -> Path:
    """The folder of the status files, beside the lock of the runs."""
    return private_folder() / "workload-generator.boards"


class StatusFile:
    """Writes the status of one shard. `header` is the log's, `total_ns` the planned duration of the run."""

    def __init__(self, folder: Path, header: dict[str, Any], total_ns: int) -> None:
        experiment, shard = header.get("experiment", {}), header.get("shard", {})
        index = shard.get("index", 0)
        self._path = folder / f"{index}.json"
        self._part = folder / f"{index}.part"
        self._status = {
            "run_id": header["run_id"],
            "experiment": experiment.get("name", ""),
            "mode": experiment.get("mode", ""),
            "prefix": header.get("prefix", ""),
            "shard": index,
            "shards": shard.get("count", 1),
            "total_ns": total_ns,
            "elapsed_ns": 0,
        }

    def update(self, beat: dict[str, Any], totals: Totals) -> None:
        """Replace the status with that of a heartbeat, in the recorder's form."""
        self._status |= {name: beat["line"].get(name, 0) for name in _COUNTS}
        self._status |= {name: beat[name] for name in ("elapsed_ns", "in_flight", "phase")}
        self._write(totals, None)

    def finish(self, totals: Totals, verdict: str) -> None:
        """Write the last status; its counts are those of the trailer."""
        sent = sum(counts.sent for counts in totals.phases.values())
        dropped = sum(counts.dropped for counts in totals.phases.values())
        counts = dict(zip(_COUNTS, (sent + dropped, sent, sent, dropped), strict=True))
        self._status |= {**counts, "in_flight": 0, "phase": "finished"}
        self._write(totals, verdict)

    def _write(self, totals: Totals, verdict: str | None) -> None:
        status = self._status | {"verdict": verdict, "written_ns": time.time_ns(), **totals.to_json()}
        with contextlib.suppress(OSError):
            self._part.write_bytes(orjson.dumps(status))
            os.replace(self._part, self._path)


def open_status_file(header: dict[str, Any], total_ns: int) -> StatusFile | None:
    """The status file of a run; None without `--serve`."""
    folder = status_folder()
    return StatusFile(folder, header, total_ns) if folder.is_dir() else None


def read_statuses(folder: Path) -> list[dict[str, Any]]:
    """The status of each shard of the latest run, in their order; none before the first run."""
    statuses: list[dict[str, Any]] = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            statuses.append(orjson.loads(path.read_bytes()))
    newest = max(statuses, key=lambda status: status["written_ns"], default=None)
    latest = [status for status in statuses if newest and status["run_id"] == newest["run_id"]]
    return sorted(latest, key=lambda status: int(status["shard"]))
