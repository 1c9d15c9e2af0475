"""Credential plugins: programs that print a token or a client certificate (`aws`, `gke-gcloud-auth-plugin`, …).

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from workload_generator.base.async_children import end_child
from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.base.errors import UsageError
from workload_generator.kube.kubeconfig import read_data

_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_CLUSTER_KEYS = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
_EXTENSION = "client.authentication.k8s.io/exec"


@dataclass(frozen=True, slots=True)
class ExecCredential:
    """What a plugin printed: a token, a certificate and its key (PEM), or both; `expires_s` is since the epoch."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires_s: float | None = None


async def run_plugin(plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> ExecCredential:
    """Run the program of a user's `exec`; its standard error goes to ours. Raises UsageError."""
    command, version = plugin.get("command"), plugin.get("apiVersion")
    if not command or version not in _VERSIONS:
        raise UsageError(f"kubeconfig: exec needs a command and an apiVersion of {', '.join(_VERSIONS)}, not {version}")
    mode = plugin.get("interactiveMode")
    interactive = mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
    if mode == "Always" and not interactive:
        raise UsageError(f"credential plugin {command} needs a terminal: standard input is not one")
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = _cluster_info(cluster)
    try:
        given = {str(each["name"]): str(each["value"]) for each in plugin.get("env") or ()}
    except (KeyError, TypeError):
        raise UsageError("kubeconfig: each entry of exec.env needs a name and a value") from None
    info = {"kind": "ExecCredential", "apiVersion": version, "spec": spec}
    environment = {**os.environ, **given, "KUBERNETES_EXEC_INFO": orjson.dumps(info).decode()}
    output = await _run(plugin, environment, None if interactive else asyncio.subprocess.DEVNULL)
    try:
        answer = orjson.loads(output)
        if answer["apiVersion"] != version:
            raise ValueError(f"apiVersion is {answer['apiVersion']}, not {version}")
        status = answer["status"]
        expires = status.get("expirationTimestamp")
        credential = ExecCredential(
            token=status.get("token") or "",
            certificate=(status.get("clientCertificateData") or "").encode(),
            key=(status.get("clientKeyData") or "").encode(),
            expires_s=parse_rfc3339(expires) / NS_PER_S if expires else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # orjson's errors are ValueErrors
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"credential plugin {command} did not print an ExecCredential: {reason}") from None
    if bool(credential.certificate) != bool(credential.key) or not (credential.token or credential.key):
        raise UsageError(f"credential plugin {command} printed neither a token nor a certificate with its key")
    return credential


async def _run(plugin: Mapping[str, Any], environment: Mapping[str, str], stdin: int | None) -> bytes:
    command = plugin["command"]
    try:
        process = await asyncio.create_subprocess_exec(
            command, *map(str, plugin.get("args") or ()), env=environment, stdin=stdin, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        hint = f"\n{plugin['installHint']}" if plugin.get("installHint") else ""
        raise UsageError(f"credential plugin {command}: {error.strerror}{hint}") from None
    try:
        output, _ = await process.communicate()
    finally:
        await end_child(process)
    if process.returncode:
        raise UsageError(f"credential plugin {command} failed with exit code {process.returncode}")
    return output


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    info = {key: cluster[key] for key in _CLUSTER_KEYS if key in cluster}
    if authority := read_data(cluster, "certificate-authority"):
        info["certificate-authority-data"] = base64.b64encode(authority).decode()
    for extension in cluster.get("extensions") or ():
        if extension.get("name") == _EXTENSION:
            info["config"] = extension.get("extension")
    return info
