"""Whether the admission plugins work that our namespaces' placement annotations need, and where the annotations lead.

A pod that asks for nothing is created as a dry run in each annotated namespace: what comes back has the namespace's
selector and tolerations, or the plugins are off. Nothing is stored.
"""

from __future__ import annotations

from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.cluster.doctor.placement import (
    DEDICATED,
    SELECTOR,
    TOLERATIONS,
    annotations_of,
    not_tolerated,
    selected,
    selector_of,
    taint_text,
    tolerations_of,
)
from workload_generator.kube.errors import ApiError
from workload_generator.kube.names import FUNCTIONS, GENERATOR, KNATIVE, METRICS
from workload_generator.kube.resources import NAMESPACES, NODES, Object, name_of

_PLACED = (*KNATIVE, METRICS)
_PLUGINS = "--enable-admission-plugins=PodNodeSelector,PodTolerationRestriction of kube-apiserver"
_WHY = "what is measured shares its node with what measures it"


async def check_admission(cluster: Cluster, found: Findings) -> None:
    """Both plugins by what they do to a pod; whether each placed namespace says where, and whether pods fit there."""
    namespaces = {name_of(each): each for each in await cluster.all(NAMESPACES)}
    nodes = await cluster.all(NODES)
    for name in _PLACED:
        if name in namespaces:
            await _check_namespace(cluster, namespaces[name], nodes, found)
    for name in (GENERATOR, FUNCTIONS):
        if name in namespaces and SELECTOR in annotations_of(namespaces[name]):
            found.warning(
                f"namespace {name} has the annotation {SELECTOR}",
                "our manifests say themselves where their pods belong; both together may fit nowhere",
                f"kubectl annotate namespace {name} {SELECTOR}-",
            )


async def _check_namespace(cluster: Cluster, namespace: Object, nodes: list[Object], found: Findings) -> None:
    name = name_of(namespace)
    apply = "kubectl apply --server-side -k infrastructure/namespaces"
    try:
        labels, tolerations = selector_of(namespace), tolerations_of(namespace)
    except ValueError as error:
        return found.failed(f"namespace {name}: {error}", "no pod can be made in it", apply)
    if not labels:
        purpose = METRICS if name == METRICS else "knative"
        if selected(nodes, {DEDICATED: purpose}):
            return found.warning(f"namespace {name} does not say which nodes are its own ({SELECTOR})", _WHY, apply)
        return None  # a cluster without dedicated nodes: the check of nodes says so
    theirs = selected(nodes, labels)
    wanted = ",".join(f"{key}={value}" for key, value in labels.items())
    if not theirs:
        found.failed(
            f"namespace {name} wants nodes with {wanted}: there is none",
            "its pods stay Pending",
            f"kubectl label node NODE {wanted}",
        )
    else:
        taints = [not_tolerated(node, tolerations) for node in theirs]
        if all(taints):
            texts = ", ".join(sorted({taint_text(taint) for each in taints for taint in each}))
            found.failed(
                f"namespace {name} does not tolerate {texts} of its own nodes ({TOLERATIONS})",
                "pods that bring no toleration stay Pending",
                apply,
            )
    try:
        made = await cluster.kube.create(_pod(), dry_run=True, namespace=name)
    except ApiError as error:
        return found.unknown(f"a pod in {name}, tried as a dry run: {error}", "the admission plugins cannot be tried")
    got = made["spec"].get("nodeSelector") or {}
    if any(got.get(key) != value for key, value in labels.items()):
        found.failed(f"PodNodeSelector is off: a pod in {name} gets no {wanted}", _WHY, _PLUGINS)
    else:
        await _check_conflict(cluster, name, labels, found)
    given = made["spec"].get("tolerations") or []
    if not all(any(_same(each, one) for one in given) for each in tolerations):
        found.failed(
            f"PodTolerationRestriction is off: a pod in {name} gets no toleration of its namespace",
            "pods that are bound to a tainted node stay Pending",
            _PLUGINS,
        )
    elif tolerations:
        found.ok(f"PodTolerationRestriction gives pods in {name} the tolerations of their node")
    return None


async def _check_conflict(cluster: Cluster, name: str, labels: dict[str, str], found: Findings) -> None:
    """A pod that asks for other nodes has to be refused; a webhook that only adds labels would let it in."""
    wanted = ",".join(f"{key}={value}" for key, value in labels.items())
    pod = _pod()
    pod["spec"]["nodeSelector"] = {key: f"not-{value}" for key, value in labels.items()}
    try:
        await cluster.kube.create(pod, dry_run=True, namespace=name)
    except ApiError as error:
        if error.status != 403:
            return found.unknown(f"a pod in {name} that asks for other nodes: {error}")
        return found.ok(f"PodNodeSelector binds pods in {name} to {wanted}, and refuses what asks for others")
    return found.warning(f"a pod in {name} may ask for other nodes than {wanted}", _WHY, _PLUGINS)


def _same(wanted: Object, given: Object) -> bool:
    return all((given.get(key) or "") == (wanted.get(key) or "") for key in ("key", "value", "effect"))


def _pod() -> Object:
    """One that every Pod Security level takes."""
    container = {
        "name": "c",
        "image": "dev.local/tried-by-kn-bench-doctor:0",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "kn-bench-doctor-"},
        "spec": {"containers": [container], "securityContext": security},
    }
