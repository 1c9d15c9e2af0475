"""The functions' Dockerfiles are linted, small, pinned and unprivileged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from workload_generator.functions.catalog import load_catalog

FUNCTIONS = load_catalog()
_ORIGIN = re.compile(r'(?:"resolved": |url = |registry = |source = )"(?:registry\+)?https?://([^/"]+)')
# Each image is built from its own folder, so shared files are copies.
COPIES = {"go": ["server.go", "server_test.go"], "python": ["server.py"]}


@pytest.fixture(params=FUNCTIONS)
def folder(request: pytest.FixtureRequest) -> Path:
    return FUNCTIONS[request.param].folder


def test_hadolint_reports_nothing(folder: Path) -> None:
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", folder / "Dockerfile"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_stages_bases_and_user(folder: Path) -> None:
    text = (folder / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) >= 2, "a build stage and a run stage"
    for base in bases:
        assert base == "scratch" or re.fullmatch(r"[^:]+:(?!latest)[\w.-]+", base), base
    last = text[text.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (.+)$", last, re.MULTILINE)
    assert int(user) > 0


def test_copied_files_exist_and_are_not_ignored(folder: Path) -> None:
    ignored = (folder / ".dockerignore").read_text().split()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert sources
    for source in sources:
        assert list(folder.glob(source)) and source.partition("/")[0] not in ignored, source


@pytest.mark.parametrize("language", COPIES)
def test_shared_files_of_a_language_are_equal(language: str) -> None:
    folders = [function.folder for function in FUNCTIONS.values() if function.entry.language == language]
    for name in COPIES[language]:
        assert len({(folder / name).read_text() for folder in folders}) == 1, name


def test_no_lock_file_names_a_mirror() -> None:
    known = {"files.pythonhosted.org", "pypi.org", "registry.npmjs.org", "github.com", "repo.maven.apache.org"}
    locks = [
        path
        for function in FUNCTIONS.values()
        for name in ("uv.lock", "Cargo.lock", "package-lock.json", "lockfile.json", "go.sum")
        if (path := function.folder / name).exists()
    ]
    hosts = {host for lock in locks for host in _ORIGIN.findall(lock.read_text())}
    assert locks and hosts <= known, hosts - known
