"""The suite on another cluster: it works in namespaces of its own and leaves no objects behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.api import Api
from tests.cluster.namespaces import LABEL
from tests.cluster.plane import Plane

ROOT = Path(__file__).parents[2]
SYSTEM = {"default", "kube-system", "kube-public", "kube-node-lease"}


def everything(kube: Api, without: set[str]) -> dict[str, str]:
    """Every object outside these namespaces with its generation and labels, without those that change on their own."""
    found = {}
    for version in [
        "v1",
        *(group["preferredVersion"]["groupVersion"] for group in kube.call("GET", "/apis")["groups"]),
    ]:
        if version.startswith(("metrics.", "events.", "coordination.")):
            continue
        root = f"/apis/{version}" if "/" in version else "/api/v1"
        for each in kube.call("GET", root)["resources"]:
            listed = "list" in each["verbs"] and "/" not in each["name"]
            if not listed or each["name"] in ("events", "persistentvolumes", "ipaddresses"):
                continue
            for item in kube.call("GET", f"{root}/{each['name']}")["items"]:
                meta = item["metadata"]
                if {meta["name"], meta.get("namespace")} & without:
                    continue
                key = f"{each['name']}/{meta.get('namespace', '')}/{meta['name']}"
                found[key] = f"{meta.get('uid')} {meta.get('generation', '')} {sorted(meta.get('labels', {}).items())}"
    return found


@pytest.mark.timeout(500)
def test_the_suite_leaves_a_cluster_unchanged(plane: Plane, kube: Api, has_knative: None) -> None:
    own = {each["metadata"]["name"] for each in kube.list("v1", "Namespace", labels=LABEL)}  # of this session
    # Namespaces of other tests, in use or terminating.
    theirs = {each["metadata"]["name"] for each in kube.list("v1", "Namespace")} - SYSTEM
    before = everything(kube, theirs)
    names = ["test_client.py", "test_manifests.py", "test_rbac.py", "test_doctor.py", "test_plane.py"]
    only = (
        "client or scenario-3 or job or unrestricted or default_accounts or rules or doctor or unknown_field "
        "or of_others or stuck"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"tests/cluster/{each}" for each in names),
    ]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "BENCH_CLUSTER": "1"}
    ran = subprocess.run([*command, "-k", only], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed and int(passed[1]) > 15, ran.stdout
    made = {each["metadata"]["name"] for each in kube.list("v1", "Namespace", labels=LABEL)} - own
    assert not made, "its namespaces are deleted at its end"
    after = everything(kube, theirs)
    assert before.keys() ^ after.keys() == set()
    assert {key for key in before if after[key] != before[key]} == set()
