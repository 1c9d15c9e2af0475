"""What each of our service accounts may do, and that it may do nothing else, as the real authorizer says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, Doc, Refused
from tests.cluster.namespaces import Namespaces
from tests.test_manifests import COMPONENTS, FOLDERS, combined, documents

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
Right = tuple[str, str, str, str]
"""(namespace, API group, resource, verb)"""

pytestmark = pytest.mark.usefixtures("has_knative")

RIGHTS: dict[str, dict[tuple[str, str], set[tuple[str, str, str]]]] = {
    # By component, then by account: namespace, API group and resource that it may look at. All else is denied.
    "": {("workload-generator", "workload-generator"): set()},
    "cold-start-watcher": {
        ("workload-generator", "workload-generator"): {
            ("functions", "", "pods"),
            ("functions", "serving.knative.dev", "revisions"),
            ("functions", "autoscaling.internal.knative.dev", "podautoscalers"),
        }
    },
    "cold-start-events": {("workload-generator", "workload-generator"): {("functions", "", "events")}},
    "eventing": {("workload-generator", "workload-generator"): set()},
    "scenario-3": {("workload-generator", "workload-generator"): set()},
}
LOOK = ("get", "list", "watch")


@pytest.fixture(scope="module")
def resources(kube: Api) -> list[tuple[str, str, bool]]:
    """Every resource and subresource that the server has: group, name, whether it is in namespaces."""
    found = []
    versions = ["v1"]
    for group in kube.call("GET", "/apis")["groups"]:
        if group["name"] != "metrics.k8s.io":
            versions += [each["groupVersion"] for each in group["versions"]]
    for version in versions:
        root = f"/apis/{version}" if "/" in version else "/api/v1"
        group = version.rpartition("/")[0]
        found += [(group, each["name"], each["namespaced"]) for each in kube.call("GET", root)["resources"]]
    return sorted(set(found))


@pytest.fixture(scope="module", params=["", *COMPONENTS])
def applied(
    request: pytest.FixtureRequest, namespaces: Namespaces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str], list[Doc]]]:
    """Component, our names of namespaces to the session's, and what was applied."""
    component = request.param
    folder = tmp_path_factory.mktemp("combined")
    docs = combined(folder, "base", *([component] if component else []))
    before = [doc for doc in docs if doc["kind"] != "Namespace"]
    moved = namespaces.move(docs)
    names = {old["metadata"]["namespace"]: new["metadata"]["namespace"] for old, new in zip(before, moved, strict=True)}
    rights = [doc for doc in moved if doc["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    namespaces.apply(rights)
    yield component, names, rights
    namespaces.delete(*names.values())


def test_an_account_may_do_what_it_needs_and_nothing_else(
    kube: Api, applied: tuple[str, dict[str, str], list[Doc]], resources: list[tuple[str, str, bool]]
) -> None:
    component, names, docs = applied
    ours = {new: old for old, new in names.items()}
    accounts = {
        (ours[doc["metadata"]["namespace"]], doc["metadata"]["name"]) for doc in docs if doc["kind"] == "ServiceAccount"
    }
    assert accounts == set(RIGHTS[component]), "an account whose rights nobody wrote down"
    for (namespace, name), looks in RIGHTS[component].items():
        wanted = {(names[where], group, resource, verb) for where, group, resource in looks for verb in LOOK}
        assert set(granted(kube, names[namespace], name, list(names.values()), resources)) == wanted


def granted(
    kube: Api, namespace: str, name: str, namespaces: list[str], resources: list[tuple[str, str, bool]]
) -> Iterator[Right]:
    """All that an account may do there and in no namespace; what every account may (ask about itself) is left out."""
    user = f"system:serviceaccount:{namespace}:{name}"
    for group, resource, namespaced in resources:
        name_, _, subresource = resource.partition("/")
        for where in [*namespaces, ""] if namespaced else [""]:
            if (group, name_) in EVERYBODY_MAY:
                continue
            for verb in VERBS:
                if kube.allowed(user, verb, group, name_, where, subresource=subresource):
                    yield where, group, resource, verb


EVERYBODY_MAY = {
    ("authorization.k8s.io", "selfsubjectaccessreviews"), ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
}  # fmt: skip


def test_the_watcher_looks_and_cannot_touch(
    kube: Api, namespaces: Namespaces, applied: tuple[str, dict[str, str], list[Doc]]
) -> None:
    """The same by doing it, as the account: impersonation goes through authentication and authorization."""
    component, names, _ = applied
    account = kube.as_account(names["workload-generator"], "workload-generator")
    doings = {
        "pods": lambda: account.list("v1", "Pod", names["functions"]),
        "revisions": lambda: account.list("serving.knative.dev/v1", "Revision", names["functions"]),
        "events": lambda: account.list("v1", "Event", names["functions"]),
        "secrets": lambda: account.list("v1", "Secret", names["functions"]),
        "a pod": lambda: account.delete("v1", "Pod", names["functions"], "any"),
        "other pods": lambda: account.list("v1", "Pod", "kube-system"),
        "nodes": lambda: account.list("v1", "Node"),
    }
    allowed = {"cold-start-watcher": {"pods", "revisions"}, "cold-start-events": {"events"}}.get(component, set())
    for what, do in doings.items():
        if what in allowed:
            do()
        else:
            with pytest.raises(Refused) as refused:
                do()
            assert refused.value.code == 403, what


def test_no_folder_has_an_account_that_nobody_knows() -> None:
    known = {account for accounts in RIGHTS.values() for account in accounts}
    for folder in FOLDERS:
        for doc in documents(folder):
            if doc["kind"] == "ServiceAccount":
                assert (doc["metadata"]["namespace"], doc["metadata"]["name"]) in known, folder
            assert doc["kind"] not in ("ClusterRole", "ClusterRoleBinding"), "rights beyond our namespaces"
