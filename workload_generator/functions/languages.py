"""The languages that functions are written in. The catalog names them; nothing else lists them.

Rules:
- a new language is one folder under `functions/` and one entry in `functions/catalog.yaml`
- the catalog that ships with the package comes first, then the one that `kn-bench` works with, if it is another
- a word is a language only if it stands between hyphens or underscores: `empty-go-http-0` is Go, `mango` is not
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
"""In the place of a language: a run whose targets have more than one."""

_ALIASES = {"typescript": "ts"}
_FORMER = ("node",)  # in logs of the original generator, without a function today


@functools.cache
def languages() -> tuple[str, ...]:
    """Every language, in the catalog's order. Raises ExperimentError when a catalog is not valid."""
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
    """The language that a name contains, such as a service's or a log's: `empty-zig-http-0` gives `zig`."""
    return next((word for word in re.split(r"[_-]+", name) if word in spellings()), None)


def canonical(language: str) -> str:
    """The catalog's name of a language that has two: `typescript` gives `ts`."""
    return _ALIASES.get(language, language)


@functools.cache
def spellings() -> dict[str, str]:
    """Every word that names a language, and the language that it names."""
    return {word: canonical(word) for word in (*languages(), *_FORMER, *_ALIASES)}
