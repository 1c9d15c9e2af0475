"""The kinds of objects that the benchmark uses, and their paths in the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""An API object, or a part of one, as in the API's JSON."""


Key = tuple[str, str]
"""Namespace (empty if there is none) and name of an object."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind: `api_version` as in manifests (`v1`, `apps/v1`), `plural` as in URLs (`deployments`)."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """`apps`; empty for the core API."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """`v1`."""
        return self.api_version.rpartition("/")[2]

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """The URL path of one object; without `name` of all of them; without `namespace` of those in all namespaces."""
        words = ["", "apis" if self.group else "api", self.api_version]
        if namespace and self.namespaced:
            words += ["namespaces", namespace]
        words += [self.plural, *([name] if name else []), *([subresource] if subresource else [])]
        return "/".join(words)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("v1", "pods", "Pod")
NODES = Resource("v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Resource("v1", "events", "Event")
CONFIG_MAPS = Resource("v1", "configmaps", "ConfigMap")
CORE_SERVICES = Resource("v1", "services", "Service")
ENDPOINTS = Resource("v1", "endpoints", "Endpoints")
RESOURCE_QUOTAS = Resource("v1", "resourcequotas", "ResourceQuota")
LIMIT_RANGES = Resource("v1", "limitranges", "LimitRange")
VOLUMES = Resource("v1", "persistentvolumes", "PersistentVolume", namespaced=False)
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "storageclasses", "StorageClass", namespaced=False)
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps/v1", "replicasets", "ReplicaSet")
JOBS = Resource("batch/v1", "jobs", "Job")
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
ACCESS_REVIEWS = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
SERVICES = Resource("serving.knative.dev/v1", "services", "Service")
CONFIGURATIONS = Resource("serving.knative.dev/v1", "configurations", "Configuration")
ROUTES = Resource("serving.knative.dev/v1", "routes", "Route")
REVISIONS = Resource("serving.knative.dev/v1", "revisions", "Revision")
POD_AUTOSCALERS = Resource("autoscaling.internal.knative.dev/v1alpha1", "podautoscalers", "PodAutoscaler")
SERVERLESS_SERVICES = Resource("networking.internal.knative.dev/v1alpha1", "serverlessservices", "ServerlessService")
BROKERS = Resource("eventing.knative.dev/v1", "brokers", "Broker")
TRIGGERS = Resource("eventing.knative.dev/v1", "triggers", "Trigger")
SEQUENCES = Resource("flows.knative.dev/v1", "sequences", "Sequence")
CONTAINER_SOURCES = Resource("sources.knative.dev/v1", "containersources", "ContainerSource")
SINK_BINDINGS = Resource("sources.knative.dev/v1", "sinkbindings", "SinkBinding")
CHANNELS = Resource("messaging.knative.dev/v1", "inmemorychannels", "InMemoryChannel")
SUBSCRIPTIONS = Resource("messaging.knative.dev/v1", "subscriptions", "Subscription")
RABBITMQ_CLUSTERS = Resource("rabbitmq.com/v1beta1", "rabbitmqclusters", "RabbitmqCluster")
BROKER_CONFIGS = Resource("eventing.knative.dev/v1alpha1", "rabbitmqbrokerconfigs", "RabbitmqBrokerConfig")
VOLUME_CLAIMS = Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
ROLES = Resource("rbac.authorization.k8s.io/v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
NODE_METRICS = Resource("metrics.k8s.io/v1beta1", "nodes", "NodeMetrics", namespaced=False)
POD_METRICS = Resource("metrics.k8s.io/v1beta1", "pods", "PodMetrics")


def name_of(obj: Object) -> str:
    """The object's name."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str:
    """The object's namespace; empty if its kind has none."""
    return str(obj["metadata"].get("namespace") or "")


def key_of(obj: Object) -> Key:
    """The object's namespace and name."""
    return namespace_of(obj), name_of(obj)


def owned_by(obj: Object, uid: str) -> bool:
    """Whether the object with this uid is among the object's owners."""
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences") or ())


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of this type (`Ready`), or None if the object does not have it yet."""
    conditions = obj.get("status", {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), None)


def is_ready(obj: Object, kind: str = "Ready") -> bool:
    """Whether the condition is True for the object's present generation."""
    state = condition(obj, kind)
    if state is None or state.get("status") != "True":
        return False
    observed = obj["status"].get("observedGeneration")
    return observed is None or observed >= obj["metadata"].get("generation", 0)
