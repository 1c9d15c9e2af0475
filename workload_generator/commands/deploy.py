"""`kn-bench deploy`: deploys functions, the generator and eventing to a cluster."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import yaml

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.cluster.deploy.deployment import BrokerKind, DeployPart, DeployRequest, manifests
from workload_generator.cluster.deploy.objects import stages
from workload_generator.cluster.deploy.rollout import RolloutProgress, deploy
from workload_generator.cluster.deploy.services import Images
from workload_generator.cluster.deploy.tuning import of_service
from workload_generator.commands.deploy_flags import (
    METRICS,
    SCALING,
    WHAT,
    add_cluster,
    add_parallelism,
    add_scaling,
    annotations_of,
    change_cluster,
    manifests_root,
    parts_and_functions,
)
from workload_generator.commands.flags import add_dry_run, value
from workload_generator.kube.client import Kube

_FLAGS_OF = {
    DeployPart.FUNCTIONS: ("count", "container_concurrency", *SCALING),
    DeployPart.EVENTING: ("broker", "triggers", "parallelism"),
}
"""The flags that mean something for one part alone."""


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add, positive = command.add_argument, value("positive_whole")
    add("what", nargs="*", metavar="PART|FUNCTION", help=WHAT + "; default: generator functions")
    add("--count", type=positive, metavar="N", help="copies of each function: <name>-0, <name>-1, …; default 1")
    add("--registry", type=_registry, metavar="R", help="registry of the images; default: the overlay's")
    add("--tag", type=_tag, metavar="T", help="tag of the images; default: the manifests'")
    add_scaling(command)
    add("--overlay", metavar="NAME|DIR", help="an overlay of the manifests (kind, gce, …), or a folder of your own")
    add("--component", action="append", default=[], metavar="NAME", help="a component of the manifests; repeatable")
    add("--broker", choices=tuple(BrokerKind), type=str, help="default: rabbitmq")
    add("--triggers", type=positive, metavar="N", help="receiver-0, receiver-1, …; default 1")
    add_parallelism(command, "deliveries at a time of each RabbitMQ trigger; default: the manifests'")
    add_dry_run(command, "let the server check everything, print what would be done, and change nothing")
    add("--print", action="store_true", help="print the manifests as YAML, without a cluster")
    add_cluster(command, "everything to be ready")


def run(options: argparse.Namespace) -> int:
    """Deploy; returns the exit code. Raises BenchError."""
    request, root = _request_of(options), manifests_root(options)
    if options.print:
        objects = [obj for stage in stages(manifests(request, root)) for obj in stage]
        sys.stdout.write(yaml.safe_dump_all(objects, sort_keys=False))
        return ExitCode.OK

    async def change(kube: Kube, progress: RolloutProgress) -> None:
        done = await deploy(kube, request, root, options.timeout / NS_PER_S, progress, options.dry_run)
        if options.dry_run:
            progress.say("nothing was changed")
            return
        of = Counter(each.outcome for each in done)
        kept = f"; {of['kept']} kept what they had" if of["kept"] else ""
        changed = f"{of['created'] + of['changed']} of them were created or changed"
        progress.say(f"{len(done) - of['kept']} objects are as asked for, {changed}{kept}")

    return change_cluster(
        options, change, "the same kn-bench deploy resumes from here; kn-bench delete removes what was deployed"
    )


def _request_of(options: argparse.Namespace) -> DeployRequest:
    """What the flags ask for. Raises UsageError for flags that contradict each other or have no effect."""
    parts, names = parts_and_functions(options.what)
    if names and DeployPart.FUNCTIONS in parts:
        raise UsageError(f"functions means all functions: name either functions or {names[0]}")
    if names:
        parts.add(DeployPart.FUNCTIONS)
    if not options.what:
        parts = {DeployPart.GENERATOR, DeployPart.FUNCTIONS}
    annotations = annotations_of(options)
    if METRICS.get(annotations.get("metric", ""), "kpa") == "hpa" and "class" not in annotations:
        raise UsageError(f"--metric: {annotations['metric']} needs --class hpa")
    for part, flags in _FLAGS_OF.items():
        for name in flags:
            if getattr(options, name) is not None and part not in parts:
                raise UsageError(f"--{name.replace('_', '-')} needs {part}, which are not deployed here: name them")
    if options.annotation and DeployPart.FUNCTIONS not in parts:
        raise UsageError("--annotation needs functions, which are not deployed here: name them")
    return DeployRequest(
        frozenset(parts),
        names,
        options.count or 1,
        of_service(options.container_concurrency, annotations),
        Images(options.registry, options.tag),
        options.overlay,
        tuple(options.component),
        BrokerKind(options.broker or BrokerKind.RABBITMQ),
        options.triggers,
        options.parallelism,
    )


def _registry(text: str) -> str:
    """A registry, without the slash at its end."""
    place = text.rstrip("/")
    if not place or place.strip() != place or "://" in place:
        raise argparse.ArgumentTypeError(f"{text!r} is not a registry, such as europe-docker.pkg.dev/project/bench")
    return place


def _tag(text: str) -> str:
    if not text or not text.replace("-", "").replace("_", "").replace(".", "").isalnum() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not a tag, such as 0.1.0")
    return text
