"""What a check gets and gives: the cluster that it reads, and the reporter that takes its results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent
from workload_generator.kube.resources import CONFIG_MAPS, Object, Resource

Verdict = Literal["ok", "warning", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result of a check. Unless the verdict is `ok`, `why` is its consequence and `fix` what to do."""

    check: str
    verdict: Verdict
    text: str
    why: str = ""
    fix: str = ""


class Reporter:
    """Takes the results of one check, in order."""

    def __init__(self, check: str) -> None:
        self.check = check
        self.results: list[CheckResult] = []

    def ok(self, text: str) -> None:
        """Nothing to do."""
        self.add("ok", text)

    def warning(self, text: str, why: str, fix: str) -> None:
        """Benchmarks can run, but some results or scenarios suffer."""
        self.add("warning", text, why, fix)

    def failed(self, text: str, why: str, fix: str) -> None:
        """No benchmark can run, or it would measure something else."""
        self.add("failed", text, why, fix)

    def unknown(self, text: str, why: str = "", fix: str = "") -> None:
        """The check could not read what it needs."""
        self.add("unknown", text, why, fix)

    def add(self, verdict: Verdict, text: str, why: str = "", fix: str = "") -> None:
        """A result with its verdict as a value."""
        self.results.append(CheckResult(self.check, verdict, text, why, fix))


class Cluster:
    """The cluster under examination. Lists and ConfigMaps are cached; errors are not."""

    def __init__(self, kube: Kube, minor: int, *, fix: bool = False, fix_timeout_s: float = 0.0) -> None:
        self.kube = kube
        self.minor = minor
        """The x of Kubernetes 1.x."""
        self.fix = fix
        """Whether a check may repair the cluster; it waits up to `fix_timeout_s` for the effect."""
        self.fix_timeout_s = fix_timeout_s
        self._lists: dict[tuple[Resource, str], list[Object]] = {}
        self._configs: dict[tuple[str, str], Object | None] = {}

    async def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """All objects of a kind, in one namespace or in all. Raises ApiError."""
        key = resource, namespace
        if key not in self._lists:
            self._lists[key] = (await self.kube.list(resource, namespace)).items
        return self._lists[key]

    async def installed(self, resource: Resource, namespace: str = "") -> list[Object]:
        """As `all`; none of a kind that is not installed. Raises ApiError."""
        try:
            return await self.all(resource, namespace)
        except ApiAbsent:
            return []

    async def config(self, namespace: str, name: str) -> Object | None:
        """A ConfigMap, or None. Raises ApiError."""
        key = namespace, name
        if key not in self._configs:
            self._configs[key] = await self.kube.find(CONFIG_MAPS, name, namespace)
        return self._configs[key]


Check = Callable[[Cluster, Reporter], Awaitable[None]]
"""Reports what it finds. An ApiError that it raises becomes an `unknown` result."""
