"""Values of Knative's configuration that are allowed, and change what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_S, parse_duration
from workload_generator.cluster.doctor.findings import Verdict
from workload_generator.cluster.doctor.knative_config import EVENTING_FEATURES, is_true
from workload_generator.kube.names import CONFIG_AUTOSCALER, KNATIVE_EVENTING, KNATIVE_SERVING

_COLD = "nothing ever scales to zero: there are no cold starts to measure"


@dataclass(frozen=True, slots=True)
class Spoiler:
    """A value that is allowed, and changes what is measured."""

    config: tuple[str, str]
    key: str
    spoils: Callable[[str], bool]
    verdict: Verdict
    why: str
    better: str


def _above(limit: float) -> Callable[[str], bool]:
    return lambda text: float(text) > limit


def _longer(limit_s: int) -> Callable[[str], bool]:
    return lambda text: parse_duration(text) > limit_s * NS_PER_S


def _is(*words: str) -> Callable[[str], bool]:
    return lambda text: text.strip().casefold() in words


def _set(text: str) -> bool:
    return bool(text.strip())


AUTOSCALER, DEFAULTS = (KNATIVE_SERVING, CONFIG_AUTOSCALER), (KNATIVE_SERVING, "config-defaults")
NETWORK, DEPLOYMENT = (KNATIVE_SERVING, "config-network"), (KNATIVE_SERVING, "config-deployment")
FEATURES, OBSERVABILITY = (KNATIVE_SERVING, "config-features"), (KNATIVE_SERVING, "config-observability")
EVENTING_OBSERVABILITY = (KNATIVE_EVENTING, "config-observability")
_TLS = "every request pays for TLS, which runs elsewhere do not"
_THROTTLED = "throttling is measured as latency"

SPOILERS = (
    Spoiler(
        AUTOSCALER,
        "enable-scale-to-zero",
        lambda text: not is_true(text),
        "failed",
        _COLD,
        '"true"',
    ),
    Spoiler(
        AUTOSCALER,
        "min-scale",
        _above(0),
        "failed",
        _COLD,
        '"0"',
    ),
    Spoiler(
        AUTOSCALER,
        "pod-autoscaler-class",
        lambda text: "kpa." not in text,
        "failed",
        _COLD,
        "kpa.autoscaling.knative.dev",
    ),
    Spoiler(
        AUTOSCALER,
        "scale-to-zero-pod-retention-period",
        _longer(0),
        "warning",
        "each cold start waits that much longer for zero",
        "0s",
    ),
    Spoiler(
        AUTOSCALER,
        "scale-to-zero-grace-period",
        _longer(60),
        "warning",
        "each cold start may wait that long for zero",
        "30s",
    ),
    Spoiler(
        AUTOSCALER,
        "stable-window",
        _longer(300),
        "warning",
        "each cold start waits that long for zero",
        "60s",
    ),
    Spoiler(
        AUTOSCALER,
        "scale-down-delay",
        _longer(0),
        "warning",
        "instances of the run before are there still",
        "0s",
    ),
    Spoiler(
        AUTOSCALER,
        "initial-scale",
        lambda text: int(text) != 1,
        "warning",
        "a new revision starts with another number of instances than elsewhere",
        '"1"',
    ),
    Spoiler(
        AUTOSCALER,
        "target-burst-capacity",
        _is("-1", "-1.0"),
        "warning",
        "the activator stays in the path of every request",
        '"211"',
    ),
    Spoiler(
        AUTOSCALER,
        "max-scale",
        lambda text: 0 < int(text) < 400,
        "warning",
        "scenario 3 may ask for 400 instances",
        '"0"',
    ),
    Spoiler(
        AUTOSCALER,
        "max-scale-limit",
        lambda text: 0 < int(text) < 400,
        "warning",
        "services with max-scale 400 (scenario 3) are refused",
        '"0"',
    ),
    Spoiler(
        DEFAULTS,
        "container-concurrency",
        _above(0),
        "warning",
        "warm scenarios are measured with unlimited concurrency elsewhere",
        '"0"',
    ),
    Spoiler(
        DEFAULTS,
        "revision-cpu-limit",
        _set,
        "warning",
        f"our functions have no CPU limit, and get this one: {_THROTTLED}",
        "leave it out",
    ),
    Spoiler(
        NETWORK,
        "rollout-duration",
        _above(0),
        "warning",
        "for that long requests go to the revision before too",
        '"0"',
    ),
    Spoiler(
        NETWORK,
        "cluster-local-domain-tls",
        _is("enabled"),
        "warning",
        _TLS,
        "disabled",
    ),
    Spoiler(
        NETWORK,
        "system-internal-tls",
        _is("enabled"),
        "warning",
        _TLS,
        "disabled",
    ),
    Spoiler(
        NETWORK,
        "http-protocol",
        _is("redirected"),
        "warning",
        "requests by http to public routes are answered with a redirect",
        "enabled",
    ),
    Spoiler(
        NETWORK,
        "mesh-compatibility-mode",
        _is("enabled"),
        "warning",
        "the activator goes through the service's address, one hop more",
        "auto",
    ),
    Spoiler(
        FEATURES,
        "kubernetes.podspec-volumes-emptydir",
        _is("disabled"),
        "failed",
        "the functions of Quarkus and Spring Boot need one, and are refused",
        "enabled",
    ),
    Spoiler(
        FEATURES,
        "autodetect-http2",
        _is("enabled"),
        "warning",
        "each instance is probed for HTTP/2 first: cold starts take longer",
        "disabled",
    ),
    Spoiler(
        DEPLOYMENT,
        "queue-sidecar-cpu-limit",
        _set,
        "warning",
        f"every request goes through the sidecar: {_THROTTLED}",
        "leave it out",
    ),
    Spoiler(
        OBSERVABILITY,
        "logging.enable-request-log",
        is_true,
        "warning",
        "the sidecar writes a line a request",
        '"false"',
    ),
    Spoiler(
        OBSERVABILITY,
        "logging.enable-probe-request-log",
        is_true,
        "warning",
        "the sidecar writes a line a probe",
        '"false"',
    ),
    Spoiler(
        OBSERVABILITY,
        "tracing-protocol",
        lambda text: not _is("none", "")(text),
        "warning",
        "traces cost time in each hop",
        "none",
    ),
    Spoiler(
        EVENTING_OBSERVABILITY,
        "tracing-protocol",
        lambda text: not _is("none", "")(text),
        "warning",
        "traces cost time in each hop",
        "none",
    ),
    Spoiler(
        EVENTING_FEATURES,
        "transport-encryption",
        _is("strict", "permissive"),
        "warning",
        _TLS,
        "disabled",
    ),
    Spoiler(
        EVENTING_FEATURES,
        "authentication-oidc",
        _is("enabled"),
        "warning",
        "every event carries a token that is checked",
        "disabled",
    ),
)
