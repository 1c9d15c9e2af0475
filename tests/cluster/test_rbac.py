"""The permissions of each of our service accounts, and no others, according to the real authorizer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, Doc, Refused, wait_for
from tests.cluster.namespaces import Namespaces
from tests.test_manifests import COMPONENTS, EVENTING, FOLDERS, combined, documents, templates

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
Right = tuple[str, str, str, str]
"""(namespace, API group, resource, verb)"""

pytestmark = pytest.mark.usefixtures("has_knative")

RIGHTS: dict[str, dict[tuple[str, str], set[tuple[str, str, str]]]] = {
    # By component, then by account: namespace, API group and resource that it may read. Everything else is denied.
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
    """Every resource and subresource of the server: group, name, whether it is namespaced."""
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
    """The component, the session's namespaces by the manifests' names, and the applied objects."""
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
    assert accounts == set(RIGHTS[component]), "an account without an entry above"
    for (namespace, name), looks in RIGHTS[component].items():
        wanted = {(names[where], group, resource, verb) for where, group, resource in looks for verb in LOOK}
        assert set(granted(kube, names[namespace], name, list(names.values()), resources)) == wanted


def granted(
    kube: Api, namespace: str, name: str, namespaces: list[str], resources: list[tuple[str, str, bool]]
) -> Iterator[Right]:
    """The permissions of an account in a namespace and cluster-wide, without those of every account (self reviews)."""
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


def test_the_watcher_can_read_and_cannot_write(
    kube: Api, namespaces: Namespaces, applied: tuple[str, dict[str, str], list[Doc]]
) -> None:
    """The same by requests of the account: impersonation goes through authentication and authorization."""
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


def test_every_account_of_the_manifests_is_tested() -> None:
    known = {account for accounts in RIGHTS.values() for account in accounts}
    for folder in [*FOLDERS, *EVENTING]:
        for doc in documents(folder):
            if doc["kind"] == "ServiceAccount":
                assert (doc["metadata"]["namespace"], doc["metadata"]["name"]) in known, folder
            assert doc["kind"] not in ("ClusterRole", "ClusterRoleBinding"), "permissions outside our namespaces"


def test_pods_with_the_default_account_get_no_token() -> None:
    """`default` has no permissions here. If others add some, a token would give them to the pods."""
    for folder in [*FOLDERS, *EVENTING]:
        for name, template in templates(documents(folder)):
            spec = template["spec"]
            own = spec.get("serviceAccountName", "default") != "default"
            assert own or spec.get("automountServiceAccountToken") is False, f"{folder}: {name}"


@pytest.mark.parametrize("folder", [*FOLDERS, *EVENTING])
def test_the_default_accounts_have_no_permissions(kube: Api, namespaces: Namespaces, folder: str) -> None:
    """With all objects of the folder."""
    docs = documents(folder)
    moved = namespaces.move(docs)
    names = sorted({doc["metadata"]["namespace"] for doc in moved})
    namespaces.apply([doc for doc in moved if doc["kind"] in ("ServiceAccount", "Role", "RoleBinding")])
    try:
        for name in names:
            assert rules_of(kube.as_account(name, "default"), name) == set()
    finally:
        namespaces.delete(*names)


def rules_of(account: Api, namespace: str) -> set[tuple[str, str, str]]:
    """The account's permissions from a self-review: verb, group, resource; without those of every account."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    status = account.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)["status"]
    assert not status["incomplete"], status
    return {
        (verb, group, resource)
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule.get("apiGroups") or ("",)
        for resource in rule.get("resources") or ()
        if (group, resource) not in EVERYBODY_MAY
    }


def test_the_servers_rules_show_a_granted_permission(kube: Api, namespace: str) -> None:
    """The test above relies on this."""
    kube.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "view", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }
    )
    wait_for("the right", lambda: ("list", "", "pods") in rules_of(kube.as_account(namespace, "default"), namespace))
