"""Renders the manifests of `k8s/` with kustomize, which kubectl includes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from workload_generator.base.errors import UsageError
from workload_generator.kube.resources import Object

_TIMEOUT_S = 60


def render(folder: Path, components: Sequence[Path] = ()) -> list[Object]:
    """The objects of a folder with components. Raises UsageError with the message of kustomize."""
    program = _program()
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name:
        place = os.path.realpath(name)  # kustomize takes relative paths alone, and follows links first
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(os.path.realpath(folder), place)],
            "components": [os.path.relpath(os.path.realpath(each), place) for each in components],
        }
        Path(place, "kustomization.yaml").write_text(yaml.safe_dump(document))
        try:
            ran = subprocess.run(
                [*program, place], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(f"{' '.join(program)} {folder}: {error}") from None
    if ran.returncode:
        said = ran.stderr.strip() or f"exit code {ran.returncode}"
        raise UsageError(f"{folder}: kustomize failed: {said.replace(place, str(folder))}")
    try:
        return [document for document in yaml.safe_load_all(ran.stdout) if document]
    except yaml.YAMLError as error:
        raise UsageError(f"{folder}: the output of kustomize is not YAML: {error}") from None


def _program() -> list[str]:
    for name, word in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(name):
            return [name, word]
    raise UsageError("kubectl (or kustomize), which renders the manifests, is not on PATH")
