"""Knative's ConfigMaps under `doctor`: keys, values, values that change a measurement."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tests.doctor.fit import CONFIGS, Doctor, config, namespace, service
from tests.kube.fake_api import FakeApi
from workload_generator.cluster.doctor.capacity import Compute, requests_of
from workload_generator.cluster.doctor.knative_config import RULES
from workload_generator.cluster.doctor.risky_settings import RISKS
from workload_generator.kube import resources as kinds

SERVING, EVENTING = "knative-serving", "knative-eventing"


def put(api: FakeApi, where: str, name: str, release: str = "1.22.1", **data: str) -> None:
    named = {key.replace("__", ".").replace("_", "-"): value for key, value in data.items()}
    config(api, where, name, {**CONFIGS[where, name], **named}, release)


@pytest.mark.parametrize(
    ("where", "name", "key", "value", "verdict", "text"),
    [
        (
            SERVING,
            "config-autoscaler",
            "stable-windw",
            "60s",
            "warning",
            "stable-windw is not a known key; did you mean stable-window?",
        ),
        (SERVING, "config-autoscaler", "enable-scale-to-zer0", "true", "warning", "did you mean enable-scale-to-zero?"),
        (SERVING, "config-autoscaler", "stable-window", "60", "failed", "stable-window is not valid"),
        (
            SERVING,
            "config-autoscaler",
            "stable-window",
            "5s",
            "failed",
            "stable-window is 5s: it must be at least 6s",
        ),
        (SERVING, "config-autoscaler", "stable-window", "6500ms", "failed", "it must be in whole seconds"),
        (SERVING, "config-autoscaler", "target-burst-capacity", "-2", "failed", "it must be at least 0"),
        (SERVING, "config-autoscaler", "max-scale", "many", "failed", "max-scale is 'many': expected a whole number"),
        (SERVING, "config-autoscaler", "enable-scale-to-zero", "no", "failed", "expected one of true, false"),
        (SERVING, "config-autoscaler", "initial-scale", "0", "failed", "which needs allow-zero-initial-scale"),
        (
            SERVING,
            "config-defaults",
            "revision-timeout-seconds",
            "900",
            "failed",
            "is 900, above max-revision-timeout-seconds 600",
        ),
        (
            SERVING,
            "config-defaults",
            "revision-idle-timeout-seconds",
            "400",
            "failed",
            "is 400, above revision-timeout-seconds 300",
        ),
        (SERVING, "config-defaults", "revision-memory-request", "100Mb", "failed", "is not valid"),
        (SERVING, "config-features", "multi-container", "on", "failed", "expected one of enabled, disabled, allowed"),
        (
            SERVING,
            "config-features",
            "kubernetes.podspec-toleration",
            "enabled",
            "warning",
            "did you mean kubernetes.podspec-tolerations?",
        ),
        (
            SERVING,
            "config-network",
            "ingress.class",
            "kourier.ingress.networking.knative.dev",
            "failed",
            "ingress.class is now called ingress-class",
        ),
        (
            SERVING,
            "config-network",
            "ingress-class",
            "kourier",
            "warning",
            "ingress-class is kourier, which is not a known class",
        ),
        (SERVING, "config-network", "ingress-class", "", "failed", "ingress-class is not set, which means Istio"),
        (SERVING, "config-observability", "metrics-protocol", "statsd", "failed", "expected one of none, prometheus"),
        (
            SERVING,
            "config-observability",
            "request-metrics-protocol",
            "grpc",
            "failed",
            "but request-metrics-endpoint is not set",
        ),
        (
            SERVING,
            "config-observability",
            "metrics.backend-destination",
            "prometheus",
            "warning",
            "has no effect since 1.19",
        ),
        (SERVING, "config-observability", "metrics-protocol", "none", "warning", "metrics-protocol is none"),
        (
            SERVING,
            "config-network",
            "cluster-local-domain-tls",
            "allowed",
            "failed",
            "expected one of enabled, disabled",
        ),
        (SERVING, "config-defaults", "allow-container-concurrency-zero", "2", "failed", "expected one of true, false"),
        (SERVING, "config-autoscaler", "panic-threshold-percentage", "-1", "failed", "it must be at least 0"),
        (SERVING, "config-deployment", "queue-sidecar-cpu-request", "30s", "failed", "is not valid"),
        (SERVING, "config-deployment", "digest-resolution-timeout", "10", "failed", "is not valid"),
        (SERVING, "config-deployment", "progress-deadline", "ten minutes", "failed", "is not valid"),
        (SERVING, "config-deployment", "queueSidecarImage", "x", "failed", "is now called queue-sidecar-image"),
        (SERVING, "config-domain", "Example_Com", "", "failed", "Example_Com is not a valid domain"),
        (SERVING, "config-domain", "b.example", "selector: [a]", "failed", "selector that is not a map"),
        (SERVING, "config-domain", "b.example", "a: b: c", "failed", "is not valid"),
        (
            EVENTING,
            "config-observability",
            "metrics-protokol",
            "prometheus",
            "warning",
            "did you mean metrics-protocol?",
        ),
        (EVENTING, "config-observability", "profiling.enable", "true", "warning", "has no effect since 1.19"),
    ],
)
def test_an_unknown_key_or_an_invalid_value(
    api: FakeApi, doctor: Doctor, where: str, name: str, key: str, value: str, verdict: str, text: str
) -> None:
    config(api, where, name, {**CONFIGS[where, name], key: value})
    found = [each for each in doctor() if each["check"] == "configuration" and each["verdict"] != "ok"]
    assert [each["verdict"] for each in found if text in each["text"]] == [verdict], found
    assert all(f"{where}/{name}: " in each["text"] for each in found)


@pytest.mark.parametrize(
    ("config_map", "key"), [(config_map, key) for config_map in RISKS for key in RISKS[config_map]]
)
def test_every_risky_value_is_reported_and_the_better_one_is_not(
    api: FakeApi, doctor: Doctor, config_map: tuple[str, str], key: str
) -> None:
    where, name = config_map
    risk, bad = RISKS[config_map][key], BAD[name, key]
    also = {"tracing-endpoint": "http://c"} if key == "tracing-protocol" else {}
    also |= {"max-scale": "100"} if key == "max-scale-limit" else {}
    config(api, where, name, {**CONFIGS[where, name], key: bad, **also})
    found = {each["text"]: each["verdict"] for each in doctor() if each["check"] == "configuration"}
    assert found[f"{where}/{name}: {key} is {bad}"] == risk.verdict
    better = risk.better.strip('"')
    if better != "leave it out":
        config(api, where, name, {**CONFIGS[where, name], key: better})
        assert not doctor.of("configuration")
        RULES.get(config_map, {}).get(key, lambda _text: None)(better)


BAD = {
    ("config-autoscaler", "enable-scale-to-zero"): "false",
    ("config-autoscaler", "min-scale"): "1",
    ("config-autoscaler", "pod-autoscaler-class"): "hpa.autoscaling.knative.dev",
    ("config-autoscaler", "scale-to-zero-pod-retention-period"): "1m",
    ("config-autoscaler", "scale-to-zero-grace-period"): "5m",
    ("config-autoscaler", "stable-window"): "10m",
    ("config-autoscaler", "scale-down-delay"): "15m",
    ("config-autoscaler", "initial-scale"): "3",
    ("config-autoscaler", "target-burst-capacity"): "-1",
    ("config-autoscaler", "max-scale"): "10",
    ("config-autoscaler", "max-scale-limit"): "100",
    ("config-defaults", "container-concurrency"): "1",
    ("config-defaults", "revision-cpu-limit"): "500m",
    ("config-network", "rollout-duration"): "380",
    ("config-network", "cluster-local-domain-tls"): "Enabled",
    ("config-network", "system-internal-tls"): "enabled",
    ("config-network", "http-protocol"): "Redirected",
    ("config-network", "mesh-compatibility-mode"): "enabled",
    ("config-features", "kubernetes.podspec-volumes-emptydir"): "disabled",
    ("config-features", "autodetect-http2"): "enabled",
    ("config-features", "transport-encryption"): "strict",
    ("config-features", "authentication-oidc"): "enabled",
    ("config-deployment", "queue-sidecar-cpu-limit"): "100m",
    ("config-observability", "logging.enable-request-log"): "true",
    ("config-observability", "logging.enable-probe-request-log"): "true",
    ("config-observability", "tracing-protocol"): "grpc",
}


def test_keys_of_the_example_are_known(api: FakeApi, doctor: Doctor) -> None:
    data = {"brand-new-key": "1"}
    config(api, SERVING, "config-autoscaler", data)
    assert "brand-new-key is not a known key" in doctor.of("configuration")[0]
    for example in ("# of 1.24\nbrand-new-key: '0'\n", ""):  # without an example any key may be right
        config(api, SERVING, "config-autoscaler", {**data, "_example": example})
        assert not doctor.of("configuration")
    config(api, SERVING, "config-autoscaler", {"stable-window": "5", "_example": "a: b: c"})
    assert "stable-window is not valid" in doctor.of("configuration", "failed")[0]


def test_metrics_before_they_moved(api: FakeApi, doctor: Doctor) -> None:
    data = {"metrics.backend-destination": "prometheus"}
    config(api, SERVING, "config-autoscaler", {}, "1.18.0")
    config(api, SERVING, "config-observability", data)
    assert not doctor.of("configuration")
    config(api, SERVING, "config-observability", {"metrics-protocol": "prometheus"})
    assert doctor.of("configuration") == [
        "knative-serving/config-observability: metrics-protocol has no effect before 1.19"
    ]


def test_kourier_and_the_ingress_class(api: FakeApi, doctor: Doctor) -> None:
    api.remove(kinds.NAMESPACES, "kourier-system")
    (text,) = doctor.of("configuration", "failed")
    assert text.endswith("ingress-class is kourier.ingress.networking.knative.dev, but Kourier is not installed")
    config(api, SERVING, "config-network", {"ingress-class": "istio.ingress.networking.knative.dev"})
    assert not doctor.of("configuration")


def test_images_of_dev_local_need_skipped_tag_resolving(api: FakeApi, doctor: Doctor) -> None:
    config(api, SERVING, "config-deployment", {"registries-skipping-tag-resolving": "kind.local,ko.local"})
    (text,) = doctor.of("configuration", "failed")
    assert text.endswith("without dev.local")
    service(api, "empty-go-http-0", image="registry.example/f:1")
    assert not doctor.of("configuration")


def test_a_config_map_that_is_missing_or_forbidden(api: FakeApi, doctor: Doctor) -> None:
    api.remove(kinds.CONFIG_MAPS, "config-network", SERVING)
    assert doctor.of("configuration") == ["there is no ConfigMap config-network in knative-serving"]
    api.forbidden = {("get", "configmaps")}
    assert len(doctor.of("configuration", "unknown")) == len(CONFIGS)


def test_without_knative_there_is_no_configuration(api: FakeApi, doctor: Doctor) -> None:
    for name in (SERVING, EVENTING):
        api.remove(kinds.NAMESPACES, name)
    namespace(api, "metrics", "metrics")
    assert not [each for each in doctor() if each["check"] == "configuration"]


# What a pod asks for


@pytest.mark.parametrize(
    ("pod", "cpu", "mebibytes"),
    [
        ({"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, {}]}, 1, 1024),
        ({"containers": [{"resources": {"limits": {"cpu": "2"}}}]}, 2, 0),
        (
            {
                "containers": [{"resources": {"requests": {"cpu": "500m"}}}],
                "initContainers": [{"resources": {"requests": {"cpu": "2", "memory": "64Mi"}}}],
            },
            2,
            64,
        ),
        (
            {
                "containers": [{"resources": {"requests": {"cpu": "500m"}}}],
                "initContainers": [
                    {"restartPolicy": "Always", "resources": {"requests": {"cpu": "250m"}}},
                    {"resources": {"requests": {"cpu": "600m"}}},
                ],
                "overhead": {"cpu": "100m"},
            },
            "0.95",
            0,
        ),
        ({"containers": [{}], "resources": {"requests": {"cpu": "3"}}}, 3, 0),
    ],
)
def test_requests_are_what_the_scheduler_counts(pod: dict[str, object], cpu: object, mebibytes: int) -> None:
    assert requests_of(pod) == Compute(Fraction(str(cpu)), Fraction(mebibytes * 2**20))
