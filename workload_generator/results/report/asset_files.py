"""The files of `assets/`: the page, the words of its charts, and their SQL."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any


def asset(name: str) -> str:
    """The text of a file."""
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


@functools.cache
def words(name: str) -> Any:
    """The content of a YAML file."""
    import yaml  # not for `--help`, which loads the tables' module

    return yaml.safe_load(asset(name))
