"""Kubeconfig files and credential plugins, read as kubectl reads them."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.kube.fake_api import TOKEN, FakeApi
from tests.kube.test_proxies import relay
from workload_generator.base.errors import UsageError
from workload_generator.kube import credentials, errors
from workload_generator.kube.client import Kube
from workload_generator.kube.credentials import Credentials
from workload_generator.kube.kubeconfig import read_context
from workload_generator.kube.resources import PODS

V1 = "client.authentication.k8s.io/v1"


def write(path: Path, server: str = "http://127.0.0.1:1", *, user: Any = None, name: str = "a", **cluster: Any) -> Path:
    """A kubeconfig with one context, which is the current one; it, its cluster and its user have one name."""
    document = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"of-{name}"}}],
        "clusters": [{"name": name, "cluster": {"server": server, **cluster}}],
        "users": [{"name": name, "user": {"token": TOKEN} if user is None else user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def plugin(folder: Path, status: Any, *, version: str = V1, **more: Any) -> dict[str, Any]:
    """An `exec` entry: the program notes its environment in `asked`, a line a call, and prints `status`."""
    (folder / "status").write_text(json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status}))
    program = folder / "plugin"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys\nfolder = pathlib.Path({str(folder)!r})\n"
        "asked = [sys.argv[1:], os.environ.get('WHO'), json.loads(os.environ['KUBERNETES_EXEC_INFO'])]\n"
        "(folder / 'asked').open('a').write(json.dumps(asked) + '\\n')\n"
        "print((folder / 'status').read_text())\n"
    )
    program.chmod(0o755)
    return {"exec": {"apiVersion": V1, "command": str(program), "interactiveMode": "Never", **more}}


def calls(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


async def access(path: Path, context: str | None = None) -> credentials.Access:
    return await Credentials(lambda: read_context([path], context)).load()


# Files


def test_of_several_files_the_first_one_wins(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = write(tmp_path / "one" / "config", "http://one", user={"token": "one"})
    two = write(tmp_path / "two" / "config", "http://two", user={"token": "two", "as": "else"})
    document = yaml.safe_load(two.read_text())
    document["contexts"].append({"name": "b", "context": {"cluster": "b", "user": "b"}})
    document["clusters"].append({"name": "b", "cluster": {"server": "http://b", "certificate-authority": "ca.pem"}})
    document["users"].append({"name": "b", "user": {"client-key": "/keys/b", "exec": {"command": "./bin/plugin"}}})
    two.write_text(yaml.safe_dump({**document, "current-context": "b"}))
    first = read_context([one, two])
    assert (first.name, first.cluster["server"], first.user) == ("a", "http://one", {"token": "one"})
    second = read_context([one, two], "b")
    assert second.namespace == "default"
    assert second.cluster["certificate-authority"] == str(tmp_path / "two" / "ca.pem")
    assert second.user == {"client-key": "/keys/b", "exec": {"command": str(tmp_path / "two" / "bin" / "plugin")}}
    assert read_context([two, one]).name == "b"


def test_the_current_context_is_that_of_the_first_file_that_has_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert read_context([tmp_path / "empty", write(tmp_path / "config")]).name == "a"


async def test_the_environment_names_several_files(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "other", name="other")
    api.write_kubeconfig(tmp_path / "config")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{tmp_path / 'other'}::{tmp_path / 'config'}")
    async with await Kube.connect() as kube:
        assert (kube.access.context, kube.access.namespace) == ("other", "of-other")
    async with await Kube.connect(context="fake") as kube:
        assert (await kube.list(PODS)).items == []


async def test_without_a_kubeconfig_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(UsageError, match="no cluster"):
        await Kube.connect()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no such file"):
        await Kube.connect()
    with pytest.raises(UsageError, match="no such kubeconfig"):
        await Kube.connect(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "context", "message"),
    [
        ("{", None, "kubeconfig: not valid YAML"),
        ("- a", None, "kubeconfig: not a kubeconfig"),
        (
            {"contexts": [], "current-context": ""},
            None,
            "kubeconfig: current-context is not set.*there are no contexts",
        ),
        ({"current-context": None}, None, "current-context is not set: set it or use --context; the contexts are a"),
        ({}, "other", "kubeconfig: context 'other' does not exist: the contexts are a"),
        ({"clusters": []}, None, "context 'a' has cluster 'a', which does not exist"),
        ({"users": []}, None, "context 'a' has user 'a', which does not exist"),
        ({"users": ["a"]}, None, "kubeconfig: an entry of users is not a mapping"),
        ({"clusters": [{"name": "a", "cluster": {}}]}, None, "context 'a': its cluster has no server"),
        ({"users": [{"name": "a", "user": {"username": "u", "password": "p"}}]}, None, "username and password"),
        ({"users": [{"name": "a", "user": {"tokenFile": "none"}}]}, None, "tokenFile: .*/none: No such file"),
        ({"users": [{"name": "a", "user": {"client-key": "none"}}]}, None, "client-key: .*/none: No such file"),
        ({"users": [{"name": "a", "user": {"client-key-data": "%"}}]}, None, "client-key-data is not valid base64"),
        ({"users": [{"name": "a", "user": {"client-key-data": "QQ=="}}]}, None, "needs both client-certificate and"),
        (
            {"users": [{"name": "a", "user": {"client-certificate-data": "QQ=="}}]},
            None,
            "needs both client-certificate",
        ),
        (
            {"users": [{"name": "a", "user": {"client-key-data": "QQ==", "client-certificate-data": "QQ=="}}]},
            None,
            "a certificate or key cannot be used",
        ),
        (
            {"clusters": [{"name": "a", "cluster": {"server": "s", "certificate-authority-data": "QQ=="}}]},
            None,
            "a certificate or key cannot be used",
        ),
        (
            {
                "clusters": [
                    {
                        "name": "a",
                        "cluster": {
                            "server": "s",
                            "certificate-authority-data": "QQ==",
                            "insecure-skip-tls-verify": True,
                        },
                    }
                ]
            },
            None,
            "exclude each other",
        ),
        ({"users": [{"name": "a", "user": {"auth-provider": {"name": "gcp"}}}]}, None, "auth-provider gcp is not supp"),
    ],
)
async def test_a_broken_kubeconfig_is_named(
    tmp_path: Path, change: str | dict[str, Any], context: str | None, message: str
) -> None:
    path = write(tmp_path / "kubeconfig")
    changed = change if isinstance(change, str) else yaml.safe_dump({**yaml.safe_load(path.read_text()), **change})
    path.write_text(changed)
    with pytest.raises(UsageError, match=message):
        await Kube.connect(path, context)


@pytest.mark.parametrize(
    ("server", "cluster", "expected"),
    [
        ("https://a.example:6443/", {}, "https://a.example:6443"),
        ("https://a.example/k8s/clusters/c-1/", {}, "https://a.example/k8s/clusters/c-1"),
        ("127.0.0.1:8001", {}, "http://127.0.0.1:8001"),
        ("127.0.0.1:6443", {"insecure-skip-tls-verify": True}, "https://127.0.0.1:6443"),
    ],
)
async def test_a_server(tmp_path: Path, server: str, cluster: dict[str, Any], expected: str) -> None:
    assert (await access(write(tmp_path / "config", server, **cluster))).server == expected


async def test_a_proxy_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "config", **{"proxy-url": "socks5://127.0.0.1:1080"})
    with pytest.raises(UsageError, match="proxy-url: socks5 proxies are not supported"):
        await Kube.connect(path)


async def test_a_user_may_act_as_another(api: FakeApi, tmp_path: Path) -> None:
    user = {
        "token": TOKEN,
        "as": "ann",
        "as-uid": "7",
        "as-groups": ["g", "h"],
        "as-user-extra": {"x/y": ["1", "2"]},
    }
    async with await Kube.connect(write(tmp_path / "config", api.url, user=user)) as kube:
        await kube.list(PODS)
    assert [(name, value) for name, value in api.headers if name.startswith("Impersonate")] == [
        ("Impersonate-User", "ann"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"),
        ("Impersonate-Extra-x%2Fy", "1"),
        ("Impersonate-Extra-x%2Fy", "2"),
    ]


# Tokens


async def test_a_refused_token_is_read_again_once_for_all_requests(api: FakeApi, tmp_path: Path) -> None:
    path = api.write_kubeconfig(tmp_path / "config", token="old")
    async with await Kube.connect(path) as kube:
        api.write_kubeconfig(path)
        await asyncio.gather(*(kube.list(PODS) for _ in range(5)))
        assert kube.access.token == TOKEN
        api.tokens.clear()
        with pytest.raises(errors.Unauthorized):
            await kube.list(PODS)


async def test_a_token_file_is_read_again_and_comes_before_a_token(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("first\n")
    api.tokens = {"first"}
    async with await Kube.connect(
        write(tmp_path / "config", api.url, user={"tokenFile": "token", "token": "x"})
    ) as kube:
        assert (await kube.list(PODS)).items == []
        (tmp_path / "token").write_text("second")
        await kube.list(PODS)
        assert kube.access.token == "first"
    monkeypatch.setattr(credentials, "_REREAD_S", -1)
    async with await Kube.connect(tmp_path / "config") as kube:
        (tmp_path / "token").write_text(TOKEN)
        api.tokens = {TOKEN}
        api.requests.clear()
        await kube.list(PODS)
    assert len(api.requests) == 1  # before it was refused


async def test_a_token_of_oidc_is_used(tmp_path: Path) -> None:
    provider = {"name": "oidc", "config": {"id-token": "t"}}
    assert (await access(write(tmp_path / "config", user={"auth-provider": provider}))).token == "t"


# Plugins


async def test_a_plugin_runs_again_when_its_credential_is_refused(api: FakeApi, tmp_path: Path) -> None:
    user = plugin(tmp_path, {"token": "old"})
    async with await Kube.connect(write(tmp_path / "config", api.url, user=user)) as kube:
        plugin(tmp_path, {"token": TOKEN})
        assert (await kube.list(PODS)).items == []
        await kube.list(PODS)
    assert len(calls(tmp_path)) == 2


async def test_a_plugin_runs_again_when_its_credential_has_expired(api: FakeApi, tmp_path: Path) -> None:
    api.tokens = {"one"}
    path = write(tmp_path / "config", api.url, user=plugin(tmp_path, {"token": "one"}))
    plugin(tmp_path, {"token": "one", "expirationTimestamp": "2000-01-01T00:00:00Z"})
    async with await Kube.connect(path) as kube:
        plugin(tmp_path, {"token": "one", "expirationTimestamp": "2999-01-01T00:00:00Z"})
        await asyncio.gather(*(kube.list(PODS) for _ in range(5)))
        await kube.list(PODS)
    assert len(calls(tmp_path)) == 2


async def test_arguments_and_environment_of_a_plugin(tmp_path: Path) -> None:
    env = [{"name": "WHO", "value": "me"}]
    user = plugin(tmp_path, {"token": "t"}, args=["--one", "two"], env=env, provideClusterInfo=True)
    user["exec"]["command"] = "./plugin"  # beside the kubeconfig
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    path = write(
        tmp_path / "config", "http://s", user=user, **{"tls-server-name": "n", "extensions": [extension, {"name": "y"}]}
    )
    assert (await access(path)).token == "t"
    cluster = {"server": "http://s", "tls-server-name": "n", "config": {"audience": "x"}}
    info = {"kind": "ExecCredential", "apiVersion": V1, "spec": {"interactive": False, "cluster": cluster}}
    assert calls(tmp_path) == [[["--one", "two"], "me", info]]


async def test_a_token_comes_before_a_plugin(tmp_path: Path) -> None:
    user = {**plugin(tmp_path, {"token": "made"}), "token": "given"}
    assert (await access(write(tmp_path / "config", user=user))).token == "given"
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("status", "more", "message"),
    [
        (
            {"token": "t"},
            {"command": "none-such", "installHint": "apt install"},
            "none-such: No such file.*\n.*apt inst",
        ),
        ({"token": "t"}, {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "exec needs .* not .*v1alpha1"),
        ({"token": "t"}, {"apiVersion": "client.authentication.k8s.io/v1beta1"}, "apiVersion is .*/v1, not .*/v1beta1"),
        ({"token": "t"}, {"interactiveMode": "Always"}, "needs a terminal"),
        ({"token": "t"}, {"env": [{"name": "A"}]}, "each entry of exec.env needs a name and a value"),
        ({"token": "t"}, {"command": "false"}, "false failed with exit code 1"),
        ({"token": "t"}, {"command": "true"}, "true did not print an ExecCredential"),
        ({}, {}, "neither a token nor a certificate"),
        ({"clientCertificateData": "x"}, {}, "neither a token nor a certificate"),
        ({"token": "t", "expirationTimestamp": "soon"}, {}, "not an RFC 3339 time"),
    ],
)
async def test_a_plugin_that_fails(
    tmp_path: Path, status: Any, more: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match=message):
        await access(write(tmp_path / "config", user=plugin(tmp_path, status, **more)))


# TLS


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("form", ["data", "files", "plugin"])
async def test_a_client_certificate(api: FakeApi, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown to a server that asks for one, and nothing of it is left in the temporary folder."""
    authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    leaf = authority.issue_cert("me")
    key, certificate = leaf.private_key_pem.bytes(), b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    api.tokens.add("")
    if form == "plugin":
        user = plugin(tmp_path, {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()})
    elif form == "data":
        user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    else:
        (tmp_path / "me.pem").write_bytes(certificate)
        (tmp_path / "me.key").write_bytes(key)
        user = {"client-certificate": "me.pem", "client-key": "me.key"}
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    async with relay(int(api.url.rpartition(":")[2]), tls=server) as address:
        trusted = {"certificate-authority-data": encoded(authority.cert_pem.bytes()), "tls-server-name": "api.example"}
        path = write(tmp_path / "config", f"https://{address}", user=user, **trusted)
        async with await Kube.connect(path, patience_s=0) as kube:
            assert list(folder.iterdir()) == []
            assert (await kube.list(PODS)).items == []


async def test_a_server_has_to_be_trusted_unless_that_is_skipped(api: FakeApi, tmp_path: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("api.example").configure_cert(server)
    async with relay(int(api.url.rpartition(":")[2]), tls=server) as address:
        async with await Kube.connect(write(tmp_path / "config", f"https://{address}"), patience_s=0) as kube:
            with pytest.raises(errors.Unreachable, match="certificate verify failed"):
                await kube.list(PODS)
        skipped = {"insecure-skip-tls-verify": True}
        path = write(tmp_path / "config", f"https://{address}", **skipped)
        async with await Kube.connect(path, patience_s=0) as kube:
            assert (await kube.list(PODS)).items == []
