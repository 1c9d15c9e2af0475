"""The mappings of a YAML file as dataclasses: which keys each has, and how a key is read and shown again.

Rules:
- a section is a frozen dataclass. Its fields made by `key` are the keys of the file, in their order; others are not
- a section is read to its end, and every problem is reported at its key. `complete` gets what could be read: it checks
  what depends on more than one key, and derives what was left out
- a key without a value counts as left out; an unknown key is a problem
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from workload_generator.base.errors import Problem
from workload_generator.experiment.yaml_lines import Location, YamlDocument, closest

T = TypeVar("T")
D = TypeVar("D")
S = TypeVar("S", bound="YamlSection")

DERIVED: Any = object()
"""The default of a key that `complete` fills in."""

_REQUIRED: Any = object()
NO_MAPPING = "must be a mapping, with lines of `key: value`"
_NO_LIST = "must be a list, with lines of `- value`"
_ANY_NAME = "*"


# What a section's class says


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a key holds: how it is read, and how it is shown in JSON.

    `read` takes the data of a document. It raises ValueError, whose text is the message to the user, or
    `AlreadyReported`. `parts` gives the sections in the value, each with the keys on the way there.
    """

    read: Callable[[Any, Cursor], T]
    show: Callable[[T], Any]
    parts: Callable[[], Iterable[tuple[tuple[str, ...], type[YamlSection]]]] = tuple


def _as_it_is(value: Any) -> Any:
    return value


def scalar(parse: Callable[[Any], T], show: Callable[[T], Any] = _as_it_is) -> Kind[T]:
    """A value that `parse` reads from a scalar of the document."""
    return Kind(lambda value, _cursor: parse(value), show)


def section(kind: type[S]) -> Kind[S]:
    """A section."""
    return Kind(functools.partial(_read, kind), YamlSection.to_json, lambda: (((), kind),))


def many(kind: Kind[T], at_least: int = 0) -> Kind[tuple[T, ...]]:
    """A list; `at_least` is 0 or 1."""

    def read(value: Any, cursor: Cursor) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(_NO_LIST)
        if len(value) < at_least:
            raise ValueError("must have at least one entry")
        return tuple(_all(kind, enumerate(value), cursor))

    return Kind(read, lambda values: [kind.show(value) for value in values], kind.parts)


def named(kind: Kind[T], check_name: Callable[[str], object] = _as_it_is) -> Kind[dict[str, T]]:
    """A mapping whose keys are the file's to choose. `check_name` raises ValueError."""

    def entry(value: Any, cursor: Cursor) -> T:
        problems = len(cursor.problems)
        try:
            check_name(str(cursor.location[-1]))
        except ValueError as error:
            cursor.report(str(error))
        read = cursor.read(kind, value)
        if len(cursor.problems) > problems:
            raise AlreadyReported
        return read

    def read(value: Any, cursor: Cursor) -> dict[str, T]:
        if not isinstance(value, dict):
            raise ValueError(NO_MAPPING)
        return dict(zip(value, _all(Kind(entry, kind.show), value.items(), cursor), strict=True))

    return Kind(
        read,
        lambda values: {name: kind.show(value) for name, value in values.items()},
        lambda: (((_ANY_NAME, *path), part) for path, part in kind.parts()),
    )


def key(kind: Kind[T], default: D = _REQUIRED, *, name: str = "") -> T | D:
    """A field of a section. `name` is the file's word for it where `YamlSection.spelling` does not give it."""
    metadata = {"key": (kind, name, default is _REQUIRED)}
    if default is _REQUIRED or default is DERIVED:
        return field(metadata=metadata)  # type: ignore[no-any-return]
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: `field` is our word for it, `name` the file's. `default` makes its value, if it has one."""

    field: str
    name: str
    kind: Kind[Any]
    required: bool
    default: Callable[[], Any] | None


class YamlSection:
    """A mapping of the file. Subclasses are frozen dataclasses with keyword-only fields."""

    stands: ClassVar[str] = ""
    """Where in the file, for sections that stand in several places: `under defaults or a service`."""

    @staticmethod
    def spelling(name: str) -> str:
        """The file's word for a field: `idle_conn_timeout_ns` is `idleConnTimeout`."""
        first, *others = name.removesuffix("_ns").split("_")
        return first + "".join(map(str.capitalize, others))

    @classmethod
    @functools.cache
    def described(cls) -> tuple[Key, ...]:
        """All keys, in their order."""
        return tuple(
            Key(each.name, name or cls.spelling(each.name), kind, required, _default(each))
            for each in dataclasses.fields(cls)  # type: ignore[arg-type]
            if "key" in each.metadata
            for kind, name, required in (each.metadata["key"],)
        )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that the section may hold."""
        return tuple(each.name for each in cls.described())

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Check what depends on more than one key, and fill in what is derived."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values under the file's keys, defaults filled in; it reads as the same section."""
        return {
            each.name: each.kind.show(value)
            for each in self.described()
            if (value := getattr(self, each.field)) is not None
        }


def _default(of: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if of.default_factory is not MISSING:
        return of.default_factory
    return None if of.default is MISSING else functools.partial(_as_it_is, of.default)


def sections_in(
    root: type[YamlSection], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[YamlSection]]]:
    """Every section of a file, with the keys on the way there; `*` is a name of the file's own choice."""
    yield path, root
    for each in root.described():
        for inner, part in each.kind.parts():
            yield from sections_in(part, (*path, each.name, *inner))


# How a file is read


class AlreadyReported(Exception):
    """A value could not be read, and every problem of it has been reported."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Somewhere in a document that is read as a `root`. `context` is what readers have to know besides."""

    document: YamlDocument
    root: type[YamlSection]
    context: Any
    problems: list[Problem]
    location: Location = ()

    def under(self, part: str | int) -> Cursor:
        """The place of a key or an entry here."""
        return replace(self, location=(*self.location, part))

    def report(self, message: str) -> None:
        """Add a problem with what stands (or should stand) here."""
        self.problems.append(self.document.problem(self.location, message))

    def read(self, kind: Kind[T], value: Any) -> T:
        """The value. Raises `AlreadyReported`."""
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
    """What could be read of a section, by field; `given` are those that the file has, `wrong` those with a problem.

    Each field's place keeps its own problems, so that in the end they are in the order of the keys.
    """

    cursor: Cursor
    cursors: dict[str, Cursor]
    given: frozenset[str]
    values: dict[str, Any] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)

    def get(self, name: str) -> Any:
        """The field's value; None when it has none, or when it is wrong."""
        return None if name in self.wrong else self.values.get(name)

    def left_out(self, name: str) -> bool:
        """Whether the field has no value, and no default, and no problem yet."""
        return name not in self.values and name not in self.wrong

    def derive(self, name: str, value: Any) -> None:
        """Fill in a field that was left out."""
        self.values.setdefault(name, value)

    def reject(self, name: str, message: str) -> None:
        """Report a problem with the field."""
        self.cursors[name].report(message)
        self.wrong.add(name)

    def missing(self, name: str) -> None:
        """Report that the field should have been there."""
        cursor = self.cursors[name]
        self.reject(name, "has no value" if cursor.location in cursor.document.lines else "is missing")


def read(kind: type[S], document: YamlDocument, context: Any = None) -> tuple[S | None, list[Problem]]:
    """The document as a section, and every problem with it; the section is None when some value could not be read."""
    cursor = Cursor(document, kind, context, list(document.problems))
    try:
        return cursor.read(section(kind), document.data), cursor.problems
    except AlreadyReported:
        return None, cursor.problems


def _read(kind: type[S], data: Any, cursor: Cursor) -> S:
    if not isinstance(data, dict):
        raise ValueError(NO_MAPPING)
    cursors = {each.field: replace(cursor.under(each.name), problems=[]) for each in kind.described()}
    partial = PartialSection(
        cursor, cursors, frozenset(each.field for each in kind.described() if data.get(each.name) is not None)
    )
    for each in kind.described():
        value = data.get(each.name)
        if value is not None:
            try:
                partial.values[each.field] = partial.cursors[each.field].read(each.kind, value)
            except AlreadyReported:
                partial.wrong.add(each.field)
        elif each.required:
            partial.missing(each.field)
        elif each.default is not None:
            partial.values[each.field] = each.default()
    kind.complete(partial)
    for own in partial.cursors.values():
        cursor.problems.extend(own.problems)
    unknown = [name for name in data if name not in kind.keys()]
    for name in unknown:
        cursor.under(name).report(_unknown_key(name, kind, cursor.root))
    if partial.wrong or unknown:
        raise AlreadyReported
    return kind(**partial.values)


def _all(kind: Kind[T], items: Iterable[tuple[str | int, Any]], cursor: Cursor) -> list[T]:
    values: list[T] = []
    told = False
    for part, item in items:
        try:
            values.append(cursor.under(part).read(kind, item))
        except AlreadyReported:
            told = True
    if told:
        raise AlreadyReported
    return values


def _unknown_key(name: str, kind: type[YamlSection], root: type[YamlSection]) -> str:
    near = closest(name, kind.keys())
    if near:
        return f"unknown key; did you mean {near}?"
    for path, other in sections_in(root):
        where = other.stands or (
            "" if _ANY_NAME in path else f"under {'.'.join(path)}" if path else "at the top of the file"
        )
        if where and name in other.keys():
            return f"unknown key here; it belongs {where}"
    return f"unknown key; known here: {', '.join(kind.keys())}"
