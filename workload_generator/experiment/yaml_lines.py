"""YAML files as plain data, with the line of every key.

Rules:
- problems are collected as long as the file can be read, so that all of them are reported at once
- a scalar keeps its text (`Scalar`), so that numbers are exact and `yes` is a word; the reader of a key converts it. An
  empty value, `~` and `null` are None
- a duplicate key is a problem. `<<` merges as in YAML 1.1
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workload_generator.base.errors import ExperimentError, Problem

Location = tuple[str | int, ...]
"""Keys and list indexes from the top of the file: `("targets", 0, "url")`."""

_Node = Any  # a yaml.Node: its stubs lack `id`, and yaml is imported only where a file is read
_MOST_NODES = 100_000
_STANDARD_TAG = "tag:yaml.org,2002:"
_MERGE = _STANDARD_TAG + "merge"
_SCALAR, _SEQUENCE, _MAPPING = "scalar", "sequence", "mapping"  # kinds of nodes
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})


class Scalar(str):
    """The text of one YAML scalar; `quoted` if it was in quotes and so is text."""

    quoted: bool

    def __new__(cls, text: str, quoted: bool = False) -> Scalar:
        scalar = super().__new__(cls, text)
        scalar.quoted = quoted
        return scalar


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The data of a file (dicts, lists, `Scalar`s and None), the line of each key, and the problems so far."""

    file: str
    data: Any
    lines: Mapping[Location, int]
    problems: tuple[Problem, ...] = ()

    def line(self, location: Location) -> int:
        """The line of a key; if it does not exist, that of the innermost key around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 0)

    def problem(self, location: Location, message: str) -> Problem:
        """A problem at `location`, which need not exist."""
        return Problem(self.file, self.line(location), key_text(location), message)


def read_yaml(path: Path) -> YamlDocument:
    """The YAML file at `path`. Raises ExperimentError if it is not YAML."""
    return parse_yaml(str(path), decode_text(path, read_bytes(path)))


def parse_yaml(file: str, text: str) -> YamlDocument:
    """The document in YAML or JSON text. `file` is its name in problems. Raises ExperimentError if it is not YAML."""
    import yaml  # 35 ms, only for commands that read a file

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise _unreadable(file, mark.line + 1 if mark else 0, f"not YAML: {message}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(file, line, "not YAML: a control character that YAML does not allow") from None
    except RecursionError:
        raise _unreadable(file, 0, "nested too deeply") from None
    except (ValueError, OverflowError) as error:  # such as an escape beyond Unicode
        raise _unreadable(file, 0, f"not YAML: {error}") from None
    if node is None:
        return YamlDocument(file, None, {})
    reading = _Reading(file)
    data = reading.value(node, ())
    return YamlDocument(file, data, reading.lines, tuple(reading.problems))


def read_bytes(path: Path) -> bytes:
    """The content of the file at `path`. Raises ExperimentError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), 0, f"cannot be read: {error.strerror or error}") from None


def decode_text(path: Path, raw: bytes) -> str:
    """The content of `path` as text, without a byte order mark. Raises ExperimentError if it is not UTF-8."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(str(path), line, f"byte 0x{error.object[error.start]:02x} is not UTF-8") from None


def key_text(location: Location) -> str:
    """The location in problems: `targets[0].url`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(word: str, options: Collection[str], otherwise: str = "") -> str:
    """`; did you mean X?` with the most similar option X, ignoring case, hyphens and underscores; else `otherwise`."""
    import difflib  # only for error messages

    plain = {_plain(option): option for option in options}
    matches = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.7)
    return f"; did you mean {plain[matches[0]]}?" if matches else otherwise


def _plain(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def _unreadable(file: str, line: int, message: str) -> ExperimentError:
    return ExperimentError([Problem(file, line, "", message)])


@dataclass(slots=True)
class _Reading:
    """Converts the nodes of one file to data."""

    file: str
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)  # the collections around the current node
    _nodes: int = 0

    def value(self, node: _Node, at: Location) -> Any:
        self.lines.setdefault(at, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _unreadable(self.file, node.start_mark.line + 1, f"too large: more than {_MOST_NODES:,} nodes")
        if not node.tag.startswith(_STANDARD_TAG):
            self._add(node, at, f"the tag {node.tag} is not supported")
        if node.id == _SCALAR:
            quoted = node.style is not None
            return None if not quoted and node.value in _NOTHING else Scalar(node.value, quoted)
        if id(node) in self._open:
            self._add(node, at, "an alias must not contain itself")
            return None
        self._open.add(id(node))
        try:
            if node.id == _SEQUENCE:
                return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, at)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: _Node, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in sorted(node.value, key=lambda pair: pair[0].tag == _MERGE):  # own keys first
            here = (*at, key.value)
            if key.id != _SCALAR:
                self._add(key, at, "a key must be a scalar")
            elif key.tag == _MERGE:
                for source in value.value if value.id == _SEQUENCE else [value]:
                    if source.id != _MAPPING or id(source) in self._open:
                        self._add(key, at, "<< needs the alias of a mapping, or a list of them")
                    else:
                        merged = self.value(source, at)
                        result |= {name: merged[name] for name in merged if name not in result}
            elif key.value in result:
                self._add(key, here, f"duplicate key; the first is in line {self.lines[here]}")
            else:
                self.lines.setdefault(here, key.start_mark.line + 1)
                result[key.value] = self.value(value, here)
        return result

    def _add(self, node: _Node, at: Location, message: str) -> None:
        self.problems.append(Problem(self.file, node.start_mark.line + 1, key_text(at), message))
