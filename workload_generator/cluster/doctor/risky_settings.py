"""Values of Knative's configuration that are valid, but change what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_S, parse_duration
from workload_generator.cluster.doctor.check import Verdict
from workload_generator.cluster.doctor.knative_config import (
    AUTOSCALER,
    DEFAULTS,
    DEPLOYMENT,
    EVENTING_FEATURES,
    EVENTING_OBSERVABILITY,
    FEATURES,
    NETWORK,
    OBSERVABILITY,
    Config,
    is_true,
)


@dataclass(frozen=True, slots=True)
class RiskySetting:
    """A key, the test for its risky values, their consequence, and a `better` value as YAML."""

    config: Config
    key: str
    is_risky: Callable[[str], bool]
    why: str
    better: str
    verdict: Verdict = "warning"


def _above(limit: float) -> Callable[[str], bool]:
    return lambda text: float(text) > limit


def _longer(limit_s: int) -> Callable[[str], bool]:
    return lambda text: parse_duration(text) > limit_s * NS_PER_S


def _is(*words: str) -> Callable[[str], bool]:
    return lambda text: text.strip().casefold() in words


def _not(test: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: not test(text)


def _set(text: str) -> bool:
    return bool(text.strip())


def _limits_scale(text: str) -> bool:
    return 0 < int(text) < 400


_COLD = "nothing scales to zero: there are no cold starts to measure"
_TLS = "every request pays for TLS, which makes runs on other clusters incomparable"
_THROTTLED = "throttling is measured as latency"
_TRACES = "tracing takes time in each hop"

RISKY_SETTINGS = (
    RiskySetting(AUTOSCALER, "enable-scale-to-zero", _not(is_true), _COLD, '"true"', "failed"),
    RiskySetting(AUTOSCALER, "min-scale", _above(0), _COLD, '"0"', "failed"),
    RiskySetting(
        AUTOSCALER,
        "pod-autoscaler-class",
        lambda text: "kpa." not in text,
        _COLD,
        "kpa.autoscaling.knative.dev",
        "failed",
    ),
    RiskySetting(
        AUTOSCALER,
        "scale-to-zero-pod-retention-period",
        _longer(0),
        "it delays scaling to zero before each cold start",
        "0s",
    ),
    RiskySetting(
        AUTOSCALER,
        "scale-to-zero-grace-period",
        _longer(60),
        "it may delay scaling to zero before each cold start",
        "30s",
    ),
    RiskySetting(AUTOSCALER, "stable-window", _longer(300), "it delays scaling to zero before each cold start", "60s"),
    RiskySetting(AUTOSCALER, "scale-down-delay", _longer(0), "instances of the previous run remain", "0s"),
    RiskySetting(
        AUTOSCALER,
        "initial-scale",
        _not(_is("1")),
        "new revisions start with another number of instances than by default",
        '"1"',
    ),
    RiskySetting(
        AUTOSCALER,
        "target-burst-capacity",
        _is("-1", "-1.0"),
        "the activator stays in the path of every request",
        '"211"',
    ),
    RiskySetting(AUTOSCALER, "max-scale", _limits_scale, "scenario 3 may need 400 instances", '"0"'),
    RiskySetting(
        AUTOSCALER, "max-scale-limit", _limits_scale, "Knative refuses services with max-scale 400 (scenario 3)", '"0"'
    ),
    RiskySetting(DEFAULTS, "container-concurrency", _above(0), "warm scenarios assume unlimited concurrency", '"0"'),
    RiskySetting(
        DEFAULTS,
        "revision-cpu-limit",
        _set,
        f"our functions set no CPU limit and get this one: {_THROTTLED}",
        "leave it out",
    ),
    RiskySetting(NETWORK, "rollout-duration", _above(0), "the previous revision gets requests for that long", '"0"'),
    RiskySetting(NETWORK, "cluster-local-domain-tls", _is("enabled"), _TLS, "disabled"),
    RiskySetting(NETWORK, "system-internal-tls", _is("enabled"), _TLS, "disabled"),
    RiskySetting(
        NETWORK, "http-protocol", _is("redirected"), "HTTP requests to public routes get a redirect", "enabled"
    ),
    RiskySetting(
        NETWORK,
        "mesh-compatibility-mode",
        _is("enabled"),
        "the activator adds a hop through the service's address",
        "auto",
    ),
    RiskySetting(
        FEATURES,
        "kubernetes.podspec-volumes-emptydir",
        _is("disabled"),
        "Knative refuses the functions of Quarkus and Spring Boot, which need one",
        "enabled",
        "failed",
    ),
    RiskySetting(
        FEATURES,
        "autodetect-http2",
        _is("enabled"),
        "an HTTP/2 probe of each instance makes cold starts longer",
        "disabled",
    ),
    RiskySetting(
        DEPLOYMENT,
        "queue-sidecar-cpu-limit",
        _set,
        f"all requests pass through the sidecar: {_THROTTLED}",
        "leave it out",
    ),
    RiskySetting(
        OBSERVABILITY, "logging.enable-request-log", is_true, "the sidecar logs a line for each request", '"false"'
    ),
    RiskySetting(
        OBSERVABILITY, "logging.enable-probe-request-log", is_true, "the sidecar logs a line for each probe", '"false"'
    ),
    RiskySetting(OBSERVABILITY, "tracing-protocol", _not(_is("none", "")), _TRACES, "none"),
    RiskySetting(EVENTING_OBSERVABILITY, "tracing-protocol", _not(_is("none", "")), _TRACES, "none"),
    RiskySetting(EVENTING_FEATURES, "transport-encryption", _is("strict", "permissive"), _TLS, "disabled"),
    RiskySetting(
        EVENTING_FEATURES,
        "authentication-oidc",
        _is("enabled"),
        "every event carries a token that is verified",
        "disabled",
    ),
)
