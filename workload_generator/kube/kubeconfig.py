"""Kubeconfig files: one context of them, with its cluster's and its user's entry, as kubectl reads them.

Rules, from https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/:
- of several files, the first one that defines a name or a value wins; entries of the same name are not merged
- a relative file name is relative to the file that it stands in
- `…-data` comes before the file of the same name
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workload_generator.base.errors import UsageError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


@dataclass(frozen=True, slots=True)
class KubeContext:
    """A context with its entries of `clusters` and `users`; all file names in them are absolute."""

    name: str
    namespace: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]


def read_context(paths: Sequence[Path], name: str | None = None) -> KubeContext:
    """The context `name`, or the current one, of the merged files. Raises UsageError."""
    documents = [(path, _read(path)) for path in paths]
    where = ", ".join(map(str, paths))
    contexts, clusters, users = (_entries(documents, kind) for kind in ("context", "cluster", "user"))
    name = name or next((str(each["current-context"]) for _, each in documents if each.get("current-context")), None)
    known = f"the contexts are {', '.join(contexts)}" if contexts else "there are no contexts"
    if name is None:
        raise UsageError(f"{where}: current-context is not set: set it or use --context; {known}")
    if name not in contexts:
        raise UsageError(f"{where}: context {name!r} does not exist: {known}")
    context = contexts[name]
    cluster, user = context.get("cluster"), context.get("user")
    if cluster not in clusters:
        raise UsageError(f"{where}: context {name!r} has cluster {cluster!r}, which does not exist")
    if user and user not in users:
        raise UsageError(f"{where}: context {name!r} has user {user!r}, which does not exist")
    return KubeContext(name, context.get("namespace") or "default", clusters[cluster], users[user] if user else {})


def read_data(entry: Mapping[str, Any], name: str) -> bytes:
    """The bytes of `name` in an entry: of its `…-data` or of its file; empty if it has neither. UsageError."""
    text, path = entry.get(f"{name}-data"), entry.get(name)
    try:
        if text:
            return text.encode() if "-----" in text else base64.b64decode(text, validate=True)
        return Path(path).read_bytes() if path else b""
    except binascii.Error as error:
        raise UsageError(f"kubeconfig: {name}-data is not valid base64: {error}") from None
    except OSError as error:
        raise UsageError(f"{name}: {path}: {error.strerror}") from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.load(path.read_bytes(), Loader=_LOADER)  # a subclass of SafeLoader
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document or {}, dict):
        raise UsageError(f"{path}: not a kubeconfig: expected a mapping")
    return document or {}


def _entries(documents: Sequence[tuple[Path, Mapping[str, Any]]], kind: str) -> dict[str, dict[str, Any]]:
    """The entries of `contexts`, `clusters` or `users` by their names."""
    entries: dict[str, dict[str, Any]] = {}
    for path, document in documents:
        for named in document.get(f"{kind}s") or ():
            try:
                entries.setdefault(named["name"], _absolute(named[kind] or {}, path.resolve().parent))
            except (KeyError, TypeError, AttributeError):
                raise UsageError(f"{path}: an entry of {kind}s is not a mapping with name and {kind}") from None
    return entries


def _absolute(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    resolved = {**entry, **{key: str(folder / entry[key]) for key in _FILES if entry.get(key)}}
    plugin = resolved.get("exec")
    if plugin and os.sep in plugin.get("command", ""):  # without a separator it is searched in PATH
        resolved["exec"] = {**plugin, "command": str(folder / plugin["command"])}
    return resolved
