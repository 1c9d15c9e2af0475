"""Where the cluster is, and what opens it.

On the operator's machine kr8s reads kubeconfig files and runs credential plugins; it is imported only there. In a pod
the service account's folder says everything, and nothing but the base install is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from workload_generator.base.errors import UsageError

if TYPE_CHECKING:
    from kr8s._auth import KubeAuth

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REREAD_S = 60.0  # as client-go: the kubelet replaces a pod's token long before it expires


@dataclass(frozen=True, slots=True)
class Access:
    """One cluster as one user sees it. `tls` is True for the system's CAs; `server` has no slash at its end."""

    server: str
    token: str | None
    tls: ssl.SSLContext | bool
    namespace: str
    context: str
    server_name: str | None = None
    proxy: str | None = None


class Credentials(Protocol):
    """Something that gives the present Access. It may be asked again at any time."""

    async def load(self) -> Access:
        """Read, or have made, credentials. Raises UsageError."""
        ...

    def is_stale(self) -> bool:
        """Whether `load` should be called before the next request."""
        ...


def find_credentials(kubeconfig: Path | None = None, context: str | None = None) -> Credentials:
    """As kubectl finds them: the given file, $KUBECONFIG, ~/.kube/config, and last the pod's own. UsageError."""
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise UsageError(f"{kubeconfig}: no such kubeconfig file")
        return KubeconfigCredentials(str(kubeconfig), context)
    named = os.environ.get("KUBECONFIG", "")
    places = [Path(place).expanduser() for place in named.split(":") if place] or [Path("~/.kube/config").expanduser()]
    existing = [str(place) for place in places if place.is_file()]
    if existing:
        return KubeconfigCredentials(":".join(existing), context)
    if named:
        raise UsageError(f"KUBECONFIG={named}: no such file")
    if context is None and PodCredentials.exist():
        return PodCredentials()
    raise UsageError("no cluster: there is neither --kubeconfig, nor $KUBECONFIG, nor ~/.kube/config")


class PodCredentials:
    """The service account of the pod that this runs in."""

    def __init__(self, folder: Path = SERVICE_ACCOUNT) -> None:
        self._folder = folder
        self._read_at = 0.0
        self._tls: tuple[bytes, ssl.SSLContext] | None = None

    @staticmethod
    def exist(folder: Path = SERVICE_ACCOUNT) -> bool:
        """Whether this process runs in a pod with a token."""
        return "KUBERNETES_SERVICE_HOST" in os.environ and (folder / "token").is_file()

    async def load(self) -> Access:
        """Read the token as it is now. Raises UsageError."""
        try:
            host = os.environ["KUBERNETES_SERVICE_HOST"]
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            token = (self._folder / "token").read_text().strip()
            authority = (self._folder / "ca.crt").read_bytes()
            if self._tls is None or self._tls[0] != authority:
                self._tls = (authority, ssl.create_default_context(cadata=authority.decode()))
        except KeyError:
            raise UsageError("not in a pod: KUBERNETES_SERVICE_HOST is not set") from None
        except (OSError, UnicodeDecodeError, ssl.SSLError) as error:
            raise UsageError(f"{self._folder}: the service account cannot be read: {error}") from None
        namespace = self._folder / "namespace"
        self._read_at = time.monotonic()
        return Access(
            server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            token=token,
            tls=self._tls[1],
            namespace=namespace.read_text().strip() if namespace.is_file() else "default",
            context="pod",
        )

    def is_stale(self) -> bool:
        """Whether the kubelet may have put another token there meanwhile."""
        return time.monotonic() - self._read_at > _REREAD_S


class KubeconfigCredentials:
    """A context of one or more kubeconfig files (`paths`, with colons between)."""

    def __init__(self, paths: str, context: str | None = None) -> None:
        self._paths = paths
        self._context = context
        self._lock = asyncio.Lock()

    async def load(self) -> Access:
        """Read the files again, and run the credential plugin if they name one. Raises UsageError."""
        try:
            from kr8s._auth import KubeAuth
        except ImportError:
            raise UsageError(
                "talking to a cluster needs the libraries of the extra 'cluster': pip install 'knative-bench[cluster]'"
            ) from None
        async with self._lock:
            auth = KubeAuth(kubeconfig=self._paths, context=self._context, serviceaccount="")
            try:
                await auth
                with _temporary_files(auth):
                    tls = await auth.ssl_context()  # type: ignore[no-untyped-call]
                token = _token(auth)
            except UsageError:
                raise
            except Exception as error:  # what a broken file or a failing plugin raises is of any kind
                raise UsageError(f"{self._paths}: {_explain(error, self._context)}") from None
        return Access(
            server=auth.server.rstrip("/"),
            token=token,
            tls=tls,
            namespace=auth.namespace,
            context=auth.active_context,
            server_name=auth.tls_server_name,
            proxy=auth.proxy,
        )

    def is_stale(self) -> bool:
        """Never: a refused request is what says so."""
        return False


def _token(auth: KubeAuth) -> str | None:
    """The bearer token; kr8s leaves `tokenFile` aside."""
    place = auth._user.get("tokenFile")
    return Path(place).read_text().strip() if place and not auth.token else auth.token


@contextlib.contextmanager
def _temporary_files(auth: KubeAuth) -> Iterator[None]:
    """kr8s writes keys and certificates that stand in the kubeconfig into files, and leaves them: not we."""
    made = (
        (auth.client_key_file, "client-key-data" in auth._user),
        (auth.client_cert_file, "client-certificate-data" in auth._user),
        (auth.server_ca_file, "certificate-authority-data" in auth._cluster),
    )
    try:
        yield
    finally:
        for path, temporary in made:
            if temporary and path:
                Path(path).unlink(missing_ok=True)


def _explain(error: Exception, context: str | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing" if error.args else "a key is missing"
    if isinstance(error, IndexError):
        return "there is no context" if context is None else f"there is no context {context!r}"
    return str(error).strip() or type(error).__name__
