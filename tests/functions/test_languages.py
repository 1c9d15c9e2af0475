"""A new language is one folder and one entry of the catalog: everything else follows."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.logs import rows_of, served, whole_log
from workload_generator.functions.catalog import find_catalog
from workload_generator.functions.languages import canonical, language_of, languages

ZIG = "http://empty-zig-http-0.functions.svc.cluster.local"
SIX = ("go", "python", "quarkus", "rust", "springboot", "ts")


def test_the_languages_are_those_of_the_catalog_in_its_order() -> None:
    assert languages() == SIX


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("empty-go-http-0", "go"),
        ("go-handler-event", "go"),
        ("serving-scenario-2_100rps_ts", "ts"),
        ("empty-typescript-http-0", "typescript"),
        ("mango", None),
        ("", None),
    ],
)
def test_a_language_is_a_whole_word(name: str, language: str | None) -> None:
    assert language_of(name) == language


def test_a_language_has_one_name() -> None:
    assert [canonical(name) for name in ("typescript", "ts", "zig")] == ["ts", "ts", "zig"]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """The catalog and folders of the checkout, and one function in zig."""
    folder = tmp_path / "functions"
    folder.mkdir()
    for function in find_catalog().iterdir():
        if function.is_dir():
            (folder / function.name).symlink_to(function)
    (folder / "empty-zig-http").mkdir()
    entry = "  - {name: empty-zig-http, language: zig, framework: std.http, image: empty-zig-http, run: ./main}\n"
    (folder / "catalog.yaml").write_text((find_catalog() / "catalog.yaml").read_text() + entry)
    return folder


def run(program: str, catalog: Path) -> str:
    env = {**os.environ, "FUNCTIONS_DIR": str(catalog)}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout


def kn_bench(*words: str, catalog: Path) -> str:
    program = f"from workload_generator import __main__; import sys; sys.argv = ['kn-bench', *{words}]; "
    return run(program + "sys.exit(__main__.kn_bench())", catalog)


def test_a_seventh_language_is_named_and_ordered(catalog: Path) -> None:
    program = "from workload_generator.functions import languages as l; print(l.language_of('empty-zig-http-0'), *"
    assert run(f"{program}l.languages())", catalog).split() == ["zig", *SIX, "zig"]


def test_a_seventh_language_is_extracted_and_reported(catalog: Path, tmp_path: Path) -> None:
    logs, db = tmp_path / "logs", tmp_path / "benchmark.db"
    logs.mkdir()
    for prefix, target in (("workload-generator", ZIG), ("serving-scenario-1_1000rps_zig", "http://any")):
        log = whole_log(
            [served(seq) for seq in range(200)], run_id=prefix, prefix=prefix, name="mine", targets=[target]
        )
        (logs / f"{prefix}_2025-02-10_10-11-12.log").write_bytes(log)
    kn_bench("extract", f"--logs={logs}", f"--db={db}", catalog=catalog)
    assert rows_of(db, "SELECT language FROM experiments") == [{"language": "zig"}] * 2
    page, table = tmp_path / "report.html", tmp_path / "csv"
    kn_bench("report", f"--db={db}", f"--out={page}", f"--csv={table}", catalog=catalog)
    assert "--lang-zig: var(--lang-next-1);" in page.read_text()
    rows = [
        row
        for path in table.glob("*.csv")
        for row in csv.DictReader(path.read_text().splitlines())
        if "language" in row
    ]
    assert rows and {row["language"] for row in rows} == {"zig"}


def test_a_seventh_language_is_in_the_queries_that_a_report_shows(catalog: Path) -> None:
    program = "from workload_generator.results.report.chart_sql import language_sql; print(language_sql())"
    assert "WHEN r.target LIKE '%-zig-%' THEN 'zig'" in run(program, catalog)
    program = (
        "from workload_generator.results.report.chart_specs import language_scales as s; print(s(['go', 'zig'])[0])"
    )
    assert "['var(--lang-go)', 'var(--lang-zig)']" in run(program, catalog)
