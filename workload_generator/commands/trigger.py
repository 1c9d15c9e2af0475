"""`kn-bench trigger`: runs an experiment in the cluster, in the generator's pod or in several, and fetches its logs."""

from __future__ import annotations

import argparse
import glob
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.base.terminal import plain_printer
from workload_generator.cluster.deploy.subscribers import refuse_dead_subscribers
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.paths import ENVIRONMENT, recorded
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, RunSpec, begin
from workload_generator.cluster.pods.sessions import PodAgent
from workload_generator.cluster.pods.shards import PodShards
from workload_generator.commands.flags import (
    MOST_PROCESSES,
    add_bool,
    add_kubeconfig,
    add_manifests,
    add_prefix,
    add_seed,
    add_timeout,
    text_and_value,
    value,
    whole_number,
)
from workload_generator.experiment.bundled import find_experiment, find_manifests
from workload_generator.experiment.load import load_experiment
from workload_generator.kube.client import Kube
from workload_generator.kube.names import FUNCTIONS_DOMAIN, SHARDS

_UNSET = (None, None)


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--config", required=True, metavar="FILE", help="a path, or the name of a bundled experiment")
    add("--pods", type=value("positive_whole"), default=1, metavar="N", help="several are an Indexed Job; default 1")
    add_prefix(command)
    add("--rps", type=text_and_value("rps"), default=_UNSET, metavar="N", help="replaces the file's requestsPerSecond")
    duration = text_and_value("positive_duration")
    add("--duration", type=duration, default=_UNSET, metavar="D", help="replaces the file's duration")
    for name, text in _MODES.items():
        add_bool(command, f"--{name}", text)
    add("--processes", type=whole_number(1, MOST_PROCESSES), default=1, metavar="N", help="in each pod; default 1")
    add_seed(command, "default: the file's, else random")
    add("--out", type=Path, default=Path("data/logs"), metavar="DIR", help="folder for the logs; default data/logs")
    add_manifests(command)
    add_kubeconfig(command)
    add_timeout(command, "2m", "the pods to be ready")


_MODES = {
    "cold-start": "visit the targets one after the other, a round every 1/rps seconds",
    "event": "send CloudEvents to the sink of the ContainerSource",
    "ping": "send one request to each target first",
    "precise": "spin shortly before each deadline",
}


def run(options: argparse.Namespace) -> int:
    """Run the experiment; returns the generator's exit code. Raises BenchError."""
    for name in ("cold_start", "event"):
        if options.pods > 1 and getattr(options, name):
            raise UsageError(f"--pods: {_NOT_SHARED[name]}")
    if options.cold_start and options.processes > 1:
        raise UsageError(f"--processes: {_NOT_SHARED['cold_start']}")
    path = find_experiment(options.config)
    rps, duration_ns = options.rps[1], options.duration[1]
    experiment = load_experiment(path, event=options.event, rps=rps, duration_ns=duration_ns, seed=options.seed)
    work = RunSpec(
        secrets.token_hex(8),
        path.stem,
        options.prefix,
        path.read_text(),
        _flags(options),
        options.processes,
        options.pods,
    )
    kubectl = Kubectl(options.kubeconfig, options.context)
    kubectl.check()
    hosts = [urlsplit(target.url).hostname or "" for target in experiment.targets]
    services = [host.removesuffix(f".{FUNCTIONS_DOMAIN}") for host in hosts if host.endswith(f".{FUNCTIONS_DOMAIN}")]
    return run_to_end(_run(options, work, services, kubectl, plain_printer()))


async def _run(
    options: argparse.Namespace, work: RunSpec, services: list[str], kubectl: Kubectl, say: Callable[[str], None]
) -> int:
    within_s = options.timeout / NS_PER_S
    file = options.out / f"{work.prefix}_{work.run_id}_{ENVIRONMENT}"
    async with (
        await Kube.connect(options.kubeconfig, options.context) as kube,
        recorded(kube, services, work.run_id, file),
    ):
        if options.pods > 1:
            folder = (options.manifests or find_manifests()) / "job"
            say(f"{work.prefix} ({work.run_id}) in {options.pods} pods of {SHARDS}")
            code = await PodShards(kube, kubectl, folder, work, options.out, say).begin(within_s)
            say(f"the logs are in {options.out}")
            return code

        if options.event:
            await refuse_dead_subscribers(kube)
        agent = PodAgent(kubectl, lambda: locations.generator(kube, event=options.event, within_s=within_s))
        say(f"{work.prefix} ({work.run_id}) in {await agent.find()}")
        end = await begin(agent, work, say)
        for copy in await logs.fetch(agent, LOGS, [glob.escape(name) for name in end.logs], options.out):
            say(f"{options.out / copy.name}: {copy.size:,} bytes, checked")
        return end.code


_NOT_SHARED = {
    "cold_start": "cold-start rounds cannot be shared between generators: use 1",
    "event": "a ContainerSource is one pod: use --processes",
}


def _flags(options: argparse.Namespace) -> tuple[str, ...]:
    """The generator's flags, without those that name files."""
    words = [f"--{name}" for name in _MODES if getattr(options, name.replace("-", "_"))]
    given = {"rps": options.rps[0], "duration": options.duration[0], "seed": options.seed}
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return (*words, f"--processes={options.processes}") if options.processes > 1 else tuple(words)
