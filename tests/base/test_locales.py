"""Locales that are not UTF-8: text is UTF-8 in files, pipes and names, and plain on a terminal that lacks a sign."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "ASCII": ASCII,
    "ASCII, and said so": {**ASCII, "PYTHONIOENCODING": "ascii:strict"},
    "Python's own choice": {"LC_ALL": "C"},
    "unknown": {"LC_ALL": "xx_YY.ISO-8859-1", "LANG": "xx"},
}
EXPERIMENT = "targets: [{url: http://a/}]\nrate: {requestsPerSecond: 1000, duration: 9ms, rampUp: 0s}\n"


def command(program: str, *words: object) -> list[bytes]:
    return [os.fsencode(sys.executable), b"-c", PROGRAM.format(program).encode(), *(os.fsencode(str(w)) for w in words)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ein Ördner µ"
    made.mkdir()
    (made / "Versuch ä.yaml").write_text(EXPERIMENT)
    return made


@pytest.mark.parametrize("locale", LOCALES)
def test_a_run_and_its_extraction_write_utf_8(locale: str, folder: Path) -> None:
    environment = {**os.environ, **LOCALES[locale], "TMPDIR": str(folder)}

    def run(program: str, *words: object) -> str:
        ran = subprocess.run(command(program, *words), capture_output=True, env=environment)
        assert ran.returncode in (0, 3) and b"Traceback" not in ran.stderr, ran.stderr
        return (ran.stdout + ran.stderr).decode()

    config = f"--config={folder / 'Versuch ä.yaml'}"
    assert "seq 4 at 4ms" in run("workload_generator", config, "--check")
    run("workload_generator", config, f"--log-dir={folder / 'lögs'}", "--prefix=prüf", "--dev-url=http://127.0.0.1:1")
    (log,) = (folder / "lögs").iterdir()
    assert log.name.startswith("prüf_") and '"name":"Versuch ä"' in log.read_text(encoding="utf-8")
    assert "Versuch" in run("kn_bench", "extract", "--logs", folder / "lögs", "--db", folder / "dátá.db")
    run("kn_bench", "report", "--db", folder / "dátá.db", "--out", folder / "ré.html", "--csv", folder / "csv ü")
    assert "Versuch ä" in (folder / "ré.html").read_text(encoding="utf-8")


def on_a_terminal(words: list[bytes], environment: dict[str, str]) -> bytes:
    """What a command writes to its terminal."""
    controller, terminal = pty.openpty()
    ran = subprocess.Popen(words, env={**os.environ, **environment}, stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # Linux says EIO when the last writer has gone
            break
        if not piece:
            break
        output += piece
    os.close(controller)
    assert ran.wait() == 0, output
    return output


def test_a_terminal_gets_plain_signs_for_those_that_it_lacks(folder: Path) -> None:
    path = folder / "Versuch ä.yaml"
    path.write_text(EXPERIMENT.replace("9ms", "1500µs"))
    words = command("workload_generator", f"--config={path}", "--check")
    assert "seq 1 at 1ms" in on_a_terminal(words, {"LC_ALL": "C.UTF-8"}).decode()
    path.write_text(EXPERIMENT.replace("9ms", "900µs").replace("1000", "10000"))
    assert "seq 1 at 100µs" in on_a_terminal(words, {"LC_ALL": "C.UTF-8"}).decode()
    assert b"seq 1 at 100us" in on_a_terminal(words, ASCII)


@pytest.mark.parametrize("flag", ["--prefix", "--log-dir", "--config"])
def test_bytes_that_are_not_utf_8_are_names_too(flag: str, folder: Path) -> None:
    words = {"--config": folder / "Versuch ä.yaml", "--log-dir": folder, "--prefix": "p", flag: folder / "\udcfc.yaml"}
    if flag == "--prefix":
        words[flag] = "\udcfc"
    elif flag == "--config":
        (folder / "Versuch ä.yaml").rename(folder / "\udcfc.yaml")
    command_line = command("workload_generator", *(f"{name}={value}" for name, value in words.items()))
    command_line.append(b"--dev-url=http://127.0.0.1:1")
    ran = subprocess.run(command_line, capture_output=True, env={**os.environ, "TMPDIR": str(folder)})
    assert ran.returncode in (0, 3) and b"Traceback" not in ran.stderr, ran.stderr
    ran.stderr.decode()
