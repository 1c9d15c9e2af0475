"""The files that are rendered from the settings (kOps, Knative, namespaces, kind), and that they are consistent.

kOps' Go types would be the better check, but the Go module proxy does not have them. So the manifests are compared with
a golden file, and their properties are tested.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import needs, test_manifests
from tests.infrastructure.recipes import FILLED, INFRASTRUCTURE, ROOT, filled_settings
from workload_generator.cluster.doctor import versions as doctor

sys.path.insert(0, str(INFRASTRUCTURE))
import render
import settings

Doc = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden/kops.yaml"
CHECKOV = "checkov==3.3.30"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.env"
    path.write_text(filled_settings())
    return path


@pytest.fixture
def values(file: Path) -> dict[str, str]:
    return settings.load(file, settings.SETTINGS)


@pytest.fixture
def documents(values: dict[str, str]) -> list[Doc]:
    return list(yaml.safe_load_all(render.kops(values)))


# Settings


def test_only_the_settings_that_every_user_must_set_are_empty() -> None:
    with pytest.raises(settings.SettingsError) as raised:
        settings.load(INFRASTRUCTURE / "settings.env", settings.SETTINGS)
    assert {line.split()[1] for line in raised.value.problems} == set(FILLED)


def test_every_setting_is_used_and_every_one_used_is_known() -> None:
    made = {"build", "__pycache__"}
    texts = [path.read_text() for path in INFRASTRUCTURE.rglob("*") if not made & {*path.parts} and path.is_file()]
    used = "".join(text for text in texts if not text.startswith('"""Validates the settings'))
    lines = (INFRASTRUCTURE / "settings.env").read_text().splitlines()
    keys = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert keys == set(settings.KNOWN)
    assert not {key for key in keys if not re.search(rf"\$\{{?{key}\b|\[['\"]{key}['\"]\]|env\(\"{key}\"", used)} - {
        "API_ACCESS"
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ZONE", "europe-west4"),
        ("PROJECT", "Bench"),
        ("STATE_BUCKET", "gs://bench"),
        ("CLUSTER", "bench.example.com"),
        ("API_ACCESS", "0.0.0.0"),
        ("API_ACCESS", "300.1.1.1/32"),
        ("API_ACCESS", "10.0.0.0/33"),
        ("FUNCTIONS_NODES", "0"),
        ("FUNCTIONS_NODES", "three"),
        ("KNATIVE_SERVING_VERSION", "1.23"),
        ("KUBERNETES_VERSION", "v1.36.3"),
        ("MONITORING_COMMIT", "main"),
        ("SERVING_1_LANGUAGES", "go,node"),
        ("SERVING_1_LANGUAGES", "go, rust"),
        ("SERVING_1_RATES", "0"),
        ("SERVING_1_RATES", "300;400"),
        ("KIND_NODE_IMAGE", "kindest/node"),
        ("DOMAIN", "example.com: x"),
        ("STATE_KMS_KEY", "key"),
        ("REGISTRY", "https://registry.example"),
    ],
)
def test_an_invalid_value_is_reported_with_its_line(key: str, value: str, file: Path) -> None:
    file.write_text(re.sub(rf"^{key}=.*$", f"{key}={value}", file.read_text(), flags=re.MULTILINE))
    number = next(n for n, line in enumerate(file.read_text().splitlines(), 1) if line.startswith(f"{key}="))
    with pytest.raises(settings.SettingsError) as raised:
        settings.load(file, settings.SETTINGS)
    assert [line for line in raised.value.problems if line.startswith(f"{file}:{number}: {key} ")]


def test_all_problems_are_reported_at_once(file: Path) -> None:
    text = re.sub(r"^ZONE=.*\n", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(text + "COLOUR=red\nCLUSTER=b.k8s.local\nnonsense\n")
    with pytest.raises(settings.SettingsError) as raised:
        settings.load(file, ["cloud"])
    message = str(raised.value)
    assert "ZONE is missing" in message and "COLOUR: unknown setting" in message
    assert "CLUSTER: already set" in message and "not KEY=value" in message


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError, match=r"settings\.env: No such file"):
        settings.load(tmp_path / "settings.env", [])


@pytest.mark.parametrize(
    ("knative", "kubernetes", "fits"),
    [
        ("1.23.0", "1.34.0", True),
        ("1.23.0", "1.33.9", False),
        ("1.21.0", "1.33.0", True),
        ("1.21.0", "1.32.0", False),
        ("1.18.0", "1.30.4", False),
    ],
)
def test_knative_needs_a_minimum_kubernetes(knative: str, kubernetes: str, fits: bool, file: Path) -> None:
    text = file.read_text().replace("KUBERNETES_VERSION=1.36.3", f"KUBERNETES_VERSION={kubernetes}")
    file.write_text(re.sub("(KNATIVE_SERVING|KNATIVE_EVENTING|KOURIER)_VERSION=.*", rf"\1_VERSION={knative}", text))
    if fits:
        settings.load(file, ["install"])
    else:
        with pytest.raises(settings.SettingsError, match="needs Kubernetes"):
            settings.load(file, ["install"])


# kOps


def test_kops_manifests_match_the_golden_file(values: dict[str, str]) -> None:
    assert render.kops(values) == GOLDEN.read_text(), "python -m tests.infrastructure.make_golden replaces it"


def test_a_template_with_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: ${COLOUR}\n")
    with pytest.raises(settings.SettingsError, match="COLOUR"):
        render.filled(tmp_path / "x.yaml", {})


def test_groups_belong_to_the_cluster_and_etcd_members_to_groups(documents: list[Doc]) -> None:
    cluster, *groups = documents
    names = [group["metadata"]["name"] for group in groups]
    assert {group["metadata"]["labels"]["kops.k8s.io/cluster"] for group in groups} == {cluster["metadata"]["name"]}
    for etcd in cluster["spec"]["etcdClusters"]:
        assert {member["instanceGroup"] for member in etcd["etcdMembers"]} <= set(names)
    assert [group["spec"]["role"] for group in groups].count("Master") == 1
    subnets = {subnet["name"] for subnet in cluster["spec"]["subnets"]}
    assert all(set(group["spec"]["subnets"]) <= subnets for group in groups)
    assert cluster["spec"]["kubernetesApiAccess"] == FILLED["API_ACCESS"].split(",") == cluster["spec"]["sshAccess"]


def test_the_seeds_reservations_are_in_the_spec(documents: list[Doc]) -> None:
    kubelet = documents[0]["spec"]["kubelet"]
    assert kubelet == {
        "anonymousAuth": False,
        "cgroupDriver": "systemd",
        "kubeReserved": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "1Gi"},
        "kubeReservedCgroup": "/kube-reserved",
        "kubeletCgroups": "/kube-reserved",
        "runtimeCgroups": "/kube-reserved",
        "systemReserved": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        "systemReservedCgroup": "/system-reserved",
        "enforceNodeAllocatable": "pods,system-reserved,kube-reserved",
    }
    assert documents[0]["spec"]["metricsServer"]["enabled"] is True
    assert "cilium" in documents[0]["spec"]["networking"]


def slice_of(cgroup: str) -> str:
    """Where the kubelet with the systemd driver looks: each dash of the name is a level (systemd.slice(5))."""
    parts = cgroup.removeprefix("/").split("-")
    return "/".join("-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)))


def test_every_reserved_cgroup_has_its_slice_before_the_kubelet_starts(documents: list[Doc]) -> None:
    spec = documents[0]["spec"]
    assets = {asset["path"]: asset["content"] for asset in spec["fileAssets"]}
    assert not [asset for asset in spec["fileAssets"] if "roles" in asset], "control plane and nodes alike"
    (drop_in,) = [text for path, text in assets.items() if path.startswith("/etc/systemd/system/kubelet.service.d/")]
    found = {key: line.partition("=")[2].split() for line in drop_in.splitlines() if (key := line.partition("=")[0])}
    cgroups = [slice_of(spec["kubelet"][key]) for key in ("kubeReservedCgroup", "systemReservedCgroup")]
    assert cgroups == ["kube.slice/kube-reserved.slice", "system.slice/system-reserved.slice"]
    units = [cgroup.rpartition("/")[2] for cgroup in cgroups]
    assert found["Requires"] == found["After"] == units
    assert found["ExecStartPre"][1] in assets
    assert found["ExecStartPre"][2:] == cgroups


def test_the_controllers_are_handed_down_to_each_reserved_cgroup(tmp_path: Path) -> None:
    levels = [".", "kube.slice", "kube.slice/kube-reserved.slice", "system.slice", "system.slice/system-reserved.slice"]
    for level in levels:
        (tmp_path / level).mkdir(exist_ok=True)
        (tmp_path / level / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    script = INFRASTRUCTURE / "kops/reserved-cgroups.sh"
    ran = subprocess.run(
        ["sh", str(script), levels[2], levels[4]],
        env={"CGROUP_ROOT": str(tmp_path), "PATH": os.environ["PATH"]},
        timeout=20,
    )
    assert ran.returncode == 0
    handed = {level for level in levels if (tmp_path / level / "cgroup.subtree_control").exists()}
    assert handed == {".", "kube.slice", "system.slice"}
    written = set((tmp_path / "kube.slice/cgroup.subtree_control").read_text().split())
    assert written == {"+cpu", "+cpuset", "+memory", "+pids"}, "hugetlb is not available, io is not needed"


def test_a_missing_slice_stops_the_kubelets_start(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    script = INFRASTRUCTURE / "kops/reserved-cgroups.sh"
    env = {"CGROUP_ROOT": str(tmp_path), "PATH": os.environ["PATH"]}
    assert subprocess.run(
        ["sh", str(script), "kube.slice/kube-reserved.slice"], env=env, capture_output=True
    ).returncode


# Placement: kOps, kind, the namespaces and the generator's manifest agree


def placement(documents: list[Doc]) -> dict[str, bool]:
    """For each value of the label `dedicated`, whether its nodes are tainted."""
    groups = [doc["spec"] for doc in documents[1:] if "nodeLabels" in doc["spec"]]
    return {
        spec["nodeLabels"]["dedicated"]: spec["taints"] == [f"dedicated={spec['nodeLabels']['dedicated']}:NoSchedule"]
        for spec in groups
    }


def kustomized(folder: Path) -> list[Doc]:
    program = ["kubectl", "kustomize"] if shutil.which("kubectl") else ["kustomize", "build"]
    ran = subprocess.run([*program, str(folder)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def test_the_dedicated_nodes(documents: list[Doc]) -> None:
    assert placement(documents) == {"metrics": True, "workload-generator": True, "knative": True}


def test_kind_has_the_same_dedicated_nodes(documents: list[Doc]) -> None:
    cluster = yaml.safe_load((INFRASTRUCTURE / "kind/cluster.yaml").read_text())
    found = {}
    for node in cluster["nodes"]:
        if "labels" not in node:
            continue
        dedicated = node["labels"]["dedicated"]
        patches = [yaml.safe_load(patch) for patch in node.get("kubeadmConfigPatches", [])]
        taints = [taint for patch in patches for taint in patch["nodeRegistration"]["taints"]]
        assert taints in ([], [{"key": "dedicated", "value": dedicated, "effect": "NoSchedule"}])
        found[dedicated] = bool(taints)
    assert found == placement(documents)


def test_both_clusters_have_the_admission_plugins(documents: list[Doc]) -> None:
    plugins = documents[0]["spec"]["kubeAPIServer"]["appendAdmissionPlugins"]
    assert plugins == ["PodNodeSelector", "PodTolerationRestriction"]
    cluster = yaml.safe_load((INFRASTRUCTURE / "kind/cluster.yaml").read_text())
    old, new = (yaml.safe_load(patch)["apiServer"]["extraArgs"] for patch in cluster["kubeadmConfigPatches"])
    assert new == [{"name": "enable-admission-plugins", "value": old["enable-admission-plugins"]}]
    assert set(plugins) <= set(old["enable-admission-plugins"].split(","))


@needs.mark(needs.KUSTOMIZE)
def test_namespaces_select_existing_nodes_and_tolerate_their_taints(documents: list[Doc]) -> None:
    nodes, prefix = placement(documents), "scheduler.alpha.kubernetes.io/"
    namespaces = {doc["metadata"]["name"]: doc["metadata"] for doc in kustomized(INFRASTRUCTURE / "namespaces")}
    assert {
        "knative-serving",
        "kourier-system",
        "knative-eventing",
        "metrics",
        "functions",
        "workload-generator",
    } <= set(namespaces)
    bound = {name: meta["annotations"] for name, meta in namespaces.items() if "annotations" in meta}
    assert set(bound) == {"knative-serving", "kourier-system", "knative-eventing", "metrics"}
    for placed in bound.values():
        label, _, dedicated = placed[f"{prefix}node-selector"].partition("=")
        assert label == "dedicated" and nodes[dedicated]
        taint = {"key": "dedicated", "operator": "Equal", "value": dedicated, "effect": "NoSchedule"}
        assert json.loads(placed[f"{prefix}defaultTolerations"]) == [taint]


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize("folder", [ROOT / "k8s", INFRASTRUCTURE / "kind/benchmark"])
def test_the_generator_selects_its_node(documents: list[Doc], folder: Path) -> None:
    (deployment,) = [doc for doc in kustomized(folder) if doc["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert placement(documents)[pod["nodeSelector"]["dedicated"]]
    assert [t["value"] for t in pod["tolerations"]] == [pod["nodeSelector"]["dedicated"]]


# Knative and the benchmark's manifests


@needs.mark(needs.KUSTOMIZE)
def test_knatives_settings(values: dict[str, str], tmp_path: Path) -> None:
    render.folder(INFRASTRUCTURE / "knative", values, tmp_path / "knative")
    maps = {doc["metadata"]["name"]: doc for doc in kustomized(tmp_path / "knative/serving")}
    assert {doc["metadata"]["namespace"] for doc in maps.values()} == {"knative-serving"}
    data = {name: doc["data"] for name, doc in maps.items()}
    assert data["config-network"] == {"ingress-class": "kourier.ingress.networking.knative.dev"}
    assert data["config-domain"] == {values["DOMAIN"]: ""}
    assert data["config-observability"] == {"metrics-protocol": "prometheus", "request-metrics-protocol": "prometheus"}
    assert data["config-features"] == {"secure-pod-defaults": "enabled"}
    assert data["config-autoscaler"]["stable-window"] == "60s"
    assert all(isinstance(value, str) for entries in data.values() for value in entries.values())
    (eventing,) = kustomized(tmp_path / "knative/eventing")
    assert eventing["metadata"]["namespace"] == "knative-eventing"
    assert eventing["data"] == {"metrics-protocol": "prometheus"}


def test_versions_match_those_of_the_tests_and_of_the_doctor(values: dict[str, str]) -> None:
    tried = dict(re.findall(r"^\t(\S+) v(\S+)$", (ROOT / "tests/cluster/binaries/go.mod").read_text(), re.MULTILINE))
    assert tried["k8s.io/kubernetes"] == values["KUBERNETES_VERSION"]
    assert tried["sigs.k8s.io/metrics-server"] == values["METRICS_SERVER_VERSION"]
    minor = values["KUBERNETES_VERSION"].rpartition(".")[0]
    assert values["KIND_NODE_IMAGE"].partition(":v")[2].rpartition(".")[0] == minor == test_manifests.KUBERNETES
    least = {(1, knative): (1, kubernetes) for knative, kubernetes in doctor.MINIMUM}
    assert least == settings.MINIMUM_KUBERNETES


def test_the_default_versions_were_run_together(values: dict[str, str]) -> None:
    page = (ROOT / "docs/verified.md").read_text()
    header, row = (re.findall(rf"^\| ({word}.*) \|$", page, re.MULTILINE)[0].split(" | ") for word in ("Kube", r"\d"))
    run = dict(zip(header, row, strict=True))
    keys = ("KUBERNETES", "KNATIVE_SERVING", "KOURIER", "KNATIVE_EVENTING", "METRICS_SERVER")
    names = ("Kubernetes", "Serving", "Kourier", "Eventing", "metrics-server")
    assert {name: values[f"{key}_VERSION"] for name, key in zip(names, keys, strict=True)}.items() <= run.items()


def test_versions_are_in_the_settings_only(values: dict[str, str]) -> None:
    versions = {value for key, value in values.items() if key.endswith(("_VERSION", "_COMMIT"))}
    for path in INFRASTRUCTURE.rglob("*"):
        if path.is_file() and "build" not in path.parts and path.suffix in {".yaml", ".tf", ".conf", ".sh", ""}:
            assert not {found for found in versions if found in path.read_text()}, path


def test_node_exporter_is_not_bound_to_the_metrics_node() -> None:
    values = yaml.safe_load((INFRASTRUCTURE / "metrics/values.yaml").read_text())
    assert values["prometheus-node-exporter"]["namespaceOverride"] != "metrics"
    assert values["prometheus"]["prometheusSpec"]["enableAdminAPI"] is True


# Terraform


@needs.mark(needs.TERRAFORM)
def test_terraform_is_formatted() -> None:
    ran = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(INFRASTRUCTURE / "terraform")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_terraforms_variables_are_declared_set_and_used() -> None:
    declared = set(
        re.findall(r'^variable "(\w+)"', (INFRASTRUCTURE / "terraform/variables.tf").read_text(), re.MULTILINE)
    )
    given = set(re.findall(r"-var=(\w+)=", (INFRASTRUCTURE / "justfile").read_text()))
    used = set(
        re.findall(r"\bvar\.(\w+)", "".join(path.read_text() for path in (INFRASTRUCTURE / "terraform").glob("*.tf")))
    )
    assert declared == given == used
    assert 'output "kops_state_store_bucket_name"' in (INFRASTRUCTURE / "terraform/outputs.tf").read_text()


@needs.mark(needs.CHECKOV)
def test_checkov_finds_nothing_in_terraform() -> None:
    where = str(INFRASTRUCTURE / "terraform")
    ran = subprocess.run(
        [
            "uv",
            "tool",
            "run",
            CHECKOV,
            "--directory",
            where,
            "--framework",
            "terraform",
            "--compact",
            "--output",
            "json",
        ],
        capture_output=True,
        text=True,
    )
    report = json.loads(ran.stdout)
    passed = {check["check_id"] for check in report["results"]["passed_checks"]}
    assert {"CKV_GCP_29", "CKV_GCP_78", "CKV_GCP_114"} <= passed, "uniform access, versions, no public access"
    assert not [f"{check['check_id']}: {check['check_name']}" for check in report["results"]["failed_checks"]]
