"""The SQL that a chart shows below itself, for any SQLite shell: it gives the same numbers, and the tests prove it.

The report itself does not run it (see `request_rows`). Figures of several runs are medians over its rows. The
statements are in `assets/charts.sql`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from workload_generator.functions import languages
from workload_generator.results.report.asset_files import asset
from workload_generator.results.report.nodes_and_pods import usage_sql
from workload_generator.results.report.samples import CURVE_SHARES, HEAT_PER_DECADE

_RANK = "max(1, CAST(q * n - 1e-9 AS INTEGER) + (q * n - 1e-9 > CAST(q * n - 1e-9 AS INTEGER)))"
_NAME = re.compile(r"^-- # (\w+)\n", re.MULTILINE)


@functools.cache
def _statements() -> dict[str, str]:
    _, *parts = _NAME.split(asset("charts.sql"))
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def statement(name: str, runs: Iterable[int], **values: str) -> str:
    """A statement of `charts.sql` about these runs; `values` are words of its own."""
    statements = _statements()
    text = statements[name].replace("{arrivals}", statements["arrivals"]).replace("{placed}", statements["placed"])
    return text.format(
        runs=listed(runs),
        language=language_sql(),
        shares=", ".join(f"({share!r})" for share in CURVE_SHARES),
        per_decade=HEAT_PER_DECADE,
        rank_of_q=_RANK,
        rank_of_p50=_RANK.replace("q", "0.5"),
        rank_of_p99=_RANK.replace("q", "0.99"),
        **values,
    )


def over_time(name: str, widths_ms: Mapping[int, int]) -> str:
    """A statement about these runs over time, with the width of their bins."""
    widths = ", ".join(f"({run}, {width})" for run, width in sorted(widths_ms.items()))
    return statement(name, widths_ms, widths=widths)


def usage(runs: Iterable[int], columns: Mapping[str, set[str]]) -> str:
    """Readings of nodes and pods; the SQL of latency is that of the charts over time."""
    parts = [
        f"SELECT '{kind}' AS kind, * FROM ({usage_sql(columns[table], table)})"
        for kind, table in (("node", "node_metrics"), ("pod", "pod_metrics"))
        if columns.get(table)
    ]
    return statement("usage", runs, readings="\nUNION ALL\n".join(parts))


def language_sql() -> str:
    """The language of a request, from its run or from the name of its target."""
    spellings = languages.spellings()
    cases = [f"WHEN e.language = '{word}' THEN '{name}'" for word, name in spellings.items() if word != name]
    cases.append(f"WHEN e.language != '{languages.ALL}' THEN e.language")
    cases += [f"WHEN r.target LIKE '%-{word}-%' THEN '{name}'" for word, name in spellings.items()]
    return "\n              ".join(["CASE", *cases, "ELSE 'unknown' END"])


def listed(runs: Iterable[int]) -> str:
    """The ids of runs, in order, as SQL has them between brackets."""
    return ", ".join(str(run) for run in sorted(set(runs)))
