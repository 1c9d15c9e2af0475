"""The proxy to the API server: the same as kubectl's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
import yaml

from tests.kube.fake_api import TOKEN, FakeApi
from workload_generator.base.errors import UsageError
from workload_generator.kube import errors
from workload_generator.kube.client import Kube
from workload_generator.kube.proxies import proxy_for
from workload_generator.kube.resources import PODS

NAME = "api.cluster.example"  # nobody but the proxy knows where that is
P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("server", "environment", "expected"),
    [
        (f"https://{NAME}", {}, None),
        (f"https://{NAME}", {"HTTPS_PROXY": P}, P),
        (f"https://{NAME}", {"https_proxy": P}, P),
        (f"https://{NAME}", {"HTTPS_PROXY": P, "https_proxy": "http://other"}, P),
        (f"https://{NAME}", {"HTTPS_PROXY": "", "https_proxy": P}, P),
        (f"https://{NAME}", {"HTTPS_PROXY": "proxy.example:3128"}, P),
        (f"https://{NAME}", {"HTTPS_PROXY": "https://me:secret@proxy.example"}, "https://me:secret@proxy.example"),
        (f"https://{NAME}", {"HTTP_PROXY": P, "ALL_PROXY": P, "all_proxy": P}, None),
        (f"http://{NAME}", {"HTTP_PROXY": P}, P),
        (f"http://{NAME}", {"HTTPS_PROXY": P, "ALL_PROXY": P}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": P}, None),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": P}, None),
        ("https://127.9.9.9", {"HTTPS_PROXY": P}, None),
        ("https://[::1]:6443", {"HTTPS_PROXY": P}, None),
        ("http://127.0.0.1:8001", {"HTTP_PROXY": P, "http_proxy": P}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": P}, P),
    ],
)
def test_proxy_for(server: str, environment: dict[str, str], expected: str | None) -> None:
    assert proxy_for(server, environment) == expected


@pytest.mark.parametrize(
    ("no_proxy", "server", "direct"),
    [
        ("", f"https://{NAME}", False),
        ("*", f"https://{NAME}", True),
        ("other.example,*", f"https://{NAME}", True),
        (NAME, f"https://{NAME}:6443", True),
        (NAME.upper(), f"https://{NAME}", True),
        (NAME, f"https://{NAME.upper()}", True),
        ("cluster.example", f"https://{NAME}", True),
        ("cluster.example", "https://cluster.example", True),
        ("luster.example", f"https://{NAME}", False),
        (".cluster.example", f"https://{NAME}", True),
        (".cluster.example", "https://cluster.example", False),
        ("*.cluster.example", f"https://{NAME}", True),
        ("*.cluster.example", "https://cluster.example", False),
        ("*cluster.example", f"https://{NAME}", False),
        (f"{NAME}:6443", f"https://{NAME}:6443", True),
        (f"{NAME}:6443", f"https://{NAME}", False),
        (f"{NAME}:443", f"https://{NAME}", True),
        (f"{NAME}:80", f"http://{NAME}", True),
        (":443", f"https://{NAME}", False),
        (f" , ,{NAME} ", f"https://{NAME}", True),
        ("10.1.2.3", "https://10.1.2.3:6443", True),
        ("10.1.2.3:6443", "https://10.1.2.3:6443", True),
        ("10.1.2.3:443", "https://10.1.2.3:6443", False),
        ("10.1.0.0/16", "https://10.1.2.3", True),
        ("10.1.2.3/16", "https://10.1.9.9", True),
        ("10.2.0.0/16", "https://10.1.2.3", False),
        ("10.0.0.0/99", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]:6443", True),
        ("fd00::1", "https://[fd00::1]:6443", True),
        ("[fd00::1]:6443", "https://[fd00::1]:6443", True),
        ("[fd00::1]:443", "https://[fd00::1]:6443", False),
        ("10.1.0.0/16", "https://[fd00::1]", False),
        ("10.1.0.0/16", f"https://{NAME}", False),
    ],
)
def test_no_proxy(no_proxy: str, server: str, direct: bool) -> None:
    environment = {"HTTPS_PROXY": P, "HTTP_PROXY": P}
    for name in ("NO_PROXY", "no_proxy"):
        assert proxy_for(server, {**environment, name: no_proxy}) == (None if direct else P)


def test_a_proxy_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="HTTPS_PROXY: socks5 proxies are not supported"):
        proxy_for(f"https://{NAME}", {"https_proxy": "socks5://127.0.0.1:1080"})


# Through a real one


@contextlib.asynccontextmanager
async def relay(port: int, asked: list[str] | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A way to `port` of loopback, as a proxy that writes down what it is asked, or an end of TLS; its address."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        if asked is not None:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.decode().partition(" HTTP/")[0])
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                there_writer.write(head)
        await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def kubeconfig(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return api.write_kubeconfig(tmp_path / "kubeconfig")


def lead(kubeconfig: Path, server: str, **more: str) -> None:
    """Have the kubeconfig name another server."""
    document = yaml.safe_load(kubeconfig.read_text())
    document["clusters"][0]["cluster"] = {"server": server, **more}
    kubeconfig.write_text(yaml.safe_dump(document))


async def test_https_goes_through_the_proxy(
    api: FakeApi, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    asked: list[str] = []
    port = int(api.url.rpartition(":")[2])
    async with relay(port, tls=context) as secure, relay(int(secure.rpartition(":")[2]), asked) as proxy:
        lead(kubeconfig, f"https://{NAME}:6443", **{"certificate-authority": str(tmp_path / "ca.pem")})
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        async with await Kube.connect(kubeconfig, patience_s=0) as kube:
            assert not (await kube.list(PODS, "ours")).items
        assert set(asked) == {f"CONNECT {NAME}:6443"} and api.requests
        monkeypatch.setenv("NO_PROXY", "cluster.example:6443")
        before = len(asked)
        async with await Kube.connect(kubeconfig, patience_s=0) as kube:
            with pytest.raises(errors.Unreachable):
                await kube.list(PODS, "ours")
        assert len(asked) == before


async def test_the_proxy_of_the_kubeconfig_comes_first(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    async with relay(int(api.url.rpartition(":")[2]), asked) as proxy:
        lead(kubeconfig, f"http://{NAME}", **{"proxy-url": f"http://{proxy}"})
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "*")
        async with await Kube.connect(kubeconfig, patience_s=0) as kube:
            await kube.list(PODS, "ours")
    assert asked and all(each.startswith(f"GET http://{NAME}/") for each in asked)


async def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    lead(kubeconfig, f"http://{NAME}")
    async with await Kube.connect(kubeconfig, patience_s=0) as kube:
        with pytest.raises(
            errors.Unreachable, match=rf"http://{NAME} \(through the proxy 127.0.0.1:9\) cannot"
        ) as raised:
            await kube.list(PODS, "ours")
    assert "secret" not in str(raised.value)


async def test_renewed_credentials_keep_to_the_proxy(
    api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    lead(api.write_kubeconfig(kubeconfig, token="old"), f"http://{NAME}")
    async with relay(int(api.url.rpartition(":")[2]), asked) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        async with await Kube.connect(kubeconfig, patience_s=0) as kube:
            lead(api.write_kubeconfig(kubeconfig), f"http://{NAME}")
            await kube.list(PODS, "ours")
            assert (kube.access.token, kube.access.proxy) == (TOKEN, f"http://{proxy}")
    assert asked and all(each.startswith(f"GET http://{NAME}/") for each in asked)


async def test_loopback_uses_no_proxy(api: FakeApi, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with await Kube.connect(kubeconfig, patience_s=0) as kube:
        assert not (await kube.list(PODS, "ours")).items
