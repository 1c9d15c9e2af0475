"""Where experiments are found by name: those in `$EXPERIMENTS_DIR`, then the installed ones. And the manifests."""

from __future__ import annotations

import os
import re
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.experiment.field_kinds import short
from workload_generator.experiment.yaml_lines import closest

EXPERIMENTS_DIR = "EXPERIMENTS_DIR"
"""The environment variable that names a folder of experiments, searched before the installed ones."""


def find_experiment(name: str) -> Path:
    """The file that `--config` means: a path, else a bundled experiment, with or without `.yaml`.

    Raises UsageError, which lists the experiments that exist.
    """
    path = Path(name)
    try:
        if name and path.exists() and not path.is_dir():  # a pipe is as good as a file
            return path
        what = "is a folder" if name and path.is_dir() else "no such file"
    except OSError as error:
        raise UsageError(f"{short(name)}: cannot be read: {error.strerror}") from None
    bundled = bundled_experiments()
    found = bundled.get(name.removesuffix(".yaml"))
    if found is not None:
        return found
    near = closest(name.removesuffix(".yaml"), bundled)
    hint = f"; did you mean {near}?" if near else "."
    known = "\n".join(f"  {known}" for known in bundled) or "  none"
    raise UsageError(f"{name}: {what}, and no experiment of that name{hint} The bundled experiments are:\n{known}")


def bundled_experiments() -> dict[str, Path]:
    """Experiments by name: those in `$EXPERIMENTS_DIR`, then the installed ones."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in folder.glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def find_platform(name: str) -> Path:
    """The embedded platform's settings of that name: `platforms/<name>.yaml` beside experiments. Raises UsageError."""
    paths = [folder / "platforms" / f"{name}.yaml" for folder in _folders()]
    for path in paths:
        if path.is_file():
            return path
    raise UsageError(f"no settings for the platform {name}: looked for {', '.join(map(str, paths))}")


def find_scenario(name: str) -> Path:
    """The file that a scenario's name means: a path, else `scenarios/<name>.yaml` beside experiments.

    Raises UsageError, which lists the scenarios that exist.
    """
    path = Path(name)
    try:
        if name and path.is_file():
            return path
    except OSError as error:
        raise UsageError(f"{short(name)}: cannot be read: {error.strerror}") from None
    known: dict[str, Path] = {}
    for folder in _folders():
        for each in (folder / "scenarios").glob("*.yaml"):
            known.setdefault(each.stem, each)
    found = known.get(name.removesuffix(".yaml"))
    if found is not None:
        return found
    names = sorted(known, key=_natural)
    near = closest(name, names)
    hint = f"; did you mean {near}?" if near else "."
    raise UsageError(f"{name}: no such file, and no scenario of that name{hint} There are {', '.join(names) or 'none'}")


def find_manifests() -> Path:
    """The folder of the manifests, `k8s/`: the installed one, or the checkout's. Raises UsageError."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_k8s", package.parent / "k8s"):
        if (folder / "kustomization.yaml").is_file():
            return folder
    raise UsageError(f"no manifests in {package / '_k8s'}: this installation is not whole")


def _folders() -> list[Path]:
    package = Path(__file__).parents[1]
    installed = package / "_experiments"
    folders = [installed if installed.is_dir() else package.parent / "experiments"]
    given = os.environ.get(EXPERIMENTS_DIR)
    return [Path(given), *folders] if given else folders


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 200 before 1000."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]
