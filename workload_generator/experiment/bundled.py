"""Files that are found by name: experiments, scenarios, and the manifests.

`$EXPERIMENTS_DIR` is searched first, then the folder that ships with the package.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.experiment.field_kinds import short
from workload_generator.experiment.yaml_lines import did_you_mean

EXPERIMENTS_DIR = "EXPERIMENTS_DIR"
"""The environment variable with a folder of experiments that is searched first."""


def find_experiment(name: str) -> Path:
    """The file for `--config`: a path, or a bundled experiment with or without `.yaml`.

    Raises UsageError, which lists the bundled experiments.
    """
    return _find(name, "experiment", bundled_experiments())


def find_scenario(name: str) -> Path:
    """The file for a scenario: a path, or a bundled scenario with or without `.yaml`.

    Raises UsageError, which lists the bundled scenarios.
    """
    return _find(name, "scenario", _yaml_files("scenarios"))


def find_manifests() -> Path:
    """The folder of the manifests, `k8s/`. Raises UsageError."""
    folder = shipped("k8s")
    if not (folder / "kustomization.yaml").is_file():
        raise UsageError(f"no manifests in {folder}: reinstall the package")
    return folder


def bundled_experiments() -> dict[str, Path]:
    """The bundled experiments by name, in natural order."""
    return _yaml_files("")


def shipped(name: str) -> Path:
    """A folder that ships with the package: `_<name>` in an installation, `<name>` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


def _find(name: str, kind: str, bundled: dict[str, Path]) -> Path:
    path = Path(name)
    try:
        if name and path.exists() and not path.is_dir():  # a pipe is as good as a file
            return path
        reason = "is a folder" if name and path.is_dir() else "no such file"
    except OSError as error:
        raise UsageError(f"{short(name)}: cannot be read: {error.strerror}") from None
    stem = name.removesuffix(".yaml")
    if stem in bundled:
        return bundled[stem]
    hint = did_you_mean(stem, bundled, ".")
    known = ", ".join(bundled) or "none"
    raise UsageError(f"{name}: {reason}, and no {kind} of that name{hint}\nThe bundled {kind}s are {known}.")


def _yaml_files(subfolder: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in _folders():
        for path in (folder / subfolder).glob("*.yaml"):
            files.setdefault(path.stem, path)
    return dict(sorted(files.items(), key=lambda item: _natural(item[0])))


def _folders() -> list[Path]:
    given = os.environ.get(EXPERIMENTS_DIR)
    return [*([Path(given)] if given else []), shipped("experiments")]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 200 before 1000."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]
