"""The ConfigMaps of Knative: their keys, and what may stand in them.

Knative ignores what it does not know, and takes the default for some of what it cannot read: neither shows in a
measurement but as a strange figure. Source: config/core/configmaps of knative/serving (and its parsers) and of
knative/eventing, config-network of knative/networking, observability of knative/pkg. A release's own keys stand in its
ConfigMaps under `_example`, and are known too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import yaml

from workload_generator.base.clock import NS_PER_S, format_duration, parse_duration
from workload_generator.base.quantities import parse_quantity
from workload_generator.kube.names import CONFIG_AUTOSCALER, KNATIVE_EVENTING, KNATIVE_SERVING

Parser = Callable[[str], None]
"""Raises ValueError, whose text completes "key ..."."""

EXAMPLE = "_example"
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_HIGHEST = 2**31 - 1


def anything(_text: str) -> None:
    """Any text."""


def is_true(text: str) -> bool:
    """As Go's strconv.ParseBool reads it, and without regard to upper case."""
    return text.strip().casefold() in _TRUE


def boolean(text: str) -> None:
    """true or false."""
    if text.strip().casefold() not in (*_TRUE, *_FALSE):
        raise ValueError(f"is {text!r}: neither true nor false")


def number(low: float, high: float = float("inf"), *, whole: bool = False, also: float | None = None) -> Parser:
    """A number from `low` to `high`, or `also`."""

    def parse(text: str) -> None:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise ValueError(f"is {text!r}, which is no {'whole ' if whole else ''}number") from None
        if not low <= value <= high and value != also:
            most = f" and at most {high:g}" if high != float("inf") else ""
            raise ValueError(f"is {text}, and has to be at least {low:g}{most}")

    return parse


def duration(low_s: int = 0, high_s: int | None = None, *, whole: bool = False) -> Parser:
    """A Go duration from `low_s` to `high_s` seconds."""

    def parse(text: str) -> None:
        try:
            value = parse_duration(text)
        except ValueError as error:
            raise ValueError(f"does not parse: {error}") from None
        if value < low_s * NS_PER_S or (high_s is not None and value > high_s * NS_PER_S):
            most = "" if high_s is None else f" and at most {format_duration(high_s * NS_PER_S)}"
            raise ValueError(f"is {text}, and has to be at least {low_s}s{most}")
        if whole and value % NS_PER_S:
            raise ValueError(f"is {text}, and has to be in whole seconds")

    return parse


def one_of(*options: str) -> Parser:
    """One of these words, without regard to upper case."""

    def parse(text: str) -> None:
        if text.strip().casefold() not in options:
            raise ValueError(f"is {text!r}, which is none of {', '.join(options)}")

    return parse


def quantity(text: str) -> None:
    """An amount of CPU or memory."""
    try:
        parse_quantity(text.strip())
    except ValueError as error:
        raise ValueError(f"does not parse: {error}") from None


def domain(text: str) -> None:
    """A value of config-domain: nothing, or a selector."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"does not parse: {' '.join(str(error).split())}") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"is {text!r}, and has to be empty or a selector")
    selector = (value or {}).get("selector")
    if selector is not None and not (
        isinstance(selector, dict) and all(isinstance(each, str) for each in selector.values())
    ):
        raise ValueError("has a selector that is no map of labels")


_flag = one_of("enabled", "disabled", "allowed")
_on_off = one_of("enabled", "disabled")
_seconds = number(0, _HIGHEST, whole=True)
_scale = number(0, _HIGHEST, whole=True)
_FEATURES = (
    "multi-container", "multi-container-probing", "kubernetes.podspec-affinity",
    "kubernetes.podspec-topologyspreadconstraints", "kubernetes.podspec-hostaliases", "kubernetes.podspec-nodeselector",
    "kubernetes.podspec-tolerations", "kubernetes.podspec-fieldref", "kubernetes.podspec-runtimeclassname",
    "kubernetes.podspec-dnspolicy", "kubernetes.podspec-dnsconfig", "kubernetes.podspec-securitycontext",
    "kubernetes.podspec-shareprocessnamespace", "kubernetes.podspec-hostipc", "kubernetes.podspec-hostpid",
    "kubernetes.podspec-hostnetwork", "kubernetes.podspec-priorityclassname", "kubernetes.podspec-schedulername",
    "kubernetes.containerspec-addcapabilities", "tag-header-based-routing", "autodetect-http2",
    "domainmapping-direct-route-traffic", "kubernetes.podspec-volumes-emptydir", "kubernetes.podspec-volumes-image",
    "kubernetes.podspec-volumes-hostpath", "kubernetes.podspec-volumes-ephemeral", "kubernetes.podspec-volumes-csi",
    "kubernetes.podspec-init-containers", "kubernetes.podspec-persistent-volume-claim",
    "kubernetes.podspec-persistent-volume-write", "kubernetes.podspec-volumes-mount-propagation",
    "queueproxy.mount-podinfo", "queueproxy.resource-defaults",
)  # fmt: skip
_METRICS: Mapping[str, Parser] = {
    "metrics-protocol": one_of("none", "prometheus", "http/protobuf", "grpc"),
    "metrics-endpoint": anything,
    "metrics-export-interval": duration(),
    "runtime-profiling": _on_off,
    "tracing-protocol": one_of("none", "http/protobuf", "grpc", "stdout"),
    "tracing-endpoint": anything,
    "tracing-sampling-rate": number(0, 1),
}
_SIDECAR = {
    f"queue-sidecar-{kind}-{end}": quantity
    for kind in ("cpu", "memory", "ephemeral-storage")
    for end in ("request", "limit")
}

KEYS: Mapping[tuple[str, str], Mapping[str, Parser]] = {
    (KNATIVE_SERVING, CONFIG_AUTOSCALER): {
        "container-concurrency-target-percentage": number(0.01, 100),
        "container-concurrency-target-default": number(0.01),
        "requests-per-second-target-default": number(0.01),
        "target-burst-capacity": number(0, also=-1),
        "stable-window": duration(6, 3600, whole=True),
        "panic-window-percentage": number(1, 100),
        "panic-threshold-percentage": number(0),
        "max-scale-up-rate": number(1.0000001),
        "max-scale-down-rate": number(1.0000001),
        "enable-scale-to-zero": boolean,
        "scale-to-zero-grace-period": duration(0),
        "scale-to-zero-pod-retention-period": duration(0),
        "pod-autoscaler-class": anything,
        "activator-capacity": number(1),
        "initial-scale": _scale,
        "allow-zero-initial-scale": boolean,
        "min-scale": _scale,
        "max-scale": _scale,
        "max-scale-limit": _scale,
        "scale-down-delay": duration(0, whole=True),
    },
    (KNATIVE_SERVING, "config-defaults"): {
        "revision-timeout-seconds": _seconds,
        "max-revision-timeout-seconds": _seconds,
        "revision-response-start-timeout-seconds": _seconds,
        "revision-idle-timeout-seconds": _seconds,
        "revision-cpu-request": quantity,
        "revision-memory-request": quantity,
        "revision-ephemeral-storage-request": quantity,
        "revision-cpu-limit": quantity,
        "revision-memory-limit": quantity,
        "revision-ephemeral-storage-limit": quantity,
        "container-name-template": anything,
        "init-container-name-template": anything,
        "container-concurrency": _scale,
        "container-concurrency-max-limit": number(1, _HIGHEST, whole=True),
        "allow-container-concurrency-zero": boolean,
        "enable-service-links": one_of("true", "false", "default"),
    },
    (KNATIVE_SERVING, "config-features"): {
        **dict.fromkeys(_FEATURES, _flag),
        "secure-pod-defaults": one_of("disabled", "allowrootbounded", "enabled"),
    },
    (KNATIVE_SERVING, "config-network"): {
        "ingress-class": anything,
        "certificate-class": anything,
        "namespace-wildcard-cert-selector": anything,
        "domain-template": anything,
        "tag-template": anything,
        "auto-tls": _on_off,
        "external-domain-tls": _on_off,
        "cluster-local-domain-tls": _on_off,
        "system-internal-tls": _on_off,
        "http-protocol": one_of("enabled", "redirected", "disabled"),
        "rollout-duration": _seconds,
        "autocreate-cluster-domain-claims": boolean,
        "enable-mesh-pod-addressability": boolean,
        "mesh-compatibility-mode": one_of("auto", "enabled", "disabled"),
        "default-external-scheme": one_of("http", "https"),
    },
    (KNATIVE_SERVING, "config-observability"): {
        **_METRICS,
        **{f"request-{key}": parser for key, parser in _METRICS.items() if key.startswith("metrics-")},
        "logging.enable-var-log-collection": boolean,
        "logging.revision-url-template": anything,
        "logging.request-log-template": anything,
        "logging.enable-request-log": boolean,
        "logging.enable-probe-request-log": boolean,
    },
    (KNATIVE_SERVING, "config-deployment"): {
        **_SIDECAR,
        "queue-sidecar-image": anything,
        "queue-sidecar-token-audiences": anything,
        "queue-sidecar-rootca": anything,
        "queue-sidecar-tls-min-version": anything,
        "queue-sidecar-tls-max-version": anything,
        "queue-sidecar-tls-cipher-suites": anything,
        "queue-sidecar-tls-curve-preferences": anything,
        "registries-skipping-tag-resolving": anything,
        "digest-resolution-timeout": duration(0),
        "progress-deadline": duration(1),
        "default-affinity-type": one_of("none", "prefer-spread-revision-over-nodes"),
        "runtime-class-name": anything,
        "pod-is-always-schedulable": boolean,
    },
    (KNATIVE_EVENTING, "config-observability"): {
        **_METRICS,
        "metrics.high-cardinality.disable": boolean,
        "sink-event-error-reporting.enable": boolean,
    },
}
DOMAIN = (KNATIVE_SERVING, "config-domain")
"""Its keys are domains."""
EVENTING_FEATURES = (KNATIVE_EVENTING, "config-features")
"""Its keys stand in the release's ConfigMap itself."""
HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

METRICS_MOVED = 19
"""Knative 1.19 exports metrics by OpenTelemetry, only when asked to, and under other keys."""
OLD_METRICS: Mapping[str, str] = {
    # What replaces it; nothing does, where it is empty.
    "metrics.backend-destination": "metrics-protocol: prometheus",
    "metrics.request-metrics-backend-destination": "request-metrics-protocol: prometheus",
    "metrics.reporting-period-seconds": "metrics-export-interval",
    "metrics.request-metrics-reporting-period-seconds": "request-metrics-export-interval",
    "metrics.opencensus-address": "metrics-endpoint",
    "metrics.stackdriver-project-id": "",
    "metrics.allow-stackdriver-custom-metrics": "",
    "profiling.enable": "runtime-profiling",
}
RENAMED: Mapping[str, str] = {
    # Old spellings that newer releases do not read.
    "ingress.class": "ingress-class", "clusteringress.class": "ingress-class", "certificate.class": "certificate-class",
    "domainTemplate": "domain-template", "tagTemplate": "tag-template", "autoTLS": "auto-tls",
    "httpProtocol": "http-protocol", "rolloutDuration": "rollout-duration",
    "defaultExternalScheme": "default-external-scheme",
    "internal-encryption": "system-internal-tls",
    "queueSidecarImage": "queue-sidecar-image", "progressDeadline": "progress-deadline",
    "digestResolutionTimeout": "digest-resolution-timeout",
    "registriesSkippingTagResolving": "registries-skipping-tag-resolving",
}  # fmt: skip


def example_keys(text: str) -> set[str]:
    """The keys of an `_example`; none of one that is no YAML."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:  # comments and templates; what is ours is known anyway
        return set()
    return set(map(str, document)) if isinstance(document, dict) else set()
