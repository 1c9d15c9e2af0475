"""What the database says of its runs, as tables for a terminal.

Quantiles of a run whose shards all have their trailers come from the histograms there, as in the run's own summary; of
any other run they are counted from the rows. Both rank failed and dropped arrivals slower than any limit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workload_generator.base.histogram import BEYOND
from workload_generator.results.database import Store, open_store
from workload_generator.results.report.thresholds import merged_histograms

_COUNTS = ("planned", "sent", "ok", "failed", "dropped", "missing")
_QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_DEFAULT_TIMEOUT = "30s"
_FATES = {
    "sent": "sent", "acknowledged": "acked", "once": "once", "lost": "lost", "duplicated": "dup.",
    "reordered": "reord.", "unaccounted": "unacc.",
}  # fmt: skip
_NO_VALUE = "—"
_US_PER_S = 1_000_000


def print_tables(db: Path, console: Console, experiments: Collection[int] | None = None) -> None:
    """Print the runs with the ids `experiments`, or all of them. Raises BenchError."""
    with open_store(db) as store:
        rows = store.execute("SELECT * FROM experiments ORDER BY id")
        rows = [row for row in rows if experiments is None or row["id"] in experiments]
        if not rows:
            console.print("no runs yet")
            return
        console.print(_runs(rows))
        console.print(_arrivals(rows))
        console.print(_ttfb(store, rows))
        accounts = [account for row in rows for account in event_accounts(store, row["id"])]
        if accounts:
            console.print(_events(accounts))
            console.print(_delays(accounts))
    for row in rows:
        for reason in orjson.loads(row["reasons"] or "[]"):
            console.print(f"  {row['id']}: {escape(str(reason))}", soft_wrap=True)


def ttfb_us(store: Store, experiment: int) -> dict[str, float | None]:
    """TTFB in µs of a run's measured arrivals by the name of the quantile; `BEYOND` among those without a response."""
    histogram = (merged_histograms(store, experiment) or {}).get("ttfb")
    if histogram is not None:
        return {name: histogram.quantile_us(q) for name, q in _QUANTILES.items()}
    rows = store.execute("SELECT * FROM ttfb_quantiles WHERE experiment_id = ?", (experiment,))
    if not rows:
        return dict.fromkeys(_QUANTILES)
    return {name: rows[0][name.replace(".", "")] * 1000 for name in _QUANTILES}


def event_accounts(store: Store, experiment: int) -> list[Mapping[str, Any]]:
    """What became of the run's events, by trigger; none when it sent none, or nothing came."""
    return store.execute("SELECT * FROM event_accounts WHERE experiment_id = ?", (experiment,))


def _events(rows: Collection[Mapping[str, Any]]) -> Table:
    table = _table("Events by trigger", "trigger", *_FATES.values())
    for row in rows:
        table.add_row(
            str(row["experiment_id"]), escape(row["trigger"] or _NO_VALUE), *(_count(row[name]) for name in _FATES)
        )
    return table


def _delays(rows: Collection[Mapping[str, Any]]) -> Table:
    table = _table("End-to-end delay in ms", "trigger", "min", "p50", "p90", "p99", "max", "±", "drain")
    names = ("delay_min", "delay_p50", "delay_p90", "delay_p99", "delay_max", "delay_error", "drain")
    for row in rows:
        values = ("lost" if row[name] == float("inf") else _ms(row[name] and row[name] * 1000, "") for name in names)
        table.add_row(str(row["experiment_id"]), escape(row["trigger"] or _NO_VALUE), *values)
    return table


def _runs(rows: Collection[Mapping[str, Any]]) -> Table:
    table = _table("Runs")
    for name in ("scenario", "language"):
        table.add_column(name)
    table.add_column("rps", justify="right")
    table.add_column("platform")
    table.add_column("verdict")
    for row in rows:
        table.add_row(
            str(row["id"]),
            escape(row["scenario"] or row["prefix"] or _NO_VALUE),
            escape(row["language"] or _NO_VALUE),
            _NO_VALUE if row["rps"] is None else str(row["rps"]),
            escape(row["platform"] or _NO_VALUE),
            _verdict(row),
        )
    return table


def _arrivals(rows: Collection[Mapping[str, Any]]) -> Table:
    table = _table("Measured arrivals", *_COUNTS)
    for row in rows:
        table.add_row(str(row["id"]), *(_count(row[name]) for name in _COUNTS))
    return table


def _ttfb(store: Store, rows: Collection[Mapping[str, Any]]) -> Table:
    table = _table("TTFB in ms", *_QUANTILES, "cold")
    for row in rows:
        timeout = str(row["timeout"] or _DEFAULT_TIMEOUT)
        times = [_ms(value, timeout) for value in ttfb_us(store, row["id"]).values()]
        table.add_row(str(row["id"]), *times, _count(row["cold"]))
    return table


def _table(title: str, *figures: str) -> Table:
    """A table of runs by id that fits a terminal of 80 columns."""
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in ("id", *figures):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    if row["verdict"] is None:
        return "[yellow]incomplete[/]" if row["complete"] == 0 else _NO_VALUE
    return "[green]valid[/]" if row["verdict"] == "valid" else f"[red]{escape(row['verdict'])}[/]"


def _ms(us: float | None, timeout: str) -> str:
    """Without its unit, and from a second on with one decimal, so that the table fits a terminal."""
    if us is None:
        return _NO_VALUE
    if us == BEYOND:
        return f"> {timeout}"
    return f"{us / 1000:.3f}" if us < _US_PER_S else f"{us / 1000:.1f}"


def _count(value: int | None) -> str:
    return _NO_VALUE if value is None else f"{value:,}"
