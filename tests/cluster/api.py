"""A small blocking client of the Kubernetes API, for tests. It adds nothing to requests and retries none.

It shares no code with the package's client, so that tests find faults of that client.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import yaml

Doc = dict[str, Any]
T = TypeVar("T")
WAIT_S = 60.0


class Refused(Exception):
    """An error response of the API server: `code`, `reason` and message."""

    def __init__(self, method: str, path: str, status: Doc, code: int) -> None:
        super().__init__(f"{method} {path}: {code} {status.get('message', status)}")
        self.code = code
        self.reason = status.get("reason", "")
        self.message = status.get("message", "")


class Api:
    """The API of a cluster for one user."""

    def __init__(self, kubeconfig: Path, impersonate: str | None = None) -> None:
        """`impersonate` is the full name of a service account; see `as_account`."""
        self.kubeconfig = kubeconfig
        self._pool, self.server, self._headers = _connect(kubeconfig)
        self._impersonate = impersonate
        if impersonate:
            self._headers["Impersonate-User"] = impersonate
            self._headers.extend([("Impersonate-Group", group) for group in _groups(impersonate)])
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}

    def as_account(self, namespace: str, name: str) -> Api:
        """The same cluster for this service account."""
        return Api(self.kubeconfig, f"system:serviceaccount:{namespace}:{name}")

    def call(self, method: str, path: str, body: Doc | None = None, content: str = "application/json") -> Doc:
        """Send a request. Raises Refused for status 400 and above."""
        headers = self._headers.copy()
        headers["Content-Type"] = content
        data = json.dumps(body).encode() if body is not None else None
        answer = self._pool.request(method, self.server + path, body=data, headers=headers, retries=False)
        try:
            doc = json.loads(answer.data)
        except ValueError:
            doc = {"message": answer.data.decode(errors="replace")}
        if answer.status >= 400:
            raise Refused(method, path, doc, answer.status)
        return doc

    def path(self, version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
        """The path of objects of this kind, from the server's discovery."""
        if (version, kind) not in self._resources:
            root = _root(version)
            for each in self.call("GET", root)["resources"]:
                if "/" not in each["name"]:
                    self._resources[version, each["kind"]] = (f"{root}%s/{each['name']}", each["namespaced"])
        template, namespaced = self._resources[version, kind]
        where = template % (f"/namespaces/{namespace}" if namespaced and namespace else "")
        return f"{where}/{name}" if name else where

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Doc:
        return self.call("GET", self.path(version, kind, namespace, name))

    def find(self, version: str, kind: str, namespace: str | None, name: str) -> Doc | None:
        """The object, or None if it does not exist."""
        try:
            return self.get(version, kind, namespace, name)
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    def list(self, version: str, kind: str, namespace: str | None = None, labels: str = "") -> list[Doc]:
        query = f"?labelSelector={labels}" if labels else ""
        items: list[Doc] = self.call("GET", self.path(version, kind, namespace) + query)["items"]
        return items

    def apply(self, doc: Doc, manager: str = "knative-bench-tests", force: bool = True, dry_run: bool = False) -> Doc:
        """Server-side apply with strict field validation: unknown fields are errors."""
        meta = doc["metadata"]
        path = self.path(doc["apiVersion"], doc["kind"], meta.get("namespace"), meta["name"])
        query = f"?fieldManager={manager}&force={str(force).lower()}&fieldValidation=Strict"
        return self.call(
            "PATCH", path + query + ("&dryRun=All" if dry_run else ""), doc, "application/apply-patch+yaml"
        )

    def create(self, doc: Doc) -> Doc:
        path = self.path(doc["apiVersion"], doc["kind"], doc["metadata"].get("namespace"))
        return self.call("POST", path + "?fieldValidation=Strict", doc)

    def patch(self, doc: Doc, change: Doc, part: str = "") -> Doc:
        """A merge patch of an object, or of its subresource `part` (`/status`, `/scale`)."""
        meta = doc["metadata"]
        path = self.path(doc["apiVersion"], doc["kind"], meta.get("namespace"), meta["name"])
        return self.call("PATCH", path + part, change, "application/merge-patch+json")

    def delete(self, version: str, kind: str, namespace: str | None, name: str) -> None:
        try:
            self.call("DELETE", self.path(version, kind, namespace, name) + "?propagationPolicy=Background")
        except Refused as refused:
            if refused.code != 404:
                raise

    def allowed(self, user: str, verb: str, group: str, resource: str, namespace: str = "", **more: str) -> bool:
        """Whether the authorizer allows this to the service account (SubjectAccessReview)."""
        spec = {
            "user": user,
            "groups": _groups(user),
            "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace} | more,
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])


def wait_for(what: str, look: Callable[[], T | None], within_s: float = WAIT_S) -> T:
    """Call `look` until it returns something true. Raises AssertionError with `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"timed out after {within_s:.0f} s waiting for {what}"
        time.sleep(0.05)


def _groups(account: str) -> list[str]:
    """Those of `system:serviceaccount:<namespace>:<name>`."""
    namespace = account.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _connect(kubeconfig: Path) -> tuple[urllib3.PoolManager, str, urllib3.HTTPHeaderDict]:
    config = yaml.safe_load(kubeconfig.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    if "exec" in user:
        user = {**user, **_run_plugin(user["exec"])}
    authority = _text(cluster, "certificate-authority", kubeconfig)
    context_tls = ssl.create_default_context(cadata=authority)
    if cluster.get("insecure-skip-tls-verify"):
        context_tls.check_hostname = False
        context_tls.verify_mode = ssl.CERT_NONE
    certificate = _text(user, "client-certificate", kubeconfig)
    if certificate is not None:
        # Python loads a client certificate only from files; they are deleted at once.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "client.pem")
            path.touch(mode=0o600)
            path.write_text(f"{certificate}\n{_text(user, 'client-key', kubeconfig) or ''}")
            context_tls.load_cert_chain(path)
    pool = urllib3.PoolManager(ssl_context=context_tls, timeout=urllib3.Timeout(60), maxsize=8)
    headers = urllib3.HTTPHeaderDict({"Accept": "application/json"})
    if "token" in user:
        headers["Authorization"] = f"Bearer {user['token']}"
    return pool, cluster["server"].rstrip("/"), headers


def _named(entries: list[Doc], name: str) -> Doc:
    return next(each for each in entries if each["name"] == name)


def _text(entry: Doc, key: str, kubeconfig: Path) -> str | None:
    """A certificate or key, inline in the kubeconfig or from the file that it names."""
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"]).decode()
    return (kubeconfig.parent / entry[key]).read_text() if key in entry else None


def _run_plugin(plugin: Doc) -> Doc:
    environment = {**os.environ, **{each["name"]: each["value"] for each in plugin.get("env") or []}}
    question = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {}}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(question)
    command = [plugin["command"], *(plugin.get("args") or [])]
    ran = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return {"token": json.loads(ran.stdout)["status"]["token"]}
