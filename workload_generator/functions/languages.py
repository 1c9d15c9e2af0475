"""The languages of functions, from the catalog. Nothing else lists them.

Rules:
- a new language is one folder in `functions/` and one entry in `functions/catalog.yaml`
- the catalog in the package comes first, then that of `$FUNCTIONS_DIR` or of the checkout
- a language in a name is a word between hyphens or underscores: `empty-go-http-0` is in Go, `mango` is not
"""

from __future__ import annotations

import functools
import re

from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.experiment.bundled import shipped
from workload_generator.experiment.fields import read
from workload_generator.experiment.yaml_lines import read_yaml
from workload_generator.functions.catalog import CATALOG_FILE, Catalog, find_catalog

ALL = "all"
"""Stands for several languages in one run."""

_ALIASES = {"typescript": "ts"}
_FORMER = ("node",)  # in logs of the original generator; there is no function any more


@functools.cache
def languages() -> tuple[str, ...]:
    """All languages, in the order of the catalog. Raises ExperimentError if a catalog is invalid."""
    files = [shipped("functions") / CATALOG_FILE]
    try:
        files.append(find_catalog() / CATALOG_FILE)
    except UsageError:  # an installation without a checkout
        pass
    found: dict[str, None] = {}
    for file in dict.fromkeys(files):
        catalog, problems = read(Catalog, read_yaml(file))
        if catalog is None:
            raise ExperimentError(problems)
        found |= dict.fromkeys(entry.language for entry in catalog.functions)
    return tuple(found)


def language_of(name: str) -> str | None:
    """The language in the name of a service or a log: `empty-zig-http-0` gives `zig`."""
    return next((word for word in re.split(r"[_-]+", name) if word in spellings()), None)


def canonical(language: str) -> str:
    """The name of a language in the catalog: `typescript` gives `ts`."""
    return _ALIASES.get(language, language)


@functools.cache
def spellings() -> dict[str, str]:
    """The canonical language of every name of a language."""
    return {word: canonical(word) for word in (*languages(), *_FORMER, *_ALIASES)}
