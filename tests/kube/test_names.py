"""Each name in the API stands once in the package, and the manifests have the same one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from workload_generator.kube import names

ROOT = Path(__file__).parents[2]
NAMES = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
IN_MANIFESTS = (
    "GENERATOR", "SHARDS", "FUNCTIONS", "EVENTING", "METRICS", "LOGGER", "RECEIVER", "FUNCTIONS_DOMAIN",
    "NAME_LABEL", "PART_OF_LABEL", "PRODUCT", "AUTOSCALING", "MAX_SCALE", "MIN_SCALE",
    "BROKER_CLASS", "RABBITMQ_BROKER", "PARALLELISM",
)  # fmt: skip
COMMON_WORDS = {names.GENERATOR, names.FUNCTIONS, names.EVENTING, names.METRICS, names.LOGGER, names.RECEIVER}
"""Also names of a program, a folder, a section of the report: not every one of these texts is a name in the API."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module, docstrings and other statements that are a text left out."""
    tree = ast.parse(path.read_text())
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node.lineno, node.value


def test_no_other_module_spells_a_name() -> None:
    own = {value for value in NAMES.values() if value not in COMMON_WORDS}
    spelled = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "workload_generator").rglob("*.py"))
        if path != Path(names.__file__)
        for line, text in texts(path)
        if text in own or text.partition("=")[0] in own or text.rstrip("= ") in own
    ]
    assert spelled == []


@pytest.mark.parametrize("name", IN_MANIFESTS)
def test_the_manifests_have_the_name(name: str) -> None:
    whole = re.compile(rf"(?<![-\w]){re.escape(NAMES[name])}" + ("" if NAMES[name].endswith("/") else r"(?![-\w])"))
    manifests = [path.read_text() for path in (ROOT / "k8s").rglob("*.yaml")]
    experiments = [path.read_text() for path in (ROOT / "experiments").glob("*.yaml")]
    assert any(whole.search(text) for text in (experiments if name == "FUNCTIONS_DOMAIN" else manifests))


def test_every_namespace_of_the_manifests_is_known() -> None:
    found = set()
    for path in (ROOT / "k8s").rglob("*.yaml"):
        found |= set(re.findall(r"^\s*namespace: (\S+)$", path.read_text(), re.M))
    assert found and found <= set(names.OURS)
