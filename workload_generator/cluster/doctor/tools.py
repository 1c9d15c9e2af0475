"""The programs that people run beside `kn-bench`: which are on PATH, in which version, and what they are for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from workload_generator.cluster.doctor.findings import Findings, Verdict

_ANSWER_S = 20.0
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
Version = tuple[int, int, int]

_SAY: Mapping[str, tuple[str, ...]] = {
    "kubectl": ("version", "--client", "--output=json"),
    "kn": ("version",),
    "just": ("--version",),
    "gcloud": ("--version",),
    "terraform": ("version",),
    "kops": ("version", "--short"),
    "helm": ("version", "--short"),
    "kind": ("version",),
    "docker": ("--version",),
    "podman": ("--version",),
}
_FROM: Mapping[str, str] = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "kn": "https://knative.dev/docs/client/install-kn/",
    "just": "https://just.systems/man/en/packages.html",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "terraform": "https://developer.hashicorp.com/terraform/install",
    "kops": "https://kops.sigs.k8s.io/getting_started/install/",
    "helm": "https://helm.sh/docs/intro/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "docker": "https://docs.docker.com/engine/install/",
    "podman": "https://podman.io/docs/installation",
}
_LEAST: Mapping[str, Version] = {"terraform": (1, 9, 0), "helm": (3, 0, 0)}  # what infrastructure/ is written for


@dataclass(frozen=True, slots=True)
class Purpose:
    """What tools are for. `a|b` is one of both."""

    what: str
    tools: tuple[str, ...]
    verdict: Verdict


PURPOSES = (
    Purpose("runs in the cluster's pods, and their logs", ("kubectl",), "failed"),
    Purpose("the recipes of infrastructure/", ("just",), "warning"),
    Purpose("a cluster in a GCP project (just up, just down)", ("gcloud", "terraform", "kops"), "warning"),
    Purpose("Prometheus in the cluster (just install-knative-metrics)", ("helm",), "warning"),
    Purpose("a cluster on this machine (just kind-up)", ("kind", "docker"), "warning"),
    Purpose("building the images", ("docker|podman",), "warning"),
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program on PATH. `version` is None when it did not say it in time, or not at all."""

    name: str
    version: Version | None

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}" if self.version else self.name


async def installed_tools() -> dict[str, Tool]:
    """All that are here, by name; each is asked for its version."""
    names = [name for name in _SAY if shutil.which(name)]
    versions = await asyncio.gather(*(_version_of(name) for name in names))
    return {name: Tool(name, version) for name, version in zip(names, versions, strict=True)}


async def _version_of(name: str) -> Version | None:
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            name,
            *_SAY[name],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "CHECKPOINT_DISABLE": "1"},  # terraform asks its maker for a newer one otherwise
        )
        said, _ = await asyncio.wait_for(process.communicate(), _ANSWER_S)
    except (OSError, TimeoutError):
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return None
    return version_in(said.decode(errors="replace"))


def version_in(text: str) -> Version | None:
    """The first version that a text has."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def check_tools(installed: Mapping[str, Tool], found: Findings) -> None:
    """For each purpose, what is there for it and what is missing or too old."""
    for purpose in PURPOSES:
        there, missing = [], []
        for alternatives in purpose.tools:
            tool = next((installed[name] for name in alternatives.split("|") if name in installed), None)
            if tool is None:
                missing.append(alternatives)
            else:
                there.append(tool)
                _check_age(tool, purpose, found)
        if missing:
            names = [name.replace("|", " or ") for name in missing]
            fix = "; ".join(f"{name.partition('|')[0]}: {_FROM[name.partition('|')[0]]}" for name in missing)
            found.add(purpose.verdict, f"{', '.join(names)} not on PATH", f"needed for {purpose.what}", fix)
        if there:
            found.ok(f"{', '.join(map(str, there))}: for {purpose.what}")
    if "kn" in installed:
        found.ok(f"{installed['kn']}: with it this is `kn bench` too")


def _check_age(tool: Tool, purpose: Purpose, found: Findings) -> None:
    if tool.version is None:
        found.unknown(f"{tool.name} does not say its version", f"needed for {purpose.what}", f"run `{tool.name}`")
    elif tool.version < _LEAST.get(tool.name, (0, 0, 0)):
        least = ".".join(map(str, _LEAST[tool.name][:2]))
        found.add(purpose.verdict, f"{tool} is older than {least}", f"needed for {purpose.what}", _FROM[tool.name])


def check_tools_for(installed: Mapping[str, Tool], minor: int, found: Findings) -> None:
    """Tools that depend on the cluster's Kubernetes 1.`minor`.

    Source: https://kubernetes.io/releases/version-skew-policy/#kubectl, https://kops.sigs.k8s.io/welcome/releases/
    """
    kubectl, kops = installed.get("kubectl"), installed.get("kops")
    if kubectl is not None and kubectl.version is not None and abs(kubectl.version[1] - minor) > 1:
        found.warning(
            f"{kubectl} against Kubernetes 1.{minor}",
            "kubectl is supported within one minor version of the server: exec and cp may fail",
            f"install kubectl 1.{minor}",
        )
    if kops is not None and kops.version is not None and kops.version[1] < minor:
        found.warning(
            f"{kops} is older than Kubernetes 1.{minor}",
            "kOps makes clusters up to its own minor version",
            f"install kOps 1.{minor} or newer",
        )
