"""`Dockerfile.wg`: linted, pinned, unprivileged, and with what it copies. Built and run by tests/container."""

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


def test_hadolint_has_nothing_to_say() -> None:
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "Dockerfile.wg"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_both_stages_have_one_pinned_base_and_the_last_a_numeric_user() -> None:
    bases = re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)
    assert len(bases) == 2 and len(set(bases)) == 1, "bytecode is compiled by the interpreter that runs it"
    assert re.fullmatch(r"python:3\.[0-9]+-slim-[a-z]+", bases[0])
    assert re.search(r"^USER 65532:65532$", LAST, re.MULTILINE)


def test_the_version_is_the_packages() -> None:
    assert re.findall(r"^ARG VERSION=(.+)$", LAST, re.MULTILINE) == [__version__]


def test_the_installed_version_is_the_packages() -> None:
    assert metadata.version("knative-bench") == __version__


def test_nothing_but_what_is_copied_reaches_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE)
    sources = {source for copy in copied for source in copy.split()}
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_build_compiles_what_a_read_only_root_cannot() -> None:
    build, last = TEXT[: -len(LAST)], LAST
    assert re.search(r"^ENV UV_COMPILE_BYTECODE=1 PYC_INVALIDATION_MODE=UNCHECKED_HASH ", build, re.MULTILINE)
    assert build.index("UV_COMPILE_BYTECODE") < build.index("RUN uv sync")
    assert re.search(r"^RUN python -m compileall .*--invalidation-mode unchecked-hash ", last, re.MULTILINE)
