"""The tables that `kn-bench extract` prints of the runs it read, and the line of `quickstart` about cold starts.

The quantiles of a run whose shards all have their trailers come from the histograms there, as in the run's own summary;
those of other runs are counted from the rows. Both rank failed and dropped arrivals slower than any limit.

It works without the extra `results`: nothing here needs NumPy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from rich.console import Console
from rich.text import Text

from workload_generator.base.histogram import BEYOND, QUANTILES
from workload_generator.base.standard_streams import printable
from workload_generator.base.terminal import terminal_table
from workload_generator.results.database import Store, open_store
from workload_generator.results.report.runs import merged_histograms
from workload_generator.results.report.table import NOTHING

_COUNTS = ("planned", "sent", "ok", "failed", "dropped", "missing")
_FATES = {
    "sent": "sent", "acknowledged": "acked", "once": "once", "lost": "lost", "duplicated": "dup.",
    "delivered_unacknowledged": "unacked", "reordered": "reord.", "unaccounted": "unacc.",
}  # fmt: skip
_DELAYS = {
    "delay_min": "min", "delay_p50": "p50", "delay_p90": "p90", "delay_p99": "p99", "delay_max": "max",
    "delay_error": "±", "drain": "drain",
}  # fmt: skip
_ACCOUNTS_SQL = "SELECT * FROM event_accounts WHERE experiment_id = ?"
_LATEST = "experiment_id = (SELECT max(experiment_id) FROM cold_starts)"
_PROOFS = f"SELECT sum(proven) AS proven, sum(requests) AS requests FROM cold_start_proofs WHERE {_LATEST}"
_MEANS = f"""WITH totals AS (
  SELECT target, count(DISTINCT seq) AS starts, sum(ms) / count(DISTINCT seq) AS whole
  FROM cold_start_phases WHERE cold_proven = 1 AND {_LATEST} GROUP BY target
)
SELECT p.target, t.starts, t.whole, p.phase, sum(p.ms) / t.starts AS mean, avg(p.ready) AS ready
FROM cold_start_phases AS p JOIN totals AS t USING (target)
WHERE p.cold_proven = 1 AND p.{_LATEST} GROUP BY p.target, p.number ORDER BY p.target, p.number"""
_DEFAULT_TIMEOUT = "30s"
_STYLES = {"valid": "green", "incomplete": "yellow"}


def print_tables(db: Path, console: Console, experiments: Collection[int] | None = None) -> None:
    """Print the runs with the ids `experiments`, or all of them. Raises BenchError."""
    with open_store(db) as store:
        rows = store.execute("SELECT * FROM experiments ORDER BY id")
        rows = [row for row in rows if experiments is None or row["id"] in experiments]
        if not rows:
            console.print("no runs yet")
            return
        accounts = [account for row in rows for account in store.execute(_ACCOUNTS_SQL, (row["id"],))]
        times = [ttfb_us(store, row["id"]) for row in rows]
    header = ("id", "scenario", "language", "rps", "platform", "verdict")
    console.print(terminal_table(header, map(_run, rows), title="Runs", texts=(1, 2, 4, 5)))
    counts = ([str(row["id"]), *(_count(row[name]) for name in _COUNTS)] for row in rows)
    console.print(terminal_table(("id", *_COUNTS), counts, title="Measured arrivals", texts=()))
    ttfb = (
        [
            str(row["id"]),
            *(_ms(us, str(row["timeout"] or _DEFAULT_TIMEOUT)) for us in own.values()),
            _count(row["cold"]),
        ]
        for row, own in zip(rows, times, strict=True)
    )
    console.print(terminal_table(("id", *QUANTILES, "cold"), ttfb, title="TTFB in ms", texts=()))
    if accounts:
        _print_events(accounts, console)
    for row in rows:
        for reason in orjson.loads(row["reasons"] or "[]"):
            console.print(Text(f"  {row['id']}: {printable(str(reason))}"), soft_wrap=True)


def ttfb_us(store: Store, experiment: int) -> dict[str, float | None]:
    """TTFB in µs of a run's measured arrivals by the name of the quantile; `BEYOND` among those without a response."""
    histogram = (merged_histograms(store, experiment) or {}).get("ttfb")
    if histogram is not None:
        return {name: histogram.quantile_us(q) for name, q in QUANTILES.items()}
    rows = store.execute("SELECT * FROM ttfb_quantiles WHERE experiment_id = ?", (experiment,))
    if not rows:
        return dict.fromkeys(QUANTILES)
    return {name: rows[0][name.replace(".", "")] * 1000 for name in QUANTILES}


def proof_lines(store: Store) -> list[str]:
    """A summary of the latest run with observed cold starts; empty when there is none."""
    (proofs,) = store.execute(_PROOFS)
    if not proofs["requests"]:
        return []
    lines = [f"cold starts proven: {proofs['proven']} of {proofs['requests']}; on average, in ms:"]
    phases: dict[str, list[str]] = {}
    for row in store.execute(_MEANS):
        service = (urlsplit(row["target"]).hostname or "").partition(".")[0]
        start = f"  {service} ({row['starts']}): {row['whole']:,.1f} ="
        ready = "" if row["ready"] is None else f" (ready at {row['ready']:,.1f})"
        phases.setdefault(start, []).append(f"{row['phase'].replace('_', ' ')} {row['mean']:,.1f}{ready}")
    return lines + [f"{start} {' + '.join(parts)}" for start, parts in phases.items()]


def _print_events(accounts: Collection[Mapping[str, Any]], console: Console) -> None:
    heads = [[str(row["experiment_id"]), row["trigger"] or NOTHING] for row in accounts]
    fates = [[*head, *(_count(row[name]) for name in _FATES)] for head, row in zip(heads, accounts, strict=True)]
    console.print(terminal_table(("id", "trigger", *_FATES.values()), fates, title="Events by trigger", texts=(1,)))
    delays = [[*head, *(_delay(row[name]) for name in _DELAYS)] for head, row in zip(heads, accounts, strict=True)]
    title = "End-to-end delay in ms"
    console.print(terminal_table(("id", "trigger", *_DELAYS.values()), delays, title=title, texts=(1,)))


def _run(row: Mapping[str, Any]) -> list[str | Text]:
    verdict = row["verdict"] or ("incomplete" if row["complete"] == 0 else None)
    rps = NOTHING if row["rps"] is None else str(row["rps"])
    words = [row["scenario"] or row["prefix"] or NOTHING, row["language"] or NOTHING, rps, row["platform"] or NOTHING]
    return [str(row["id"]), *words, Text(printable(verdict), _STYLES.get(verdict, "red")) if verdict else NOTHING]


def _delay(ms: float | None) -> str:
    return "lost" if ms == BEYOND else _ms(ms and ms * 1000, "")


def _ms(us: float | None, timeout: str) -> str:
    """Milliseconds without the unit; from a second on with one decimal, so that the table fits a terminal."""
    if us is None:
        return NOTHING
    if us == BEYOND:
        return f"> {timeout}"
    return f"{us / 1000:.3f}" if us < 1_000_000 else f"{us / 1000:.1f}"


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
