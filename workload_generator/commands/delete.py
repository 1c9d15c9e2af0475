"""`kn-bench delete`: deletes what `kn-bench deploy` created."""

from __future__ import annotations

import argparse

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.deployment import DeployPart
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import title
from workload_generator.cluster.deploy.rollout import RolloutProgress, find_deployed, remove
from workload_generator.cluster.deploy.services import chosen, functions_of
from workload_generator.commands.deploy_flags import (
    WHAT,
    add_cluster,
    change_cluster,
    manifests_root,
    parts_and_functions,
)
from workload_generator.commands.flags import add_dry_run
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import NAMESPACES, VOLUME_CLAIMS


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("what", nargs="*", metavar="PART|FUNCTION", help=WHAT + "; default: all parts")
    add("--volumes", action="store_true", help="delete the volumes too, with their logs and events")
    add("--namespaces", action="store_true", help="delete the namespaces too, with everything in them")
    add_dry_run(command, "print what would be deleted, and delete nothing")
    add_cluster(command, "everything to be gone")


def run(options: argparse.Namespace) -> int:
    """Delete; returns the exit code. Raises BenchError."""
    root = manifests_root(options)
    parts, names = parts_and_functions(options.what)
    if names and parts:
        raise UsageError(f"delete either parts or functions: {names[0]} is a function, {min(parts)} is a part")
    if names:
        chosen(functions_of(render(root)), names)
        parts = {DeployPart.FUNCTIONS}
        for flag in ("volumes", "namespaces"):
            if getattr(options, flag):
                raise UsageError(f"--{flag} works with whole parts, and {names[0]} is a function")

    async def change(kube: Kube, progress: RolloutProgress) -> None:
        more = [VOLUME_CLAIMS] if options.volumes or options.namespaces else []
        more += [NAMESPACES] if options.namespaces else []
        objects = await find_deployed(kube, parts or set(DeployPart), names, root, more)
        if options.dry_run:
            for obj in objects:
                progress.say(f"deleted    {title(obj)}")
            progress.say("nothing was changed")
            return
        await remove(kube, objects, options.timeout / NS_PER_S, progress)
        progress.say(f"{len(objects)} objects are gone" if objects else "nothing to delete")

    return change_cluster(options, change, "the same kn-bench delete resumes from here")
