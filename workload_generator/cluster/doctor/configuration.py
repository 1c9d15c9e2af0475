"""Knative's configuration: keys that it does not know, values that it cannot read, values that spoil a measurement."""

from __future__ import annotations

from collections.abc import Mapping

from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.cluster.doctor.knative_config import (
    DOMAIN,
    EVENTING_FEATURES,
    EXAMPLE,
    HOST,
    KEYS,
    METRICS_MOVED,
    OLD_METRICS,
    RENAMED,
    domain,
    example_keys,
    is_true,
)
from workload_generator.cluster.doctor.risky_settings import (
    AUTOSCALER,
    DEFAULTS,
    DEPLOYMENT,
    EVENTING_OBSERVABILITY,
    NETWORK,
    OBSERVABILITY,
    SPOILERS,
)
from workload_generator.cluster.doctor.versions import eventing_release, serving_release
from workload_generator.experiment.yaml_lines import closest
from workload_generator.kube.errors import ApiAbsent, ApiError
from workload_generator.kube.names import FUNCTIONS, KNATIVE_EVENTING, KNATIVE_SERVING, KOURIER
from workload_generator.kube.resources import NAMESPACES, SERVICES, name_of

_IGNORED = "Knative ignores it, and runs with its default"
_STOPPED = "Knative refuses it, and goes on with what it had, or does not start"
_KOURIER_CLASS = "kourier.ingress.networking.knative.dev"


async def check_configuration(cluster: Cluster, found: Findings) -> None:
    """Each ConfigMap by itself; then what only several of them can say."""
    releases = {}
    for namespace, release_in in ((KNATIVE_SERVING, serving_release), (KNATIVE_EVENTING, eventing_release)):
        try:
            releases[namespace] = await release_in(cluster)
        except ApiError:
            releases[namespace] = None  # the ConfigMap itself is refused below, and said to be unknown
    namespaces = {name_of(each) for each in await cluster.all(NAMESPACES)}
    for config in (*KEYS, DOMAIN, EVENTING_FEATURES):
        namespace, name = config
        if namespace not in namespaces:
            continue  # it is not installed, which the check of APIs says
        try:
            doc = await cluster.config(name, namespace)
        except ApiError as error:
            found.unknown(str(error))
            continue
        if doc is None:
            if config not in (EVENTING_FEATURES,):
                found.failed(f"there is no ConfigMap {name} in {namespace}", _STOPPED, "apply the release again")
            continue
        before = len(found.all)
        data = doc.get("data") or {}
        values = {key: str(value) for key, value in data.items() if key != EXAMPLE}
        _Map(config, values, example_keys(data.get(EXAMPLE, "")), releases[namespace], found).check()
        if config == NETWORK:
            _check_ingress(values.get("ingress-class", ""), namespaces, found)
        if config == DEPLOYMENT:
            await _check_registries(cluster, values.get("registries-skipping-tag-resolving"), found)
        if len(found.all) == before:
            said = [key if config == DOMAIN else f"{key}={value}" for key, value in sorted(values.items())]
            found.ok(f"{namespace}/{name}: {', '.join(said) or 'all defaults'}")


class _Map:
    """One ConfigMap under examination."""

    def __init__(
        self,
        config: tuple[str, str],
        values: Mapping[str, str],
        examples: set[str],
        release: int | None,
        found: Findings,
    ) -> None:
        self._config = config
        self._values = values
        self._known = KEYS.get(config, {})
        self._examples = examples
        self._release = release
        self._found = found
        self._readable: dict[str, str] = {}

    def check(self) -> None:
        """All that can be said of it alone."""
        for key, value in self._values.items():
            self._check_key(key, value)
        for each in SPOILERS:
            said = self._readable.get(each.key)
            if each.config == self._config and said is not None and each.spoils(said):
                self._found.add(
                    each.verdict,
                    self._text(each.key, f"is {said}"),
                    each.why,
                    f"{self._edit()}: {each.key}: {each.better}",
                )
        if self._config == AUTOSCALER:
            self._check_scales()
        if self._config == DEFAULTS:
            self._check_timeouts()
        if self._config in (OBSERVABILITY, EVENTING_OBSERVABILITY):
            self._check_metrics()

    def _check_key(self, key: str, value: str) -> None:
        if self._config == DOMAIN:
            self._check_domain(key, value)
        elif self._config == EVENTING_FEATURES:
            self._readable[key] = value  # every word is a feature to it
        elif key in OLD_METRICS and self._config in (OBSERVABILITY, EVENTING_OBSERVABILITY):
            self._check_old_metrics(key)
        elif key in self._known:
            if self._release is not None and self._release < METRICS_MOVED and "metrics-" in key:
                self._found.warning(
                    self._text(key, f"means nothing before 1.{METRICS_MOVED}"),
                    _IGNORED,
                    "metrics.backend-destination: prometheus",
                )
            try:
                self._known[key](value)
            except ValueError as error:
                self._refused(key, str(error))
            else:
                self._readable[key] = value
        elif key in RENAMED:
            self._found.failed(
                self._text(key, f"is called {RENAMED[key]}"), _IGNORED, f"{self._edit()}: {RENAMED[key]}: {value}"
            )
        elif key not in self._examples:
            near = closest(key, {*self._known, *self._examples})
            self._found.warning(
                self._text(key, "is not known" + (f": is it {near}?" if near else "")), _IGNORED, self._edit()
            )

    def _check_domain(self, key: str, value: str) -> None:
        if not HOST.fullmatch(key):
            self._found.failed(self._text(key, "is no domain"), "routes get addresses that cannot be", self._edit())
        try:
            domain(value)
        except ValueError as error:
            self._refused(key, str(error))

    def _check_old_metrics(self, key: str) -> None:
        if self._release is not None and self._release >= METRICS_MOVED:
            instead = OLD_METRICS[key]
            self._found.warning(
                self._text(key, f"means nothing since 1.{METRICS_MOVED}"),
                "nothing is exported because of it: Prometheus has no figures of Knative",
                f"{self._edit()}: {instead or 'remove it'}",
            )

    def _check_scales(self) -> None:
        scales = {key: int(self._readable.get(key, "0")) for key in ("min-scale", "max-scale", "max-scale-limit")}
        low, high, limit = scales.values()
        if low > high > 0:
            self._refused("min-scale", f"is {low}, above max-scale {high}")
        if limit and not 0 < high <= limit:
            self._refused("max-scale", f"is {high}, and has to be from 1 to max-scale-limit {limit}")
        if int(self._readable.get("initial-scale", "1")) == 0 and not is_true(
            self._readable.get("allow-zero-initial-scale", "false")
        ):
            self._refused("initial-scale", "is 0, which allow-zero-initial-scale does not allow")

    def _check_timeouts(self) -> None:
        most = int(self._readable.get("max-revision-timeout-seconds", "600"))
        own = int(self._readable.get("revision-timeout-seconds", "300"))
        if own > most:
            text = f"is {own}, above max-revision-timeout-seconds {most}"
            self._refused("revision-timeout-seconds", text)
        for key in ("revision-response-start-timeout-seconds", "revision-idle-timeout-seconds"):
            value = int(self._readable.get(key, "0"))
            if value > own:
                self._refused(key, f"is {value}, above revision-timeout-seconds {own}")

    def _check_metrics(self) -> None:
        for prefix in ("", "request-") if self._config == OBSERVABILITY else ("",):
            key = f"{prefix}metrics-protocol"
            protocol = self._readable.get(key, "none").casefold()
            endpoint = self._values.get(f"{prefix}metrics-endpoint", "")
            if protocol in ("grpc", "http/protobuf") and not endpoint:
                self._refused(key, f"is {protocol}, and there is no {prefix}metrics-endpoint")
            elif protocol == "none" and endpoint:
                self._refused(f"{prefix}metrics-endpoint", f"is set, and {key} is none")
            elif protocol != "prometheus" and self._release is not None and self._release >= METRICS_MOVED:
                self._found.warning(
                    self._text(key, f"is {protocol}"),
                    "Prometheus has no figures of Knative: kn-bench prometheus snapshot lacks them",
                    f"{self._edit()}: {key}: prometheus",
                )

    def _refused(self, key: str, says: str) -> None:
        self._found.failed(self._text(key, says), _STOPPED, self._edit())

    def _text(self, key: str, says: str) -> str:
        return f"{self._config[0]}/{self._config[1]}: {key} {says}"

    def _edit(self) -> str:
        return f"kubectl edit configmap {self._config[1]} -n {self._config[0]}"


def _check_ingress(ingress: str, namespaces: set[str], found: Findings) -> None:
    edit = f"kubectl edit configmap config-network -n {KNATIVE_SERVING}: ingress-class: {_KOURIER_CLASS}"
    why = "no ingress feels addressed: services never become ready"
    if not ingress and KOURIER in namespaces:
        found.failed(
            f"{KNATIVE_SERVING}/config-network: ingress-class is not set, and stands for Istio; Kourier is installed",
            why,
            edit,
        )
    elif ingress == _KOURIER_CLASS and KOURIER not in namespaces:
        fix = "cd infrastructure && just install-kourier"
        found.failed(
            f"{KNATIVE_SERVING}/config-network: ingress-class is {ingress}, and Kourier is not installed", why, fix
        )
    elif ingress and not ingress.endswith(".networking.knative.dev"):
        found.warning(
            f"{KNATIVE_SERVING}/config-network: ingress-class is {ingress}, which is none that we know", why, edit
        )


async def _check_registries(cluster: Cluster, skipped: str | None, found: Findings) -> None:
    """Images of `dev.local` are in the nodes alone: there is nobody to ask for their digests."""
    if skipped is None or "dev.local" in (each.strip() for each in skipped.split(",")):
        return
    try:
        services = await cluster.all(SERVICES, FUNCTIONS)
    except ApiAbsent:
        return
    images = {
        container["image"]
        for each in services
        for container in each["spec"]["template"]["spec"]["containers"]
        if container["image"].startswith("dev.local/")
    }
    if images:
        found.failed(
            f"{KNATIVE_SERVING}/config-deployment: registries-skipping-tag-resolving is {skipped!r}, without dev.local",
            f"Knative asks a registry that does not exist for {', '.join(sorted(images))}: no revision becomes ready",
            f"kubectl edit configmap config-deployment -n {KNATIVE_SERVING}: add dev.local",
        )
