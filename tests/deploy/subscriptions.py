"""Eventing's trigger, subscription and broker controllers on the fake API server, as they were seen on 1.22.2.

Each Trigger gets a Subscription, which is entered in the channel of its broker. A Subscription that ends is removed by
writing the whole list of subscribers from a cache, so that of several that end at the same time some stay: seen in
8 of 8 deletions of several triggers at once, and in none of 6 one by one (November 2026, one node).
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.kube.fake_api import FakeApi
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object

NAMESPACE = "eventing"
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
PERIOD_S = 0.05


def broker(api: FakeApi, *, ours: bool = True) -> Object:
    labels = {"app.kubernetes.io/part-of": "knative-bench"} if ours else {}
    about = {"name": "default", "namespace": NAMESPACE, "labels": labels}
    return api.put(kinds.BROKERS, {"metadata": about, "spec": {"delivery": {"retry": 5}}, "status": READY})


def trigger(api: FakeApi, number: int) -> Object:
    about = {"name": f"receiver-{number}", "namespace": NAMESPACE}
    return api.put(kinds.TRIGGERS, {"metadata": about, "spec": {"broker": "default"}, "status": READY})


def dead_subscriber(api: FakeApi) -> None:
    """The generator sends to our broker, whose channel has a subscriber without a Subscription."""
    broker(api)
    about = {"name": "workload-generator", "namespace": "workload-generator"}
    sink = {"ref": {"kind": "Broker", "name": "default", "namespace": NAMESPACE}}
    api.put(kinds.CONTAINER_SOURCES, {"metadata": about, "spec": {"sink": sink}})
    dead = {"uid": "u", "subscriberUri": f"http://broker-filter/triggers/{NAMESPACE}/receiver-7/v"}
    about = {"name": "default-kne-trigger", "namespace": NAMESPACE}
    api.put(kinds.CHANNELS, {"metadata": about, "spec": {"subscribers": [dead]}})


class Subscriptions:
    """The controllers; `subscribers` are the channel's, by their triggers' names."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self._before = api.on_change
        self._is_due = False
        api.on_change = self._see

    def subscribers(self) -> list[str]:
        channel = self.api.find(kinds.CHANNELS, "default-kne-trigger", NAMESPACE)
        return [each["subscriberUri"].split("/")[5] for each in channel["spec"]["subscribers"]] if channel else []

    def _see(self, change: str, obj: Object) -> None:
        self._before(change, obj)
        if obj["kind"] in ("Trigger", "Subscription", "Broker") and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(PERIOD_S, self._reconcile)

    def _reconcile(self) -> None:
        self._is_due = False
        api, brokers = self.api, self.api.objects(kinds.BROKERS)
        for each in brokers:
            if each.get("status") != READY:
                api.put(kinds.BROKERS, {**each, "status": READY})
            if api.find(kinds.CHANNELS, "default-kne-trigger", NAMESPACE) is None:
                owners = [{"uid": each["metadata"]["uid"]}]
                about = {"name": "default-kne-trigger", "namespace": NAMESPACE, "ownerReferences": owners}
                api.put(kinds.CHANNELS, {"metadata": about, "spec": {"subscribers": []}})
        for each in api.objects(kinds.TRIGGERS):
            self._subscribe(each)
        channel = api.find(kinds.CHANNELS, "default-kne-trigger", NAMESPACE)
        cache: list[dict[str, Any]] = channel["spec"]["subscribers"] if channel else []
        for each in api.objects(kinds.SUBSCRIPTIONS):
            uid = each["metadata"]["uid"]
            if "deletionTimestamp" in each["metadata"]:
                self._write([one for one in cache if one["uid"] != uid])
                api.put(kinds.SUBSCRIPTIONS, {**each, "metadata": {**each["metadata"], "finalizers": []}})
            elif channel and uid not in [one["uid"] for one in cache]:
                cache = [*cache, {"uid": uid, "subscriberUri": each["spec"]["subscriber"]["uri"]}]
                self._write(cache)

    def _subscribe(self, trigger: Object) -> None:
        about = trigger["metadata"]
        if self.api.find(kinds.SUBSCRIPTIONS, f"default-{about['name']}", NAMESPACE) is not None:
            return
        uri = f"http://broker-filter.knative-eventing.svc/triggers/{NAMESPACE}/{about['name']}/{about['uid']}"
        meta = {"name": f"default-{about['name']}", "namespace": NAMESPACE, "finalizers": ["subscriptions"]}
        meta["ownerReferences"] = [{"uid": about["uid"]}]  # type: ignore[list-item]
        self.api.put(kinds.SUBSCRIPTIONS, {"metadata": meta, "spec": {"subscriber": {"uri": uri}}})

    def _write(self, subscribers: list[dict[str, Any]]) -> None:
        channel = self.api.find(kinds.CHANNELS, "default-kne-trigger", NAMESPACE)
        if channel is not None:
            self.api.put(kinds.CHANNELS, {**channel, "spec": {"subscribers": subscribers}})
