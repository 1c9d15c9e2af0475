"""What `doctor` looks at, and what it says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from workload_generator.kube.client import Kube
from workload_generator.kube.resources import CONFIG_MAPS, Object, Resource

Verdict = Literal["ok", "warning", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check saw; unless it is ok, why that matters and what to do."""

    check: str
    verdict: Verdict
    text: str
    why: str = ""
    fix: str = ""


class Findings:
    """What one check has found so far, in order."""

    def __init__(self, check: str) -> None:
        self.check = check
        self.all: list[Finding] = []

    def ok(self, text: str) -> None:
        """As it should be."""
        self.all.append(Finding(self.check, "ok", text))

    def warning(self, text: str, why: str, fix: str) -> None:
        """A benchmark can be run; some of its figures, or some of its scenarios, suffer."""
        self.all.append(Finding(self.check, "warning", text, why, fix))

    def failed(self, text: str, why: str, fix: str) -> None:
        """No benchmark can be run, or it would measure something else."""
        self.all.append(Finding(self.check, "failed", text, why, fix))

    def unknown(self, text: str, why: str = "", fix: str = "") -> None:
        """It could not be looked at."""
        self.all.append(Finding(self.check, "unknown", text, why, fix))

    def add(self, verdict: Verdict, text: str, why: str, fix: str) -> None:
        """One whose verdict a table says."""
        self.all.append(Finding(self.check, verdict, text, why, fix))


class Cluster:
    """The cluster that is looked at. What several checks look at is asked for once; a refusal is not kept."""

    def __init__(self, kube: Kube, minor: int) -> None:
        self.kube = kube
        self.minor = minor
        """Of Kubernetes 1.`minor`."""
        self._seen: dict[tuple[Resource, str, str], list[Object]] = {}
        self._maps: dict[tuple[str, str], Object | None] = {}

    async def all(self, resource: Resource, namespace: str = "", *, labels: str = "") -> list[Object]:
        """All objects of a kind, of all namespaces without one. Raises ApiError."""
        key = resource, namespace, labels
        if key not in self._seen:
            self._seen[key] = (await self.kube.list(resource, namespace, labels=labels)).items
        return self._seen[key]

    async def config(self, name: str, namespace: str) -> Object | None:
        """A ConfigMap, or None. Raises ApiError."""
        key = name, namespace
        if key not in self._maps:
            self._maps[key] = await self.kube.find(CONFIG_MAPS, name, namespace)
        return self._maps[key]


Check = Callable[[Cluster, Findings], Awaitable[None]]
