"""`kn-bench extract-logs`: fetches logs and receipts from a cluster's pods into a folder for `kn-bench extract`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import escape
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations
from workload_generator.cluster.pods.logs import LOG_FILES, RECEIPT_FILES, RECEIPTS, Copy, delete, fetch
from workload_generator.cluster.pods.pod_run import LOGS
from workload_generator.cluster.pods.sessions import Pod, PodAgent
from workload_generator.commands.flags import add_kubeconfig
from workload_generator.kube.client import Kube
from workload_generator.kube.names import EVENTING, GENERATOR, LOGGER, SHARDS


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--out", type=Path, default=Path("data/logs"), metavar="DIR", help="default: data/logs; existing files stay")
    add("--delete", action="store_true", help="delete logs in the pods once their copies are checked and on disk")
    add_kubeconfig(command)


def run(options: argparse.Namespace) -> int:
    """Fetch; returns the exit code. Raises BenchError."""
    kubectl = Kubectl(options.kubeconfig, options.context)
    kubectl.check()
    return asyncio.run(_copy_all(options, kubectl, Console(highlight=False, soft_wrap=True, emoji=False)))


async def _copy_all(options: argparse.Namespace, kubectl: Kubectl, console: Console) -> int:
    failed = 0
    async with await Kube.connect(options.kubeconfig, options.context) as kube:
        sources = await _sources(kube)
    if not sources:
        raise UsageError(
            f"no pod to fetch from: no generator runs in {GENERATOR} or {SHARDS}, and no event logger in {EVENTING}"
        )
    for pod, folder, patterns in sources:
        try:
            await _copy(PodAgent(kubectl, locations.always(pod)), pod, folder, patterns, options, console)
        except BenchError as error:
            failed += 1
            console.print(f"[red]failed[/] {pod}: {escape(str(error))}")
    return ExitCode.FAILURE if failed else ExitCode.OK


async def _sources(kube: Kube) -> list[tuple[Pod, str, Sequence[str]]]:
    """The pods with the folder and the patterns of the files to fetch from each."""
    generators = await locations.running(kube, GENERATOR, GENERATOR)
    shards = await locations.running(kube, SHARDS, GENERATOR)
    loggers = await locations.running(kube, EVENTING, LOGGER)
    logs = [(pod, LOGS, LOG_FILES) for pod in generators[:1] + shards]  # one volume of logs
    return [*logs, *((pod, RECEIPTS, RECEIPT_FILES) for pod in loggers[:1])]


async def _copy(
    agent: PodAgent, pod: Pod, folder: str, patterns: Sequence[str], options: argparse.Namespace, console: Console
) -> None:
    """Copy from one pod. Receipts are never deleted there: their writer has them open."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(str(pod)), total=None)
        copies = await fetch(agent, folder, patterns, options.out, lambda size: progress.advance(task, size))
    console.print(f"{pod}: {_summary(copies)}")
    if options.delete and patterns == LOG_FILES:
        kept = await delete(agent, folder, options.out, copies)
        console.print(f"{pod}: {len(copies) - len(kept)} deleted there")
        for name, why in kept.items():
            console.print(f"[yellow]kept[/] {escape(name)}: {escape(why)}")


def _summary(copies: Sequence[Copy]) -> str:
    fresh = [copy for copy in copies if copy.came]
    size = sum(copy.came for copy in fresh)
    return f"{len(copies)} files, {len(copies) - len(fresh)} of them here already; {size:,} bytes fetched, all checked"
