"""What `deploy`, `delete` and `patch` may be told: their flags, read into what is wished.

A reader takes a flag's text, and raises argparse.ArgumentTypeError.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.deployment import Broker, Part, Wish
from workload_generator.cluster.deploy.eventing import MOST_PARALLELISM
from workload_generator.cluster.deploy.services import Images, Tuning
from workload_generator.commands.flags import as_in_a_file
from workload_generator.experiment.field_kinds import duration, exact_number, positive_duration, positive_whole, whole
from workload_generator.experiment.yaml_lines import Scalar

NONE = "none"
"""What `patch` takes for a value that is to go."""
_CLASS = ".autoscaling.knative.dev"
_METRICS = {"concurrency": "kpa", "rps": "kpa", "cpu": "hpa", "memory": "hpa"}
_SCALING = ("metric", "target", "class", "min_scale", "max_scale", "window")
_LEAST_TARGET = Fraction(1, 100)
_WINDOW_S = (6, 3600)  # Knative's own limits, as for the target
_OF_EVENTING = ("broker", "triggers", "parallelism")
WHAT = f"{', '.join(Part)}, or a function of the catalog"
AUTOSCALER = f"of the ConfigMap config-autoscaler: stable-window=10s, or KEY={NONE} to take it out; repeatable"


def add_cluster(command: argparse.ArgumentParser, timeout: str, what: str) -> None:
    """Which cluster, which manifests, and how long to wait: `what` completes `--timeout`."""
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


def add_scaling(command: argparse.ArgumentParser, more: str) -> None:
    """Concurrency and autoscaling; `more` of the help is said where a value may be taken out (`NONE`)."""
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
        type=pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other annotation of autoscaling.knative.dev: initial-scale=0; repeatable",
    )


def positive(text: str) -> int:
    """1 or more."""
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


def parallelism(text: str) -> int:
    """Deliveries at a time of a RabbitMQ trigger."""
    number = positive(text)
    if number > MOST_PARALLELISM:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_PARALLELISM}, the broker's most")
    return number


def registry(text: str) -> str:
    """Where images are, without the slash at its end."""
    place = text.rstrip("/")
    if not place or place.strip() != place or "://" in place:
        raise argparse.ArgumentTypeError(f"{text!r} is no registry, such as europe-docker.pkg.dev/project/bench")
    return place


def tag(text: str) -> str:
    """An image's."""
    if not text or not text.replace("-", "").replace("_", "").replace(".", "").isalnum() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is no tag, such as 0.1.0")
    return text


def pair(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def annotations_of(options: argparse.Namespace) -> dict[str, str]:
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


def wish_of(options: argparse.Namespace) -> Wish:
    """What `deploy` is told. Raises UsageError for flags that contradict each other, or lead nowhere."""
    names = tuple(name for name in options.what if name not in tuple(Part))
    parts = {Part(name) for name in options.what if name in tuple(Part)}
    if names and Part.FUNCTIONS in parts:
        raise UsageError(f"functions are all of them: leave out either that or {names[0]}")
    if names:
        parts.add(Part.FUNCTIONS)
    if not options.what:
        parts = {Part.GENERATOR, Part.FUNCTIONS}
    annotations = annotations_of(options)
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
