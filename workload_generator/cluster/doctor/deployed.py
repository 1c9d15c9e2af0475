"""What is already deployed: whether it is ready, and its own message if it is not."""

from __future__ import annotations

from collections import Counter

from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.deploy.readiness import message_of, why_not
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube import resources as kinds
from workload_generator.kube.names import (
    EVENTING,
    FUNCTIONS,
    GENERATOR,
    KNATIVE,
    KNATIVE_EVENTING,
    KNATIVE_SERVING,
    OURS,
)
from workload_generator.kube.resources import Object, Resource, condition, is_ready, key_of, name_of, namespace_of

_SERVING = ("activator", "autoscaler", "controller", "webhook")
_SYSTEM = (*KNATIVE, "rabbitmq-system", "cert-manager")
_KINDS: tuple[tuple[Resource, str], ...] = (
    (kinds.SERVICES, FUNCTIONS),
    *((kind, EVENTING) for kind in (kinds.SERVICES, kinds.BROKERS, kinds.TRIGGERS, kinds.SEQUENCES)),
)
_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_BROKEN = (*_PULL, "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_CONTROLLER = "rabbitmq-broker-controller"
_OPERATORS = (
    # Product, a CRD of it, namespace and name of its Deployment.
    ("the RabbitMQ cluster operator", "rabbitmqclusters.rabbitmq.com", "rabbitmq-system", "rabbitmq-cluster-operator"),
    ("the RabbitMQ topology operator", "exchanges.rabbitmq.com", "rabbitmq-system", "messaging-topology-operator"),
    ("Knative's RabbitMQ broker", "rabbitmqbrokerconfigs.eventing.knative.dev", KNATIVE_EVENTING, _CONTROLLER),
)


async def check_conditions(cluster: Cluster, reporter: Reporter) -> None:
    """Deployments of Knative and its helpers, and our Services, Brokers, Triggers and Sequences."""
    deployments = [each for each in await cluster.all(kinds.DEPLOYMENTS) if namespace_of(each) in _SYSTEM]
    for each in deployments:
        if each["spec"].get("replicas", 1) and (why := why_not(each, "Available")):
            text = f"Deployment {'/'.join(key_of(each))} is not available: {why}"
            reporter.failed(text, "a part of Knative does not work", _describe("deployment", each))
    counts = Counter(namespace_of(each) for each in deployments if is_ready(each, "Available"))
    if counts:
        reporter.ok("Deployments available: " + ", ".join(f"{count} in {name}" for name, count in counts.items()))
    existing = {name_of(each) for each in deployments if namespace_of(each) == KNATIVE_SERVING}
    missing = [name for name in _SERVING if name not in existing]
    if missing:
        text = f"{KNATIVE_SERVING} has no Deployment {', '.join(missing)}"
        reporter.failed(text, "there is nothing to measure", "install Knative Serving")
    for resource, namespace in _KINDS:
        objects = await cluster.installed(resource, namespace)
        for each in objects:
            if why := why_not(each):
                text = f"{resource.kind} {'/'.join(key_of(each))} is not ready: {why}"
                reporter.failed(text, "requests to it fail or wait", _describe(str(resource), each))
        ready = sum(map(is_ready, objects))
        if ready:
            reporter.ok(f"{ready} {resource.plural} in {namespace} are ready")


def _describe(kind: str, obj: Object) -> str:
    return f"kubectl describe {kind} {name_of(obj)} -n {namespace_of(obj)}"


async def check_rabbitmq(cluster: Cluster, reporter: Reporter) -> None:
    """The operators of RabbitMQ, if a broker in `eventing` is of its class."""
    brokers = await cluster.installed(kinds.BROKERS, EVENTING)
    names = ", ".join("/".join(key_of(each)) for each in brokers if is_rabbitmq(each))
    if not names:
        return
    why, fix = f"broker {names} never becomes ready", "cd infrastructure && just install-eventing"
    crds = {name_of(each) for each in await cluster.all(kinds.CRDS)}
    for product, crd, namespace, name in _OPERATORS:
        deployments = {name_of(each): each for each in await cluster.all(kinds.DEPLOYMENTS, namespace)}
        if crd not in crds:
            reporter.failed(f"{product} is not installed ({crd})", why, fix)
        elif name not in deployments:
            reporter.failed(f"{product} is not running: no Deployment {namespace}/{name}", why, fix)
        elif reason := why_not(deployments[name], "Available"):
            text = f"{product} is not available: {reason}"
            reporter.failed(text, why, _describe("deployment", deployments[name]))
        else:
            reporter.ok(f"{product} is available")


async def check_pods(cluster: Cluster, reporter: Reporter) -> None:
    """Pods of ours and of Knative: images that cannot be pulled, containers that crash, pods without a node."""
    pods = [each for each in await cluster.all(kinds.PODS) if namespace_of(each) in (*OURS, *_SYSTEM)]
    bad = [pod for pod in pods if not _check_pod(pod, reporter)]
    if pods and not bad:
        reporter.ok(f"{len(pods)} pods of ours and of Knative have their images and their nodes")


def _check_pod(pod: Object, reporter: Reporter) -> bool:
    where, status, describe = f"pod {'/'.join(key_of(pod))}", pod["status"], _describe("pod", pod)
    scheduled = condition(pod, "PodScheduled") or {}
    if status.get("phase") == "Pending" and scheduled.get("status") == "False":
        reporter.failed(f"{where} has no node: {message_of(scheduled)}", "it never starts", describe)
        return False
    is_good = True
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in _BROKEN:
            text = f"{where}: {each['name']} is in {reason}: {waiting.get('message') or 'no message'}"
            if reason in _PULL:
                fix = f"push {each.get('image')}, or `kind load docker-image` it; k8s/overlays/gce names the registry"
                reporter.failed(text, "its image is not available", fix)
            else:
                reporter.failed(text, "it does not run", describe.replace("describe pod", "logs --previous"))
            is_good = False
        last = (each.get("lastState") or {}).get("terminated") or {}
        if last.get("reason") == "OOMKilled":
            text = f"{where}: {each['name']} was killed: it exceeded its memory limit"
            reporter.warning(text, "its requests in flight were lost", describe)
            is_good = False
    return is_good


async def check_generator(cluster: Cluster, reporter: Reporter) -> None:
    """One generator pod, and ready."""
    pods = [
        each
        for each in await cluster.all(kinds.PODS, GENERATOR)
        if each["status"].get("phase") not in ("Succeeded", "Failed") and not each["metadata"].get("deletionTimestamp")
    ]
    sources = [name_of(each) for each in await cluster.installed(kinds.CONTAINER_SOURCES, GENERATOR)]
    if not pods:
        text, fix = f"no generator runs in {GENERATOR}", "kubectl apply -k k8s/overlays/…"
        reporter.warning(text, "scenarios need it", fix)
    elif len(pods) > 1 and GENERATOR not in sources:  # its pods overlap in a rollout: the check of sources covers them
        reporter.failed(
            f"{len(pods)} pods in {GENERATOR}: {', '.join(map(name_of, pods))}",
            "runs start in the first one, and the others share its node",
            f"delete all pods in {GENERATOR} but one generator",
        )
    for pod in pods:
        if why := why_not(pod):
            text = f"generator {name_of(pod)} is not ready: {why}"
            reporter.failed(text, "no run can start", _describe("pod", pod))
        else:
            reporter.ok(f"generator {name_of(pod)} is ready")
