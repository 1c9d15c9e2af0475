"""`kn-bench deploy|delete|patch` on a real control plane, with a stand-in for Knative's controllers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.conditions import is_true
from tests.cluster.knative import SERVING, Knative
from tests.cluster.plane import Plane
from tests.cluster.test_knative import has_sink

pytestmark = pytest.mark.usefixtures("plane", "has_knative")
SERVICE = f"{SERVING}/v1"
EVENTING = "eventing.knative.dev/v1"
GENERATOR = "workload-generator"
NAMESPACES = ("functions", "eventing", GENERATOR, "metrics")
ROOT = Path(__file__).parents[2]
ENTRY = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
Run = Callable[..., tuple[int, str]]


def command(kubeconfig: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", ENTRY, words[0], f"--kubeconfig={kubeconfig}", *words[1:]]


@pytest.fixture
def kn_bench(plane: Plane, kube: Api, kubeconfig: Path) -> Iterator[Run]:
    """Run the command: exit code and output. Its objects are deleted at the end."""

    def run(*words: str) -> tuple[int, str]:
        ran = subprocess.run(
            command(kubeconfig, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        return ran.returncode, ran.stdout

    with Knative(kube, NAMESPACES):
        try:
            yield run
        finally:
            code, output = run("delete", "--namespaces", "--timeout=90s")
            assert code == 0, output
    assert not [name for name in NAMESPACES if kube.find("v1", "Namespace", None, name)]


def service(kube: Api, name: str = "empty-go-http-0") -> Doc:
    return kube.get(SERVICE, "Service", "functions", name)


def pods(kube: Api, namespace: str) -> list[Doc]:
    return kube.list("v1", "Pod", namespace)


def test_deploy_twice_patch_and_delete(kube: Api, kn_bench: Run) -> None:
    wanted = ("deploy", "empty-go-http", "generator", "--count=2", "--max-scale=5", "--timeout=60s")
    code, output = kn_bench(*wanted)
    assert code == 0, output
    first = [service(kube, f"empty-go-http-{number}") for number in range(2)]
    assert [each["status"]["latestReadyRevisionName"] for each in first] == [
        "empty-go-http-0-00001",
        "empty-go-http-1-00001",
    ]
    assert [is_true(each, "Ready") for each in pods(kube, GENERATOR)] == [True]
    assert all(is_true(each, "Ready") for each in pods(kube, "functions"))

    code, output = kn_bench(*wanted)
    assert code == 0 and "0 of them were created or changed" in output, output
    again = [service(kube, f"empty-go-http-{number}") for number in range(2)]
    assert [each["metadata"]["resourceVersion"] for each in again] == [
        each["metadata"]["resourceVersion"] for each in first
    ]

    code, output = kn_bench("patch", "empty-go-http-0", "--container-concurrency=1", "--max-scale=400", "--window=10s")
    assert code == 0, output
    assert "empty-go-http-0: max-scale 5 → 400" in output and "window none → 10s" in output
    patched = service(kube)
    assert patched["spec"]["template"]["spec"]["containerConcurrency"] == 1
    assert patched["status"]["latestReadyRevisionName"] == "empty-go-http-0-00002"  # all three are one revision
    assert is_true(kube.get(SERVICE, "Revision", "functions", "empty-go-http-0-00002"), "Ready")

    # `deploy` resets settings that it is not given, including patched ones.
    code, output = kn_bench("deploy", "empty-go-http", "--max-scale=5", "--timeout=60s")
    assert code == 0, output
    assert "gone       Service functions/empty-go-http-1" in output
    template = service(kube)["spec"]["template"]
    assert template["metadata"]["annotations"] == {"autoscaling.knative.dev/max-scale": "5"}
    assert "containerConcurrency" not in template["spec"]

    code, output = kn_bench("delete", "--timeout=60s")
    assert code == 0, output
    assert pods(kube, "functions") == [] and pods(kube, GENERATOR) == []
    assert [each["metadata"]["name"] for each in kube.list("v1", "PersistentVolumeClaim", GENERATOR)] == ["logs"]


def test_deploy_keeps_the_settings_of_others(kube: Api, kn_bench: Run) -> None:
    assert kn_bench("deploy", "empty-go-http")[0] == 0
    theirs = {"spec": {"template": {"metadata": {"annotations": {"example.com/theirs": "1"}}}}}
    kube.patch(service(kube), theirs)
    code, output = kn_bench("deploy", "empty-go-http", "--timeout=60s")
    assert code == 0, output
    assert service(kube)["spec"]["template"]["metadata"]["annotations"] == {"example.com/theirs": "1"}


def test_eventing_from_broker_to_source_and_back(kube: Api, kn_bench: Run) -> None:
    assert kn_bench("deploy", "generator")[0] == 0
    code, output = kn_bench("deploy", "eventing", "--triggers=3", "--parallelism=5", "--timeout=90s")
    assert code == 0, output
    assert [(has_sink(each), is_true(each, "Ready")) for each in pods(kube, GENERATOR)] == [(True, True)]
    triggers = kube.list(EVENTING, "Trigger", "eventing")
    assert [each["metadata"]["name"] for each in triggers] == ["receiver-0", "receiver-1", "receiver-2"]
    assert parallelism(kube, "receiver-2") == "5"

    code, output = kn_bench("deploy", "eventing", "--triggers=3", "--parallelism=5", "--timeout=90s")
    assert code == 0 and "0 of them were created or changed" in output, output

    code, output = kn_bench("patch", "--parallelism=20", "--timeout=60s")
    assert code == 0 and "Trigger eventing/receiver-0: parallelism 5 → 20" in output, output
    assert [parallelism(kube, f"receiver-{number}") for number in range(3)] == ["20"] * 3

    code, output = kn_bench("delete", "eventing", "--timeout=90s")
    assert code == 0, output
    assert kube.list("sources.knative.dev/v1", "ContainerSource", GENERATOR) == [] and pods(kube, "eventing") == []
    assert [(has_sink(each), is_true(each, "Ready")) for each in pods(kube, GENERATOR)] == [(False, True)]


def test_in_memory_and_a_sequence(kube: Api, kn_bench: Run) -> None:
    code, output = kn_bench("deploy", "eventing", "sequence", "--broker=in-memory", "--triggers=2", "--timeout=90s")
    assert code == 0, output
    assert is_true(kube.get("flows.knative.dev/v1", "Sequence", "eventing", "go-handler-event"), "Ready")
    code, output = kn_bench("delete", "sequence", "--timeout=60s")
    assert code == 0, output
    assert kube.list(SERVICE, "Service", "eventing") == [] and len(kube.list(EVENTING, "Trigger", "eventing")) == 2


def test_a_quotas_message_is_shown_to_the_user(kube: Api, kn_bench: Run) -> None:
    assert kn_bench("deploy", "empty-go-http")[0] == 0
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "functions"}}
    kube.create(quota | {"spec": {"hard": {"pods": "1"}}})
    wait_for(
        "the quota's controller",
        lambda: kube.get("v1", "ResourceQuota", "functions", "none").get("status", {}).get("used"),
    )
    code, output = kn_bench("deploy", "empty-go-http", "echo-go-http", "--timeout=8s")
    assert code == 1
    assert "services.serving.knative.dev functions/echo-go-http-0: " in output and "exceeded quota: none" in output, (
        output
    )


def test_a_dry_run_reports_the_servers_errors(kube: Api, kn_bench: Run, tmp_path: Path) -> None:
    assert kn_bench("deploy", "empty-go-http", "generator")[0] == 0
    code, output = kn_bench("deploy", "empty-go-http", "generator", "--max-scale=7", "--dry-run")
    assert code == 0 and "changed    Service functions/empty-go-http-0" in output, output
    assert "max-scale" not in str(service(kube)["spec"])
    mine = tmp_path / "mine"
    mine.mkdir()
    patch = [{"op": "add", "path": "/spec/template/spec/nodeSelektor", "value": {}}]
    document = {
        "resources": [os.path.relpath(ROOT / "k8s", mine.resolve())],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(patch)}],
    }
    (mine / "kustomization.yaml").write_text(json.dumps(document))
    code, output = kn_bench("deploy", "generator", f"--overlay={mine}", "--dry-run")
    assert code == 1 and "nodeSelektor" in output, output
    code, output = kn_bench("deploy", "generator", f"--overlay={mine}")
    assert code == 1 and "nodeSelektor" in output and "done: " not in output, "the server checks everything first"


def test_ctrl_c_during_the_wait_and_the_same_command_again(kube: Api, kubeconfig: Path, kn_bench: Run) -> None:
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "functions"}})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "functions"}}
    kube.create(quota | {"spec": {"hard": {"pods": "0"}}})
    wait_for("its default service account", lambda: kube.find("v1", "ServiceAccount", "functions", "default"))
    process = subprocess.Popen(
        command(kubeconfig, "deploy", "empty-go-http"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for("the service", lambda: kube.list(SERVICE, "Service", "functions"))
    process.send_signal(signal.SIGINT)
    _out, output = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "kn-bench: interrupted" in output and "Traceback" not in output
    assert "Service functions/empty-go-http-0" in output
    kube.delete("v1", "ResourceQuota", "functions", "none")
    code, output = kn_bench("deploy", "empty-go-http", "--timeout=90s")
    assert code == 0, output


def parallelism(kube: Api, trigger: str) -> str:
    """The parallelism of the trigger's dispatcher."""
    found = kube.get("apps/v1", "Deployment", "eventing", f"{trigger}-dispatcher")
    (value,) = [each["value"] for each in found["spec"]["template"]["spec"]["containers"][0]["env"]]
    return str(value)
