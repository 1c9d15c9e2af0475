"""`kn-bench patch`: changes concurrency, autoscaling and parallelism of what is deployed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.deployment import namespace_of_functions, namespaces
from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.deploy.objects import find_ours, title, wait_ready
from workload_generator.cluster.deploy.rollout import RolloutProgress
from workload_generator.commands import deploy_flags
from workload_generator.commands.flags import add_dry_run, pair
from workload_generator.experiment.yaml_lines import did_you_mean
from workload_generator.kube.client import Kube
from workload_generator.kube.names import NAME_LABEL, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import BROKERS, SERVICES, TRIGGERS, Object, name_of, namespace_of


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("what", nargs="*", metavar="FUNCTION", help="a function, or one copy of it; default: all deployed")
    deploy_flags.add_scaling(command, removable=True)
    deploy_flags.add_parallelism(command, "deliveries at a time of each deployed RabbitMQ trigger")
    text = f"a key of config-autoscaler, such as stable-window=10s; {deploy_flags.NONE} removes it; repeatable"
    add("--autoscaler", type=pair, action="append", default=[], metavar="KEY=VALUE", help=text)
    add_dry_run(command, "let the server check everything, print what would change, and change nothing")
    deploy_flags.add_cluster(command, "the new revisions to be ready")


def run(options: argparse.Namespace) -> int:
    """Patch; returns the exit code. Raises BenchError."""
    root = deploy_flags.manifests_root(options)
    annotations = {key: _unless_none(text) for key, text in deploy_flags.annotations_of(options).items()}
    values = tuning.of_service(options.container_concurrency, annotations)
    keys = {key: _unless_none(text) for key, text in options.autoscaler}
    if options.what and not values:
        raise UsageError(f"{options.what[0]}: nothing to change: give --container-concurrency, --max-scale, …")
    if not values and not keys and options.parallelism is None:
        raise UsageError("nothing to change: give --container-concurrency, --max-scale, --parallelism, --autoscaler, …")

    async def change(kube: Kube, progress: RolloutProgress) -> None:
        changes: list[tuning.SettingChange] = []
        if values:
            changes += tuning.plan(SERVICES, await _services(kube, root, options.what), values)
        triggers = await _triggers(kube, root) if options.parallelism is not None else []
        if triggers:
            changes += tuning.plan(TRIGGERS, triggers, tuning.of_trigger(options.parallelism))
        if keys:
            changes += await tuning.plan_autoscaler(kube, keys)
        for each in changes:
            progress.say(str(each))
        await tuning.make(kube, changes, dry_run=True)  # the server refuses before anything is changed
        if options.dry_run or not changes:
            progress.say("nothing was changed" if options.dry_run else "nothing to change: all values are set already")
            return
        progress.left = [str(each) for each in changes]
        made: list[Object] = []
        for own in tuning.by_object(changes).values():
            made += await tuning.make(kube, own)
            for each in own:
                progress.did(f"changed {each}", str(each))
        await wait_ready(kube, made, options.timeout / NS_PER_S, progress.tell)

    return deploy_flags.change_cluster(options, change, "changes stay: kn-bench patch with the old values undoes them")


def _unless_none(text: str) -> str | None:
    return None if text == deploy_flags.NONE else text


async def _services(kube: Kube, root: Path, names: Sequence[str]) -> list[Object]:
    """The deployed functions of these names, or single Services. Raises UsageError for a name that is not deployed."""
    namespace = namespace_of_functions(root)
    deployed = await find_ours(kube, [SERVICES], [namespace], f"{PART_OF_LABEL}={PRODUCT}")
    by_name: dict[str, list[Object]] = {}
    for obj in deployed:
        by_name.setdefault(obj["metadata"]["labels"].get(NAME_LABEL, name_of(obj)), []).append(obj)
        by_name.setdefault(name_of(obj), []).append(obj)
    for name in names:
        if name not in by_name:
            hint = did_you_mean(name, by_name, f": {len(deployed)} services are")
            raise UsageError(f"{name} is not deployed in {namespace}{hint}")
    if not deployed:
        raise UsageError(f"no function is deployed in {namespace}: run kn-bench deploy functions")
    chosen = [obj for name in names for obj in by_name[name]] if names else deployed
    return list({name_of(obj): obj for obj in chosen}.values())


async def _triggers(kube: Kube, root: Path) -> list[Object]:
    """The deployed triggers. Raises UsageError when there are none, or they have no parallelism."""
    triggers = await find_ours(kube, [TRIGGERS], namespaces(root), f"{PART_OF_LABEL}={PRODUCT}")
    if not triggers:
        raise UsageError("--parallelism: no trigger is deployed: run kn-bench deploy eventing")
    for obj in triggers:
        broker = await kube.get(BROKERS, obj["spec"]["broker"], namespace_of(obj))
        if not is_rabbitmq(broker):
            raise UsageError(f"--parallelism: only RabbitMQ's triggers have one, not those of {title(broker)}")
    return triggers
