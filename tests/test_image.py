"""`Dockerfile.wg` is linted, pinned and unprivileged, and its sources exist. tests/container builds and runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from workload_generator import __version__

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile.wg").read_text()
LAST = TEXT[TEXT.rindex("\nFROM ") :]


def test_hadolint_reports_nothing() -> None:
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "Dockerfile.wg"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_both_stages_have_one_pinned_base_and_the_last_a_numeric_user() -> None:
    bases = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    assert len(bases) == 2 and len(set(bases)) == 1, "bytecode is compiled by the interpreter that runs it"
    assert re.fullmatch(r"python:3\.[0-9]+-slim-[a-z]+", bases[0])
    assert re.search(r"^USER 65532:65532$", LAST, re.MULTILINE)


def test_the_label_has_the_packages_version() -> None:
    assert re.findall(r"^ARG VERSION=(.+)$", LAST, re.MULTILINE) == [__version__]


def test_the_installed_version_is_that_of_the_source() -> None:
    assert metadata.version("knative-bench") == __version__


def test_the_build_context_has_only_the_copied_files() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    sources = {source for copy in copied for source in copy.split()}
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    assert all((ROOT / source).exists() for source in sources)


def test_bytecode_is_compiled_in_the_build_since_the_root_is_read_only() -> None:
    build, last = TEXT[: -len(LAST)], LAST
    assert re.search(r"^ENV UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH ", build, re.MULTILINE)
    assert build.index("UV_COMPILE_BYTECODE") < build.index("RUN uv sync")
    assert re.search(r"^RUN python -m compileall .*--invalidation-mode unchecked-hash ", last, re.MULTILINE)
