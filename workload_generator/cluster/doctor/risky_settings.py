"""Values of Knative's configuration that are valid, but change what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_S, parse_duration
from workload_generator.cluster.doctor import knative_config as known
from workload_generator.cluster.doctor.knative_config import Config, is_true
from workload_generator.cluster.doctor.reporter import Verdict


@dataclass(frozen=True, slots=True)
class Risk:
    """The test for the risky values of a key, their consequence, and a `better` value as YAML."""

    applies: Callable[[str], bool]
    why: str
    better: str
    verdict: Verdict = "warning"


def _above(limit: float) -> Callable[[str], bool]:
    return lambda text: float(text) > limit


def _longer(limit_s: int) -> Callable[[str], bool]:
    return lambda text: parse_duration(text) > limit_s * NS_PER_S


def _is(*words: str) -> Callable[[str], bool]:
    return lambda text: text.strip().casefold() in words


def _not(*words: str) -> Callable[[str], bool]:
    return lambda text: text.strip().casefold() not in words


def _limits_scale(text: str) -> bool:
    return 0 < int(text) < 400


_COLD = "nothing scales to zero: there are no cold starts to measure"
_TLS = "every request pays for TLS, which makes runs on other clusters incomparable"
_THROTTLED = "throttling is measured as latency"
_TRACES = "tracing takes time in each hop"

RISKS: Mapping[Config, Mapping[str, Risk]] = {
    known.AUTOSCALER: {
        "enable-scale-to-zero": Risk(lambda text: not is_true(text), _COLD, '"true"', "failed"),
        "min-scale": Risk(_above(0), _COLD, '"0"', "failed"),
        "pod-autoscaler-class": Risk(lambda text: "kpa." not in text, _COLD, "kpa.autoscaling.knative.dev", "failed"),
        "scale-to-zero-pod-retention-period": Risk(_longer(0), "it delays scaling to zero before cold starts", "0s"),
        "scale-to-zero-grace-period": Risk(_longer(60), "it may delay scaling to zero before cold starts", "30s"),
        "stable-window": Risk(_longer(300), "it delays scaling to zero before cold starts", "60s"),
        "scale-down-delay": Risk(_longer(0), "instances of the previous run remain", "0s"),
        "initial-scale": Risk(_not("1"), "new revisions start with another number of instances", '"1"'),
        "target-burst-capacity": Risk(_is("-1", "-1.0"), "the activator stays in the path of all requests", '"211"'),
        "max-scale": Risk(_limits_scale, "scenario 3 may need 400 instances", '"0"'),
        "max-scale-limit": Risk(_limits_scale, "Knative refuses services with max-scale 400 (scenario 3)", '"0"'),
    },
    known.DEFAULTS: {
        "container-concurrency": Risk(_above(0), "warm scenarios assume unlimited concurrency", '"0"'),
        "revision-cpu-limit": Risk(_not(""), f"our functions set none and get this one: {_THROTTLED}", "leave it out"),
    },
    known.NETWORK: {
        "rollout-duration": Risk(_above(0), "the previous revision gets requests for that long", '"0"'),
        "cluster-local-domain-tls": Risk(_is("enabled"), _TLS, "disabled"),
        "system-internal-tls": Risk(_is("enabled"), _TLS, "disabled"),
        "http-protocol": Risk(_is("redirected"), "HTTP requests to public routes get a redirect", "enabled"),
        "mesh-compatibility-mode": Risk(_is("enabled"), "the activator adds a hop by the service's address", "auto"),
    },
    known.FEATURES: {
        "kubernetes.podspec-volumes-emptydir": Risk(
            _is("disabled"),
            "Knative refuses the functions of Quarkus and Spring Boot, which need one",
            "enabled",
            "failed",
        ),
        "autodetect-http2": Risk(_is("enabled"), "probing each instance for HTTP/2 delays cold starts", "disabled"),
    },
    known.DEPLOYMENT: {
        "queue-sidecar-cpu-limit": Risk(
            _not(""), f"all requests pass through the sidecar: {_THROTTLED}", "leave it out"
        ),
    },
    known.OBSERVABILITY: {
        "logging.enable-request-log": Risk(is_true, "the sidecar logs a line for each request", '"false"'),
        "logging.enable-probe-request-log": Risk(is_true, "the sidecar logs a line for each probe", '"false"'),
        "tracing-protocol": Risk(_not("none", ""), _TRACES, "none"),
    },
    known.EVENTING_OBSERVABILITY: {"tracing-protocol": Risk(_not("none", ""), _TRACES, "none")},
    known.EVENTING_FEATURES: {
        "transport-encryption": Risk(_is("strict", "permissive"), _TLS, "disabled"),
        "authentication-oidc": Risk(_is("enabled"), "every event carries a token that is verified", "disabled"),
    },
}
