"""The documents describe what exists, and nothing else."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests import architecture
from workload_generator.commands import kn_bench, program, workload_generator
from workload_generator.log.records import ErrorKind

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def flags_of(help_text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_text)) - {"--help", "--version"}


def help_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main = workload_generator.main if command[0] == "workload-generator" else kn_bench.main
    with pytest.raises(SystemExit) as stopped:
        main([*command[1:], "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["workload-generator"],
        ["kn-bench", "quickstart"],
        ["kn-bench", "local"],
        ["kn-bench", "functions", "build"],
        ["kn-bench", "functions", "test"],
        ["kn-bench", "extract"],
        ["kn-bench", "combine"],
        ["kn-bench", "report"],
        ["kn-bench", "compare"],
        ["kn-bench", "scenario"],
        ["kn-bench", "extract-logs"],
        ["kn-bench", "top"],
        ["kn-bench", "prometheus", "snapshot"],
        ["kn-bench", "prometheus", "local"],
    ],
    ids=" ".join,
)
def test_every_flag_is_in_the_readme(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = flags_of(help_of(command, capsys))
    assert flags
    assert not {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", README)}


@pytest.mark.parametrize("name", ["deploy", "delete", "patch", "trigger"])
def test_every_flag_of_a_cluster_command_is_on_its_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    flags = flags_of(help_of(["kn-bench", name], capsys))
    assert flags and not {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", page)}


@pytest.mark.parametrize("name", ["receiver", "event-logger"])
def test_every_flag_of_a_service_is_on_its_page(name: str) -> None:
    page = (ROOT / "docs" / "eventing.md").read_text()
    flags = flags_of(program.make_parser(name).format_help())
    assert flags and not {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", page)}


def test_every_subcommand_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", help_of(["kn-bench"], capsys), re.MULTILINE)
    assert listed
    assert not {name for name in listed if f"kn-bench {name}" not in README}


def test_every_error_kind_is_in_the_readme() -> None:
    assert not {kind for kind in ErrorKind if f"`{kind}`" not in README}


def test_the_readmes_commands_parse() -> None:
    """A parser exits at an unknown flag, which fails this test."""
    parsers = {
        "workload-generator": workload_generator.make_parser(),
        "kn-bench": kn_bench.make_parser(),
        "receiver": program.make_parser("receiver"),
        "event-logger": program.make_parser("event-logger"),
    }
    shown = re.findall(rf"^    (?:[A-Z_]+=\S+ )?(?:uv run )?({'|'.join(parsers)}) (.*)$", README, re.MULTILINE)
    assert {name for name, _ in shown} == parsers.keys()
    assert any("--prefix=serving-scenario-1_all --cold-start=true" in flags for _, flags in shown), "the seed's line"
    for name, flags in shown:
        parsers[name].parse_args(shlex.split(flags))


def test_documents_name_only_existing_recipes() -> None:
    files = ((ROOT / "justfile").read_text(), (ROOT / "infrastructure/justfile").read_text())
    recipes = set(re.findall(r"^@?([a-z][a-z-]*)(?: [A-Z]+=\"\")?[^:=\n]*:", "\n".join(files), re.MULTILINE))
    documents = [
        README,
        (ROOT / "ARCHITECTURE.md").read_text(),
        (ROOT / "functions" / "README.md").read_text(),
        (ROOT / "k8s" / "README.md").read_text(),
        *(p.read_text() for p in (ROOT / "bench").glob("*.py")),
    ]
    named = set(re.findall(r"\bjust ([a-z][a-z-]+)", "\n".join(documents)))
    assert named <= recipes, named - recipes


def test_the_tree_of_the_architecture_is_the_packages() -> None:
    assert architecture.PAGE.read_text() == architecture.page(), "just fix"


def test_the_architectures_modules_exist() -> None:
    _, walks = architecture.PAGE.read_text().split("\n## An arrival", 1)
    named = re.findall(rf"`((?:{'|'.join(architecture.FOLDERS)})(?:\.[a-z_0-9]+)+)", walks)
    assert len(named) > 30
    places = {name: architecture.PACKAGE / name.replace(".", "/") for name in named}
    assert not [name for name, place in places.items() if not (place.is_dir() or place.with_suffix(".py").exists())]


@pytest.mark.parametrize(
    "document",
    [
        *sorted(ROOT.glob("*.md")),
        ROOT / "functions" / "README.md",
        ROOT / "k8s" / "README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
    ],
    ids=lambda p: p.name,
)
def test_links_have_targets(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target
