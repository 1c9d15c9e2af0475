"""The check of Knative's configuration: unknown keys, invalid values, and values that change a measurement."""

from __future__ import annotations

from collections.abc import Mapping

from workload_generator.cluster.doctor import knative_config as known
from workload_generator.cluster.doctor.knative_config import EXAMPLE, METRICS_MOVED, OLD_METRICS, Config, is_true
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.cluster.doctor.risky_settings import RISKS
from workload_generator.cluster.doctor.versions import EVENTING, SERVING
from workload_generator.experiment.yaml_lines import did_you_mean
from workload_generator.kube.errors import ApiError
from workload_generator.kube.names import FUNCTIONS, KOURIER
from workload_generator.kube.resources import NAMESPACES, SERVICES, name_of

_IGNORED = "Knative ignores it and uses its default"
_REFUSED = "Knative refuses it: it keeps the previous configuration, or does not start"
_KOURIER_CLASS = "kourier.ingress.networking.knative.dev"
_METRICS = (known.OBSERVABILITY, known.EVENTING_OBSERVABILITY)


async def check_configuration(cluster: Cluster, reporter: Reporter) -> None:
    """Each ConfigMap by itself; then conflicts between ConfigMaps and what is installed."""
    releases: dict[str, int | None] = {}
    for product in (SERVING, EVENTING):
        try:
            releases[product.namespace] = await product.release(cluster)
        except ApiError:
            releases[product.namespace] = None  # the loop below reports the ConfigMap itself as unknown
    namespaces = {name_of(each) for each in await cluster.all(NAMESPACES)}
    for config in (*known.RULES, known.DOMAIN, known.EVENTING_FEATURES):
        namespace, name = config
        if namespace not in namespaces:
            continue  # not installed: reported by the check of APIs
        try:
            config_map = await cluster.config(namespace, name)
        except ApiError as error:
            reporter.unknown(str(error))
            continue
        if config_map is None:
            if config != known.EVENTING_FEATURES:
                text = f"there is no ConfigMap {name} in {namespace}"
                reporter.failed(text, _REFUSED, "apply the manifests of the release again")
            continue
        before = len(reporter.results)
        data = config_map.get("data") or {}
        values = {key: str(value) for key, value in data.items() if key != EXAMPLE}
        _ConfigMapCheck(config, values, data.get(EXAMPLE, ""), releases[namespace], reporter).run()
        if config == known.NETWORK:
            _check_ingress(values.get("ingress-class", ""), namespaces, reporter)
        if config == known.DEPLOYMENT:
            await _check_registries(cluster, values.get("registries-skipping-tag-resolving"), reporter)
        if len(reporter.results) == before:
            texts = [key if config == known.DOMAIN else f"{key}={value}" for key, value in sorted(values.items())]
            reporter.ok(f"{namespace}/{name}: {', '.join(texts) or 'all defaults'}")


class _ConfigMapCheck:
    """What one ConfigMap shows by itself."""

    def __init__(
        self, config: Config, values: Mapping[str, str], example: str, release: int | None, reporter: Reporter
    ) -> None:
        self._config = config
        self._values = values
        self._parsers = dict.fromkeys(RISKS.get(config, {}), known.anything) | known.parsers(config, example)
        self._has_example = bool(example)
        self._release = release
        self._reporter = reporter
        self._valid: dict[str, str] = {}

    def run(self) -> None:
        """Report all problems."""
        for key, value in self._values.items():
            self._check_key(key, value)
        for key, risk in RISKS.get(self._config, {}).items():
            text = self._valid.get(key)
            if text is not None and risk.applies(text):
                fix = self._edit(f"{key}: {risk.better}")
                self._reporter.add(risk.verdict, self._text(key, f"is {text}"), risk.why, fix)
        if self._config == known.AUTOSCALER:
            self._check_scales()
        if self._config == known.DEFAULTS:
            self._check_timeouts()
        if self._config in _METRICS:
            self._check_metrics()

    def _check_key(self, key: str, value: str) -> None:
        if self._config == known.DOMAIN:
            if not known.HOST.fullmatch(key):
                why = "routes get addresses that do not resolve"
                self._reporter.failed(self._text(key, "is not a valid domain"), why, self._edit())
            self._parse(key, value, known.domain)
        elif self._config == known.EVENTING_FEATURES:
            self._valid[key] = value
        elif key in OLD_METRICS and self._config in _METRICS:
            if self._has_moved_metrics():
                why = "Knative exports no metrics by it: Prometheus has none of Knative"
                fix = self._edit(OLD_METRICS[key] or "remove it")
                self._reporter.warning(self._text(key, f"has no effect since 1.{METRICS_MOVED}"), why, fix)
        elif key in self._parsers:
            if self._release is not None and self._release < METRICS_MOVED and "metrics-" in key:
                text = self._text(key, f"has no effect before 1.{METRICS_MOVED}")
                self._reporter.warning(text, _IGNORED, self._edit("metrics.backend-destination: prometheus"))
            self._parse(key, value, self._parsers[key])
        elif (renamed := known.modern(key)) in self._parsers:
            fix = self._edit(f"{renamed}: {value}")
            self._reporter.failed(self._text(key, f"is now called {renamed}"), _IGNORED, fix)
        elif self._has_example:
            text = self._text(key, f"is not a known key{did_you_mean(key, self._parsers)}")
            self._reporter.warning(text, _IGNORED, self._edit())

    def _parse(self, key: str, value: str, parser: known.Parser) -> None:
        try:
            parser(value)
        except ValueError as error:
            self._refused(key, str(error))
        else:
            self._valid[key] = value

    def _has_moved_metrics(self) -> bool:
        return self._release is not None and self._release >= METRICS_MOVED

    def _check_scales(self) -> None:
        low, high, limit = (int(self._valid.get(key, "0")) for key in ("min-scale", "max-scale", "max-scale-limit"))
        if low > high > 0:
            self._refused("min-scale", f"is {low}, above max-scale {high}")
        if limit and not 0 < high <= limit:
            self._refused("max-scale", f"is {high}: it must be from 1 to max-scale-limit {limit}")
        zero_is_allowed = is_true(self._valid.get("allow-zero-initial-scale", "false"))
        if int(self._valid.get("initial-scale", "1")) == 0 and not zero_is_allowed:
            self._refused("initial-scale", "is 0, which needs allow-zero-initial-scale")

    def _check_timeouts(self) -> None:
        own, most = (
            int(self._valid.get(key, default))
            for key, default in (("revision-timeout-seconds", "300"), ("max-revision-timeout-seconds", "600"))
        )
        if own > most:
            self._refused("revision-timeout-seconds", f"is {own}, above max-revision-timeout-seconds {most}")
        for key in ("revision-response-start-timeout-seconds", "revision-idle-timeout-seconds"):
            value = int(self._valid.get(key, "0"))
            if value > own:
                self._refused(key, f"is {value}, above revision-timeout-seconds {own}")

    def _check_metrics(self) -> None:
        for prefix in ("", "request-") if self._config == known.OBSERVABILITY else ("",):
            key = f"{prefix}metrics-protocol"
            protocol = self._valid.get(key, "none").casefold()
            endpoint = self._values.get(f"{prefix}metrics-endpoint", "")
            if protocol in ("grpc", "http/protobuf") and not endpoint:
                self._refused(key, f"is {protocol}, but {prefix}metrics-endpoint is not set")
            elif protocol == "none" and endpoint:
                self._refused(f"{prefix}metrics-endpoint", f"is set, but {key} is none")
            elif protocol != "prometheus" and self._has_moved_metrics():
                why = "Prometheus has no metrics of Knative: kn-bench prometheus snapshot lacks them"
                self._reporter.warning(self._text(key, f"is {protocol}"), why, self._edit(f"{key}: prometheus"))

    def _refused(self, key: str, problem: str) -> None:
        self._reporter.failed(self._text(key, problem), _REFUSED, self._edit())

    def _text(self, key: str, problem: str) -> str:
        return f"{'/'.join(self._config)}: {key} {problem}"

    def _edit(self, change: str = "") -> str:
        return _edit(self._config, change)


def _edit(config: Config, change: str = "") -> str:
    return f"kubectl edit configmap {config[1]} -n {config[0]}" + (f": {change}" if change else "")


def _check_ingress(ingress: str, namespaces: set[str], reporter: Reporter) -> None:
    edit = _edit(known.NETWORK, f"ingress-class: {_KOURIER_CLASS}")
    text = f"{'/'.join(known.NETWORK)}: ingress-class is"
    why = "no ingress controller handles routes: services never become ready"
    if not ingress and KOURIER in namespaces:
        reporter.failed(f"{text} not set, which means Istio, but Kourier is installed", why, edit)
    elif ingress == _KOURIER_CLASS and KOURIER not in namespaces:
        fix = "cd infrastructure && just install-kourier"
        reporter.failed(f"{text} {ingress}, but Kourier is not installed", why, fix)
    elif ingress and not ingress.endswith(".networking.knative.dev"):
        reporter.warning(f"{text} {ingress}, which is not a known class", why, edit)


async def _check_registries(cluster: Cluster, skipped: str | None, reporter: Reporter) -> None:
    """Images of `dev.local` are on the nodes only: no registry has their digests."""
    if skipped is None or "dev.local" in (each.strip() for each in skipped.split(",")):
        return
    images = {
        container["image"]
        for each in await cluster.installed(SERVICES, FUNCTIONS)
        for container in each["spec"]["template"]["spec"]["containers"]
        if container["image"].startswith("dev.local/")
    }
    if images:
        reporter.failed(
            f"{'/'.join(known.DEPLOYMENT)}: registries-skipping-tag-resolving is {skipped!r}, without dev.local",
            f"Knative asks a registry that does not exist for {', '.join(sorted(images))}: no revision becomes ready",
            _edit(known.DEPLOYMENT, "add dev.local"),
        )
