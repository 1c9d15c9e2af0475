"""Small stand-ins for the manifests of releases, which cannot be downloaded here.

Each has what the recipes need, under the names of the release: the namespaces, the CRDs (Knative's own), the ConfigMaps
with their `_example`, and a Deployment for each component.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tests.cluster.api import Doc
from tests.cluster.cluster import without_conversion

_FILES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # file: namespace, its Deployments, its ConfigMaps
    "serving-core.yaml": (
        "knative-serving",
        ("activator", "autoscaler", "controller", "webhook"),
        ("autoscaler", "defaults", "deployment", "domain", "features", "network", "observability"),
    ),
    "kourier.yaml": ("kourier-system", ("3scale-kourier-gateway",), ()),
    "eventing-core.yaml": (
        "knative-eventing",
        ("eventing-controller", "eventing-webhook"),
        ("features", "observability"),
    ),
    "cert-manager.yaml": ("cert-manager", ("cert-manager",), ()),
    "cluster-operator.yml": ("rabbitmq-system", ("rabbitmq-cluster-operator",), ()),
    "messaging-topology-operator-with-certmanager.yaml": ("rabbitmq-system", ("messaging-topology-operator",), ()),
    "rabbitmq-broker.yaml": ("knative-eventing", ("rabbitmq-broker-controller",), ()),
    "serving-monitors.yaml": ("knative-serving", (), ("monitors",)),
    "eventing-monitors.yaml": ("knative-eventing", (), ("monitors",)),
}

_WEBHOOKS = "ValidatingWebhookConfiguration"


def write_releases(folder: Path, version: str, authority: str) -> None:
    """Write a file for each manifest that a recipe applies. KNATIVE_CRDS is the folder of the CRDs.

    `authority` is any certificate, in base64, for cert-manager's webhook, which is never called here.
    """
    for name, (namespace, deployments, maps) in _FILES.items():
        # As in the release: the namespace has labels of its own and no placement.
        docs: list[Doc] = [_doc("v1", "Namespace", namespace, None, version)]
        docs += [_doc("v1", "ConfigMap", f"config-{each}", namespace, version) | _example() for each in maps]
        docs += [_doc("apps/v1", "Deployment", each, namespace, version) | _runs(each) for each in deployments]
        if name == "cert-manager.yaml":
            docs.append(_doc("admissionregistration.k8s.io/v1", _WEBHOOKS, "cert-manager-webhook", None, version))
            service = {"name": "cert-manager-webhook", "namespace": namespace}
            asked = {"name": "webhook.cert-manager.io", "admissionReviewVersions": ["v1"], "sideEffects": "None"}
            docs[-1]["webhooks"] = [asked | {"clientConfig": {"service": service, "caBundle": authority}}]
        _write(folder / name, docs)
    crds = sorted(Path(os.environ["KNATIVE_CRDS"]).glob("*.yaml"))
    for part in ("serving", "eventing"):
        found = [doc for path in crds if path.name.startswith(part) for doc in yaml.safe_load_all(path.read_text())]
        kinds = [without_conversion(doc) for doc in found if doc and doc["kind"] == "CustomResourceDefinition"]
        _write(folder / f"{part}-crds.yaml", kinds)


def _write(path: Path, docs: list[Doc]) -> None:
    path.write_text(yaml.safe_dump_all(docs), encoding="utf-8")


def _doc(api: str, kind: str, name: str, namespace: str | None, version: str) -> Doc:
    meta: Doc = {"name": name, "labels": {"app.kubernetes.io/version": version, "app.kubernetes.io/part-of": "release"}}
    return {"apiVersion": api, "kind": kind, "metadata": meta | ({"namespace": namespace} if namespace else {})}


def _example() -> Doc:
    return {"data": {"_example": "an example\n"}}


def _runs(name: str) -> Doc:
    labels = {"app": name}
    container = {"name": "c", "image": "dev.local/c:1", "resources": {"requests": {"cpu": "20m"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {"spec": {"selector": {"matchLabels": labels}, "template": template}}
