"""What a fake API server does with patches: merge (RFC 7386) and server-side apply, with owners of fields.

Simpler than the real thing where tests do not look: an owned field is a path; lists are one field each, except lists of
objects with names (containers, env), whose items are told apart by name as in the real schemas.
"""

from __future__ import annotations

import copy
from typing import Any

Path = tuple[str, ...]
Applied = dict[str, set[Path]]  # field manager -> what it owns


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def fields(value: Any, at: Path = ()) -> dict[Path, Any]:
    """The leaves of `value` by their paths."""
    if isinstance(value, dict) and value:
        return {path: leaf for key, inner in value.items() for path, leaf in fields(inner, (*at, key)).items()}
    if _named(value):
        return {path: leaf for item in value for path, leaf in fields(item, (*at, f"[{item['name']}]")).items()}
    return {at: value}


def conflicts(live: Any, wanted: dict[Path, Any], owners: Applied, manager: str) -> list[str]:
    """The fields that another manager owns and that `wanted` would change, as `manager: field`."""
    now = fields(live)
    return [
        f'"{other}": .{".".join(path)}'
        for other, owned in owners.items()
        if other != manager
        for path in sorted(owned)
        if path in wanted and now.get(path) != wanted[path]
    ]


def apply(live: Any, manifest: Any, gone: set[Path]) -> Any:
    """`live` with `manifest` in it and without the `gone` fields."""
    result = copy.deepcopy(live)
    for path in gone:
        _remove(result, path)
    return _put(result, manifest)


def _put(live: Any, wanted: Any) -> Any:
    if isinstance(wanted, dict) and isinstance(live, dict):
        for key, value in wanted.items():
            live[key] = _put(live.get(key), value)
        return live
    if _named(wanted) and _named(live):
        items = {item["name"]: item for item in live}
        for item in wanted:
            items[item["name"]] = _put(items.get(item["name"]), item)
        return list(items.values())
    return copy.deepcopy(wanted)


def _remove(value: Any, path: Path) -> None:
    for word in path[:-1]:
        value = _step(value, word)
        if value is None:
            return
    if isinstance(value, dict):
        value.pop(path[-1], None)


def _step(value: Any, word: str) -> Any:
    if word.startswith("[") and isinstance(value, list):
        return next((item for item in value if item.get("name") == word[1:-1]), None)
    return value.get(word) if isinstance(value, dict) else None


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, dict) and "name" in i for i in value)
