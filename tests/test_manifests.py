"""The manifests of `k8s/`, as rendered by `kubectl apply -k`: validated with schemas, and tested for their properties.

The schemas are large: `just test-manifests` installs those of Kubernetes, and checkov. KNATIVE_CRDS is the folder of
Knative's CRDs.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import needs
from workload_generator import __version__
from workload_generator.commands import program, workload_generator
from workload_generator.experiment.bundled import bundled_experiments
from workload_generator.experiment.load import load_experiment
from workload_generator.functions.catalog import load_catalog
from workload_generator.kube.resources import POD_AUTOSCALERS, PODS, REVISIONS

Doc = dict[str, Any]

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
FOLDERS = [".", "job", *(f"overlays/{path.name}" for path in sorted((K8S / "overlays").iterdir()))]
EVENTING = [
    f"eventing/{path.name}"
    for path in sorted((K8S / "eventing").iterdir())
    if "kind: Kustomization" in (path / "kustomization.yaml").read_text()
]
RECEIVER_SERVICE = "../eventing/receiver-service"
"""A component for any folder of `k8s/eventing`, as a path for `combined`."""
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
KUBERNETES = "1.36"
CHECKOV = "checkov==3.3.30"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CPUS_LEFT = 2.3
"""CPUs of a dedicated node with four that are free: 1.5 are reserved for the system, DaemonSets request 0.2."""


pytestmark = pytest.mark.xdist_group("manifests")  # each folder is rendered once


@functools.cache
def rendered(folder: str) -> str:
    """The output of kustomize for a folder under `k8s/`."""
    program = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    ran = subprocess.run([*program, str(K8S / folder)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def documents(folder: str) -> list[Doc]:
    return list(yaml.load_all(rendered(folder), Loader=LOADER))


def one(docs: list[Doc], kind: str, name: str = "workload-generator") -> Doc:
    (found,) = [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) == (kind, name)]
    return found


def is_knative(doc: Doc) -> bool:
    """Whether its kind is defined by Knative or by the RabbitMQ operator, not by Kubernetes."""
    return ".knative.dev/" in doc["apiVersion"] or doc["apiVersion"].startswith("rabbitmq.com/")


def templates(docs: list[Doc]) -> Iterator[tuple[str, Doc]]:
    """Every pod template, Knative's included."""
    for doc in docs:
        if "template" in doc.get("spec", {}):
            yield f"{doc['kind']}/{doc['metadata']['name']}", doc["spec"]["template"]


def combined(tmp_path: Path, base: str, *components: str) -> list[Doc]:
    """The output of a user's kustomization of a base and components."""
    doc = {
        "resources": [os.path.relpath(K8S / base, tmp_path)],
        "components": [os.path.relpath(K8S / "components" / name, tmp_path) for name in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(doc))
    return documents(str(tmp_path))


# Against schemas


@needs.mark(needs.KUSTOMIZE)
@needs.mark(needs.SCHEMAS)
@pytest.mark.parametrize("folder", [*FOLDERS, *EVENTING])
def test_core_kinds_match_the_schemas_of_kubernetes(folder: str) -> None:
    from kubernetes_validate import validate

    docs = documents(folder)
    core = [doc for doc in docs if not is_knative(doc)]
    assert core
    for doc in core:
        validate(doc, KUBERNETES, strict=True)
    for name, template in templates([doc for doc in docs if is_knative(doc)]):
        # The CRD of ContainerSources accepts any template, and that of Knative Services has a subset of the fields.
        spec = {k: v for k, v in template["spec"].items() if k != "containerConcurrency"}
        pod = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "t"},
            "template": {**template, "spec": spec},
        }
        validate(pod, KUBERNETES, strict=True), name


@needs.mark(needs.KUSTOMIZE)
@needs.mark(needs.CRDS, needs.SCHEMAS)
@pytest.mark.parametrize("folder", [*FOLDERS, *EVENTING])
def test_knatives_kinds_are_what_their_crds_take(folder: str, tmp_path: Path) -> None:
    import jsonschema

    schemas = crd_schemas(Path(os.environ["KNATIVE_CRDS"]))
    received = combined(tmp_path, folder, RECEIVER_SERVICE) if folder in EVENTING else []
    for doc in [*documents(folder), *received]:
        if is_knative(doc):
            schema = schemas[doc["apiVersion"], doc["kind"]]
            problems = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(doc["spec"])]
            assert not problems, (doc["metadata"]["name"], problems)


@needs.mark(needs.KUSTOMIZE)
@needs.mark(needs.CRDS, needs.SCHEMAS)
def test_a_wrong_manifest_does_not_pass_the_crd() -> None:
    import jsonschema

    schema = crd_schemas(Path(os.environ["KNATIVE_CRDS"]))["serving.knative.dev/v1", "Service"]
    spec = one(documents("."), "Service", "empty-go-http-0")["spec"]
    for path, value in (("containerConcurrency", "one"), ("containerConcurency", 1), ("containers", {})):
        wrong = copy.deepcopy(spec)
        wrong["template"]["spec"][path] = value
        assert not jsonschema.Draft202012Validator(schema).is_valid(wrong), path


def crd_schemas(folder: Path) -> dict[tuple[str, str], Doc]:
    """The schemas of `spec`, as strict as the API server is when it is asked to refuse unknown fields."""
    found = {}
    for path in folder.glob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    schema = version["schema"]["openAPIV3Schema"]["properties"].get("spec", {})
                    key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
                    found[key] = strict(schema)
    assert found, f"no CRD in {folder}"
    return found


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields") and isinstance(schema["properties"], dict):
            made["additionalProperties"] = False
    return made


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.timeout(900)  # the first time, it is fetched
@needs.mark(needs.CHECKOV)
def test_checkov_has_nothing_to_say(tmp_path: Path) -> None:
    """What it does not know, Knative's kinds, it is shown as the Deployments that Knative makes of them."""
    for folder in FOLDERS:
        docs = []
        for doc in documents(folder):
            if is_knative(doc):
                labels = doc["spec"]["template"]["metadata"]["labels"]
                spec = {"selector": {"matchLabels": labels}, "template": doc["spec"]["template"]}
                metadata = {**doc["metadata"], "name": f"{doc['kind'].lower()}-{doc['metadata']['name']}"}
                metadata["annotations"] = KNATIVES_OWN[doc["kind"]]
                docs.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
            else:
                docs.append(doc)
        (tmp_path / f"{folder.replace('/', '-').replace('.', 'base')}.yaml").write_text(yaml.safe_dump_all(docs))
    shutil.copy(ROOT / "Dockerfile.wg", tmp_path / "Dockerfile")
    checks = ["checkov", "--skip-download", "--output=json", "--framework=kubernetes,dockerfile"]
    for online in (["--offline"], []):  # what was fetched once needs no registry
        command = ["uv", "tool", "run", *online, "--quiet", "--from", CHECKOV, *checks, f"--directory={tmp_path}"]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.stdout:
            break
    assert ran.stdout, ran.stderr[-2000:]
    reports = json.loads(ran.stdout)
    failed = [
        (check["check_id"], check["check_name"], check["resource"])
        for report in reports
        for check in report["results"]["failed_checks"]
    ]
    assert not failed
    assert {report["check_type"] for report in reports} == {"kubernetes", "dockerfile"}
    assert all(report["summary"]["passed"] > 50 for report in reports)


_IMAGE = {
    "checkov.io/skip1": "CKV_K8S_43=as in the Deployment; Knative itself resolves a tag to its digest",
    "checkov.io/skip2": "CKV_K8S_15=as in the Deployment",
}
KNATIVES_OWN = {
    "ContainerSource": _IMAGE,
    "Service": {
        **_IMAGE,
        "checkov.io/skip3": "CKV_K8S_8=Knative's readiness probe is the liveness of an instance",
        "checkov.io/skip4": "CKV_K8S_9=Knative probes the port of its own accord, every 50 ms",
        "checkov.io/skip5": "CKV_K8S_11=a throttled CPU would be measured as the function's latency",
        "checkov.io/skip6": "CKV2_K8S_6=activator, gateway and autoscaler are in namespaces that vary",
        "checkov.io/skip7": "CKV_K8S_29=Knative has the pod's own context behind a feature flag",
    },
}


# Properties


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", [*FOLDERS, *EVENTING])
def test_every_pod_meets_the_restricted_standard(folder: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, and a read-only root beside it."""
    found = list(templates(documents(folder)))
    assert found
    for name, template in found:
        spec, pod = template["spec"], template["spec"].get("securityContext", {})
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        allowed = {"emptyDir", "persistentVolumeClaim", "configMap"}
        assert all(set(volume) & allowed for volume in spec.get("volumes", [])), name
        (container,) = spec["containers"]
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged"), name
        assert {**pod, **own}["runAsNonRoot"] is True and {**pod, **own}["runAsUser"] == 65532, name
        assert {**pod, **own}["seccompProfile"] == {"type": "RuntimeDefault"}, name
        watches = folder == "overlays/cold-starts" and name == "Deployment/workload-generator"
        assert spec["automountServiceAccountToken"] is watches, name


@needs.mark(needs.KUSTOMIZE)
def test_eventing_has_what_its_scenarios_need() -> None:
    for folder in EVENTING:
        docs = documents(folder)
        assert one(docs, "PersistentVolumeClaim", "event-logger")["metadata"]["namespace"] == "eventing"
        container = one(docs, "Deployment", "receiver")["spec"]["template"]["spec"]["containers"][0]
        (logger,) = [each["value"] for each in container["env"] if each["name"] == "EVENT_LOGGER_URL"]
        service = one(docs, "Service", "event-logger")["metadata"]
        assert logger == f"http://{service['name']}.{service['namespace']}.svc.cluster.local"
    sink = one(documents("overlays/eventing"), "ContainerSource")["spec"]["sink"]["ref"]
    for folder in ("eventing/rabbitmq", "eventing/in-memory"):
        broker = one(documents(folder), "Broker", "default")
        assert (broker["kind"], broker["metadata"]["name"], broker["metadata"]["namespace"]) == (
            sink["kind"], sink["name"], sink["namespace"],
        )  # fmt: skip
        trigger = one(documents(folder), "Trigger", "receiver-0")["spec"]
        assert (trigger["broker"], trigger["subscriber"]["uri"]) == ("default", "/t/receiver-0")
    config = one(documents("eventing/rabbitmq"), "RabbitmqBrokerConfig", "default")["spec"]
    assert config["queueType"] == "quorum"


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", [folder for folder in EVENTING if folder != "eventing/base"])
def test_a_component_makes_the_receiver_a_knative_service(folder: str, tmp_path: Path) -> None:
    docs = combined(tmp_path, folder, RECEIVER_SERVICE)
    service = one(docs, "Service", "receiver-service")
    before = one(documents(folder), "Deployment", "receiver")["spec"]["template"]["spec"]["containers"][0]
    (after,) = service["spec"]["template"]["spec"]["containers"]
    for key in ("image", "command", "env", "resources", "volumeMounts"):
        assert after[key] == before[key], key
    assert program.make_parser("receiver").parse_args(after["args"]).spool == Path(
        after["volumeMounts"][0]["mountPath"]
    )
    assert not [doc for doc in docs if doc["metadata"]["name"] == "receiver"], "the other one is gone"
    refs = [
        doc["spec"]["subscriber" if doc["kind"] == "Trigger" else "reply"]
        for doc in docs
        if doc["kind"] in ("Trigger", "Sequence")
    ]
    assert [(ref["ref"]["apiVersion"], ref["ref"]["name"]) for ref in refs] == [
        (service["apiVersion"], service["metadata"]["name"])
    ]
    assert refs[0]["uri"].startswith("/t/")


@needs.mark(needs.KUSTOMIZE)
def test_namespaces_and_their_pod_security() -> None:
    levels = {
        doc["metadata"]["name"]: doc["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for folder in (".", "job")
        for doc in documents(folder)
        if doc["kind"] == "Namespace"
    }
    assert levels == {
        "workload-generator": "restricted", "workload-generator-shards": "restricted", "functions": "restricted",
        "metrics": "privileged",
    }  # fmt: skip


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "job"])
def test_every_function_of_the_catalog_is_a_service(folder: str) -> None:
    services = {
        doc["metadata"]["name"]: doc
        for doc in documents(folder)
        if doc["apiVersion"].startswith("serving.knative.dev/")
    }
    functions = load_catalog()
    assert services.keys() == {f"{name}-0" for name in functions}
    for name, function in functions.items():
        doc = services[f"{name}-0"]
        (container,) = doc["spec"]["template"]["spec"]["containers"]
        assert container["image"].rpartition("/")[2].partition(":")[0] == function.entry.image
        assert doc["metadata"]["namespace"] == "functions"


@needs.mark(needs.KUSTOMIZE)
def test_every_target_of_the_experiments_is_a_service() -> None:
    services = {doc["metadata"]["name"] for doc in documents(".") if doc["kind"] == "Service"}
    hosts = {
        target.url.split("/")[2].partition(".")
        for path in bundled_experiments().values()
        for target in load_experiment(path).targets
    }
    inside = {name for name, _, rest in hosts if rest.startswith("functions.svc")}
    assert inside and inside <= services, inside - services


@needs.mark(needs.KUSTOMIZE)
def test_images_have_the_packages_version() -> None:
    images = re.findall(r"image: (\S+)", "".join(rendered(folder) for folder in [*FOLDERS, *EVENTING]))
    assert len(images) > 10
    assert {image.rpartition(":")[2] for image in images} == {__version__}


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_generator_is_guaranteed_and_two_pods_fit_on_its_node(folder: str) -> None:
    for name, template in templates(documents(folder)):
        (container,) = template["spec"]["containers"]
        if container["name"] == "workload-generator":
            resources = container["resources"]
            assert resources["requests"] == resources["limits"] and {"cpu", "memory"} <= resources["limits"].keys(), (
                name
            )
            assert 2 * float(resources["requests"]["cpu"]) <= CPUS_LEFT, name
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts - {"/experiment"} == {"/logs", "/tmp"}, name


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "job"])
def test_the_generator_is_alone_in_its_namespace(folder: str) -> None:
    """The seed's exec line takes the first pod there."""
    docs = documents(folder)
    inside = [doc for doc in docs if doc["metadata"].get("namespace") == "workload-generator" and "spec" in doc]
    pods = {doc["kind"] for doc in inside if "template" in doc["spec"]}
    deployment = one(docs, "Deployment")
    if folder == "overlays/eventing":
        assert pods == {"Deployment", "ContainerSource"} and deployment["spec"]["replicas"] == 0
    else:
        assert pods == {"Deployment"} and deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@needs.mark(needs.KUSTOMIZE)
def test_probes_use_paths_that_serve_answers() -> None:
    source = (ROOT / "workload_generator" / "run" / "serve.py").read_text()
    (container,) = one(documents("."), "Deployment")["spec"]["template"]["spec"]["containers"]
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[probe]["httpGet"]["path"] == path and f'web.get("{path}"' in source
    assert container["ports"] == [{"containerPort": 8080, "name": "http"}]


@needs.mark(needs.KUSTOMIZE)
def test_commands_parse() -> None:
    commands = [
        template["spec"]["containers"][0].get("command", [])
        for folder in FOLDERS
        for _, template in templates(documents(folder))
    ]
    served = [command for command in commands if command[:1] == ["workload-generator"]]
    assert served
    for command in served:
        assert workload_generator.make_parser().parse_args(command[1:]).serve


@needs.mark(needs.KUSTOMIZE)
def test_placement() -> None:
    spec = one(documents("."), "Deployment")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"dedicated": "workload-generator"}
    assert spec["tolerations"] == [
        {"key": "dedicated", "operator": "Equal", "value": "workload-generator", "effect": "NoSchedule"}
    ]
    spec = one(documents("overlays/kind"), "Deployment")["spec"]["template"]["spec"]
    assert "nodeSelector" not in spec and "tolerations" not in spec


@needs.mark(needs.KUSTOMIZE)
def test_the_watcher_has_read_access_only(tmp_path: Path) -> None:
    docs = documents("overlays/cold-starts")
    assert docs == combined(tmp_path, "base", "cold-start-watcher")
    assert one(docs, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    (role,) = [doc for doc in docs if doc["kind"] == "Role"]
    assert role["metadata"]["namespace"] == "functions"
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert [(rule["apiGroups"], rule["resources"]) for rule in role["rules"]] == [
        ([each.group], [each.plural]) for each in (PODS, REVISIONS, POD_AUTOSCALERS)
    ]
    (binding,) = [doc for doc in docs if doc["kind"] == "RoleBinding"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "workload-generator", "namespace": "workload-generator"}
    ]
    (tmp_path / "more").mkdir()
    more = combined(tmp_path / "more", "base", "cold-start-watcher", "cold-start-events")
    (events,) = [doc for doc in more if doc["kind"] == "Role" and doc != role]
    assert events["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch"]}]
    for folder in FOLDERS:
        if folder != "overlays/cold-starts":  # off by default
            assert "rbac" not in rendered(folder), folder
            tokens = re.findall(r"automountServiceAccountToken: (\S+)", rendered(folder))
            assert set(tokens) <= {"false"}, folder


@needs.mark(needs.KUSTOMIZE)
def test_scenario_3_changes_only_concurrency() -> None:
    before, after = documents("."), documents("overlays/scenario-3")
    for doc in after:
        if doc["metadata"]["name"] in ("sleep-go-http-0", "sleep-python-http-0"):
            template = doc["spec"]["template"]
            assert template["spec"].pop("containerConcurrency") == 1
            assert template["metadata"].pop("annotations") == {"autoscaling.knative.dev/max-scale": "400"}
    assert before == after


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("base", ["base", "overlays/kind", "overlays/gce"])
def test_the_container_source_has_the_deployments_pod_template(base: str, tmp_path: Path) -> None:
    docs = combined(tmp_path, base, "eventing")
    pod = copy.deepcopy(one(docs, "Deployment")["spec"]["template"]["spec"])
    source = copy.deepcopy(one(docs, "ContainerSource")["spec"]["template"]["spec"])
    assert pod["containers"][0].pop("command") == ["workload-generator", "--serve"]
    assert source["containers"][0].pop("command") == ["workload-generator", "--serve", "--event"]
    assert [each["name"] for each in source["containers"][0].pop("env")] == ["EVENT_LOGGER_URL"]
    assert pod == source


@needs.mark(needs.KUSTOMIZE)
def test_images_on_gce_come_from_the_configured_registry() -> None:
    images = re.findall(r"image: (\S+)", rendered("overlays/gce"))
    assert {image.rpartition("/")[0] for image in images} == {"registry.example/knative-bench"}
    assert not [doc for doc in documents("overlays/gce") if doc["kind"] == "ConfigMap"]


@needs.mark(needs.KUSTOMIZE)
def test_all_components_at_once(tmp_path: Path) -> None:
    assert {doc["kind"] for doc in combined(tmp_path, "overlays/kind", *COMPONENTS)} >= {"ContainerSource", "Role"}


# The job


@pytest.fixture
def job() -> Doc:
    """The Job as in its file, so that its tests need no kustomize."""
    return yaml.safe_load((K8S / "job/job.yaml").read_text())


@needs.mark(needs.KUSTOMIZE)
def test_kustomize_does_not_change_the_job(job: Doc) -> None:
    assert one(documents("job"), "Job")["spec"] == job["spec"]


@needs.mark(needs.KUSTOMIZE)
def test_the_jobs_pod_differs_from_the_deployments_only_in_its_command(job: Doc) -> None:
    ours, theirs = job["spec"]["template"]["spec"], one(documents("."), "Deployment")["spec"]["template"]["spec"]
    for key in (
        "securityContext",
        "nodeSelector",
        "tolerations",
        "terminationGracePeriodSeconds",
        "enableServiceLinks",
    ):
        assert ours[key] == theirs[key], key
    (own,) = [each for each in ours["containers"][0]["volumeMounts"] if each["name"] == "experiment"]
    ours["containers"][0]["volumeMounts"].remove(own)
    assert own["readOnly"]
    for key in ("securityContext", "image", "imagePullPolicy", "volumeMounts"):
        assert ours["containers"][0][key] == theirs["containers"][0][key], key


def test_the_job_has_as_many_pods_as_shards(job: Doc) -> None:
    spec, (container,) = job["spec"], job["spec"]["template"]["spec"]["containers"]
    shards = int(next(each["value"] for each in container["env"] if each["name"] == "SHARDS"))
    assert spec["completions"] == spec["parallelism"] == spec["maxFailedIndexes"] == shards
    assert (spec["completionMode"], spec["backoffLimitPerIndex"]) == ("Indexed", 0), "no shard runs twice"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_jobs_generator_parses(job: Doc, monkeypatch: pytest.MonkeyPatch) -> None:
    script = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    (line,) = re.findall(r"^workload-generator (.*?) &$", script.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    values = {"CONFIG": "a", "PREFIX": "p", "RUN_ID": "r", "SHARDS": "3", "START_AT": "2026-11-25T08:00:00Z"}
    values["FLAGS"] = "--ping --rps=5"
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    for name, value in values.items():
        line = line.replace(f"${name}", value)
    options = workload_generator.make_parser().parse_args(shlex.split(line))
    assert (options.shard, options.run_id, options.config) == ((2, 3), "r", "a")
    assert options.ping and options.rps == 5


class Shard:
    """The Job's script with a stand-in for the generator and a shorter `sleep`."""

    def __init__(self, job: Doc, folder: Path, generator: str, **environment: str) -> None:
        self.fetched = folder / "fetched"
        self._waiting = folder / "waiting"
        programs = {
            "workload-generator": generator,
            "sleep": f'touch "$TMPDIR/waiting"; exec {shutil.which("sleep")} 0.05',
        }
        for name, script in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        command = job["spec"]["template"]["spec"]["containers"][0]["command"]
        values = {
            "CONFIG": "c", "PREFIX": "p", "RUN_ID": "r", "START_AT": "now", "FLAGS": "", "SHARDS": "2",
            "HOLD_SECONDS": "3600", "TMPDIR": str(folder), "PATH": f"{folder}:{os.environ['PATH']}",
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, env=values | environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_for(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return
        raise AssertionError(f"ended with {self.process.wait()} before it printed {text}")

    def wait_until_it_waits(self) -> None:
        while not self._waiting.exists():
            assert self.process.poll() is None
            time.sleep(0.01)

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_shard_waits_until_its_log_was_fetched(job: Doc, tmp_path: Path, code: int) -> None:
    shard = Shard(job, tmp_path, f"exit {code}")
    shard.wait_for(f"exit code {code}")
    assert shard.process.poll() is None
    shard.fetched.touch()
    assert shard.end() == code


def test_a_shard_starts_at_the_time_in_its_file(job: Doc, tmp_path: Path) -> None:
    shard = Shard(job, tmp_path, 'echo "args $*" >&2', START_AT="told")
    (tmp_path / "start-at").write_text("2026-11-25T08:00:00Z\n")
    shard.wait_for("--start-at=2026-11-25T08:00:00Z")
    shard.fetched.touch()
    assert shard.end() == 0


@pytest.mark.parametrize(("hold", "number", "code"), [("1", None, 2), ("3600", signal.SIGTERM, 143)])
def test_a_shard_without_a_start_time_ends(
    job: Doc, tmp_path: Path, hold: str, number: signal.Signals | None, code: int
) -> None:
    shard = Shard(job, tmp_path, "exit 0", START_AT="told", HOLD_SECONDS=hold)
    if number is not None:
        shard.wait_until_it_waits()
        shard.process.send_signal(number)
    assert shard.end() == code


def test_a_shard_ends_after_hold_seconds(job: Doc, tmp_path: Path) -> None:
    assert Shard(job, tmp_path, "exit 0", HOLD_SECONDS="1").end() == 0


@pytest.mark.parametrize(
    ("generator", "environment"), [("exit 2", {}), ("exit 0", {"RUN_ID": ""}), ("exit 0", {"START_AT": ""})]
)
def test_a_shard_that_sent_nothing_ends_at_once(
    job: Doc, tmp_path: Path, generator: str, environment: dict[str, str]
) -> None:
    assert Shard(job, tmp_path, generator, **environment).end() == 2


def test_sigterm_is_passed_on_to_the_run_and_the_shard_waits_for_its_end(job: Doc, tmp_path: Path) -> None:
    generator = f"exec {sys.executable} -c '{GENERATOR}'"
    shard = Shard(job, tmp_path, generator)
    shard.wait_for("sending")
    shard.process.send_signal(signal.SIGTERM)
    assert shard.end() == 143
    assert (tmp_path / "trailer").exists()


GENERATOR = """
import os, signal, sys, time
def stop(number, frame):
    time.sleep(0.1)
    open(os.environ["TMPDIR"] + "/trailer", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
sys.stderr.write("sending\\n")
sys.stderr.flush()
while True:
    time.sleep(1)
"""


def test_sigterm_ends_the_wait(job: Doc, tmp_path: Path) -> None:
    shard = Shard(job, tmp_path, "exit 3", HOLD_SECONDS="36000")
    shard.wait_for("exit code 3")
    shard.process.send_signal(signal.SIGTERM)
    assert shard.end() == 3, "long before HOLD_SECONDS, half an hour here"
