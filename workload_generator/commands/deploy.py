"""`kn-bench deploy|delete|patch`: what is measured, and what measures it, put into a cluster, changed and removed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.deployment import (
    Broker,
    Part,
    manifests,
    namespace_of_functions,
    namespaces,
)
from workload_generator.cluster.deploy.eventing import is_rabbitmq, wait_for_dispatchers
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import find_ours, stages, wait_ready
from workload_generator.cluster.deploy.rollout import Progress, check, deploy, remove, title
from workload_generator.cluster.deploy.services import chosen, functions_of
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.commands.deploy_flags import (
    AUTOSCALER,
    NONE,
    WHAT,
    add_cluster,
    add_scaling,
    annotations_of,
    pair,
    parallelism,
    positive,
    registry,
    tag,
    wish_of,
)
from workload_generator.experiment.bundled import find_manifests
from workload_generator.experiment.yaml_lines import closest
from workload_generator.kube.client import Kube
from workload_generator.kube.names import NAME_LABEL, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import BROKERS, SERVICES, TRIGGERS, Object, name_of, namespace_of

_MOST_LINES = 20


def add_deploy(command: argparse.ArgumentParser) -> None:
    """The flags of `deploy`."""
    command.add_argument("what", nargs="*", metavar="PART|FUNCTION", help=WHAT + "; default: generator functions")
    add = command.add_argument
    add("--count", type=positive, metavar="N", help="copies of each function: <name>-0, <name>-1, …; default 1")
    add("--registry", type=registry, metavar="R", help="where the images are; default: the overlay's")
    add("--tag", type=tag, metavar="T", help="of the images; default: the manifests'")
    add_scaling(command, "")
    add("--overlay", metavar="NAME|DIR", help="kind, gce, … of the manifests' overlays, or a folder of your own")
    add("--component", action="append", default=[], metavar="NAME", help="one of the manifests' components; repeatable")
    add("--broker", choices=tuple(Broker), type=str, help="default: rabbitmq")
    add("--triggers", type=positive, metavar="N", help="receiver-0, receiver-1, …; default 1")
    add("--parallelism", type=parallelism, metavar="N", help="of each RabbitMQ trigger; default: the manifests'")
    add(
        "--dry-run",
        action="store_true",
        help="have the server check everything, say what would be done, change nothing",
    )
    add("--print", action="store_true", help="print the manifests as YAML, and ask no cluster")
    add_cluster(command, "10m", "until everything is ready")
    command.set_defaults(command=_deploy)


def add_delete(command: argparse.ArgumentParser) -> None:
    """The flags of `delete`."""
    command.add_argument("what", nargs="*", metavar="PART|FUNCTION", help=WHAT + "; default: all parts")
    add = command.add_argument
    add("--volumes", action="store_true", help="the volumes too, with the logs and events that are on them")
    add("--namespaces", action="store_true", help="the namespaces too, with everything that is in them")
    add("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    add_cluster(command, "10m", "until everything is gone")
    command.set_defaults(command=_delete)


def add_patch(command: argparse.ArgumentParser) -> None:
    """The flags of `patch`."""
    command.add_argument(
        "what", nargs="*", metavar="FUNCTION", help="a function, or one copy of it; default: all deployed"
    )
    add = command.add_argument
    add_scaling(command, f"; {NONE}: as if it had never been set")
    add("--parallelism", type=parallelism, metavar="N", help="of all RabbitMQ triggers that are deployed")
    add("--autoscaler", type=pair, action="append", default=[], metavar="KEY=VALUE", help=AUTOSCALER)
    add(
        "--dry-run", action="store_true", help="have the server check everything, say what would change, change nothing"
    )
    add_cluster(command, "10m", "until the new revisions are ready")
    command.set_defaults(command=_patch)


# Commands


def _root(options: argparse.Namespace) -> Path:
    root: Path = options.manifests or find_manifests()
    if not (root / "kustomization.yaml").is_file():
        raise UsageError(f"--manifests: {root} has no kustomization.yaml")
    return root


def _deploy(options: argparse.Namespace) -> int:
    wish, root = wish_of(options), _root(options)
    if options.print:
        objects = [obj for stage in stages(manifests(wish, root)) for obj in stage]
        sys.stdout.write(yaml.safe_dump_all(objects, sort_keys=False))
        return 0
    progress = _progress()

    async def go(kube: Kube) -> None:
        if options.dry_run:
            await check(kube, wish, root, progress)
            progress.say("nothing was changed")
            return
        done = await deploy(kube, wish, root, options.timeout / NS_PER_S, progress)
        changed = sum(each.outcome != "unchanged" for each in done)
        progress.say(f"{len(done)} objects are as asked for, {changed} of them were created or changed")

    return _with_kube(
        options, go, progress, "kn-bench deploy, as before, goes on from here; kn-bench delete takes it away"
    )


def _delete(options: argparse.Namespace) -> int:
    root = _root(options)
    parts = {Part(name) for name in options.what if name in tuple(Part)}
    names = tuple(name for name in options.what if name not in tuple(Part))
    if names and parts:
        raise UsageError(f"delete either parts or functions: {names[0]} is a function, {min(parts)} a part")
    if names:
        chosen(functions_of(render(root)), names)
        parts = {Part.FUNCTIONS}
        for flag in ("volumes", "namespaces"):
            if getattr(options, flag):
                raise UsageError(f"--{flag} is of whole parts, and {names[0]} is a function")
    progress = _progress()

    async def go(kube: Kube) -> None:
        gone = await remove(
            kube,
            parts or set(Part),
            names,
            root,
            options.timeout / NS_PER_S,
            progress,
            volumes=options.volumes,
            spaces=options.namespaces,
            dry_run=options.dry_run,
        )
        if options.dry_run:
            progress.say("nothing was changed")
        else:
            progress.say(f"{len(gone)} objects are gone" if gone else "there is nothing of it")

    return _with_kube(options, go, progress, "kn-bench delete, as before, goes on from here")


def _patch(options: argparse.Namespace) -> int:
    root = _root(options)
    annotations = {key: None if value == NONE else value for key, value in annotations_of(options).items()}
    values = tuning.of_service(options.container_concurrency, annotations)
    keys = {key: None if value == NONE else value for key, value in options.autoscaler}
    if options.what and not values:
        raise UsageError(f"{options.what[0]}: what is to change of it? --container-concurrency, --max-scale, …")
    if not values and not keys and options.parallelism is None:
        raise UsageError("what is to change? --container-concurrency, --max-scale, --parallelism, --autoscaler, …")
    progress = _progress()

    async def go(kube: Kube) -> None:
        changes: list[tuning.Change] = []
        if values:
            changes += tuning.plan(SERVICES, await _services(kube, root, options.what), values)
        triggers = await _triggers(kube, root) if options.parallelism is not None else []
        if triggers:
            changes += tuning.plan(TRIGGERS, triggers, tuning.of_trigger(options.parallelism))
        if keys:
            changes += await tuning.plan_autoscaler(kube, keys)
        for change in changes:
            progress.say(str(change))
        made = await tuning.make(kube, changes, dry_run=options.dry_run)
        if options.dry_run or not made:
            progress.say("nothing was changed" if options.dry_run else "everything is so already")
            return
        timeout_s = options.timeout / NS_PER_S
        await wait_ready(kube, made, timeout_s, progress.tell)
        wanted: dict[str, dict[str, str]] = {}
        for obj in made:
            if obj["kind"] == TRIGGERS.kind:
                wanted.setdefault(namespace_of(obj), {})[obj["metadata"]["uid"]] = str(options.parallelism)
        for namespace, uids in wanted.items():
            await wait_for_dispatchers(kube, namespace, uids, timeout_s)

    return _with_kube(
        options, go, progress, "what was changed stays so: kn-bench patch with the old values puts it back"
    )


async def _services(kube: Kube, root: Path, names: Sequence[str]) -> list[Object]:
    """The deployed functions of these names, or single Services. Raises UsageError for a name that is not deployed."""
    where = namespace_of_functions(root)
    found = await find_ours(kube, [SERVICES], [where], f"{PART_OF_LABEL}={PRODUCT}")
    known: dict[str, list[Object]] = {}
    for obj in found:
        known.setdefault(obj["metadata"]["labels"].get(NAME_LABEL, name_of(obj)), []).append(obj)
        known.setdefault(name_of(obj), []).append(obj)
    for name in names:
        if name not in known:
            near = closest(name, list(known))
            raise UsageError(
                f"{name} is not deployed in {where}"
                + (f"; did you mean {near}?" if near else f": {len(found)} services are")
            )
    if not found:
        raise UsageError(f"no function is deployed in {where}: kn-bench deploy functions")
    picked = {name_of(obj): obj for name in names for obj in known[name]} if names else {name_of(o): o for o in found}
    return list(picked.values())


async def _triggers(kube: Kube, root: Path) -> list[Object]:
    """The deployed triggers. Raises UsageError when there are none, or they have no parallelism."""
    where = namespaces(root)
    found = await find_ours(kube, [TRIGGERS], where, f"{PART_OF_LABEL}={PRODUCT}")
    if not found:
        raise UsageError("--parallelism: no trigger is deployed: kn-bench deploy eventing")
    for obj in found:
        broker = await kube.get(BROKERS, obj["spec"]["broker"], namespace_of(obj))
        if not is_rabbitmq(broker):
            raise UsageError(f"--parallelism: only RabbitMQ's triggers have one, and {title(broker)} is not RabbitMQ's")
    return found


def _progress() -> Progress:
    console = Console(highlight=False, markup=False)
    return Progress(lambda line: console.print(line, soft_wrap=True))


def _with_kube(
    options: argparse.Namespace, go: Callable[[Kube], Awaitable[None]], progress: Progress, advice: str
) -> int:
    """Run it on the cluster; the exit code. However it ends before its time, what was not done is said."""

    async def run() -> None:
        async with await Kube.connect(options.kubeconfig, options.context) as kube:
            await go(kube)

    try:
        run_to_end(run())
    except UsageError:
        raise
    except BenchError as error:
        sys.stderr.write(f"kn-bench: {error}\n")
        if progress.applied or progress.left:
            sys.stderr.write("\n".join([*_not_done(progress), advice, ""]))
        return error.exit_code
    except (KeyboardInterrupt, SystemExit):
        waiting = [f"not ready yet: {name}: {why}" for name, why in progress.waiting.items()]
        sys.stderr.write("\n".join(["kn-bench: interrupted", *waiting, *_not_done(progress), advice, ""]))
        raise
    return 0


def _not_done(progress: Progress) -> list[str]:
    lines = [f"not done: {title(obj)}" for obj in progress.left]
    return [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES + 1 else lines
