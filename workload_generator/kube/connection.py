"""Requests to the API server: credentials that are renewed when they are refused, retries, and errors of our own.

What is retried: anything that was refused with 429 or 503 and a Retry-After, since it was not done; GETs that met no
server, a broken connection or another 5xx. Never a write whose fate is unknown. All within `patience_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import aiohttp

from workload_generator import __version__
from workload_generator.base.backoff import Backoff
from workload_generator.kube.credentials import Access, Credentials
from workload_generator.kube.errors import ApiError, Busy, Unauthorized, Unreachable, error_of
from workload_generator.kube.proxies import proxy_for

_BACKOFF = Backoff(0.1, 5.0)
_CONNECT_S = 10.0
_REFUSED_UNDONE = (429, 503)

Params = Mapping[str, str | int]


class Dated(NamedTuple):
    """An answer with the server's `Date`, and (`time.monotonic_ns()`) before it was asked and after its head came."""

    body: bytes
    date: str | None
    sent_ns: int
    received_ns: int


class Connection:
    """One cluster. Close it, or use it as an asynchronous context."""

    def __init__(self, credentials: Credentials, access: Access, patience_s: float, timeout_s: float) -> None:
        self._credentials = credentials
        self._access = _with_proxy(access)
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._renewing = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            headers={"User-Agent": f"kn-bench/{__version__}", "Accept": "application/json"}
        )

    @property
    def access(self) -> Access:
        """Where this leads."""
        return self._access

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of the answer. Raises ApiError."""
        until = time.monotonic() + self._patience_s
        delays = _BACKOFF.delays()
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S)
                async with self._open(method, path, params, body, content_type, timeout) as response:
                    return await response.read()
            except (Busy, Unreachable) as error:
                undone = error.status in _REFUSED_UNDONE and error.retry_after_s is not None
                if not undone and method != "GET":
                    raise
                wait_s = next(delays) if error.retry_after_s is None else error.retry_after_s
                if time.monotonic() + wait_s > until:
                    raise
            await asyncio.sleep(wait_s)

    async def dated(self, path: str, params: Params) -> Dated:
        """One GET that is not retried, with the server's date. Raises ApiError."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S)
        sent_ns = time.monotonic_ns()
        async with self._open("GET", path, params, None, "application/json", timeout) as response:
            received_ns = time.monotonic_ns()
            return Dated(await response.read(), response.headers.get("Date"), sent_ns, received_ns)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, params: Params, silence_s: float) -> AsyncIterator[aiohttp.StreamReader]:
        """An answer without end; nothing for `silence_s` ends it with Unreachable. Not retried. Raises ApiError."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
        async with self._open("GET", path, params, None, "application/json", timeout) as response:
            yield response.content

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        params: Params | None,
        body: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._credentials.is_stale():
            await self._renew(self._access)
        renewed = False
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
                raise Unreachable(f"{method} {path}: {_way(access)} did not answer in time") from None
            except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
                raise Unreachable(f"{method} {path}: {_way(access)} cannot be reached: {error}") from None
            if not isinstance(refusal, Unauthorized) or renewed:
                raise refusal
            renewed = True
            await self._renew(access)

    async def _renew(self, refused: Access) -> None:
        """Load the credentials again, once for all who were refused with the same ones."""
        async with self._renewing:
            if self._access is refused:
                self._access = _with_proxy(await self._credentials.load())


def _way(access: Access) -> str:
    """The server, and the proxy on the way to it, without its password."""
    return f"{access.server} (through the proxy {access.proxy.rpartition('@')[2]})" if access.proxy else access.server


def _with_proxy(access: Access) -> Access:
    """The access with its proxy: the kubeconfig's or the environment's. Raises UsageError."""
    return replace(access, proxy=proxy_for(access.server, proxy_url=access.proxy))
