"""What is deployed already: whether it is ready, and if not, what it says."""

from __future__ import annotations

from collections import Counter

from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.kube.errors import ApiAbsent
from workload_generator.kube.names import (
    EVENTING,
    FUNCTIONS,
    GENERATOR,
    KNATIVE,
    KNATIVE_EVENTING,
    KNATIVE_SERVING,
    OURS,
)
from workload_generator.kube.resources import (
    BROKERS,
    CONTAINER_SOURCES,
    CRDS,
    DEPLOYMENTS,
    PODS,
    SEQUENCES,
    SERVICES,
    TRIGGERS,
    Object,
    Resource,
    condition,
    is_ready,
    name_of,
    namespace_of,
)

_SERVING = ("activator", "autoscaler", "controller", "webhook")
_SYSTEM = (*KNATIVE, "rabbitmq-system", "cert-manager")
_KINDS: tuple[tuple[Resource, str], ...] = (
    (SERVICES, FUNCTIONS), (SERVICES, EVENTING), (BROKERS, EVENTING), (TRIGGERS, EVENTING), (SEQUENCES, EVENTING),
)  # fmt: skip
_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_BROKEN = (*_PULL, "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_CONTROLLER = "rabbitmq-broker-controller"
_OPERATORS = (
    # What makes it, by a CRD that it brings; the namespace and name of its Deployment.
    ("the RabbitMQ cluster operator", "rabbitmqclusters.rabbitmq.com", "rabbitmq-system", "rabbitmq-cluster-operator"),
    ("the RabbitMQ topology operator", "exchanges.rabbitmq.com", "rabbitmq-system", "messaging-topology-operator"),
    ("Knative's RabbitMQ broker", "rabbitmqbrokerconfigs.eventing.knative.dev", KNATIVE_EVENTING, _CONTROLLER),
)


async def check_conditions(cluster: Cluster, found: Findings) -> None:
    """Deployments of Knative and its helpers, and our Services, Brokers, Triggers and Sequences."""
    deployments = [each for each in await cluster.all(DEPLOYMENTS) if namespace_of(each) in _SYSTEM]
    for each in deployments:
        if each["spec"].get("replicas", 1) and not is_ready(each, "Available"):
            where = f"{namespace_of(each)}/{name_of(each)}"
            text = f"Deployment {where} is not available: {_says(each, 'Available')}"
            found.failed(
                text,
                "Knative does not do its part",
                f"kubectl describe deployment {name_of(each)} -n {namespace_of(each)}",
            )
    counted = Counter(namespace_of(each) for each in deployments if is_ready(each, "Available"))
    if counted:
        found.ok("Deployments available: " + ", ".join(f"{count} in {name}" for name, count in counted.items()))
    there = {name_of(each) for each in deployments if namespace_of(each) == KNATIVE_SERVING}
    missing = [name for name in _SERVING if name not in there]
    if missing:
        text = f"{KNATIVE_SERVING} has no Deployment {', '.join(missing)}"
        found.failed(text, "there is nothing to measure", "install Knative Serving")
    for resource, namespace in _KINDS:
        try:
            objects = await cluster.all(resource, namespace)
        except ApiAbsent:
            continue
        for each in objects:
            if not is_ready(each):
                what = f"{resource.kind} {namespace}/{name_of(each)}"
                found.failed(
                    f"{what} is not ready: {_says(each, 'Ready')}",
                    "requests to it fail or wait",
                    f"kubectl describe {resource} {name_of(each)} -n {namespace}",
                )
        ready = sum(map(is_ready, objects))
        if ready:
            found.ok(f"{ready} {resource.plural} in {namespace} are ready")


def _says(obj: Object, kind: str) -> str:
    said = condition(obj, kind)
    if said is None:
        return "nothing has looked at it yet"
    if said.get("status") == "True":
        return "it was changed, and that was not looked at yet"
    return str(said.get("message") or said.get("reason") or "no message")


async def check_rabbitmq(cluster: Cluster, found: Findings) -> None:
    """Its operators, when a broker in `eventing` is of RabbitMQ's class."""
    try:
        brokers = await cluster.all(BROKERS, EVENTING)
    except ApiAbsent:
        return
    theirs = [each for each in brokers if is_rabbitmq(each)]
    if not theirs:
        return
    names = ", ".join(f"{EVENTING}/{name_of(each)}" for each in theirs)
    crds = {name_of(each) for each in await cluster.all(CRDS)}
    for what, crd, namespace, name in _OPERATORS:
        deployments = {name_of(each): each for each in await cluster.all(DEPLOYMENTS, namespace)}
        why, fix = f"broker {names} never becomes ready", "cd infrastructure && just install-eventing"
        if crd not in crds:
            found.failed(f"{what} is not installed ({crd})", why, fix)
        elif name not in deployments:
            found.failed(f"{what} does not run: no Deployment {namespace}/{name}", why, fix)
        elif not is_ready(deployments[name], "Available"):
            text = _says(deployments[name], "Available")
            found.failed(f"{what} is not available: {text}", why, f"kubectl describe deployment {name} -n {namespace}")
        else:
            found.ok(f"{what} is there")


async def check_pods(cluster: Cluster, found: Findings) -> None:
    """Our pods and Knative's: images that cannot be pulled, containers that crash, pods without a node."""
    pods = [each for each in await cluster.all(PODS) if namespace_of(each) in (*OURS, *_SYSTEM)]
    bad = 0
    for pod in pods:
        bad += _check_pod(pod, found)
    if pods and not bad:
        found.ok(f"{len(pods)} pods of ours and of Knative's have their images and their nodes")


def _check_pod(pod: Object, found: Findings) -> bool:
    where, status = f"{namespace_of(pod)}/{name_of(pod)}", pod["status"]
    look = f"kubectl describe pod {name_of(pod)} -n {namespace_of(pod)}"
    scheduled = condition(pod, "PodScheduled") or {}
    if status.get("phase") == "Pending" and scheduled.get("status") == "False":
        text = scheduled.get("message") or scheduled.get("reason") or "no message"
        found.failed(f"pod {where} has no node: {text}", "it never starts", look)
        return True
    bad = False
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in _BROKEN:
            text = f"pod {where}: {each['name']} is in {reason}: {waiting.get('message') or 'no message'}"
            if reason in _PULL:
                fix = f"push {each.get('image')}, or `kind load docker-image` it; k8s/overlays/gce names the registry"
                found.failed(text, "its image cannot be had", fix)
            else:
                found.failed(text, "it does not run", look.replace("describe pod", "logs --previous"))
            bad = True
        last = (each.get("lastState") or {}).get("terminated") or {}
        if last.get("reason") == "OOMKilled":
            found.warning(f"pod {where}: {each['name']} was killed for its memory", "requests in it were lost", look)
            bad = True
    return bad


async def check_generator(cluster: Cluster, found: Findings) -> None:
    """One generator pod, and ready."""
    pods = [
        each
        for each in await cluster.all(PODS, GENERATOR)
        if each["status"].get("phase") not in ("Succeeded", "Failed") and not each["metadata"].get("deletionTimestamp")
    ]
    try:
        sources = [each for each in await cluster.all(CONTAINER_SOURCES, GENERATOR) if name_of(each) == GENERATOR]
    except ApiAbsent:
        sources = []
    if not pods:
        return found.warning(
            f"no generator runs in {GENERATOR}", "scenarios need it", "kubectl apply -k k8s/overlays/…"
        )
    if len(pods) > 1 and not sources:  # a source rolls: its check says what of
        names = ", ".join(map(name_of, pods))
        found.failed(
            f"{len(pods)} pods in {GENERATOR}: {names}",
            "runs are triggered in the first one, and the others share its node",
            "one generator and nothing else may live there",
        )
    for pod in pods:
        if is_ready(pod):
            found.ok(f"generator {name_of(pod)} is ready")
        else:
            text = f"generator {name_of(pod)} is not ready: {_says(pod, 'Ready')}"
            found.failed(text, "no run can start", f"kubectl describe pod {name_of(pod)} -n {GENERATOR}")
    return None
