"""`kn-bench deploy|delete|patch`: what is measured, and what measures it, put into a cluster, changed and removed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from workload_generator.bundled import find_manifests
from workload_generator.clock import NS_PER_S
from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.deployment import (
    Broker,
    Part,
    Wish,
    manifests,
    namespace_of_functions,
    namespaces,
)
from workload_generator.cluster.deploy.eventing import MOST_PARALLELISM, is_rabbitmq, wait_for_dispatchers
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import PART_OF, PRODUCT, find_ours, stages, wait_ready
from workload_generator.cluster.deploy.rollout import Progress, check, deploy, remove, title
from workload_generator.cluster.deploy.services import FUNCTION_LABEL, Images, Tuning, chosen, functions_of
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.document import Scalar, closest
from workload_generator.errors import BenchError, UsageError
from workload_generator.flags import as_in_a_file
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import BROKERS, SERVICES, TRIGGERS, Object, name_of, namespace_of
from workload_generator.values import duration, exact_number, positive_duration, positive_whole, whole

NONE = "none"
"""What `patch` takes for a value that is to go."""
_CLASS = ".autoscaling.knative.dev"
_METRICS = {"concurrency": "kpa", "rps": "kpa", "cpu": "hpa", "memory": "hpa"}
_SCALING = ("metric", "target", "class", "min_scale", "max_scale", "window")
_LEAST_TARGET = Fraction(1, 100)
_MOST_LINES = 20
_WINDOW_S = (6, 3600)  # Knative's own limits, as for the target


def add_deploy_commands(commands: Any) -> None:
    """`deploy`, `delete` and `patch` with their flags."""
    command = commands.add_parser(
        "deploy", help="functions, the generator, eventing into a cluster, until they are ready"
    )
    command.add_argument("what", nargs="*", metavar="PART|FUNCTION", help=_WHAT + "; default: generator functions")
    add = command.add_argument
    add("--count", type=_positive, metavar="N", help="copies of each function: <name>-0, <name>-1, …; default 1")
    add("--registry", type=_registry, metavar="R", help="where the images are; default: the overlay's")
    add("--tag", type=_tag, metavar="T", help="of the images; default: the manifests'")
    _add_scaling(command, "")
    add("--overlay", metavar="NAME|DIR", help="kind, gce, … of the manifests' overlays, or a folder of your own")
    add("--component", action="append", default=[], metavar="NAME", help="one of the manifests' components; repeatable")
    add("--broker", choices=tuple(Broker), type=str, help="default: rabbitmq")
    add("--triggers", type=_positive, metavar="N", help="receiver-0, receiver-1, …; default 1")
    add("--parallelism", type=_parallelism, metavar="N", help="of each RabbitMQ trigger; default: the manifests'")
    add(
        "--dry-run",
        action="store_true",
        help="have the server check everything, say what would be done, change nothing",
    )
    add("--print", action="store_true", help="print the manifests as YAML, and ask no cluster")
    _add_cluster(command, "10m", "until everything is ready")
    command.set_defaults(command=_deploy)

    command = commands.add_parser("delete", help="what deploy made out of a cluster, until it is gone")
    command.add_argument("what", nargs="*", metavar="PART|FUNCTION", help=_WHAT + "; default: all parts")
    add = command.add_argument
    add("--volumes", action="store_true", help="the volumes too, with the logs and events that are on them")
    add("--namespaces", action="store_true", help="the namespaces too, with everything that is in them")
    add("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    _add_cluster(command, "10m", "until everything is gone")
    command.set_defaults(command=_delete)

    command = commands.add_parser("patch", help="change concurrency, autoscaling, parallelism of what is deployed")
    command.add_argument(
        "what", nargs="*", metavar="FUNCTION", help="a function, or one copy of it; default: all deployed"
    )
    add = command.add_argument
    _add_scaling(command, f"; {NONE}: as if it had never been set")
    add("--parallelism", type=_parallelism, metavar="N", help="of all RabbitMQ triggers that are deployed")
    add("--autoscaler", type=_pair, action="append", default=[], metavar="KEY=VALUE", help=_AUTOSCALER)
    add(
        "--dry-run", action="store_true", help="have the server check everything, say what would change, change nothing"
    )
    _add_cluster(command, "10m", "until the new revisions are ready")
    command.set_defaults(command=_patch)


_WHAT = f"{', '.join(Part)}, or a function of the catalog"
_AUTOSCALER = f"of the ConfigMap config-autoscaler: stable-window=10s, or KEY={NONE} to take it out; repeatable"


def _add_cluster(command: argparse.ArgumentParser, timeout: str, what: str) -> None:
    command.add_argument("--manifests", type=Path, metavar="DIR", help="the folder k8s/; default: the installed one")
    command.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl finds it")
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    command.add_argument(
        "--timeout",
        type=as_in_a_file(positive_duration),
        default=positive_duration(Scalar(timeout)),
        metavar="D",
        help=f"{what}; default {timeout}",
    )


def _add_scaling(command: argparse.ArgumentParser, more: str) -> None:
    add = command.add_argument
    optional = bool(more)
    add("--container-concurrency", type=_whole, metavar="N", help="requests at a time in an instance; 0: no limit")
    metrics = (*_METRICS, *([NONE] if optional else []))
    add("--metric", choices=metrics, help="what is scaled by")
    add("--target", type=_or_none(_target, optional), metavar="X", help="of the metric, for each instance" + more)
    add("--class", choices=("kpa", "hpa", *([NONE] if optional else [])), help="Knative's autoscaler, or Kubernetes'")
    add("--min-scale", type=_or_none(_scale, optional), metavar="N", help="instances at least" + more)
    add("--max-scale", type=_or_none(_scale, optional), metavar="N", help="instances at most, 0: no limit" + more)
    add("--window", type=_or_none(_window, optional), metavar="D", help="the stable window, 6s to 1h" + more)
    add(
        "--annotation",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other annotation of autoscaling.knative.dev: initial-scale=0; repeatable",
    )


# Flags


def _positive(text: str) -> int:
    return as_in_a_file(positive_whole)(text)


def _whole(text: str) -> int:
    return as_in_a_file(whole)(text)


def _or_none(read: Callable[[str], str], optional: bool) -> Callable[[str], str]:
    return lambda text: text if optional and text == NONE else read(text)


def _scale(text: str) -> str:
    return str(_whole(text))


def _target(text: str) -> str:
    if as_in_a_file(exact_number)(text) < _LEAST_TARGET:
        raise argparse.ArgumentTypeError(f"{text} is less than 0.01, Knative's least")
    return text


def _window(text: str) -> str:
    duration_ns = as_in_a_file(duration)(text)
    seconds, rest = divmod(duration_ns, NS_PER_S)
    if rest or not _WINDOW_S[0] <= seconds <= _WINDOW_S[1]:
        raise argparse.ArgumentTypeError(f"{text} is no window: whole seconds, from 6s to 1h")
    return text


def _parallelism(text: str) -> int:
    number = _positive(text)
    if number > MOST_PARALLELISM:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_PARALLELISM}, the broker's most")
    return number


def _registry(text: str) -> str:
    place = text.rstrip("/")
    if not place or place.strip() != place or "://" in place:
        raise argparse.ArgumentTypeError(f"{text!r} is no registry, such as europe-docker.pkg.dev/project/bench")
    return place


def _tag(text: str) -> str:
    if not text or not text.replace("-", "").replace("_", "").replace(".", "").isalnum() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is no tag, such as 0.1.0")
    return text


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _annotations(options: argparse.Namespace) -> dict[str, str]:
    """The autoscaling annotations that the flags say. Raises UsageError for flags that contradict each other."""
    given = {name.replace("_", "-"): getattr(options, name) for name in _SCALING if getattr(options, name) is not None}
    for key, value in options.annotation:
        if key in given or any(key == name.replace("_", "-") for name in _SCALING):
            raise UsageError(f"--annotation {key}={value}: --{key} says that")
        given[key] = value
    least, most = given.get("min-scale", NONE), given.get("max-scale", NONE)
    if NONE not in (least, most) and 0 < int(most) < int(least):
        raise UsageError(f"--min-scale: {least} is more than --max-scale, {most}")
    kind = given.get("class")
    if kind not in (None, NONE):
        needed = _METRICS.get(given.get("metric", ""), kind)
        if needed != kind:
            raise UsageError(f"--metric: {given['metric']} needs --class {needed}")
        given["class"] = kind + _CLASS
    return given


def _wish(options: argparse.Namespace) -> Wish:
    names = tuple(name for name in options.what if name not in tuple(Part))
    parts = {Part(name) for name in options.what if name in tuple(Part)}
    if names and Part.FUNCTIONS in parts:
        raise UsageError(f"functions are all of them: leave out either that or {names[0]}")
    if names:
        parts.add(Part.FUNCTIONS)
    if not options.what:
        parts = {Part.GENERATOR, Part.FUNCTIONS}
    annotations = _annotations(options)
    if _METRICS.get(annotations.get("metric", ""), "kpa") == "hpa" and "class" not in annotations:
        raise UsageError(f"--metric: {annotations['metric']} needs --class hpa")
    for flags, part in ((("count", "container_concurrency", *_SCALING), Part.FUNCTIONS), (_OF_EVENTING, Part.EVENTING)):
        for name in flags:
            if getattr(options, name) is not None and part not in parts:
                raise UsageError(f"--{name.replace('_', '-')} is of {part}, which are not deployed here: name them")
    if options.annotation and Part.FUNCTIONS not in parts:
        raise UsageError("--annotation is of functions, which are not deployed here: name them")
    return Wish(
        frozenset(parts),
        names,
        options.count or 1,
        Tuning(options.container_concurrency, annotations),
        Images(options.registry, options.tag),
        options.overlay,
        tuple(options.component),
        Broker(options.broker or Broker.RABBITMQ),
        options.triggers,
        options.parallelism,
    )


_OF_EVENTING = ("broker", "triggers", "parallelism")


# Commands


def _root(options: argparse.Namespace) -> Path:
    root: Path = options.manifests or find_manifests()
    if not (root / "kustomization.yaml").is_file():
        raise UsageError(f"--manifests: {root} has no kustomization.yaml")
    return root


def _deploy(options: argparse.Namespace) -> int:
    wish, root = _wish(options), _root(options)
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
    annotations = {key: None if value == NONE else value for key, value in _annotations(options).items()}
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
    found = await find_ours(kube, [SERVICES], [where], f"{PART_OF}={PRODUCT}")
    known: dict[str, list[Object]] = {}
    for obj in found:
        known.setdefault(obj["metadata"]["labels"].get(FUNCTION_LABEL, name_of(obj)), []).append(obj)
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
    found = await find_ours(kube, [TRIGGERS], where, f"{PART_OF}={PRODUCT}")
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
