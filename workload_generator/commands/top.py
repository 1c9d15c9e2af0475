"""`kn-bench top`: records the usage of nodes, pods and functions until a signal, and shows it meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import ExitCode, of_signal
from workload_generator.base.terminal import escape
from workload_generator.base.usage_tables import KUBELET, METRICS
from workload_generator.cluster.top import screen
from workload_generator.cluster.top.recording import RecordingPlan, Top
from workload_generator.cluster.top.storage import open_storage
from workload_generator.cluster.top.usage import Scope
from workload_generator.commands.flags import add_bool, add_kubeconfig, add_progress, seconds, value
from workload_generator.kube.client import Kube

_SOURCES = {"metrics": (METRICS,), "kubelet": (KUBELET,), "both": (METRICS, KUBELET)}
_PLAIN_S, _LIVE_S = 60.0, 1.0
_PATIENCE_S, _TIMEOUT_S = 2.0, 30.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add("--frequency", type=seconds(0.1, 86_400), default=5.0, metavar="S", help="seconds between polls; default 5")
    add("--source", choices=tuple(_SOURCES), default="metrics", help="the metrics API (default), kubelets, or both")
    add_bool(parser, "--nodes", "record nodes; default true, unless only --pods is given", default=None)
    add_bool(parser, "--pods", "record pods; default true, unless only --nodes is given", default=None)
    add_bool(parser, "--all-namespaces", "pods of all namespaces; the default without --namespace", default=None)
    for name, text in (("--namespace", "only pods of these"), ("--ignore-namespace", "no pods of these")):
        add(name, action="append", type=_names, default=[], metavar="NAME[,…]", help=f"{text} namespaces; repeatable")
    add("--storage", choices=("sqlite", "csv"), default="sqlite", help="metrics.db, or a CSV file for each table")
    add("--output-dir", type=Path, default=Path("data"), metavar="DIR", help="created if needed; default: data")
    add("--duration", type=value("positive_duration"), metavar="D", help="end after this time; default: at a signal")
    add("--sort-by", choices=("cpu", "memory"), default="cpu", help="order of the live table; default cpu")
    add_progress(parser, "live tables on a terminal, else a line a minute, on stderr")
    add_kubeconfig(parser)


def run(options: argparse.Namespace) -> int:
    """Record until a signal or --duration; returns the exit code. Raises BenchError."""
    nodes = options.nodes if options.nodes is not None else not options.pods
    pods = options.pods if options.pods is not None else not options.nodes
    namespaces = tuple(dict.fromkeys(name for names in options.namespace for name in names))
    ignored = frozenset(name for names in options.ignore_namespace for name in names)
    if not nodes and not pods:
        raise UsageError("--nodes=false --pods=false: nothing to record")
    if options.all_namespaces and namespaces:
        raise UsageError("--all-namespaces and --namespace exclude each other")
    if both := ignored & set(namespaces):
        raise UsageError(f"--namespace and --ignore-namespace both name {', '.join(sorted(both))}")
    duration_s = None if options.duration is None else options.duration / NS_PER_S
    scope = Scope(nodes, pods, namespaces, ignored)
    plan = RecordingPlan(options.frequency, _SOURCES[options.source], scope, duration_s)
    return asyncio.run(_record(options, plan))


async def _record(options: argparse.Namespace, plan: RecordingPlan) -> int:
    stop = asyncio.Event()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received[:] = [number]
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    console = Console(stderr=True, highlight=False, emoji=False)

    def report(text: str) -> None:
        console.print(f"kn-bench top: {escape(text)}", soft_wrap=True)

    cluster, patience_s = (options.kubeconfig, options.context), min(_PATIENCE_S, plan.period_s / 2)
    async with await Kube.connect(*cluster, patience_s=patience_s, timeout_s=_TIMEOUT_S) as kube:
        if options.all_namespaces is False and not plan.scope.namespaces:
            plan = replace(plan, scope=replace(plan.scope, namespaces=(kube.access.namespace,)))
        with open_storage(options.storage, options.output_dir) as storage:
            top = Top(kube, plan, storage, report)
            async with _shown(top, options, console):
                await top.run(stop)
    counts = top.recorder.counts
    if options.progress != "none":
        samples = f"{counts.nodes:,} samples of nodes, {counts.pods:,} of pods"
        rest = f"{counts.changes:,} changes, {counts.gaps:,} gaps"
        console.print(f"stored in {options.output_dir}: {samples}, {rest}", soft_wrap=True)
    return of_signal(received[0]) if received else ExitCode.OK


@contextlib.asynccontextmanager
async def _shown(top: Top, options: argparse.Namespace, console: Console) -> AsyncIterator[None]:
    """While entered: live tables, or a line from time to time."""
    kind = options.progress
    if kind == "auto":
        kind = "rich" if console.is_terminal else "plain"
    if kind == "none":
        yield
        return
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=console, auto_refresh=False)) if kind == "rich" else None

        async def show() -> None:
            while True:
                await asyncio.sleep(_PLAIN_S if live is None else _LIVE_S)
                view = await top.recorder.in_writer(lambda: screen.view_usage(top.histories, options.sort_by))
                if live is None:
                    console.print(escape(screen.status(view, top.recorder.counts, top.pollers)), soft_wrap=True)
                else:
                    drawn = screen.draw(view, top.recorder.counts, top.pollers, top.view.nodes, console.height)
                    live.update(drawn, refresh=True)

        task = asyncio.create_task(show())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return names
