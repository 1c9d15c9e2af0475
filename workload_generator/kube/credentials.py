"""The cluster's address and the credentials for it: from kubeconfig files, or in a pod from its service account."""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workload_generator.base.errors import UsageError
from workload_generator.kube.credential_plugin import ExecCredential, run_plugin
from workload_generator.kube.kubeconfig import KubeContext, read_context, read_data

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REREAD_S = 60.0  # of a token's file, as client-go: a pod's token is replaced long before it expires
_TLS_KEYS = ("certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify")


@dataclass(frozen=True, slots=True)
class Access:
    """One cluster as one user reaches it.

    `server` has no slash at its end; `tls` is True for the system's CAs; `impersonate` is headers.
    """

    server: str
    token: str | None
    tls: ssl.SSLContext | bool
    namespace: str
    context: str
    server_name: str | None = None
    proxy: str | None = None
    impersonate: tuple[tuple[str, str], ...] = ()


def find_credentials(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    """The first of: the given file, $KUBECONFIG, ~/.kube/config, the pod's service account. Raises UsageError."""
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise UsageError(f"{kubeconfig}: no such kubeconfig file")
        return Credentials(lambda: read_context([kubeconfig], context))
    named = os.environ.get("KUBECONFIG", "")
    paths = [Path(path).expanduser() for path in dict.fromkeys(named.split(":")) if path]
    existing = [path for path in paths or [Path("~/.kube/config").expanduser()] if path.is_file()]
    if existing:
        return Credentials(lambda: read_context(existing, context))
    if named:
        raise UsageError(f"KUBECONFIG={named}: no such file")
    if context is None and has_pod_credentials():
        return pod_credentials()
    raise UsageError("no cluster: use --kubeconfig, set KUBECONFIG, or create ~/.kube/config")


def has_pod_credentials() -> bool:
    """Whether this process runs in a pod that has a service account's token."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()


def pod_credentials(folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """Those of the service account of the pod in which this process runs, as a context whose files are read again."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    namespace = folder / "namespace"
    context = KubeContext(
        "pod",
        namespace.read_text().strip() if namespace.is_file() else "default",
        {"server": server, "certificate-authority": str(folder / "ca.crt")},
        {"tokenFile": str(folder / "token")},
    )
    return Credentials(lambda: context)


class Credentials:
    """The credentials of a context, which may be loaded again at any time."""

    def __init__(self, read: Callable[[], KubeContext]) -> None:
        self._read = read
        self._stale_at = math.inf

    async def load(self) -> Access:
        """Read the files again and run the credential plugin if they name one. Raises UsageError."""
        context = self._read()
        cluster, user = context.cluster, context.user
        where = f"context {context.name!r}"
        if "username" in user or "password" in user:
            raise UsageError(f"{where}: username and password are not supported: Kubernetes 1.19 removed them")
        credential = ExecCredential(
            token=str(user.get("token") or ""),
            certificate=read_data(user, "client-certificate"),
            key=read_data(user, "client-key"),
        )
        self._stale_at = math.inf
        if user.get("tokenFile"):
            credential = replace(credential, token=read_data(user, "tokenFile").decode().strip())
            self._stale_at = time.time() + _REREAD_S
        elif "auth-provider" in user:
            credential = replace(credential, token=_oidc_token(user["auth-provider"], where))
        elif "exec" in user and not credential.token:
            made = await run_plugin(user["exec"], cluster)
            certificate, key = (made.certificate, made.key) if made.key else (credential.certificate, credential.key)
            credential = replace(made, certificate=certificate, key=key)
            self._stale_at = math.inf if credential.expires_s is None else credential.expires_s
        server = str(cluster.get("server") or "").rstrip("/")
        if not server:
            raise UsageError(f"{where}: its cluster has no server")
        secure = credential.certificate or credential.key or any(name in cluster for name in _TLS_KEYS)
        return Access(
            server=server if "://" in server else f"{'https' if secure else 'http'}://{server}",
            token=credential.token or None,
            tls=_tls_of(cluster, credential, where) if secure else True,
            namespace=context.namespace,
            context=context.name,
            server_name=cluster.get("tls-server-name"),
            proxy=cluster.get("proxy-url"),
            impersonate=_impersonation(user),
        )

    def is_stale(self) -> bool:
        """Whether the plugin's credential has expired, or the token file may have another token."""
        return time.time() >= self._stale_at


def _tls_of(cluster: Mapping[str, Any], credential: ExecCredential, where: str) -> ssl.SSLContext:
    authority = read_data(cluster, "certificate-authority")
    insecure = bool(cluster.get("insecure-skip-tls-verify"))
    if authority and insecure:
        raise UsageError(f"{where}: certificate-authority and insecure-skip-tls-verify exclude each other")
    if bool(credential.certificate) != bool(credential.key):
        raise UsageError(f"{where}: its user needs both client-certificate and client-key")
    try:
        return _tls_context(authority, insecure, credential.certificate, credential.key)
    except ssl.SSLError as error:
        raise UsageError(f"{where}: a certificate or key cannot be used: {error}") from None


@lru_cache(maxsize=1)  # with the same context, connections stay open when the credentials are loaded again
def _tls_context(authority: bytes, insecure: bool, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """A client's context that trusts these authorities (PEM), or without any the system's. Raises SSLError."""
    context = ssl.create_default_context(cadata=authority.decode("ascii", "ignore") or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on: refuses CAs that kubectl takes
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if key:  # `ssl` reads it only from a file: from one that is never on a disk
        with os.fdopen(os.memfd_create("client-certificate"), "wb") as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")  # without one ssl asks the terminal
    return context


def _oidc_token(provider: Mapping[str, Any], where: str) -> str:
    token = (provider.get("config") or {}).get("id-token")
    if provider.get("name") != "oidc" or not token:
        raise UsageError(f"{where}: auth-provider {provider.get('name')} is not supported: use a credential plugin")
    return str(token)


def _impersonation(user: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation"""
    headers = [("Impersonate-User", user.get("as")), ("Impersonate-Uid", user.get("as-uid"))]
    headers += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{quote(key, safe='')}", value) for value in values]
    return tuple((name, str(value)) for name, value in headers if value)
