"""The programs that `kn-bench` and the recipes of `infrastructure/` call: which are in PATH, and in which version."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from workload_generator.cluster.doctor.reporter import Cluster, Reporter, Verdict

_TIMEOUT_S = 20.0
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: the words after its name that print its version, where to get it, and the oldest that works."""

    name: str
    version_command: str
    url: str
    oldest: Version = (0, 0, 0)


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("kubectl", "version --client --output=json", "https://kubernetes.io/docs/tasks/tools/"),
        Tool("kn", "version", "https://knative.dev/docs/client/install-kn/"),
        Tool("just", "--version", "https://just.systems/man/en/packages.html"),
        Tool("gcloud", "--version", "https://cloud.google.com/sdk/docs/install"),
        Tool("terraform", "version", "https://developer.hashicorp.com/terraform/install", (1, 9, 0)),
        Tool("kops", "version --short", "https://kops.sigs.k8s.io/getting_started/install/"),
        Tool("helm", "version --short", "https://helm.sh/docs/intro/install/", (3, 0, 0)),
        Tool("kind", "version", "https://kind.sigs.k8s.io/docs/user/quick-start/#installation"),
        Tool("docker", "--version", "https://docs.docker.com/engine/install/"),
        Tool("podman", "--version", "https://podman.io/docs/installation"),
    )
}
PURPOSES: tuple[tuple[Verdict, str, str], ...] = (
    # The verdict when a tool is missing or too old, the tools (`a|b`: one of them), and what they are for.
    ("failed", "kubectl", "runs in the cluster's pods, and their logs"),
    ("warning", "just", "the recipes of infrastructure/"),
    ("warning", "gcloud terraform kops", "a cluster in a GCP project (just up, just down)"),
    ("warning", "helm", "Prometheus in the cluster (just install-knative-metrics)"),
    ("warning", "kind docker", "a cluster on this machine (just kind-up)"),
    ("warning", "docker|podman", "building the images"),
)
Installed = Mapping[str, Version | None]
"""The version of each tool in PATH; None when it did not print one."""


async def check_tools(cluster: Cluster, reporter: Reporter) -> None:
    """The tools in PATH, and kubectl and kops against the cluster's version.

    Source: https://kubernetes.io/releases/version-skew-policy/#kubectl, https://kops.sigs.k8s.io/welcome/releases/
    """
    installed = await check_installed(reporter)
    kubectl, kops = installed.get("kubectl"), installed.get("kops")
    if kubectl is not None and abs(kubectl[1] - cluster.minor) > 1:
        reporter.warning(
            f"{_text('kubectl', kubectl)} is more than one minor version from Kubernetes 1.{cluster.minor}",
            "this version skew is not supported: kubectl exec and cp may fail",
            f"install kubectl 1.{cluster.minor}",
        )
    if kops is not None and kops[1] < cluster.minor:
        reporter.warning(
            f"{_text('kops', kops)} is older than Kubernetes 1.{cluster.minor}",
            "kOps creates clusters up to its own minor version",
            f"install kOps 1.{cluster.minor} or newer",
        )


async def check_installed(reporter: Reporter) -> Installed:
    """For each purpose, the tools that are installed, missing or too old."""
    names = [name for name in TOOLS if shutil.which(name)]
    versions = await asyncio.gather(*(asyncio.to_thread(_version_of, TOOLS[name]) for name in names))
    installed = dict(zip(names, versions, strict=True))
    for verdict, tools, purpose in PURPOSES:
        why = f"needed for {purpose}"
        present, missing = [], []
        for alternatives in tools.split():
            name = next((each for each in alternatives.split("|") if each in installed), None)
            if name is None:
                missing.append(alternatives)
                continue
            version, oldest = installed[name], TOOLS[name].oldest
            present.append(_text(name, version))
            if version is None:
                reporter.unknown(f"{name} prints no version", why, f"run {name} {TOOLS[name].version_command}")
            elif version < oldest:
                text = f"{_text(name, version)} is older than {oldest[0]}.{oldest[1]}"
                reporter.add(verdict, text, why, TOOLS[name].url)
        if missing:
            first = [name.partition("|")[0] for name in missing]
            fix = "; ".join(f"{name}: {TOOLS[name].url}" for name in first)
            reporter.add(verdict, f"{', '.join(missing).replace('|', ' or ')} not on PATH", why, fix)
        if present:
            reporter.ok(f"{', '.join(present)}: for {purpose}")
    if "kn" in installed:
        reporter.ok(f"{_text('kn', installed['kn'])}: kn bench is kn-bench")
    return installed


def _text(name: str, version: Version | None) -> str:
    return f"{name} {'.'.join(map(str, version))}" if version else name


def _version_of(tool: Tool) -> Version | None:
    try:
        output = subprocess.run(
            [tool.name, *tool.version_command.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CHECKPOINT_DISABLE": "1"},  # else terraform looks for a newer release in the network
            timeout=_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(output.decode(errors="replace"))
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None
