"""The report as one HTML file that needs nothing else: words, tables, aggregated data, and the chart library once.

The library is Vega, Vega-Lite and Vega-Embed (BSD-3-Clause), as the package vl-convert-python carries them.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import orjson
import vl_convert
from markupsafe import Markup

from workload_generator import __version__
from workload_generator.base.errors import BenchError
from workload_generator.results.report.charts import Chart
from workload_generator.results.report.datasets import FILTERS, Dataset
from workload_generator.results.report.findings import BAD, GOOD, PLAIN, WARN, Finding, Summary
from workload_generator.results.report.specs import language_dashes, new_languages
from workload_generator.results.report.table import TEXT, Table, merged

_MOST_ROWS = 400
_FIRST_FINDINGS = 5
_LONG = 30
_LICENCE = "Vega, Vega-Lite and Vega-Embed, copyright University of Washington Interactive Data Lab, BSD-3-Clause"
_VEGA_LITE = "6.4"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_ENDS = re.compile(r"<(/script|!--|script)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; it is left out when it has neither picture nor table nor text."""

    key: str
    short: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    open: bool = False
    findings: str = ""


SECTIONS = (
    Section("findings", "Summary", "What these runs say"),
    Section(
        "compare",
        "Comparison",
        "Which is faster, and how sure that is",
        (
            "Requests of one run are not independent, so what holds beyond a run is said from whole runs: each gives "
            "one number. Languages are ranked only where a test over runs allows it.",
        ),
        ("ttfb", "pairs"),
        open=True,
        findings="Comparison",
    ),
    Section("distribution", "Distribution", "The whole distribution", (), ("shapes",), findings="Distributions"),
    Section("load", "Load", "The load curve", (), ("knees",), open=True, findings="Load"),
    Section(
        "cold",
        "Cold starts",
        "Cold starts",
        (),
        ("cold_starts", "cold_proofs", "cold_phases", "cold_bursts"),
        open=True,
        findings="Cold starts",
    ),
    Section("failures", "Failures", "Failures", (), ("outcomes",), findings="Failures"),
    Section("time", "Over time", "How the runs went", ()),
    Section("eventing", "Eventing", "Eventing delivery", (), ("delivery",), open=True, findings="Eventing"),
    Section("machines", "Cluster", "Autoscaling, nodes and pods", (), ("scaling", "conditions", "machines")),
    Section(
        "runs",
        "Runs",
        "The runs, and whether they can be believed",
        (),
        ("runs",),
        open=True,
        findings="Whether to believe it",
    ),
    Section(
        "tables",
        "Tables",
        "All tables",
        (
            "Times are milliseconds. A failed or dropped arrival counts as slower than any limit: a quantile among "
            "them is given as beyond the timeout. kn-bench report --csv DIR writes all tables as CSV.",
        ),
        ("ttfb_runs", "corrected_runs", "connections"),
        findings="Figures",
    ),
    Section(
        "method",
        "Method",
        "How these figures are made",
        (
            "Only the measure phase enters figures; the ramp is drawn, shaded. TTFB runs from the start of a request "
            "to the first byte of the status line, DNS, connect and TLS included. Quantiles are nearest ranks of all "
            "arrivals; those that failed or were dropped rank above all others. An arrival without an answer has no "
            "temperature: it counts as cold in a cold-start run, else as what most answers were.",
            "The figure of several runs is their median. Its interval is that of order statistics (Le Boudec, "
            "Performance Evaluation of Computer and Communication Systems, 2010, theorem 2.1): it assumes no "
            "distribution, and reaches 95 % from six runs on; of fewer runs it is their range, with the confidence "
            "that this has (2 runs 50 %, 3 runs 75 %, 4 runs 87.5 %, 5 runs 93.75 %). One run alone has the interval "
            "of its own requests, as if they were independent, which is too narrow, and nothing is ranked by it.",
            "Two languages differ when a stepwise test says so (Campbell and Skillings, 1985: Mann–Whitney for pairs, "
            "Kruskal–Wallis for larger sets): the chance that any pair of a condition is wrongly told apart is 5 %. "
            "The ratio and its interval are Hodges and Lehmann's (1963).",
            "A cold start is proven when no instance that is not gone was there just before the send, and the one that "
            "answered was made after it, by more than the clocks may be wrong. Its phases lie between the platform's "
            "own points, on the generator's clock; means of phases add up to the mean of starts, quantiles do not.",
            "Modes are tested by Silverman's bootstrap (1981) on the logarithm, steps by the preferred phase against "
            "resamples of the smoothed data, both at 1 %. The knee is where p99 stays above twice its lowest value, "
            "or over 1 % more than at the best rate is lost.",
        ),
    ),
)


@functools.cache
def library() -> str:
    """The script of the chart library. Where it comes from is in the lock file."""
    text: str = vl_convert.javascript_bundle(snippet=_SNIPPET, vl_version=_VEGA_LITE)
    return text


def render(
    title: str,
    summary: Summary,
    tables: Sequence[Table],
    charts: Sequence[Chart],
    datasets: dict[str, Dataset],
    script_library: str,
) -> bytes:
    """The page."""
    used = {name for chart in charts for name in (chart.dataset, *chart.also)}
    data = {
        "charts": [chart.to_json() for chart in charts],
        "datasets": {name: datasets[name].to_json() for name in sorted(used)},
        "dashes": language_dashes(),
    }
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_asset("page.html"))
    html = template.render(
        title=title,
        style=Markup(_asset("page.css")),
        new_languages=new_languages(),
        summary=summary,
        sections=_sections(tables, charts),
        filters=_filters(datasets, tables),
        findings=_findings(summary.findings),
        footer=f"kn-bench {__version__}. Pictures by {_LICENCE}.",
        data=Markup(_in_script(orjson.dumps(data).decode())),
        library=Markup(_in_script(script_library)),
        script=Markup(_asset("page.js")),
    )
    return html.encode()


def save(path: Path, page: bytes) -> None:
    """Write the file, whole or not at all. Raises BenchError."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(page)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise BenchError(f"cannot write the report to {path}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _in_script(text: str) -> str:
    """As a script element may hold it: nothing in it can end the element."""
    return _ENDS.sub(r"<\\\1", text)


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Row:
    attributes: Markup
    cells: list[_Cell]


@dataclass(slots=True)
class _Filter:
    key: str
    choices: list[str] = field(default_factory=list)


def _sections(tables: Sequence[Table], charts: Sequence[Chart]) -> list[dict[str, Any]]:
    by_key = {table.key: table for table in tables}
    shown = []
    for section in SECTIONS:
        own = [chart for chart in charts if chart.section == section.key]
        mine = [_table(by_key[key], section.open) for key in section.tables if key in by_key]
        if own or mine or section.key in ("findings", "method"):
            shown.append(
                {
                    "key": section.key,
                    "short": section.short,
                    "title": section.title,
                    "text": section.text,
                    "charts": own,
                    "tables": mine,
                }
            )
    return shown


def _table(table: Table, opened: bool) -> dict[str, Any]:
    columns, rows = merged(table)
    numbers = [column.kind != TEXT for column in columns]
    places = {column.name: index for index, column in enumerate(columns)}
    return {
        "title": table.title,
        "note": table.note,
        "open": opened,
        "total": len(rows),
        "cut": len(rows) > _MOST_ROWS,
        "columns": [{"label": c.label, "number": n} for c, n in zip(columns, numbers, strict=True)],
        "rows": [
            _Row(_attributes(row, places), [_Cell(text, _kind(text, n)) for text, n in zip(row, numbers, strict=True)])
            for row in rows[:_MOST_ROWS]
        ],
    }


def _kind(text: str, number: bool) -> str:
    return "n" if number else "long" if len(text) > _LONG else ""


def _attributes(row: list[str], places: dict[str, int]) -> Markup:
    """What the filters look at."""
    pairs = [(name, row[places[name]]) for name in FILTERS if name in places]
    return Markup("".join(f' data-{name}="{escape(value)}"' for name, value in pairs))


def _filters(datasets: dict[str, Dataset], tables: Sequence[Table]) -> list[_Filter]:
    filters = []
    for index, name in enumerate(FILTERS):
        found: dict[str, None] = {}
        for data in datasets.values():
            for group in data.groups:
                found[group[index]] = None
        for table in tables:
            places = [number for number, column in enumerate(table.columns) if column.name == name]
            for row in table.rows if places else ():
                found[str(row[places[0]])] = None
        found.pop("all", None)
        choices = sorted(found, key=_rate_order if name == "rate" else str)
        if choices:
            filters.append(_Filter(name, choices))
    return filters


def _rate_order(label: str) -> float:
    number = label.partition(" ")[0].replace(",", "")
    try:
        return float(number)
    except ValueError:
        return -1.0


def _findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """By section, the worst first, the most telling sections first."""
    weight = {BAD: 0, WARN: 1, PLAIN: 2, GOOD: 3}
    titles = {section.key: section.findings for section in SECTIONS}
    groups = []
    for key in ("runs", "compare", "failures", "load", "cold", "distribution", "eventing", "tables"):
        own = [finding for finding in findings if finding.section == key]
        if key != "compare":
            own.sort(key=lambda finding: weight[finding.kind])
        if own:
            groups.append({"title": titles[key], "first": own[:_FIRST_FINDINGS], "rest": own[_FIRST_FINDINGS:]})
    return groups
