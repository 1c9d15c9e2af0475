"""What controllers would do on the fake API server: all becomes Ready at once, but for what a test keeps from it."""

from __future__ import annotations

from typing import Any

from tests.kube.fake_api import FakeApi
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object

READY = ("Ready", "AllReplicasReady", "ClusterAvailable")
BY_KIND = {
    kind.kind: kind
    for kind in (
        kinds.SERVICES,
        kinds.BROKERS,
        kinds.TRIGGERS,
        kinds.SEQUENCES,
        kinds.CONTAINER_SOURCES,
        kinds.RABBITMQ_CLUSTERS,
    )
}


class Controller:
    """`stuck` has names of objects that never get ready, with what their condition says."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.stuck: dict[str, str] = {}
        self.dispatchers = True
        api.on_change = self.see

    def see(self, change: str, obj: Object) -> None:
        if change == "DELETED":
            return
        if obj["kind"] == "Deployment":
            self._deployment(obj)
        elif obj["kind"] in BY_KIND and "." in obj["apiVersion"]:
            if obj["kind"] == "Trigger" and self.dispatchers:
                self._dispatcher(obj)
            if obj["kind"] == "ContainerSource":
                self._source(obj)
            self._condition(obj)

    def _condition(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        generation = obj["metadata"]["generation"]
        if obj.get("status", {}).get("observedGeneration") == generation:
            return
        revision = f"{name}-{generation:05d}"
        status: dict[str, Any] = {"observedGeneration": generation, "latestCreatedRevisionName": revision}
        if name in self.stuck:
            told = {"status": "False", "reason": "RevisionFailed", "message": self.stuck[name]}
        else:
            told, status["latestReadyRevisionName"] = {"status": "True"}, revision
        status["conditions"] = [{"type": kind, **told} for kind in READY]
        self.api.put(BY_KIND[obj["kind"]], {**obj, "status": status})

    def _deployment(self, obj: Object) -> None:
        generation, wanted = obj["metadata"]["generation"], obj["spec"].get("replicas", 1)
        status: dict[str, Any] = {"observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted}
        if obj["metadata"]["name"] not in self.stuck:
            status["availableReplicas"] = wanted
        if obj.get("status") != status:
            self.api.put(kinds.DEPLOYMENTS, {**obj, "status": status})

    def _dispatcher(self, trigger: Object) -> None:
        about = trigger["metadata"]
        value = about.get("annotations", {}).get("rabbitmq.eventing.knative.dev/parallelism", "1")
        env = [{"name": "PARALLELISM", "value": value}]
        self._put_owned(trigger, kinds.DEPLOYMENTS, f"{about['name']}-dispatcher", env)

    def _source(self, source: Object) -> None:
        env = [{"name": "K_SINK", "value": "http://sink"}]
        owner = self._put_owned(source, kinds.DEPLOYMENTS, "source-deployment", env)
        owner = self._put_owned(owner, kinds.REPLICA_SETS, "source-deployment-1", env)
        about = {"name": "source-1", "namespace": owner["metadata"]["namespace"]}
        about["ownerReferences"] = [{"uid": owner["metadata"]["uid"]}]  # type: ignore[assignment]
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.api.put(
            kinds.PODS, {"metadata": about, "spec": {"containers": [{"name": "g", "env": env}]}, "status": ready}
        )

    def _put_owned(self, owner: Object, kind: kinds.Resource, name: str, env: list[dict[str, str]]) -> Object:
        about = {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
        }
        template = {"spec": {"containers": [{"name": "c", "env": env}]}}
        there = self.api.find(kind, name, about["namespace"])
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
        if there is not None and there["spec"] == spec:
            return there
        return self.api.put(kind, {"metadata": about, "spec": spec})
