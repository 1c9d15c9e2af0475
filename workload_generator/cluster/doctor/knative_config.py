"""The values that Knative accepts for the keys of its ConfigMaps.

Knative ignores unknown keys, and replaces some values that it cannot parse by defaults: in a measurement neither shows
except as a strange result. The keys of a release, and the kinds of their values, are in the ConfigMap's own `_example`;
RULES has what an example does not show. Source: config/core/configmaps of knative/serving (and its parsers) and of
knative/eventing, config-network of knative/networking, observability of knative/pkg.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import yaml

from workload_generator.base.clock import NS_PER_S, format_duration, parse_duration
from workload_generator.base.quantities import parse_quantity
from workload_generator.kube.names import CONFIG_AUTOSCALER, KNATIVE_EVENTING, KNATIVE_SERVING

Parser = Callable[[str], None]
"""Raises ValueError, whose text follows the key: "is 5s, …"."""

EXAMPLE = "_example"
_HIGHEST = 2**31 - 1


def anything(_text: str) -> None:
    """Any text."""


def is_true(text: str) -> bool:
    """As Go's strconv.ParseBool, in any case."""
    return text.strip().casefold() in ("true", "t", "1")


def number(low: float, high: float = float("inf"), *, whole: bool = False, also: float | None = None) -> Parser:
    """A number from `low` to `high`, or `also`."""

    def parse(text: str) -> None:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise ValueError(f"is {text!r}: expected a {'whole ' if whole else ''}number") from None
        if not low <= value <= high and value != also:
            most = f" and at most {high:g}" if high != float("inf") else ""
            raise ValueError(f"is {text}: it must be at least {low:g}{most}")

    return parse


def duration(low_s: int = 0, high_s: int | None = None, *, whole: bool = False) -> Parser:
    """A Go duration from `low_s` to `high_s` seconds."""

    def parse(text: str) -> None:
        try:
            value = parse_duration(text)
        except ValueError as error:
            raise ValueError(f"is not valid: {error}") from None
        if value < low_s * NS_PER_S or (high_s is not None and value > high_s * NS_PER_S):
            most = "" if high_s is None else f" and at most {format_duration(high_s * NS_PER_S)}"
            raise ValueError(f"is {text}: it must be at least {low_s}s{most}")
        if whole and value % NS_PER_S:
            raise ValueError(f"is {text}: it must be in whole seconds")

    return parse


def one_of(*options: str) -> Parser:
    """One of these words, in any case."""

    def parse(text: str) -> None:
        if text.strip().casefold() not in options:
            raise ValueError(f"is {text!r}: expected one of {', '.join(options)}")

    return parse


def quantity(text: str) -> None:
    """An amount of CPU or memory."""
    try:
        parse_quantity(text.strip())
    except ValueError as error:
        raise ValueError(f"is not valid: {error}") from None


def domain(text: str) -> None:
    """A value of config-domain: empty, or a selector."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"is {text!r}: expected nothing or a selector")
    selector = (value or {}).get("selector")
    if selector is not None and not (
        isinstance(selector, dict) and all(isinstance(each, str) for each in selector.values())
    ):
        raise ValueError("has a selector that is not a map of labels")


def _each(parser: Parser, keys: str) -> dict[str, Parser]:
    return dict.fromkeys(keys.split(), parser)


Config = tuple[str, str]
"""Namespace and name of a ConfigMap."""
AUTOSCALER: Config = (KNATIVE_SERVING, CONFIG_AUTOSCALER)
DEFAULTS: Config = (KNATIVE_SERVING, "config-defaults")
FEATURES: Config = (KNATIVE_SERVING, "config-features")
NETWORK: Config = (KNATIVE_SERVING, "config-network")
OBSERVABILITY: Config = (KNATIVE_SERVING, "config-observability")
DEPLOYMENT: Config = (KNATIVE_SERVING, "config-deployment")
DOMAIN: Config = (KNATIVE_SERVING, "config-domain")
"""Its keys are domains."""
EVENTING_OBSERVABILITY: Config = (KNATIVE_EVENTING, "config-observability")
EVENTING_FEATURES: Config = (KNATIVE_EVENTING, "config-features")
"""Any key is a feature to it."""

boolean = one_of("true", "false", "t", "f", "1", "0")
_whole = number(0, _HIGHEST, whole=True)
_on_off = one_of("enabled", "disabled")
_FEATURE = one_of("enabled", "disabled", "allowed")
_METRICS = {
    **_each(anything, "metrics-endpoint tracing-endpoint"),
    "metrics-protocol": one_of("none", "prometheus", "http/protobuf", "grpc"),
    "metrics-export-interval": duration(),
    "runtime-profiling": _on_off,
    "tracing-protocol": one_of("none", "http/protobuf", "grpc", "stdout"),
    "tracing-sampling-rate": number(0, 1),
}

RULES: Mapping[Config, Mapping[str, Parser]] = {
    AUTOSCALER: {
        **_each(boolean, "enable-scale-to-zero allow-zero-initial-scale"),
        **_each(duration(), "scale-to-zero-grace-period scale-to-zero-pod-retention-period"),
        **_each(_whole, "initial-scale min-scale max-scale max-scale-limit"),
        **_each(number(0.01), "container-concurrency-target-default requests-per-second-target-default"),
        **_each(number(1.0000001), "max-scale-up-rate max-scale-down-rate"),
        "container-concurrency-target-percentage": number(0.01, 100),
        "target-burst-capacity": number(0, also=-1),
        "stable-window": duration(6, 3600, whole=True),
        "panic-window-percentage": number(1, 100),
        "pod-autoscaler-class": anything,
        "activator-capacity": number(1),
        "scale-down-delay": duration(whole=True),
    },
    DEFAULTS: {
        **_each(
            _whole,
            "container-concurrency revision-timeout-seconds max-revision-timeout-seconds "
            "revision-response-start-timeout-seconds revision-idle-timeout-seconds",
        ),
        "container-concurrency-max-limit": number(1, _HIGHEST, whole=True),
        "enable-service-links": one_of("true", "false", "default"),
    },
    FEATURES: {"secure-pod-defaults": one_of("disabled", "allowrootbounded", "enabled")},
    NETWORK: {
        "ingress-class": anything,
        "http-protocol": one_of("enabled", "redirected", "disabled"),
        "rollout-duration": _whole,
        "mesh-compatibility-mode": one_of("auto", "enabled", "disabled"),
        "default-external-scheme": one_of("http", "https"),
    },
    OBSERVABILITY: {
        **_METRICS,
        **{f"request-{key}": parser for key, parser in _METRICS.items() if key.startswith("metrics-")},
    },
    DEPLOYMENT: {
        **_each(anything, "queue-sidecar-image registries-skipping-tag-resolving"),
        "progress-deadline": duration(1),
        "default-affinity-type": one_of("none", "prefer-spread-revision-over-nodes"),
    },
    EVENTING_OBSERVABILITY: _METRICS,
}
"""For keys of which an example shows too little, and for those that the checks calculate with."""
HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

METRICS_MOVED = 19
"""Since 1.19 Knative exports metrics by OpenTelemetry: only when configured, and under other keys."""
OLD_METRICS: Mapping[str, str] = {
    # The replacement; empty when there is none.
    "metrics.backend-destination": "metrics-protocol: prometheus",
    "metrics.request-metrics-backend-destination": "request-metrics-protocol: prometheus",
    "metrics.reporting-period-seconds": "metrics-export-interval",
    "metrics.request-metrics-reporting-period-seconds": "request-metrics-export-interval",
    "metrics.opencensus-address": "metrics-endpoint",
    "metrics.stackdriver-project-id": "",
    "metrics.allow-stackdriver-custom-metrics": "",
    "profiling.enable": "runtime-profiling",
}
_RENAMED = {"clusteringress.class": "ingress-class", "internal-encryption": "system-internal-tls"}


def parsers(config: Config, example: str) -> dict[str, Parser]:
    """The parser of each key, from RULES and the ConfigMap's `_example`; of RULES only if that is not valid YAML."""
    try:
        document = yaml.load(example, yaml.BaseLoader)  # all values as text
    except yaml.YAMLError:
        document = None
    shown = document if isinstance(document, dict) else {}
    return {**{key: _like(config, key, value) for key, value in shown.items()}, **RULES.get(config, {})}


def _like(config: Config, key: str, example: object) -> Parser:
    """The parser for values of the same kind as the example."""
    if key.endswith(("-request", "-limit")):
        return quantity
    for parser in (_whole, number(0), boolean, _FEATURE if config == FEATURES else _on_off, duration()):
        try:
            parser(str(example))
        except ValueError:
            continue
        return parser
    return anything


def modern(key: str) -> str:
    """The present spelling of a key, of which newer releases ignore the old one: `domainTemplate`, `ingress.class`."""
    return _RENAMED.get(key) or re.sub(r"\.|(?<=[a-z])(?=[A-Z])", "-", key).lower()
