"""The flags that commands share, as their help shows them: each means the same everywhere."""

from __future__ import annotations

import argparse
import re

import pytest

from workload_generator.commands import kn_bench, program

CLUSTER = {"doctor", "deploy", "delete", "patch", "trigger", "top", "extract-logs", "scenario", "prometheus snapshot"}
MANIFESTS = {"deploy", "delete", "patch", "trigger", "scenario"}


def helps(flag: str) -> dict[str, str]:
    """The help of a flag by the commands that have it, on one line."""
    found = {}
    for name, parser in commands(kn_bench.make_parser()).items():
        text = re.sub(r"\s+", " ", parser.format_help().replace("\n\n", "\0"))
        match = re.search(rf" {flag} [A-Z]+ (.*?)(?= --[a-z]|\0|$)", text.partition("options:")[2])
        if match is not None:
            found[name] = match[1].strip()
    return found


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> dict[str, argparse.ArgumentParser]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return {prefix.strip(): parser}
    return {
        name: each
        for action in below
        for choice, sub in action.choices.items()
        for name, each in commands(sub, f"{prefix} {choice}").items()
    }


@pytest.mark.parametrize(
    ("flag", "names"), [("--kubeconfig", CLUSTER), ("--context", CLUSTER), ("--manifests", MANIFESTS)]
)
def test_a_shared_flag_has_one_help(flag: str, names: set[str]) -> None:
    found = helps(flag)
    assert found.keys() == names
    assert len(set(found.values())) == 1, found


PARSERS = {
    **{name: program.make_parser(name) for name in ("workload-generator", "receiver", "event-logger", "kn-bench")},
    **{f"kn-bench {name}": parser for name, parser in commands(kn_bench.make_parser()).items()},
}


def complaint(parser: argparse.ArgumentParser, words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a parser writes to standard error before it ends the program with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    output = capsys.readouterr()
    assert ended.value.code == 2 and not output.out
    return output.err.splitlines()


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("flag", ["--no-such-flag", "--no-such-flag=a\nb", "--version=3", "-\x1b[31mx"])
def test_a_wrong_flag_is_two_lines_the_reason_and_a_hint(
    name: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, hint = complaint(PARSERS[name], [flag], capsys)
    assert reason.startswith(f"{name}: ") and reason.isprintable()
    assert hint == f"See {name} --help."


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("kn-bench no-such-command", "kn-bench: argument COMMAND: invalid choice: 'no-such-command' (choose from "),
        ("kn-bench top --frequency=soon", "kn-bench top: argument --frequency: 'soon' is not a number of seconds"),
        ("kn-bench top --frequncy=5", "kn-bench top: unrecognized arguments: --frequncy=5"),
        ("kn-bench prometheus local x y", "kn-bench prometheus local: unrecognized arguments: x y"),
        ("kn-bench extract --db x", "kn-bench extract: the following arguments are required: --logs"),
        ("workload-generator --rps=x", "workload-generator: argument --rps: 'x' is not a number"),
        ("receiver --workers=0", "receiver: argument --workers: 0 is not from 1 to 256"),
        ("event-logger --sync-interval=0", "event-logger: argument --sync-interval: 0 is not from 0.001 to 60 seconds"),
    ],
)
def test_the_reason_names_the_command_and_its_flag(words: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *rest = words.split()
    first, hint = complaint(PARSERS[name], rest, capsys)
    assert first.startswith(reason)
    assert hint == f"See {reason.partition(':')[0]} --help."
