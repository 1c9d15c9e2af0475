"""`kn-bench doctor` finds and repairs a stuck generator pod; the real scheduler and garbage collector cause it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.conditions import conditions, is_true
from tests.cluster.knative import Knative
from tests.cluster.namespaces import Namespaces
from tests.cluster.plane import Plane
from tests.cluster.test_knative import has_sink, sink, source
from workload_generator.cluster.deploy.objects import delete
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import TRIGGERS


@pytest.fixture
def knative(plane: Plane, has_knative: None, kube: Api, namespace: str) -> Iterator[Knative]:
    with Knative(kube, [namespace]) as made:
        yield made


def doctor(kubeconfig: Path, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    command = [
        sys.executable,
        "-c",
        "import sys; from workload_generator.commands.kn_bench import main; sys.exit(main())",
        "doctor",
    ]
    ran = subprocess.run(
        [*command, f"--kubeconfig={kubeconfig}", "--output=json", *flags], capture_output=True, check=False, timeout=90
    )
    assert ran.stderr == b"", ran.stderr.decode()
    return ran.returncode, json.loads(ran.stdout)


def test_a_pod_stuck_behind_the_old_one_is_reported_and_repaired(
    kubeconfig: Path, kube: Api, knative: Knative, namespace: str
) -> None:
    kube.apply(source(namespace, "1200m"))
    wait_for("the old pod", lambda: [is_true(each, "Ready") for each in kube.list("v1", "Pod", namespace)] == [True])
    kube.apply(sink(namespace))

    def stuck() -> Doc | None:
        new = [each for each in kube.list("v1", "Pod", namespace) if has_sink(each)]
        return next(
            (each for pod in new for each in conditions(pod, "PodScheduled") if each["status"] == "False"), None
        )

    wait_for("the new pod to be unschedulable", stuck)
    (old,) = [each["metadata"]["name"] for each in kube.list("v1", "Pod", namespace) if not has_sink(each)]

    code, findings = doctor(kubeconfig)
    (found,) = [each for each in findings if each["check"] == "container sources" and namespace in each["text"]]
    assert (code, found["verdict"], found["fix"]) == (1, "failed", "kn-bench doctor --fix")
    assert "Pending behind ReplicaSet" in found["text"] and "Insufficient cpu" in found["text"]
    assert [each["metadata"]["name"] for each in kube.list("v1", "Pod", namespace) if not has_sink(each)] == [old]

    _code, findings = doctor(kubeconfig, "--fix", "--timeout=60s")
    (found,) = [each for each in findings if each["check"] == "container sources" and namespace in each["text"]]
    assert found["verdict"] == "ok" and found["text"].startswith("repaired:"), found
    assert [(has_sink(each), is_true(each, "Ready")) for each in kube.list("v1", "Pod", namespace)] == [(True, True)]

    _code, findings = doctor(kubeconfig)
    (found,) = [each for each in findings if each["check"] == "container sources" and namespace in each["text"]]
    assert found["verdict"] == "ok" and "repaired" not in found["text"]


def test_a_source_older_than_its_sink_is_reported_with_its_cause_and_repaired(
    plane: Plane, kubeconfig: Path, kube: Api, namespaces: Namespaces
) -> None:
    namespace = namespaces.make("late")
    with Knative(kube, [namespace], late_sinks=False):
        kube.apply(source(namespace, "100m"))
        wait_for("the pod", lambda: [is_true(each, "Ready") for each in kube.list("v1", "Pod", namespace)] == [True])
        kube.apply(sink(namespace))
        for flags, verdict in (((), "failed"), (("--fix", "--timeout=60s"), "ok")):
            found = [each for each in doctor(kubeconfig, *flags)[1] if f"{namespace}/g: " in each["text"]]
            assert [each["verdict"] for each in found] == [verdict], found
            assert "SinkBindingReady is False: NotFound: the sink cannot be resolved" in found[0]["text"]
        assert "SinkBinding g-sinkbinding touched" in found[0]["text"]
        assert [has_sink(each) for each in kube.list("v1", "Pod", namespace)] == [True]
    namespaces.delete(namespace)


def test_dead_subscribers_of_a_broker_of_ours_are_reported_and_ended(
    kubeconfig: Path, kube: Api, knative: Knative, namespace: str
) -> None:
    eventing = "eventing.knative.dev/v1"
    labels = {"app.kubernetes.io/part-of": "knative-bench"}
    about = {"name": "default", "namespace": namespace, "labels": labels}
    kube.apply({"apiVersion": eventing, "kind": "Broker", "metadata": about, "spec": {}})

    def make_triggers() -> None:
        for number in range(5):
            meta = {"name": f"t-{number}", "namespace": namespace}
            spec = {"broker": "default", "subscriber": {"uri": "http://receiver"}}
            kube.apply({"apiVersion": eventing, "kind": "Trigger", "metadata": meta, "spec": spec})
        wait_for("five subscribers", lambda: len(subscribers()) == 5)

    def subscribers() -> list[Doc]:
        channel = kube.find("messaging.knative.dev/v1", "InMemoryChannel", namespace, "default-kne-trigger")
        found: list[Doc] = channel.get("spec", {}).get("subscribers", []) if channel else []
        return found

    def finding(*flags: str) -> dict[str, Any]:
        (found,) = [each for each in doctor(kubeconfig, *flags)[1] if f"Broker {namespace}/default" in each["text"]]
        return found

    async def delete_ours() -> None:
        async with await Kube.connect(kubeconfig) as client:
            await delete(client, (await client.list(TRIGGERS, namespace)).items[:4], 60)

    make_triggers()
    asyncio.run(delete_ours())
    assert len(subscribers()) == 1, "one after the other leaves none behind"
    assert finding()["verdict"] == "ok"
    make_triggers()
    for number in range(4):
        kube.delete(eventing, "Trigger", namespace, f"t-{number}")
    left = "messaging.knative.dev/v1", "Subscription", namespace
    wait_for("the end of four Subscriptions", lambda: len(kube.list(*left)) == 1)
    found = finding()
    assert (found["verdict"], found["fix"]) == ("failed", "kn-bench doctor --fix")
    assert len(subscribers()) > 1 and "has dead subscribers in its channel: t-" in found["text"]
    assert finding("--fix", "--timeout=60s")["text"].startswith("repaired: ")
    wait_for("one subscriber", lambda: ["/t-4/" in each["subscriberUri"] for each in subscribers()] == [True])
    assert finding()["verdict"] == "ok"


def test_the_planes_nodes_pass_the_checks(plane: Plane, kubeconfig: Path) -> None:
    def roomy() -> dict[str, Any] | None:
        (room,) = [each for each in doctor(kubeconfig)[1] if each["text"].startswith("workload-generator-0: ")]
        # Pods of another test may still be terminating.
        return room if "2.3 CPUs and 13.5 GiB are free" in room["text"] else None

    assert wait_for("all of the node's room", roomy)["verdict"] == "ok"
