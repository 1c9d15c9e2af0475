"""The command line of kubectl, for streams to pods through the API server."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from workload_generator.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl for one cluster: by default the one of kubectl's own configuration."""

    kubeconfig: Path | None = None
    context: str | None = None

    def check(self) -> None:
        """Raises UsageError when there is no kubectl."""
        if shutil.which("kubectl") is None:
            raise UsageError("kubectl is not on PATH: https://kubernetes.io/docs/tasks/tools/")

    def command(self, namespace: str, *words: str) -> list[str]:
        """The command line of `words` in a namespace."""
        where = [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig is not None else []
        where += [f"--context={self.context}"] if self.context is not None else []
        return ["kubectl", *where, f"--namespace={namespace}", *words]
