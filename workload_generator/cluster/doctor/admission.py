"""Whether the admission plugins of the namespaces' placement annotations are on, and whether the annotations fit nodes.

A pod without a selector is created as a dry run in each annotated namespace: unless it comes back with the namespace's
selector and tolerations, the plugins are off. Nothing is stored.
"""

from __future__ import annotations

from workload_generator.cluster.doctor.placement import (
    DEDICATED,
    SELECTOR,
    TOLERATIONS,
    annotations_of,
    label_text,
    not_tolerated,
    selected,
    selector_of,
    taint_text,
    tolerations_of,
)
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube.errors import ApiError
from workload_generator.kube.names import FUNCTIONS, GENERATOR, KNATIVE, METRICS
from workload_generator.kube.resources import NAMESPACES, NODES, Object, name_of

_PLUGINS = "--enable-admission-plugins=PodNodeSelector,PodTolerationRestriction of kube-apiserver"
_APPLY = "kubectl apply --server-side -k infrastructure/namespaces"
_WHY = "the pods that are measured share their node with the pods that measure"


async def check_admission(cluster: Cluster, reporter: Reporter) -> None:
    """Both plugins by their effect on a pod; the annotations of each namespace, and whether its pods fit a node."""
    namespaces = {name_of(each): each for each in await cluster.all(NAMESPACES)}
    nodes = await cluster.all(NODES)
    for name in (*KNATIVE, METRICS):
        if name in namespaces:
            await _check_namespace(cluster, namespaces[name], nodes, reporter)
    for name in (GENERATOR, FUNCTIONS):
        if name in namespaces and SELECTOR in annotations_of(namespaces[name]):
            reporter.warning(
                f"namespace {name} has the annotation {SELECTOR}",
                "our manifests have node selectors of their own: no node may match both",
                f"kubectl annotate namespace {name} {SELECTOR}-",
            )


async def _check_namespace(cluster: Cluster, namespace: Object, nodes: list[Object], reporter: Reporter) -> None:
    name = name_of(namespace)
    try:
        labels, tolerations = selector_of(namespace), tolerations_of(namespace)
    except ValueError as error:
        return reporter.failed(f"namespace {name}: {error}", "no pod can be created in it", _APPLY)
    if not labels:
        purpose = METRICS if name == METRICS else "knative"
        if selected(nodes, {DEDICATED: purpose}):
            reporter.warning(f"namespace {name} has no annotation {SELECTOR} for its nodes", _WHY, _APPLY)
        return None  # without dedicated nodes the check of nodes reports it
    _check_nodes(name, labels, tolerations, nodes, reporter)
    try:
        pod = await cluster.kube.create(_pod(), dry_run=True, namespace=name)
    except ApiError as error:
        return reporter.unknown(f"a dry run of a pod in {name}: {error}", "the admission plugins cannot be tested")
    if labels.items() <= (pod["spec"].get("nodeSelector") or {}).items():
        await _check_conflict(cluster, name, labels, reporter)
    else:
        reporter.failed(f"PodNodeSelector is off: a pod in {name} gets no {label_text(labels)}", _WHY, _PLUGINS)
    given = pod["spec"].get("tolerations") or []
    if not all(any(_same(each, one) for one in given) for each in tolerations):
        reporter.failed(
            f"PodTolerationRestriction is off: a pod in {name} gets no toleration of its namespace",
            "pods with a tainted node as their only one stay Pending",
            _PLUGINS,
        )
    elif tolerations:
        reporter.ok(f"PodTolerationRestriction gives pods in {name} the tolerations of their node")
    return None


def _check_nodes(
    name: str, labels: dict[str, str], tolerations: list[Object], nodes: list[Object], reporter: Reporter
) -> None:
    own = selected(nodes, labels)
    if not own:
        text = f"namespace {name} selects nodes with {label_text(labels)}: there is none"
        return reporter.failed(text, "its pods stay Pending", f"kubectl label node NODE {label_text(labels)}")
    taints = [not_tolerated(node, tolerations) for node in own]
    if all(taints):
        texts = ", ".join(sorted({taint_text(taint) for each in taints for taint in each}))
        text = f"namespace {name} does not tolerate {texts} of its own nodes ({TOLERATIONS})"
        return reporter.failed(text, "pods without tolerations stay Pending", _APPLY)
    return None


async def _check_conflict(cluster: Cluster, name: str, labels: dict[str, str], reporter: Reporter) -> None:
    """The plugin refuses a pod that selects other nodes; a webhook that only adds labels accepts it."""
    pod = _pod()
    pod["spec"]["nodeSelector"] = {key: f"not-{value}" for key, value in labels.items()}
    try:
        await cluster.kube.create(pod, dry_run=True, namespace=name)
    except ApiError as error:
        if error.status != 403:
            return reporter.unknown(f"a dry run of a pod in {name} that selects other nodes: {error}")
        return reporter.ok(f"PodNodeSelector binds pods in {name} to {label_text(labels)} and refuses other selectors")
    return reporter.warning(f"a pod in {name} may select other nodes than {label_text(labels)}", _WHY, _PLUGINS)


def _same(wanted: Object, given: Object) -> bool:
    return all((given.get(key) or "") == (wanted.get(key) or "") for key in ("key", "value", "effect"))


def _pod() -> Object:
    """One that every Pod Security level accepts."""
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
