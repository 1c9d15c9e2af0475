"""What stands against pods and volumes: quotas, ranges of limits, claims and storage classes."""

from __future__ import annotations

from workload_generator.base.quantities import parse_quantity
from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.kube.names import EVENTING, FUNCTIONS, GENERATOR, LOGGER, OURS
from workload_generator.kube.resources import (
    LIMIT_RANGES,
    NAMESPACES,
    RESOURCE_QUOTAS,
    STORAGE_CLASSES,
    VOLUME_CLAIMS,
    VOLUMES,
    Object,
    name_of,
    namespace_of,
)

_NEARLY = 0.8
_UNSET = ("limits.cpu",)  # what our functions do not say, and a quota would make them say
_DEFAULT = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
_CLAIMS = ((GENERATOR, "logs", "the generator's logs"), (EVENTING, LOGGER, "the receipts of events"))


async def check_limits(cluster: Cluster, found: Findings) -> None:
    """Quotas of our namespaces that are nearly used up, or ask for what our pods do not say; limits by default."""
    quotas = [each for each in await cluster.all(RESOURCE_QUOTAS) if namespace_of(each) in OURS]
    for quota in quotas:
        _check_quota(quota, found)
    ranges = [each for each in await cluster.all(LIMIT_RANGES) if namespace_of(each) in OURS]
    for each in ranges:
        for limit in each["spec"].get("limits") or ():
            cpu = (limit.get("default") or {}).get("cpu")
            if limit.get("type") == "Container" and cpu and namespace_of(each) in (FUNCTIONS, EVENTING):
                found.warning(
                    f"LimitRange {namespace_of(each)}/{name_of(each)} limits containers to {cpu} CPUs by default",
                    "throttling is measured as the function's latency",
                    f"kubectl delete limitrange {name_of(each)} -n {namespace_of(each)}",
                )
    if not quotas and not ranges:
        found.ok("no quota and no LimitRange in our namespaces")


def _check_quota(quota: Object, found: Findings) -> None:
    where = f"quota {namespace_of(quota)}/{name_of(quota)}"
    hard = (quota.get("status") or {}).get("hard") or quota["spec"].get("hard") or {}
    used = (quota.get("status") or {}).get("used") or {}
    edit = f"kubectl edit resourcequota {name_of(quota)} -n {namespace_of(quota)}"
    near = []
    for name, text in hard.items():
        most, now = parse_quantity(str(text)), parse_quantity(str(used.get(name, "0")))
        if name in _UNSET and namespace_of(quota) in (FUNCTIONS, EVENTING):
            found.failed(f"{where} counts {name}", "our pods have no CPU limit, and are refused", edit)
        elif now >= most:
            found.failed(f"{where}: {name} is used up ({used.get(name, '0')} of {text})", "new pods are refused", edit)
        elif now >= most * _NEARLY:
            near.append(f"{name} {used[name]} of {text}")
    if near:
        found.warning(f"{where}: {', '.join(near)}", "new pods are refused when it is used up", edit)
    else:
        found.ok(f"{where}: {', '.join(f'{name} {used.get(name, 0)} of {text}' for name, text in hard.items())}")


async def check_storage(cluster: Cluster, found: Findings) -> None:
    """The claims of generator and event logger, and for those that are still to come a default StorageClass."""
    namespaces = {name_of(each) for each in await cluster.all(NAMESPACES)}
    claims = {(namespace_of(each), name_of(each)): each for each in await cluster.all(VOLUME_CLAIMS)}
    classes = {name_of(each): each for each in await cluster.all(STORAGE_CLASSES)}
    defaults = [name for name, each in classes.items() if _is_default(each)]
    to_come = []
    for namespace, name, what in _CLAIMS:
        claim = claims.get((namespace, name))
        if claim is None:
            if namespace in namespaces or namespace == GENERATOR:
                to_come.append(f"{namespace}/{name}")
            continue
        _check_claim(claim, what, classes, found)
    if len(defaults) == 1:
        found.ok(f"StorageClass {defaults[0]} is the default one")
    elif defaults:
        found.warning(
            f"StorageClasses {', '.join(defaults)} are all the default one",
            "the newest is taken, and disks differ from one cluster to the next",
            "kubectl annotate storageclass NAME storageclass.kubernetes.io/is-default-class=false --overwrite",
        )
    elif to_come and (volumes := [each for each in await cluster.all(VOLUMES) if _is_free(each)]):
        found.ok(f"no StorageClass is the default one, but {len(volumes)} volumes without a class are free")
    elif to_come:
        found.failed(
            f"no StorageClass is the default one, and {', '.join(to_come)} will need it",
            "its pod stays Pending",
            "kubectl annotate storageclass NAME storageclass.kubernetes.io/is-default-class=true",
        )


def _check_claim(claim: Object, what: str, classes: dict[str, Object], found: Findings) -> None:
    where, phase = f"{namespace_of(claim)}/{name_of(claim)}", (claim.get("status") or {}).get("phase", "Pending")
    wanted = claim["spec"].get("storageClassName")
    if phase == "Bound":
        size = (claim["status"].get("capacity") or {}).get("storage", "a volume of unknown size")
        found.ok(f"claim {where} is bound: {size}")
    elif (
        phase == "Pending" and wanted in classes and classes[wanted].get("volumeBindingMode") == "WaitForFirstConsumer"
    ):
        found.ok(f"claim {where} waits for its pod")
    else:
        missing = f", and there is no StorageClass {wanted}" if wanted and wanted not in classes else ""
        found.failed(
            f"claim {where} is {phase}{missing}",
            f"it is for {what}: the pod stays Pending",
            f"kubectl describe pvc {name_of(claim)} -n {namespace_of(claim)}",
        )


def _is_free(volume: Object) -> bool:
    return (volume.get("status") or {}).get("phase") == "Available" and not volume["spec"].get("storageClassName")


def _is_default(storage: Object) -> bool:
    annotations = storage["metadata"].get("annotations") or {}
    return any(annotations.get(each) == "true" for each in _DEFAULT)
