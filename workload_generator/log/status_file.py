"""What a run shows of itself to `--serve`: a small file for each shard, replaced once a second.

Rules:
- there is a board only where somebody looks: `--serve` makes the folder; elsewhere nothing is written
- the recorder writes it, away from the event loop; when it cannot, the board stays behind, and the log does not
- readers see a whole board, this one or the one before (a rename is atomic)
- a run's last board stays until the next run: whoever looks every 15 s sees how it ended
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.histogram import BEYOND
from workload_generator.log.totals import Totals

QUANTILES = (0.5, 0.9, 0.99, 0.999)
AMONG_FAILED = -1
"""In place of a quantile that falls among arrivals without a time."""

_HISTOGRAMS = ("ttfb", "lag")


def boards_folder() -> Path:
    """Where the boards of this machine's runs are, beside their lock."""
    return Path(tempfile.gettempdir()) / "workload-generator.boards"


class Board:
    """The writing end, for one shard of one run. `header` is that of the log, `total_ns` how long the run will take."""

    def __init__(self, folder: Path, header: dict[str, Any], total_ns: int) -> None:
        experiment, shard = header.get("experiment", {}), header.get("shard", {})
        self._path = folder / f"{shard.get('index', 0)}.json"
        self._part = folder / f"{shard.get('index', 0)}.part"
        self._known = {
            "run_id": header["run_id"],
            "experiment": experiment.get("name", ""),
            "mode": experiment.get("mode", ""),
            "prefix": header.get("prefix", ""),
            "shard": shard.get("index", 0),
            "shards": shard.get("count", 1),
            "total_ns": total_ns,
            "elapsed_ns": 0,
        }

    def show(self, beat: dict[str, Any], totals: Totals) -> None:
        """Replace it. `beat` is a heartbeat as the recorder gets it."""
        self._known |= {
            "planned": beat["line"].get("planned", 0),
            "started": beat["line"].get("started", 0),
            "finished": beat["line"].get("finished", 0),
            "dropped": beat["line"].get("dropped", 0),
            "elapsed_ns": beat["elapsed_ns"],
            "in_flight": beat["in_flight"],
            "phase": beat["phase"],
        }
        self._write(totals, None)

    def end(self, totals: Totals, verdict: str) -> None:
        """The last one: the counts are those of the trailer."""
        sent = sum(counts.sent for counts in totals.phases.values())
        dropped = sum(counts.dropped for counts in totals.phases.values())
        self._known |= {"started": sent, "finished": sent, "dropped": dropped, "in_flight": 0, "phase": "finished"}
        self._known["planned"] = sent + dropped
        self._write(totals, verdict)

    def _write(self, totals: Totals, verdict: str | None) -> None:
        quantiles = {name: [totals.histograms[name].quantile_us(q) for q in QUANTILES] for name in _HISTOGRAMS}
        doc = self._known | {
            "verdict": verdict,
            "written_ns": time.time_ns(),
            "counts": {phase.label: counts.to_json() for phase, counts in totals.phases.items()},
            "quantiles_us": {  # JSON has no infinity
                name: [AMONG_FAILED if value == BEYOND else value for value in values]
                for name, values in quantiles.items()
            },
            "counted": {name: totals.histograms[name].count for name in _HISTOGRAMS},
        }
        with contextlib.suppress(OSError):
            self._part.write_bytes(orjson.dumps(doc))
            os.replace(self._part, self._path)


def open_board(header: dict[str, Any], total_ns: int) -> Board | None:
    """A run's board, if anybody looks at it."""
    folder = boards_folder()
    return Board(folder, header, total_ns) if folder.is_dir() else None


def read_boards(folder: Path) -> list[dict[str, Any]]:
    """The boards of the run that wrote last, by shard; none before the first run."""
    boards: list[dict[str, Any]] = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            boards.append(orjson.loads(path.read_bytes()))
    if not boards:
        return []
    newest = max(boards, key=lambda board: board["written_ns"])
    return sorted(
        (board for board in boards if board["run_id"] == newest["run_id"]), key=lambda board: int(board["shard"])
    )
