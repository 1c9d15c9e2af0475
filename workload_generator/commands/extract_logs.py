"""`kn-bench extract-logs`: fetches logs and receipts from a cluster's pods into a folder for `kn-bench extract`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations
from workload_generator.cluster.pods.logs import LOG_FILES, RECEIPT_FILES, Copy, delete, fetch
from workload_generator.cluster.pods.pod_run import LOGS
from workload_generator.cluster.pods.sessions import Pod, PodAgent
from workload_generator.commands.flags import add_kubeconfig
from workload_generator.kube.client import Kube
from workload_generator.kube.names import EVENTING, GENERATOR, LOGGER, SHARDS

_RECEIPTS = "/data"


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--out", type=Path, default=Path("data/logs"), metavar="DIR", help="default: data/logs; existing files stay")
    add("--delete", action="store_true", help="delete logs in the pods once their copies are checked and on disk")
    add_kubeconfig(command)


@dataclass(frozen=True, slots=True)
class _Source:
    """A pod and the files to fetch from it. Receipts are never deleted: their writer has them open."""

    pod: Pod
    folder: str
    patterns: Sequence[str]
    may_delete: bool


def run(options: argparse.Namespace) -> int:
    """Fetch; returns the exit code. Raises BenchError."""
    kubectl = Kubectl(options.kubeconfig, options.context)
    kubectl.check()
    return asyncio.run(_copy_all(options, kubectl, Console(highlight=False)))


async def _copy_all(options: argparse.Namespace, kubectl: Kubectl, console: Console) -> int:
    failed = 0
    async with await Kube.connect(options.kubeconfig, options.context) as kube:
        sources = await _sources(kube)
    if not sources:
        raise UsageError(
            f"no pod to fetch from: no generator runs in {GENERATOR} or {SHARDS}, and no event logger in {EVENTING}"
        )
    for source in sources:
        try:
            failed += await _copy(source, PodAgent(kubectl, locations.always(source.pod)), options, console)
        except UsageError:
            raise
        except BenchError as error:
            failed += 1
            console.print(f"[red]failed[/] {source.pod}: {escape(str(error))}", soft_wrap=True)
    return ExitCode.FAILURE if failed else ExitCode.OK


async def _sources(kube: Kube) -> list[_Source]:
    generators = await locations.running(kube, GENERATOR, GENERATOR)
    shards = await locations.running(kube, SHARDS, GENERATOR)
    loggers = await locations.running(kube, EVENTING, LOGGER)
    logs = [_Source(pod, LOGS, LOG_FILES, may_delete=True) for pod in generators[:1] + shards]  # one volume of logs
    return logs + [_Source(pod, _RECEIPTS, RECEIPT_FILES, may_delete=False) for pod in loggers[:1]]


async def _copy(source: _Source, place: PodAgent, options: argparse.Namespace, console: Console) -> int:
    """Copy from one pod; the number of files that could not be copied."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(str(source.pod)), total=None)
        copies = await fetch(
            place, source.folder, source.patterns, options.out, lambda size: progress.advance(task, size)
        )
    console.print(f"{source.pod}: {_summary(copies)}", soft_wrap=True)
    if not options.delete or not source.may_delete:
        return 0
    kept = await delete(place, source.folder, options.out, copies)
    console.print(f"{source.pod}: {len(copies) - len(kept)} deleted there", soft_wrap=True)
    for name, why in kept.items():
        console.print(f"[yellow]kept[/] {escape(name)}: {escape(why)}", soft_wrap=True)
    return 0


def _summary(copies: Sequence[Copy]) -> str:
    fresh = [copy for copy in copies if copy.came]
    size = sum(copy.came for copy in fresh)
    return f"{len(copies)} files, {len(copies) - len(fresh)} of them here already; {size:,} bytes fetched, all checked"
