"""What `deploy`, `delete` and `patch` share: their flags, and how a change that did not end is reported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from fractions import Fraction
from pathlib import Path

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import plain_printer
from workload_generator.cluster.deploy.deployment import DeployPart
from workload_generator.cluster.deploy.eventing import MOST_PARALLELISM
from workload_generator.cluster.deploy.rollout import RolloutProgress
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.paths import BURST_CAPACITY, PATHS
from workload_generator.commands.flags import add_kubeconfig, add_manifests, add_timeout, pair, value, whole_number
from workload_generator.experiment.bundled import find_manifests
from workload_generator.kube.client import Kube

NONE = "none"
"""The value with which `patch` removes a setting."""
WHAT = f"{', '.join(DeployPart)}, or a function of the catalog"
METRICS = {"concurrency": "kpa", "rps": "kpa", "cpu": "hpa", "memory": "hpa"}
"""Each metric with the class of autoscaler that knows it."""
SCALING = ("metric", "target", "class", "min_scale", "max_scale", "window", "path")
"""The flags that are annotations, by their names in `options`."""
_CLASS = ".autoscaling.knative.dev"
_LEAST_TARGET = Fraction(1, 100)
_WINDOW_S = (6, 3600)  # Knative's own limits, as for the target
_MOST_LINES = 20


def add_cluster(command: argparse.ArgumentParser, what: str) -> None:
    """Which cluster, which manifests, and how long to wait for `what`."""
    add_manifests(command)
    add_kubeconfig(command)
    add_timeout(command, "10m", what)


def add_scaling(command: argparse.ArgumentParser, *, removable: bool = False) -> None:
    """Concurrency and autoscaling; where they are `removable`, the value `NONE` removes a setting."""
    add = command.add_argument
    more, none = (f"; {NONE} removes it", (NONE,)) if removable else ("", ())

    def setting(read: Callable[[str], str]) -> Callable[[str], str]:
        return lambda text: text if text in none else read(text)

    add(
        "--container-concurrency",
        type=value("whole"),
        metavar="N",
        help="concurrent requests of an instance; 0: no limit",
    )
    add("--metric", choices=(*METRICS, *none), help="the metric to scale by")
    add("--target", type=setting(_target), metavar="X", help=f"the metric's target per instance{more}")
    add("--class", choices=("kpa", "hpa", *none), help="Knative's autoscaler, or Kubernetes'")
    add("--min-scale", type=setting(_scale), metavar="N", help=f"least number of instances{more}")
    add("--max-scale", type=setting(_scale), metavar="N", help=f"largest number of instances, 0: no limit{more}")
    add("--window", type=setting(_window), metavar="D", help=f"the stable window, 6s to 1h{more}")
    text = f"requests always through the activator, or direct to the pods while there are any{more}"
    add("--path", choices=(*PATHS, *none), help=text)
    text = "another annotation of autoscaling.knative.dev, such as initial-scale=0; repeatable"
    add("--annotation", type=pair, action="append", default=[], metavar="KEY=VALUE", help=text)


def add_parallelism(command: argparse.ArgumentParser, text: str) -> None:
    """--parallelism: concurrent deliveries of a RabbitMQ trigger."""
    command.add_argument("--parallelism", type=whole_number(1, MOST_PARALLELISM), metavar="N", help=text)


def _scale(text: str) -> str:
    return str(value("whole")(text))


def _target(text: str) -> str:
    if value("exact_number")(text) < _LEAST_TARGET:
        raise argparse.ArgumentTypeError(f"{text} is less than 0.01, Knative's minimum")
    return text


def _window(text: str) -> str:
    seconds, rest = divmod(value("duration")(text), NS_PER_S)
    if rest or not _WINDOW_S[0] <= seconds <= _WINDOW_S[1]:
        raise argparse.ArgumentTypeError(f"{text} is not a valid window: whole seconds, from 6s to 1h")
    return text


def parts_and_functions(words: Sequence[str]) -> tuple[set[DeployPart], tuple[str, ...]]:
    """The parts and the names of functions among the arguments."""
    parts = {DeployPart(word) for word in words if word in tuple(DeployPart)}
    return parts, tuple(word for word in words if word not in tuple(DeployPart))


def manifests_root(options: argparse.Namespace) -> Path:
    """The folder of the manifests. Raises UsageError when it is not one."""
    root: Path = options.manifests or find_manifests()
    if not (root / "kustomization.yaml").is_file():
        raise UsageError(f"--manifests: {root} has no kustomization.yaml")
    return root


def annotations_of(options: argparse.Namespace) -> dict[str, str]:
    """The autoscaling annotations that the flags set. Raises UsageError for flags that contradict each other."""
    given = {name.replace("_", "-"): getattr(options, name) for name in SCALING if getattr(options, name) is not None}
    for key, content in options.annotation:
        if key in given or key.replace("-", "_") in SCALING:
            raise UsageError(f"--annotation {key}={content}: use --{key}")
        given[key] = content
    if "path" in given:
        if BURST_CAPACITY in given:
            raise UsageError(f"--annotation {BURST_CAPACITY}: --path sets it")
        given[BURST_CAPACITY] = PATHS.get(given.pop("path"), NONE)
    least, most = given.get("min-scale", NONE), given.get("max-scale", NONE)
    if NONE not in (least, most) and 0 < int(most) < int(least):
        raise UsageError(f"--min-scale {least} is more than --max-scale {most}")
    kind = given.get("class")
    if kind not in (None, NONE):
        needed = METRICS.get(given.get("metric", ""), kind)
        if needed != kind:
            raise UsageError(f"--metric: {given['metric']} needs --class {needed}")
        given["class"] = kind + _CLASS
    return given


def change_cluster(
    options: argparse.Namespace, change: Callable[[Kube, RolloutProgress], Awaitable[None]], advice: str
) -> int:
    """Run the change; returns the exit code. When it does not end, what was done and what was not is printed."""
    progress = RolloutProgress(plain_printer())

    async def run() -> None:
        async with await Kube.connect(options.kubeconfig, options.context) as kube:
            await change(kube, progress)

    try:
        run_to_end(run())
    except BenchError as error:
        if progress.done or progress.left:
            error.args = ("\n".join([str(error), *_account(progress), advice]),)
        raise
    except (KeyboardInterrupt, SystemExit):
        waiting = [f"waiting for {name}: {why}" for name, why in progress.waiting.items()]
        sys.stderr.write("\n".join(["kn-bench: interrupted", *waiting, *_account(progress), advice, ""]))
        raise
    return ExitCode.OK


def _account(progress: RolloutProgress) -> list[str]:
    """What was done and what was not."""
    account = []
    for word, each in (("done", progress.done), ("not done", progress.left)):
        account += [f"{word}: {text}" for text in each[:_MOST_LINES]]
        if len(each) > _MOST_LINES:
            account.append(f"{word}: {len(each) - _MOST_LINES} more")
    return account
