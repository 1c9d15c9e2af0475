"""A stand-in for Knative's controllers, which are not available here (see README.md).

It creates the Configuration, Revision, PodAutoscaler, Route and Deployment of a Service, with the labels and owners of
the real ones; the Deployment and SinkBinding of a ContainerSource, with K_SINK as soon as the sink has an address; the
channel of a broker and the Subscription of a trigger, or the dispatcher of a RabbitMQ trigger. It sets Brokers,
Triggers, Sequences and RabbitMQ clusters to ready. The real control plane handles Deployments, pods and garbage.
There are no webhooks (no defaults, no validation beyond the CRDs), no autoscaling (tests call `scale`) and no traffic.
Where the real ones were seen to misbehave, it does so too, and says where that was seen.

Rules:
- it polls and reconciles, so that no event can be missed
- it changes only the namespaces that it is given
"""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable, Iterable

import urllib3

from tests.cluster.api import Api, Doc, Refused
from tests.cluster.conditions import conditions, is_true, with_conditions

SERVING = "serving.knative.dev"
SOURCES = "sources.knative.dev"
MESSAGING = "messaging.knative.dev/v1"
AUTOSCALING = "autoscaling.internal.knative.dev/v1alpha1"
PERIOD_S = 0.1
QUEUE_PROXY = {
    "name": "queue-proxy",
    "image": "dev.local/queue:1",
    "ports": [{"name": "queue-port", "containerPort": 8012}],
    "resources": {"requests": {"cpu": "25m"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


class Knative:
    """The controllers of some namespaces, in a thread until the end of the context."""

    def __init__(self, api: Api, namespaces: Iterable[str], late_sinks: bool = True) -> None:
        """Without `late_sinks`, a source that is older than its sink gets K_SINK only when its SinkBinding is touched.

        So it was seen on Eventing 1.22.2: a touch of the source itself reconciles nothing (knative/eventing#9189).
        """
        self._api = Api(api.kubeconfig)
        self._namespaces = list(namespaces)
        self._late_sinks = late_sinks
        self._scales: dict[tuple[str, str], int] = {}
        self._too_early: dict[str, Doc] = {}  # the annotations of the SinkBinding that found no sink
        self.rounds = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="knative", daemon=True)
        self._failure: str | None = None

    def __enter__(self) -> Knative:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for namespace in self._namespaces:  # nothing else ends them, and with them the namespace
            for doc in self._api.list(MESSAGING, "Subscription", namespace):
                self._settle(self._let_go, doc)
        assert self._failure is None, self._failure

    def scale(self, namespace: str, service: str, pods: int) -> None:
        """Scale the service's ready revision as the autoscaler would, within min-scale and max-scale."""
        self._scales[namespace, service] = pods

    def _run(self) -> None:
        steps: list[tuple[str, str, Callable[[Doc], None]]] = [
            (f"{SERVING}/v1", "Service", self._service),
            ("rabbitmq.com/v1beta1", "RabbitmqCluster", self._rabbitmq),
            ("flows.knative.dev/v1", "Sequence", self._sequence),
            ("eventing.knative.dev/v1", "Broker", self._broker),
            ("eventing.knative.dev/v1", "Trigger", self._trigger),
            (f"{SOURCES}/v1", "ContainerSource", self._source),
        ]
        while not self._ended.wait(PERIOD_S):
            self.rounds += 1
            for namespace in self._namespaces:
                self._settle(self._subscriptions, {"namespace": namespace})
                for version, kind, step in steps:
                    try:
                        for doc in self._api.list(version, kind, namespace):
                            if "deletionTimestamp" not in doc["metadata"]:
                                self._settle(step, doc)
                    except Exception:
                        self._failure = traceback.format_exc()
                        return

    @staticmethod
    def _settle(step: Callable[[Doc], None], doc: Doc) -> None:
        # A conflict, a deletion in progress, or the API server is down: the next poll tries again.
        try:
            step(doc)
        except Refused as refused:
            if refused.code not in (403, 404, 409, 500, 503):
                raise
        except urllib3.exceptions.HTTPError:
            return

    # Serving

    def _service(self, service: Doc) -> None:
        meta = service["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        template = service["spec"]["template"]
        configuration = self._api.apply(
            _owned(service, f"{SERVING}/v1", "Configuration", name, {f"{SERVING}/service": name})
            | {"spec": {"template": template}},
            manager="knative",
        )
        generation = configuration["metadata"]["generation"]
        revision_name = template.get("metadata", {}).get("name") or f"{name}-{generation:05d}"
        status = configuration.get("status", {})
        ready = status.get("latestReadyRevisionName")
        revision = self._revision(
            configuration, revision_name, self._pods(namespace, name, template, ready == revision_name)
        )
        if is_true(revision, "Ready"):
            ready = revision_name
            self._retire(namespace, name, revision_name)
        self._status(
            configuration, conditions(revision, "Ready"), latestCreatedRevisionName=revision_name,
            **({"latestReadyRevisionName": ready} if ready else {}),
        )  # fmt: skip
        url = _url(service)
        route = self._api.apply(
            _owned(service, f"{SERVING}/v1", "Route", name, {f"{SERVING}/service": name})
            | {"spec": {"traffic": [{"configurationName": name, "latestRevision": True, "percent": 100}]}},
            manager="knative",
        )
        traffic = [{"latestRevision": True, "percent": 100, "revisionName": ready}] if ready else []
        fields = {"url": url, "address": {"url": f"http://{name}.{namespace}.svc.cluster.local"}, "traffic": traffic}
        routed = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
        self._status(route, routed, **fields)
        (outcome,) = conditions(revision, "Ready")
        merged = [
            {**outcome, "type": "ConfigurationsReady"},
            {**routed[0], "type": "RoutesReady"},
            outcome if outcome["status"] != "True" else routed[0],
        ]
        names = {"latestCreatedRevisionName": revision_name, **({"latestReadyRevisionName": ready} if ready else {})}
        self._status(service, merged, **fields, **names)

    def _pods(self, namespace: str, service: str, template: Doc, was_ready: bool) -> int:
        wanted = template.get("metadata", {}).get("annotations", {})
        least = int(wanted.get("autoscaling.knative.dev/min-scale", 0))
        most = int(wanted.get("autoscaling.knative.dev/max-scale", 0)) or 1000
        first = int(wanted.get("autoscaling.knative.dev/initial-scale", 1))
        # A revision keeps its initial pods until it was ready once.
        pods = self._scales.get((namespace, service), first) if was_ready else first
        return max(least, min(most, pods))

    def _revision(self, configuration: Doc, name: str, pods: int) -> Doc:
        """The current revision, with its Deployment and PodAutoscaler."""
        meta = configuration["metadata"]
        template = configuration["spec"]["template"]
        service = meta["name"]
        labels = {
            f"{SERVING}/service": service,
            f"{SERVING}/configuration": service,
            f"{SERVING}/configurationGeneration": str(meta["generation"]),
            **template.get("metadata", {}).get("labels", {}),
        }
        annotations = template.get("metadata", {}).get("annotations", {})
        doc = _owned(configuration, f"{SERVING}/v1", "Revision", name, labels, annotations)
        revision = self._api.apply(doc | {"spec": template["spec"]}, manager="knative")
        deployment = self._deployment(revision, pods)
        status = deployment.get("status", {})
        available = status.get("availableReplicas", 0)
        failed = next((each for each in conditions(deployment, "ReplicaFailure") if each["status"] == "True"), None)
        if failed:
            outcome = [{"type": "Ready", "status": "False", "reason": failed["reason"], "message": failed["message"]}]
        elif is_true(revision, "Ready") or (available and available >= pods):
            outcome = [{"type": "Ready", "status": "True"}]
        else:
            outcome = [{"type": "Ready", "status": "Unknown", "reason": "Deploying"}]
        active = {"type": "Active", "status": "True" if pods else "False"}
        self._autoscaler(revision, pods, status.get("readyReplicas", 0), [*outcome, active])
        return self._status(revision, [*outcome, active], actualReplicas=available, desiredReplicas=pods)

    def _deployment(self, revision: Doc, pods: int) -> Doc:
        meta = revision["metadata"]
        labels = {"app": meta["name"], f"{SERVING}/revision": meta["name"], f"{SERVING}/revisionUID": meta["uid"]}
        labels |= {key: value for key, value in meta["labels"].items() if not key.endswith("configurationGeneration")}
        spec = {key: value for key, value in revision["spec"].items() if key not in _REVISIONS_OWN}
        spec["containers"] = [*spec["containers"], QUEUE_PROXY]
        doc = _owned(revision, "apps/v1", "Deployment", f"{meta['name']}-deployment", labels)
        template = {"metadata": {"labels": labels, "annotations": meta.get("annotations", {})}, "spec": spec}
        selector = {"matchLabels": {f"{SERVING}/revisionUID": meta["uid"]}}
        return self._api.apply(
            doc | {"spec": {"replicas": pods, "selector": selector, "template": template}}, "knative"
        )

    def _autoscaler(self, revision: Doc, pods: int, ready: int, outcome: list[Doc]) -> None:
        name = revision["metadata"]["name"]
        doc = _owned(revision, AUTOSCALING, "PodAutoscaler", name, revision["metadata"]["labels"])
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-deployment"}
        scaler = self._api.apply(doc | {"spec": {"scaleTargetRef": target, "protocolType": "http1"}}, manager="knative")
        self._status(
            scaler, outcome, desiredScale=pods, actualScale=ready, metricsServiceName=name, serviceName=name
        )  # fmt: skip

    def _retire(self, namespace: str, service: str, current: str) -> None:
        """Scale older revisions to zero when a newer one is ready."""
        for each in self._api.list("apps/v1", "Deployment", namespace, f"{SERVING}/service={service}"):
            if each["metadata"]["labels"][f"{SERVING}/revision"] != current and each["spec"]["replicas"]:
                self._api.patch({"apiVersion": "apps/v1", "kind": "Deployment", **each}, {"spec": {"replicas": 0}})
        for each in self._api.list(AUTOSCALING, "PodAutoscaler", namespace, f"{SERVING}/service={service}"):
            if each["metadata"]["name"] != current and each.get("status", {}).get("desiredScale"):
                scaler = {"apiVersion": AUTOSCALING, "kind": "PodAutoscaler", **each}
                self._api.patch(scaler, {"status": {"desiredScale": 0}}, "/status")

    # Eventing

    def _broker(self, broker: Doc) -> None:
        meta = broker["metadata"]
        url = f"http://broker-ingress.knative-eventing.svc.cluster.local/{meta['namespace']}/{meta['name']}"
        if not _is_rabbitmq(broker):
            channel = _owned(broker, MESSAGING, "InMemoryChannel", f"{meta['name']}-kne-trigger", {})
            self._api.apply(channel | {"spec": {}}, manager="knative")
        self._status(broker, [{"type": "Ready", "status": "True"}], address={"url": url})

    def _trigger(self, trigger: Doc) -> None:
        namespace = trigger["metadata"]["namespace"]
        broker = self._api.find("eventing.knative.dev/v1", "Broker", namespace, trigger["spec"]["broker"])
        if broker is not None and is_true(broker, "Ready"):
            if _is_rabbitmq(broker):
                self._dispatcher(trigger)
            else:
                self._subscription(trigger)
            self._status(trigger, [{"type": "Ready", "status": "True"}])
        else:
            reason = "BrokerDoesNotExist" if broker is None else "BrokerNotReady"
            self._status(trigger, [{"type": "Ready", "status": "Unknown", "reason": reason}])

    def _subscription(self, trigger: Doc) -> None:
        meta, broker = trigger["metadata"], trigger["spec"]["broker"]
        doc = _owned(trigger, MESSAGING, "Subscription", f"{broker}-{meta['name']}-{meta['uid']}"[:63], {})
        doc["metadata"]["finalizers"] = ["subscriptions.messaging.knative.dev"]
        path = f"triggers/{meta['namespace']}/{meta['name']}/{meta['uid']}"
        spec = {
            "channel": {"apiVersion": MESSAGING, "kind": "InMemoryChannel", "name": f"{broker}-kne-trigger"},
            "subscriber": {"uri": f"http://broker-filter.knative-eventing.svc.cluster.local/{path}"},
        }
        self._api.apply(doc | {"spec": spec}, manager="knative")

    def _subscriptions(self, where: Doc) -> None:
        """Each Subscription that ends writes the whole list of subscribers, from a cache: of several, some stay.

        Seen on Eventing 1.22.2 in 8 of 8 deletions of several triggers at once, and in none of 6 one by one.
        """
        channels = {each["metadata"]["name"]: each for each in self._list(MESSAGING, "InMemoryChannel", where)}
        for each in self._list(MESSAGING, "Subscription", where):
            channel, uid = channels.get(each["spec"]["channel"]["name"]), each["metadata"]["uid"]
            cached = [] if channel is None else channel.get("spec", {}).get("subscribers", [])
            others = [one for one in cached if one["uid"] != uid]
            if "deletionTimestamp" in each["metadata"]:
                if channel is not None:
                    self._api.patch(channel, {"spec": {"subscribers": others}})
                self._let_go(each)
            elif channel is not None and others == cached:
                entry = {"uid": uid, "subscriberUri": each["spec"]["subscriber"]["uri"]}
                channel["spec"] = {"subscribers": [*cached, entry]}
                self._api.patch(channel, {"spec": channel["spec"]})

    def _list(self, version: str, kind: str, where: Doc) -> list[Doc]:
        return [{"apiVersion": version, "kind": kind, **each} for each in self._api.list(version, kind, **where)]

    def _let_go(self, subscription: Doc) -> None:
        doc = {"apiVersion": MESSAGING, "kind": "Subscription", **subscription}
        self._api.patch(doc, {"metadata": {"finalizers": None}})

    def _dispatcher(self, trigger: Doc) -> None:
        """The dispatcher of eventing-rabbitmq: a Deployment per trigger with the parallelism of the annotation."""
        name = f"{trigger['metadata']['name']}-dispatcher"
        labels = {"knative-bench.test/dispatcher": name}
        parallelism = trigger["metadata"].get("annotations", {}).get("rabbitmq.eventing.knative.dev/parallelism", "1")
        container = {
            "name": "dispatcher",
            "image": "dev.local/dispatcher:1",
            "env": [{"name": "PARALLELISM", "value": parallelism}],
        }
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }
        self._api.apply(_owned(trigger, "apps/v1", "Deployment", name, labels) | {"spec": spec}, "knative")

    def _sequence(self, sequence: Doc) -> None:
        self._status(sequence, [{"type": "Ready", "status": "True"}])

    def _rabbitmq(self, cluster: Doc) -> None:
        kinds = ("AllReplicasReady", "ClusterAvailable", "ReconcileSuccess")
        self._status(cluster, [{"type": kind, "status": "True", "reason": "Played"} for kind in kinds])

    def _source(self, source: Doc) -> None:
        meta = source["metadata"]
        labels = {f"{SOURCES}/containerSource": meta["name"], f"{SOURCES}/source": "container-source-controller"}
        name, sink = f"{meta['name']}-deployment", source["spec"]["sink"]
        binding = _owned(source, f"{SOURCES}/v1", "SinkBinding", f"{meta['name']}-sinkbinding", labels)
        subject = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": meta["namespace"], "name": name}
        binding = self._api.apply(binding | {"spec": {"sink": sink, "subject": subject}}, "knative")
        url = self._address(sink, meta["namespace"])
        touches = binding["metadata"].get("annotations", {})
        if url is None:
            self._too_early[meta["uid"]] = touches
        elif not self._late_sinks and self._too_early.get(meta["uid"]) == touches:
            url = None  # the binding is not reconciled again
        bound = url is not None
        # As the SinkBinding's webhook adds them, with the Deployment's creation if the sink has an address by then.
        more = [{"name": "K_SINK", "value": url}, {"name": "K_CE_OVERRIDES", "value": ""}] if bound else []
        template = copy.deepcopy(source["spec"]["template"])
        template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
        for each in template["spec"]["containers"]:
            each["env"] = [*each.get("env", []), *more]
        spec = {"selector": {"matchLabels": labels}, "template": template}
        deployment = self._api.apply(_owned(source, "apps/v1", "Deployment", name, labels) | {"spec": spec}, "knative")
        provided = {"type": "SinkProvided", "status": "True"} if url else {
            "type": "SinkProvided", "status": "False", "reason": "NotFound", "message": "the sink cannot be resolved",
        }  # fmt: skip
        available = bool(deployment.get("status", {}).get("availableReplicas"))
        ready = {"type": "Ready", "status": "True" if bound and available else "False" if url is None else "Unknown"}
        fields = {"sinkUri": url} if url else {}
        self._status(binding, [provided, {**ready, "status": "True" if bound else "False"}], **fields)
        self._status(source, [{**provided, "type": "SinkBindingReady"}, ready], **fields)

    def _address(self, sink: Doc, namespace: str) -> str | None:
        ref = sink.get("ref")
        if ref is None:
            return str(sink["uri"])
        where = ref.get("namespace", namespace)
        found = self._api.find(ref["apiVersion"], ref["kind"], where, ref["name"])
        if found is None:
            return None
        if (ref["apiVersion"], ref["kind"]) == ("v1", "Service"):
            return f"http://{ref['name']}.{where}.svc.cluster.local{sink.get('uri', '')}"
        return found.get("status", {}).get("address", {}).get("url")

    def _status(self, doc: Doc, outcome: list[Doc], **fields: object) -> Doc:
        """The object with this status, which is written only if it differs."""
        old = doc.get("status", {})
        new = {**old, **fields, "observedGeneration": doc["metadata"]["generation"]}
        new["conditions"] = with_conditions(old.get("conditions", []), outcome)
        return doc if new == old else self._api.patch(doc, {"status": new}, "/status")


_REVISIONS_OWN = {"containerConcurrency", "timeoutSeconds", "idleTimeoutSeconds", "responseStartTimeoutSeconds"}


def _is_rabbitmq(broker: Doc) -> bool:
    annotations = broker["metadata"].get("annotations", {})
    return bool(annotations.get("eventing.knative.dev/broker.class") == "RabbitMQBroker")


def _url(service: Doc) -> str:
    meta = service["metadata"]
    local = meta.get("labels", {}).get("networking.knative.dev/visibility") == "cluster-local"
    return f"http://{meta['name']}.{meta['namespace']}.{'svc.cluster.local' if local else 'example.com'}"


def _owned(
    owner: Doc, version: str, kind: str, name: str, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> Doc:
    meta = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    metadata = {
        "name": name,
        "namespace": meta["namespace"],
        "labels": labels,
        "annotations": annotations or {},
        "ownerReferences": [reference],
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
