"""The flags that commands share, as their help shows them: each means the same everywhere."""

from __future__ import annotations

import argparse
import re

import pytest

from workload_generator.commands import kn_bench

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
