"""What commands load. What a light one must not wait for is named, since times depend on the machine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "aiohttp", "asyncio", "cloudevents", "email", "hdrh", "http.client", "httptools", "importlib.metadata", "jinja2",
    "numpy", "orjson", "prometheus_client", "pygments", "rich", "scipy", "sqlite3", "ssl", "structlog",
    "uvicorn", "uvloop", "vl_convert", "yaml",
}  # fmt: skip
CHECKS = {"httptools", "orjson", "yaml"}
EXPERIMENT = """
targets: [{url: "http://127.0.0.1:1/"}]
rate: {requestsPerSecond: 20, duration: 200ms, rampUp: 0s}
event: {type: a.b}
"""

LOADED = """
import json, sys
from workload_generator import __main__
name = sys.argv[1].replace("-", "_")
del sys.argv[0]
code = 0
try:
    code = getattr(__main__, name)()
except SystemExit as stopped:
    code = stopped.code or 0
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""
LATE = """
import json, os, sys
from workload_generator.commands.workload_generator import prepare
command = prepare()
said = os.open(os.environ["SAID"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(lambda event, args: event == "import" and os.write(said, f"{args[0]}\\n".encode()))
code = command()
with open(os.environ["SAID"]) as names:
    print(json.dumps([code, names.read().split()]), file=sys.stderr)
"""
"""Forked workers have the hook, too."""


def modules(program: str, *words: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """The command's exit code, and the modules that the program names in the last line of its standard error."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    assert ran.returncode == 0, ran.stderr
    code, names = json.loads(ran.stderr.splitlines()[-1])
    return code, names


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_what_is_heavy_can_be_loaded(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize(
    ("command", "code", "needed"),
    [
        ("workload-generator --help", 0, set()),
        ("workload-generator --version", 0, set()),
        ("workload-generator --nonsense", 2, set()),
        ("workload-generator --check --config=serving-scenario-1-go", 0, CHECKS),
        ("workload-generator --check --config=quickstart-cold --cold-start", 0, CHECKS),
        ("kn-bench --help", 0, set()),
        ("kn-bench --version", 0, set()),
        ("kn-bench nonsense", 2, set()),
        ("kn-bench extract --help", 0, {"orjson", "sqlite3"}),
        ("kn-bench extract --logs={folder} --db={folder}.db", 1, {"orjson", "sqlite3"}),
        ("kn-bench report --help", 0, {"rich"}),
        ("receiver --help", 0, set()),
        ("event-logger --help", 0, set()),
    ],
)
def test_a_command_loads_what_it_needs(command: str, code: int, needed: set[str], tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    ended, names = modules(LOADED, *command.format(folder=folder).split())
    assert ended == code
    assert HEAVY.intersection(names) <= needed


def test_an_extraction_does_without_standard_output(tmp_path: Path) -> None:
    program = "import os, sys; from workload_generator import __main__; os.close(1); sys.stdout = None; "
    words = ["extract", f"--logs={tmp_path}", f"--db={tmp_path}.db"]
    command = [sys.executable, "-c", program + "sys.exit(__main__.kn_bench())", *words]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.parametrize(
    "flags", ["", "--processes=2", "--event", "--cold-start", "--check", "--event --check", "--output=json --ping"]
)
def test_a_run_loads_nothing_when_it_has_begun(flags: str, tmp_path: Path) -> None:
    """A signal's exception could be lost there: see `__main__`."""
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    words = [f"--config={path}", f"--log-dir={tmp_path}", "--progress=none", *flags.split()]
    env = {"K_SINK": "http://127.0.0.1:1/", "TMPDIR": str(tmp_path), "SAID": str(tmp_path / "said")}
    code, late = modules(LATE, *words, env=env)
    assert code in (0, 3)
    assert late == []
