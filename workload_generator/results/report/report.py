"""`kn-bench report`: a database as one HTML page that needs no other file, as tables on a terminal, and as CSV.

Rules:
- rows are read once and are not part of the page; it has aggregated data, and stays below `MOST_BYTES`
- a page that would be larger gets coarser charts over time; the figures stay the same

The page has its words, tables and data, and the chart library once: Vega, Vega-Lite and Vega-Embed (BSD-3-Clause), as
the package vl-convert-python carries them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import orjson
import vl_convert
from markupsafe import Markup

from workload_generator import __version__
from workload_generator.base.errors import BenchError
from workload_generator.results.report.answers import Answers, Progress, ask
from workload_generator.results.report.asset_files import asset
from workload_generator.results.report.chart_data import Dataset, Detail, languages_of, make_datasets
from workload_generator.results.report.chart_specs import css_word, language_dashes, new_languages
from workload_generator.results.report.conclusions import BAD, GOOD, PLAIN, WARN, Conclusion, ReportSummary, summarise
from workload_generator.results.report.sections import CONCLUSIONS_ORDER, SECTIONS, make_charts, make_tables
from workload_generator.results.report.table import Table, merged, write_csv

MOST_BYTES = 5 * 1024 * 1024

_DETAILS = (Detail(120, 100), Detail(60, 60), Detail(30, 40, 80), Detail(15, 20, 40), Detail(6, 10, 20))
_MOST_ROWS = 400
_FIRST_CONCLUSIONS = 5
_LICENCE = "Vega, Vega-Lite and Vega-Embed, copyright University of Washington Interactive Data Lab, BSD-3-Clause"
_VEGA_LITE = "6.4"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_ENDS = re.compile(r"<(/script|!--|script)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The files that were written, and their content."""

    page: Path
    size: int
    csv: list[Path]
    summary: ReportSummary
    tables: list[Table]
    answers: Answers


def write_report(
    db: Path,
    out: Path,
    *,
    csv: Path | None = None,
    include_invalid: bool = False,
    experiments: Iterable[int] | None = None,
    progress: Progress = lambda _done, _all: None,
) -> WrittenReport:
    """Write the page to `out` and, with `csv`, the tables to that folder. Raises BenchError."""
    if not out.parent.is_dir():
        raise BenchError(f"cannot write the report to {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise BenchError(f"cannot write the report to {out}: it is a folder")
    if out.exists() and db.exists() and out.samefile(db):
        raise BenchError(f"the report would replace the database {db}: choose another --out")
    answers = ask(db, include_invalid=include_invalid, experiments=experiments, progress=progress)
    summary, by_section = summarise(answers), make_tables(answers)
    tables = [table for own in by_section.values() for table in own]
    for detail in _DETAILS:
        page = render(f"Knative benchmark: {db.stem}", answers, summary, by_section, make_datasets(answers, detail))
        if len(page) < MOST_BYTES:
            break
    save(out, page)
    files = write_csv(tables, csv) if csv is not None else []
    return WrittenReport(out, len(page), files, summary, tables, answers)


def render(
    title: str,
    answers: Answers,
    summary: ReportSummary,
    tables: Mapping[str, Sequence[Table]],
    datasets: Mapping[str, Dataset],
) -> bytes:
    """The page."""
    by_section = make_charts(answers, datasets)
    shown = []
    for section in SECTIONS:
        shown_tables = [_table(table, section.open) for table in tables[section.key] if table.on_page]
        if by_section[section.key] or shown_tables:
            shown.append({"section": section, "charts": by_section[section.key], "tables": shown_tables})
    charts = [chart for own in by_section.values() for chart in own]
    used = {name for chart in charts for name in (chart.dataset, *chart.also)}
    data = {
        "charts": [chart.to_json() for chart in charts],
        "datasets": {name: datasets[name].to_json() for name in sorted(used)},
        "dashes": language_dashes(languages_of(answers)),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["css_word"] = css_word
    html = environment.from_string(asset("page.html")).render(
        title=title,
        style=Markup(asset("page.css")),
        new_languages=new_languages(),
        summary=summary,
        sections=shown,
        filters=_filters(answers),
        findings=_by_section(summary.conclusions),
        footer=f"kn-bench {__version__}. Charts by {_LICENCE}.",
        data=Markup(_in_script(orjson.dumps(data).decode())),
        library=Markup(_in_script(_library())),
        script=Markup(asset("page.js")),
    )
    return html.encode()


def save(path: Path, page: bytes) -> None:
    """Write the file, whole or not at all. Raises BenchError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(page)
        part.replace(path)
    except OSError as error:
        raise BenchError(f"cannot write the report to {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def _library() -> str:
    """The script of the chart library. The lock file has its origin."""
    text: str = vl_convert.javascript_bundle(snippet=_SNIPPET, vl_version=_VEGA_LITE)
    return text


def _in_script(text: str) -> str:
    """The text without anything that ends a script element."""
    return _ENDS.sub(r"<\\\1", text)


def _table(table: Table, opened: bool) -> dict[str, Any]:
    columns, rows = merged(table)
    return {"table": table, "open": opened, "total": len(rows), "columns": columns, "rows": rows[:_MOST_ROWS]}


def _filters(answers: Answers) -> dict[str, list[str]]:
    """The choices of each filter of the page, in order."""
    conditions = sorted({run.condition for run in answers.runs}, key=lambda each: (each.rate or 0, each.rate_label))
    return {
        "scenario": sorted({condition.scenario for condition in conditions}),
        "language": languages_of(answers),
        "rate": list(dict.fromkeys(condition.rate_label for condition in conditions)),
    }


def _by_section(conclusions: Sequence[Conclusion]) -> list[dict[str, Any]]:
    """By section; the worst first, but rankings in their own order."""
    weight = {BAD: 0, WARN: 1, PLAIN: 2, GOOD: 3}
    titles = {section.key: section.conclusions for section in SECTIONS}
    groups = []
    for key in CONCLUSIONS_ORDER:
        own = [each for each in conclusions if each.section == key]
        if key != "compare":
            own.sort(key=lambda each: weight[each.kind])
        if own:
            groups.append({"title": titles[key], "first": own[:_FIRST_CONCLUSIONS], "rest": own[_FIRST_CONCLUSIONS:]})
    return groups
