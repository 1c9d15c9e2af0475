"""`kn-bench trigger`: one experiment in the cluster, in the generator's pod or in several, and its logs here."""

from __future__ import annotations

import argparse
import glob
import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from rich.console import Console

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, Run, begin
from workload_generator.cluster.pods.sessions import PATIENCE_S, Patience, Place, Pod
from workload_generator.cluster.pods.shards import Shards
from workload_generator.commands.flags import MOST_PROCESSES, as_in_a_file, go_bool, log_prefix
from workload_generator.experiment.bundled import find_experiment, find_manifests
from workload_generator.experiment.field_kinds import positive_duration, positive_whole, rps, whole
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.yaml_lines import Scalar
from workload_generator.kube.client import Kube
from workload_generator.kube.names import SHARDS


def add_trigger(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--config", required=True, metavar="FILE", help="a path, or the name of a bundled experiment")
    add(
        "--pods", type=as_in_a_file(positive_whole), default=1, metavar="N", help="an Indexed Job of so many; default 1"
    )
    add("--prefix", type=log_prefix, default="workload-generator", metavar="P", help="of the logs' names")
    add("--rps", type=as_in_a_file(_rate), metavar="N", help="replaces the file's rate")
    add("--duration", type=as_in_a_file(_duration), metavar="D", help="replaces the file's")
    for name, text in _MODES.items():
        add(f"--{name}", nargs="?", const=True, default=False, type=go_bool, metavar="true|false", help=text)
    add("--processes", type=_processes, default=1, metavar="N", help="in each pod; default 1")
    add("--seed", type=as_in_a_file(whole), metavar="N", help="default: the file's, else drawn")
    add("--out", type=Path, default=Path("data/logs"), metavar="DIR", help="where the logs come; default data/logs")
    add("--manifests", type=Path, metavar="DIR", help="the folder k8s/, for --pods; default: the installed one")
    add("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl finds it")
    add("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    add(
        "--timeout",
        type=as_in_a_file(positive_duration),
        default=positive_duration(Scalar("2m")),
        metavar="D",
        help="until the pods are ready for it; default 2m",
    )
    command.set_defaults(command=_trigger)


_MODES = {
    "cold-start": "targets one after the other, a round every 1/rps seconds",
    "event": "CloudEvents to the sink of the ContainerSource",
    "ping": "one request to each target first",
    "precise": "spin shortly before each deadline",
}


def _trigger(options: argparse.Namespace) -> int:
    """Run it; the generator's exit code. Raises BenchError."""
    for name in ("cold_start", "event"):
        if options.pods > 1 and getattr(options, name):
            raise UsageError(f"--pods: {_NOT_SHARED[name]}")
    if options.cold_start and options.processes > 1:
        raise UsageError(f"--processes: {_NOT_SHARED['cold_start']}")
    path = find_experiment(options.config)
    rate = None if options.rps is None else rps(Scalar(options.rps))
    duration_ns = None if options.duration is None else positive_duration(Scalar(options.duration))
    load_experiment(path, event=options.event, rps=rate, duration_ns=duration_ns, seed=options.seed)
    run = Run(secrets.token_hex(8), path.stem, options.prefix, path.read_text(), _flags(options), options.processes)
    kubectl = Kubectl(options.kubeconfig, options.context)
    kubectl.check()
    console = Console(highlight=False, markup=False)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    return run_to_end(_run(options, run, kubectl, say))


async def _run(options: argparse.Namespace, run: Run, kubectl: Kubectl, say: Any) -> int:
    within_s = options.timeout / NS_PER_S
    async with await Kube.connect(options.kubeconfig, options.context) as kube:
        if options.pods > 1:
            folder = (options.manifests or find_manifests()) / "job"
            say(f"{run.prefix} ({run.run_id}) in {options.pods} pods of {SHARDS}")
            code = await Shards(kube, kubectl, folder, run, options.pods, options.out, say).begin(within_s)
            say(f"the logs are in {options.out}")
            return code

        def find() -> Awaitable[Pod]:
            return locations.generator(kube, event=options.event, within_s=within_s)

        place = Place(kubectl, find)
        say(f"{run.prefix} ({run.run_id}) in {await find()}")
        ended = await begin(place, run, say, Patience(PATIENCE_S))
        for copy in await logs.fetch(place, LOGS, [glob.escape(name) for name in ended.logs], options.out):
            say(f"{options.out / copy.name}: {copy.size:,} bytes, checked")
        return ended.code


_NOT_SHARED = {
    "cold_start": "cold-start rounds cannot be shared; it has to be 1",
    "event": "a ContainerSource is one pod; use --processes",
}


def _flags(options: argparse.Namespace) -> tuple[str, ...]:
    """The generator's, but for those about files."""
    words = [f"--{name}" for name in _MODES if getattr(options, name.replace("-", "_"))]
    given = {name: getattr(options, name) for name in ("rps", "duration", "seed")}
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return (*words, f"--processes={options.processes}") if options.processes > 1 else tuple(words)


# Flags: what is checked here has not to be found out in the pod. Texts are passed on as they were given.


def _rate(text: Scalar) -> str:
    rps(text)
    return str(text)


def _duration(text: Scalar) -> str:
    positive_duration(text)
    return str(text)


def _processes(text: str) -> int:
    number = as_in_a_file(positive_whole)(text)
    if number > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_PROCESSES}")
    return number
