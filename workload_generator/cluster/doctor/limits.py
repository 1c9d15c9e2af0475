"""Quotas, limit ranges, claims and storage classes: what can keep pods from being created or started."""

from __future__ import annotations

from workload_generator.base.quantities import parse_quantity
from workload_generator.cluster.doctor.placement import annotations_of
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube import resources as kinds
from workload_generator.kube.names import EVENTING, FUNCTIONS, GENERATOR, LOGGER, OURS
from workload_generator.kube.resources import Object, key_of, name_of, namespace_of

_NEARLY = 0.8
_DEFAULT = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
_CLAIMS = {(GENERATOR, "logs"): "the generator's logs", (EVENTING, LOGGER): "the receipts of events"}


async def check_limits(cluster: Cluster, reporter: Reporter) -> None:
    """Quotas that are nearly used up or require CPU limits, and default CPU limits, in our namespaces."""
    quotas = [each for each in await cluster.all(kinds.RESOURCE_QUOTAS) if namespace_of(each) in OURS]
    for quota in quotas:
        _check_quota(quota, reporter)
    ranges = [each for each in await cluster.all(kinds.LIMIT_RANGES) if namespace_of(each) in OURS]
    for each in ranges:
        for limit in each["spec"].get("limits") or ():
            cpu = (limit.get("default") or {}).get("cpu")
            if limit.get("type") == "Container" and cpu and namespace_of(each) in (FUNCTIONS, EVENTING):
                reporter.warning(
                    f"LimitRange {namespace_of(each)}/{name_of(each)} limits containers to {cpu} CPUs by default",
                    "throttling is measured as the function's latency",
                    f"kubectl delete limitrange {name_of(each)} -n {namespace_of(each)}",
                )
    if not quotas and not ranges:
        reporter.ok("no quota and no LimitRange in our namespaces")


def _check_quota(quota: Object, reporter: Reporter) -> None:
    where = f"quota {namespace_of(quota)}/{name_of(quota)}"
    status = quota.get("status") or {}
    hard, used = status.get("hard") or quota["spec"].get("hard") or {}, status.get("used") or {}
    edit = f"kubectl edit resourcequota {name_of(quota)} -n {namespace_of(quota)}"
    near, texts = [], []
    for name, limit in hard.items():
        most, now = parse_quantity(str(limit)), parse_quantity(str(used.get(name, "0")))
        text = f"{name} {used.get(name, '0')} of {limit}"
        texts.append(text)
        if name == "limits.cpu" and namespace_of(quota) in (FUNCTIONS, EVENTING):
            why = "our pods have no CPU limit, and the API server refuses them"
            reporter.failed(f"{where} counts {name}", why, edit)
        elif now >= most:
            reporter.failed(f"{where} is used up: {text}", "new pods are refused", edit)
        elif now >= most * _NEARLY:
            near.append(text)
    if near:
        reporter.warning(f"{where}: {', '.join(near)}", "new pods are refused when it is used up", edit)
    else:
        reporter.ok(f"{where}: {', '.join(texts)}")


async def check_storage(cluster: Cluster, reporter: Reporter) -> None:
    """The claims of generator and event logger; for claims not yet created, a default StorageClass."""
    namespaces = {name_of(each) for each in await cluster.all(kinds.NAMESPACES)}
    claims = {key_of(each): each for each in await cluster.all(kinds.VOLUME_CLAIMS)}
    classes = {name_of(each): each for each in await cluster.all(kinds.STORAGE_CLASSES)}
    to_come = []
    for key, purpose in _CLAIMS.items():
        if key in claims:
            _check_claim(claims[key], purpose, classes, reporter)
        elif key[0] in namespaces or key[0] == GENERATOR:
            to_come.append("/".join(key))
    defaults = [name for name, each in classes.items() if _is_default(each)]
    if len(defaults) == 1:
        reporter.ok(f"StorageClass {defaults[0]} is the default")
    elif defaults:
        reporter.warning(
            f"StorageClasses {', '.join(defaults)} are all marked as default",
            "the newest one is used, so the kind of disk may differ between clusters",
            f"kubectl annotate storageclass NAME {_DEFAULT[0]}=false --overwrite",
        )
    elif to_come and (volumes := [each for each in await cluster.all(kinds.VOLUMES) if _is_free(each)]):
        reporter.ok(f"no StorageClass is the default, but {len(volumes)} volumes without a class are free")
    elif to_come:
        reporter.failed(
            f"no StorageClass is the default, and {', '.join(to_come)} will need it",
            "its pod stays Pending",
            f"kubectl annotate storageclass NAME {_DEFAULT[0]}=true",
        )


def _check_claim(claim: Object, purpose: str, classes: dict[str, Object], reporter: Reporter) -> None:
    where, status = f"{namespace_of(claim)}/{name_of(claim)}", claim.get("status") or {}
    phase, wanted = status.get("phase", "Pending"), claim["spec"].get("storageClassName")
    mode = classes.get(wanted, {}).get("volumeBindingMode")
    if phase == "Bound":
        size = (status.get("capacity") or {}).get("storage", "a volume of unknown size")
        reporter.ok(f"claim {where} is bound: {size}")
    elif phase == "Pending" and mode == "WaitForFirstConsumer":
        reporter.ok(f"claim {where} waits for its pod")
    else:
        missing = f": StorageClass {wanted} does not exist" if wanted and wanted not in classes else ""
        reporter.failed(
            f"claim {where} is {phase}{missing}",
            f"the pod that needs it for {purpose} stays Pending",
            f"kubectl describe pvc {name_of(claim)} -n {namespace_of(claim)}",
        )


def _is_free(volume: Object) -> bool:
    return (volume.get("status") or {}).get("phase") == "Available" and not volume["spec"].get("storageClassName")


def _is_default(storage: Object) -> bool:
    return any(annotations_of(storage).get(each) == "true" for each in _DEFAULT)
