"""HTTP to the API server: credentials that are renewed when refused, retries, and translation to ApiError.

Retried until `patience_s` has passed: every request refused with 429 or 503 and Retry-After, since the server has not
performed it; GETs that met no server, a broken connection or another 5xx. Never a write with an unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from workload_generator import __version__
from workload_generator.base.backoff import Backoff
from workload_generator.kube.credentials import Access, Credentials
from workload_generator.kube.errors import ApiError, Busy, Unauthorized, Unreachable, error_of
from workload_generator.kube.proxies import proxy_for

_BACKOFF = Backoff(0.1, 5.0)
_CONNECT_S = 10.0
_REFUSED_UNDONE = (429, 503)
_JSON = "application/json"

Params = Mapping[str, str | int]


class ApiTransport:
    """The connections to one cluster; `close` it at the end."""

    def __init__(self, credentials: Credentials, access: Access, patience_s: float, timeout_s: float) -> None:
        self._credentials = credentials
        self._access = _with_proxy(access)
        self._patience_s = patience_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
        self._renewing = asyncio.Lock()
        self._session = aiohttp.ClientSession(headers={"User-Agent": f"kn-bench/{__version__}", "Accept": _JSON})

    @property
    def access(self) -> Access:
        """The server and the credentials in use."""
        return self._access

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
    ) -> bytes:
        """The response's body. Raises ApiError."""
        until = time.monotonic() + self._patience_s
        delays = _BACKOFF.delays()
        while True:
            try:
                async with self.open(method, path, params, body, content_type) as response:
                    return await response.read()
            except (Busy, Unreachable) as error:
                is_undone = error.status in _REFUSED_UNDONE and error.retry_after_s is not None
                if not is_undone and method != "GET":
                    raise
                wait_s = next(delays) if error.retry_after_s is None else error.retry_after_s
                if time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
        silence_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request that is not retried, except with renewed credentials. Raises ApiError.

        With `silence_s` the body may be endless, but reading it fails when nothing comes for that time.
        """
        limits = self._timeout
        if silence_s is not None:
            limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
        if self._credentials.is_stale():
            await self._renew(self._access)
        is_renewed = False
        while True:
            access = self._access
            headers = list(access.impersonate)
            if body is not None:
                headers.append(("Content-Type", content_type))
            if access.token:
                headers.append(("Authorization", f"Bearer {access.token}"))
            secure: dict[str, Any] = {}
            if access.server.startswith("https:"):
                secure = {"ssl": access.tls, "server_hostname": access.server_name}
            try:
                async with self._session.request(
                    method,
                    access.server + path,
                    params=params,
                    data=body,
                    headers=headers,
                    timeout=limits,
                    proxy=access.proxy,
                    allow_redirects=False,
                    **secure,
                ) as response:
                    if response.status < 300:
                        yield response
                        return
                    text = await response.read()
                    refusal = error_of(method, path, response.status, text, response.headers.get("Retry-After"))
            except ApiError:
                raise
            except TimeoutError:
                raise Unreachable(f"{method} {path}: {_route(access)} did not answer in time") from None
            except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
                raise Unreachable(f"{method} {path}: {_route(access)} cannot be reached: {error}") from None
            if not isinstance(refusal, Unauthorized) or is_renewed:
                raise refusal
            is_renewed = True
            await self._renew(access)

    async def _renew(self, refused: Access) -> None:
        """Load the credentials again, once for all requests that were refused with the same ones."""
        async with self._renewing:
            if self._access is refused:
                self._access = _with_proxy(await self._credentials.load())


def _route(access: Access) -> str:
    """The server, and the proxy without its password."""
    return f"{access.server} (through the proxy {access.proxy.rpartition('@')[2]})" if access.proxy else access.server


def _with_proxy(access: Access) -> Access:
    """The access with its proxy: the kubeconfig's or the environment's. Raises UsageError."""
    return replace(access, proxy=proxy_for(access.server, proxy_url=access.proxy))
