"""The mappings of YAML files as dataclasses: every problem at once, each at its key, and nothing read that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.errors import ExperimentError
from workload_generator.experiment.field_kinds import DURATION, RPS, TEXT, WHOLE
from workload_generator.experiment.fields import (
    DERIVED,
    PartialSection,
    YamlSection,
    key,
    many,
    named,
    read,
    scalar,
    section,
    sections_in,
)
from workload_generator.experiment.yaml_lines import parse_yaml


@dataclass(frozen=True, kw_only=True)
class Leaf(YamlSection):
    leaf_count: int = key(WHOLE)
    wait_ns: int = key(DURATION, 0)


@dataclass(frozen=True, kw_only=True)
class Branch(YamlSection):
    location_hint = "under a branch"

    leaves: tuple[Leaf, ...] = key(many(section(Leaf), at_least=1))
    labels: dict[str, str] = key(named(TEXT), {})


def _lower(name: str) -> None:
    if not name.islower():
        raise ValueError("is not lower case")


@dataclass(frozen=True, kw_only=True)
class Tree(YamlSection):
    name: str = key(TEXT)
    height: int = key(WHOLE, 3)
    shade: int = key(WHOLE, DERIVED)
    from_rps: Any = key(RPS, None, name="from")
    best: Leaf | None = key(section(Leaf), None)
    branches: dict[str, Branch] = key(named(section(Branch), _lower), {})
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def complete(cls, found: PartialSection) -> None:
        found.values["given"] = found.given
        if found.left_out("shade"):
            found.derive("shade", 2 * (found.get("height") or 0))
        elif (found.get("shade") or 0) > 100:
            found.reject("shade", "is too dark")


def load(text: str) -> tuple[Tree | None, list[tuple[int, str, str]]]:
    tree, problems = read(Tree, parse_yaml("t.yaml", text))
    return tree, [(problem.line, problem.key, problem.message) for problem in problems]


def test_a_wrong_name_is_a_problem_and_its_section_is_skipped() -> None:
    good, _ = load("name: oak\nbest: {leafCount: 2, wait: 1s}\nbranches:\n  low: {leaves: [{leafCount: 1}]}\n")
    tree, problems = load("name: oak\nbest: {leafCount: 2, wait: 1s}\nbranches:\n  LOW: {leaves: [{leafCount: 1}]}\n")
    assert good is not None and tree is None and [line for line, _, _ in problems] == [4]


def test_keys_defaults_and_derived_values() -> None:
    tree, problems = load("name: oak\nfrom: 0.5\nbest: {leafCount: 2, wait: 1m30s}\n")
    assert not problems
    assert tree == Tree(name="oak", shade=6, from_rps=tree.from_rps, best=Leaf(leaf_count=2, wait_ns=90 * 10**9))  # type: ignore[union-attr]
    assert tree.given == {"name", "from_rps", "best"}
    assert tree.to_json() == {
        "name": "oak",
        "height": 3,
        "shade": 6,
        "from": 0.5,
        "best": {"leafCount": 2, "wait": "1m30s"},
        "branches": {},
    }
    assert list(tree.to_json()) == [each for each in Tree.keys() if each != "given"], "in the order of the keys"


def test_sections_do_not_change_and_share_no_default() -> None:
    one, two = Tree(name="a", shade=1), Tree(name="a", shade=1)
    assert one.branches is not two.branches
    with pytest.raises(FrozenInstanceError):
        one.height = 4  # type: ignore[misc]
    assert replace(one, height=4).height == 4


def test_a_key_without_a_value_counts_as_missing() -> None:
    tree, problems = load("name: oak\nheight:\nbest: ~\nshade: null\n")
    assert not problems and tree == Tree(name="oak", shade=6) and tree.given == {"name"}


MAPPING, LIST = "must be a mapping, with lines of `key: value`", "must be a list, with lines of `- value`"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{}", [(1, "name", "is missing")]),
        ("name:\n", [(1, "name", "has no value")]),
        ("- a\n", [(1, "", MAPPING)]),
        ("name: [a]\n", [(1, "name", "must be text")]),
        ("name: {a: b}\n", [(1, "name", "must be text")]),
        ("name: a\nheight: '3'\n", [(2, "height", "must be a number, not text: remove the quotes")]),
        ("name: a\nheight: true\n", [(2, "height", "'true' is not a number")]),
        ("name: a\nheight: 3.5\n", [(2, "height", "3.5 is not a whole number of 0 or more")]),
        ("name: a\nbest: []\n", [(2, "best", MAPPING)]),
        ("name: a\nbest: {}\n", [(2, "best.leafCount", "is missing")]),
        ("name: a\nshade: 101\n", [(2, "shade", "is too dark")]),
        ("name: a\nbranches: [a]\n", [(2, "branches", MAPPING)]),
        ("name: a\nbranches: {b: }\n", [(2, "branches.b", MAPPING)]),
        ("name: a\nbranches:\n  b: {leaves: {leafCount: 1}}\n", [(3, "branches.b.leaves", LIST)]),
        ("name: a\nbranches:\n  b: {leaves: []}\n", [(3, "branches.b.leaves", "must have at least one entry")]),
        ("name: a\nbranches:\n  b: {leaves: [~]}\n", [(3, "branches.b.leaves[0]", MAPPING)]),
        ("name: a\nname: b\n", [(2, "name", "duplicate key; the first is in line 1")]),
        ("name: a\nbranches:\n  B: []\n", [(3, "branches.B", "is not lower case"), (3, "branches.B", MAPPING)]),
        ("name: a\nHeight: 2\n", [(2, "Height", "unknown key; did you mean height?")]),
        ("name: a\nfrom_rps: 2\n", [(2, "from_rps", "unknown key; did you mean from?")]),
        ("name: a\ngiven: 2\n", [(2, "given", f"unknown key; valid keys are {', '.join(Tree.keys())}")]),
        ("name: a\nxyz:\n", [(2, "xyz", f"unknown key; valid keys are {', '.join(Tree.keys())}")]),
        ("name: a\nwait: 3s\n", [(2, "wait", "unknown key; it belongs under best")]),
        ("name: a\nlabels: {}\n", [(2, "labels", "unknown key; it belongs under a branch")]),
        (
            "name: a\nbest: {leafCount: 1, height: 3}\n",
            [(2, "best.height", "unknown key; it belongs at the top of the file")],
        ),
    ],
)
def test_problems_and_their_locations(text: str, problems: list[tuple[int, str, str]]) -> None:
    tree, found = load(text)
    assert found == problems
    if "duplicate" not in found[0][2]:
        assert tree is None, "nothing half-read gets out"


def test_every_problem_at_once_in_the_order_of_the_keys() -> None:
    text = (
        "{oops: 1, shade: 500, best: {wait: soon, oops: 2}, height: -1, branches: {b: {leaves: [{}, {leafCount: x}]}}}"
    )
    _, found = load(text)
    assert [place for _, place, _ in found] == [
        "name",
        "height",
        "shade",
        "best.leafCount",
        "best.wait",
        "best.oops",
        "branches.b.leaves[0].leafCount",
        "branches.b.leaves[1].leafCount",
        "oops",
    ]


@pytest.mark.parametrize("depth", [900, 5000, 200_000])
@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_deeply_nested_files_are_rejected(depth: int, opening: str) -> None:
    with pytest.raises(ExperimentError, match="nested too deeply|not YAML"):
        parse_yaml("t.yaml", "name: " + opening * depth)


def test_readable_nesting_is_a_problem_of_its_key() -> None:
    _, found = load(f"name: {'[' * 50}{']' * 50}\nheight: x\n")
    assert found == [(1, "name", "must be text"), (2, "height", "'x' is not a number")]


def test_sections_in_lists_sections_with_their_keys() -> None:
    assert list(sections_in(Tree)) == [
        ((), Tree),
        (("best",), Leaf),
        (("branches", "*"), Branch),
        (("branches", "*", "leaves"), Leaf),
    ]


def test_an_unset_derived_key_raises() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Forgets(YamlSection):
        it: int = key(scalar(str), DERIVED)  # type: ignore[assignment]

    with pytest.raises(TypeError, match="it"):
        read(Forgets, parse_yaml("f.yaml", "{}"))


# Any file


good_leaves = st.fixed_dictionaries(
    {"leafCount": st.integers(0, 2**62)}, optional={"wait": st.sampled_from(["0s", "1ms"])}
)
good_branches = st.fixed_dictionaries(
    {"leaves": st.lists(good_leaves, min_size=1, max_size=3)},
    optional={"labels": st.dictionaries(st.text("abc", min_size=1, max_size=3), st.sampled_from(["x", "y z", ""]))},
)
good_trees = st.fixed_dictionaries(
    {"name": st.sampled_from(["oak", "elm", "1"])},
    optional={
        "height": st.integers(0, 50),
        "shade": st.integers(0, 100),
        "from": st.sampled_from([0, 1, 0.25]),
        "best": good_leaves,
        "branches": st.dictionaries(st.text("xyz", min_size=1, max_size=3), good_branches, max_size=3),
    },
)


@given(good_trees)
def test_to_json_reads_back(data: dict[str, Any]) -> None:
    tree, problems = load(yaml.safe_dump(data))
    assert tree is not None and not problems
    again, problems = load(json.dumps(tree.to_json()))
    assert not problems and again == tree
    assert again.to_json() == tree.to_json()


def spoil(data: Any, at: str, draw: Any) -> set[str]:
    """Put faults into good data, in place; the keys of the problems that they must give."""
    spoilt: set[str] = set()
    for name, value in list(data.items()):
        here = f"{at}.{name}" if at else name
        if isinstance(value, list):
            for index, each in enumerate(value):
                spoilt |= spoil(each, f"{here}[{index}]", draw)
        elif isinstance(value, dict):
            spoilt |= spoil(value, here, draw)
        elif draw(st.integers(0, 3)) == 0:
            data[name] = [] if draw(st.booleans()) else {"a": 1}
            spoilt.add(here)
    is_mapping_of_names = at.endswith(("labels", "branches"))
    if not is_mapping_of_names and draw(st.integers(0, 3)) == 0:
        data["zzz"] = draw(st.sampled_from([None, 1, [], {"zzz": 1}]))
        spoilt.add(f"{at}.zzz" if at else "zzz")
    return spoilt


@given(st.data())
def test_each_fault_causes_exactly_its_problem(data: st.DataObject) -> None:
    tree = data.draw(good_trees)
    spoilt = spoil(tree, "", data.draw)
    read_tree, found = load(yaml.safe_dump(tree))
    assert sorted(place for _, place, _ in found) == sorted(spoilt)
    assert (read_tree is None) == bool(spoilt)


# What it costs


HEAVY = (
    "pydantic",
    "numpy",
    "hdrh",
    "structlog",
    "rich",
    "aiohttp",
    "uvloop",
    "prometheus_client",
    "cloudevents",
    "ssl",
)


def test_an_experiment_is_read_without_heavy_libraries() -> None:
    program = (
        "import sys; from pathlib import Path; from workload_generator.experiment.bundled import find_experiment;"
        "from workload_generator.experiment.load import load_experiment;"
        "assert 'yaml' not in sys.modules, 'yaml is for those that read a file';"
        "load_experiment(find_experiment('serving-scenario-2-go'));"
        f"print(*set({HEAVY}) & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert ran.stdout.split() == []


def test_every_field_of_a_section_is_a_key_or_a_known_exception() -> None:
    assert {each.name for each in fields(Tree)} - {each.field for each in Tree.schema()} == {"given"}
