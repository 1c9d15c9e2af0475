"""Sections: the mappings of a YAML file as dataclasses, with the keys of each, and how a key is read and shown.

Rules:
- a section is a frozen dataclass. The fields made by `key` are the keys of the file, in their order
- a section is always read to its end, and every problem is reported at its key. `complete` then checks what depends on
  several keys, and derives missing values
- a key without a value counts as missing; an unknown key is a problem
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from workload_generator.base.errors import Problem
from workload_generator.experiment.yaml_lines import Location, YamlDocument, did_you_mean

T = TypeVar("T")
D = TypeVar("D")
S = TypeVar("S", bound="YamlSection")

DERIVED: Any = object()
"""The default of a key that `complete` fills in."""

_REQUIRED: Any = object()
_ANY_NAME = "*"


# The definition of a section


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """The kind of a value: how it is read from a file, and how it is shown in JSON.

    `read` takes the data of a document. It raises ValueError, whose text is the message to the user, or
    `AlreadyReported`. `parts` gives the sections in the value, each with the keys on the way there.
    """

    read: Callable[[Any, Cursor], T]
    show: Callable[[T], Any]
    parts: Callable[[], Iterable[tuple[tuple[str, ...], type[YamlSection]]]] = tuple


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is a mapping of the document. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping, with lines of `key: value`")
    return value


def as_it_is(value: Any) -> Any:
    """The value itself."""
    return value


def scalar(parse: Callable[[Any], T], show: Callable[[T], Any] = as_it_is) -> Kind[T]:
    """A value that `parse` gets from a scalar of the document."""
    return Kind(lambda value, _cursor: parse(value), show)


def section(kind: type[S]) -> Kind[S]:
    """A section."""
    return Kind(functools.partial(_read, kind), YamlSection.to_json, lambda: (((), kind),))


def many(kind: Kind[T], at_least: int = 0) -> Kind[tuple[T, ...]]:
    """A list; `at_least` is 0 or 1."""

    def read(value: Any, cursor: Cursor) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list, with lines of `- value`")
        if len(value) < at_least:
            raise ValueError("must have at least one entry")
        return tuple(_all(kind, enumerate(value), cursor))

    return Kind(read, lambda values: [kind.show(value) for value in values], kind.parts)


def named(kind: Kind[T], check_name: Callable[[str], object] = as_it_is) -> Kind[dict[str, T]]:
    """A mapping with any keys. `check_name` raises ValueError."""

    def read(value: Any, cursor: Cursor) -> dict[str, T]:
        return dict(zip(value, _all(kind, mapping(value).items(), cursor, check_name), strict=True))

    return Kind(
        read,
        lambda values: {name: kind.show(value) for name, value in values.items()},
        lambda: (((_ANY_NAME, *path), part) for path, part in kind.parts()),
    )


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: `field` is the name of the attribute, `name` the key in the file."""

    kind: Kind[Any]
    name: str
    default: Any
    field: str = ""


def key(kind: Kind[T], default: D = _REQUIRED, *, name: str = "") -> T | D:
    """A field of a section. `name` is its key in the file, if `YamlSection.spelling` does not give it."""
    metadata = {"key": Key(kind, name, default)}
    if default is _REQUIRED or default is DERIVED:
        return field(metadata=metadata)  # type: ignore[no-any-return]
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)


class YamlSection:
    """A mapping of the file. Subclasses are frozen dataclasses with keyword-only fields."""

    location_hint: ClassVar[str] = ""
    """Where the section belongs, if in several places: `under defaults or a service`."""

    @staticmethod
    def spelling(name: str) -> str:
        """The key of a field in the file: `idle_conn_timeout_ns` is `idleConnTimeout`."""
        first, *others = name.removesuffix("_ns").split("_")
        return first + "".join(map(str.capitalize, others))

    @classmethod
    @functools.cache
    def schema(cls) -> tuple[Key, ...]:
        """All keys, in their order."""
        return tuple(
            replace(each.metadata["key"], field=each.name, name=each.metadata["key"].name or cls.spelling(each.name))
            for each in dataclasses.fields(cls)  # type: ignore[arg-type]
            if "key" in each.metadata
        )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The names of all keys."""
        return tuple(each.name for each in cls.schema())

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Check what depends on several keys, and derive missing values."""

    def to_json(self) -> dict[str, Any]:
        """The section as JSON, with defaults; reading it gives an equal section."""
        return {
            each.name: each.kind.show(value)
            for each in self.schema()
            if (value := getattr(self, each.field)) is not None
        }


def sections_in(
    root: type[YamlSection], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[YamlSection]]]:
    """Every section of a file, with the keys on the way there; `*` stands for any key."""
    yield path, root
    for each in root.schema():
        for inner, part in each.kind.parts():
            yield from sections_in(part, (*path, each.name, *inner))


# Reading a file


class AlreadyReported(Exception):
    """A value could not be read, and all of its problems have been reported."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A location in a document whose top is a `root`. `context` is passed to the readers of all values."""

    document: YamlDocument
    root: type[YamlSection]
    context: Any
    problems: list[Problem]
    location: Location = ()

    def under(self, part: str | int) -> Cursor:
        """The location of a key or an entry below this one."""
        return replace(self, location=(*self.location, part))

    def report(self, message: str) -> None:
        """Add a problem at this location."""
        self.problems.append(self.document.problem(self.location, message))

    def read(self, kind: Kind[T], value: Any) -> T:
        """The value here, read as `kind`. Raises `AlreadyReported`."""
        try:
            return kind.read(value, self)
        except ValueError as error:
            self.report(str(error))
            raise AlreadyReported from None

    @property
    def file(self) -> Path:
        """The document's file."""
        return Path(self.document.file)


@dataclass(frozen=True, slots=True)
class PartialSection:
    """The fields of a section read so far. `given` are those in the file, `wrong` those with a problem.

    Each field has a cursor with its own problems, which are joined in the order of the keys.
    """

    cursor: Cursor
    cursors: dict[str, Cursor]
    given: frozenset[str]
    values: dict[str, Any] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)

    def get(self, name: str) -> Any:
        """The value of a field; None if it has none or is wrong."""
        return None if name in self.wrong else self.values.get(name)

    def left_out(self, name: str) -> bool:
        """Whether a field has neither a value nor a default nor a problem."""
        return name not in self.values and name not in self.wrong

    def derive(self, name: str, value: Any) -> None:
        """Set a field that has no value."""
        self.values.setdefault(name, value)

    def reject(self, name: str, message: str) -> None:
        """Report a problem of a field."""
        self.cursors[name].report(message)
        self.wrong.add(name)

    def missing(self, name: str) -> None:
        """Report that a required field is missing."""
        cursor = self.cursors[name]
        self.reject(name, "has no value" if cursor.location in cursor.document.lines else "is missing")


def read(kind: type[S], document: YamlDocument, context: Any = None) -> tuple[S | None, list[Problem]]:
    """The document as a section, and all its problems. The section is None if a value could not be read."""
    cursor = Cursor(document, kind, context, list(document.problems))
    try:
        return cursor.read(section(kind), document.data), cursor.problems
    except AlreadyReported:
        return None, cursor.problems


def _read(kind: type[S], data: Any, cursor: Cursor) -> S:
    mapping(data)
    cursors = {each.field: replace(cursor.under(each.name), problems=[]) for each in kind.schema()}
    partial = PartialSection(
        cursor, cursors, frozenset(each.field for each in kind.schema() if data.get(each.name) is not None)
    )
    for each in kind.schema():
        if each.field in partial.given:
            try:
                partial.values[each.field] = partial.cursors[each.field].read(each.kind, data[each.name])
            except AlreadyReported:
                partial.wrong.add(each.field)
        elif each.default is _REQUIRED:
            partial.missing(each.field)
        elif each.default is not DERIVED:
            partial.values[each.field] = copy.copy(each.default)
    kind.complete(partial)
    for own in partial.cursors.values():
        cursor.problems.extend(own.problems)
    unknown = [name for name in data if name not in kind.keys()]
    for name in unknown:
        cursor.under(name).report(_unknown_key(name, kind, cursor.root))
    if partial.wrong or unknown:
        raise AlreadyReported
    return kind(**partial.values)


def _all(
    kind: Kind[T], items: Iterable[tuple[Any, Any]], cursor: Cursor, check_name: Callable[[Any], object] = as_it_is
) -> list[T]:
    values, problems = [], len(cursor.problems)
    for name, item in items:
        here = cursor.under(name)
        with contextlib.suppress(AlreadyReported):
            here.read(scalar(check_name), name)
        with contextlib.suppress(AlreadyReported):
            values.append(here.read(kind, item))
    if len(cursor.problems) > problems:
        raise AlreadyReported
    return values


def _unknown_key(name: str, kind: type[YamlSection], root: type[YamlSection]) -> str:
    if hint := did_you_mean(name, kind.keys()):
        return f"unknown key{hint}"
    for path, other in sections_in(root):
        where = other.location_hint or (
            "" if _ANY_NAME in path else f"under {'.'.join(path)}" if path else "at the top of the file"
        )
        if where and name in other.keys():
            return f"unknown key; it belongs {where}"
    return f"unknown key; valid keys are {', '.join(kind.keys())}"
