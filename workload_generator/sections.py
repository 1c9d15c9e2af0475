"""What the mappings of an experiment's file have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from workload_generator.document import Document
from workload_generator.errors import Problem


@dataclass(slots=True)
class Surroundings:
    """What validators have to know besides the values; `problems` takes those of other files."""

    name: str
    document: Document
    event: bool
    problems: list[Problem] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """Where relative paths of the file count from."""
        return Path(self.document.file).parent


def around(info: ValidationInfo) -> Surroundings:
    """The surroundings that validation was started with."""
    surroundings = info.context
    assert isinstance(surroundings, Surroundings)
    return surroundings


class Section(BaseModel):
    """A mapping of the file. A key without a value counts as left out."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: to_camel(name.removesuffix("_ns"))
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = cls.keys()
        return {key: value for key, value in data.items() if value is not None or key not in known}

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that the section may hold."""
        return tuple(info.alias or name for name, info in cls.model_fields.items())


def missing() -> PydanticCustomError:
    """The problem of a key that must be there and is not, for validators that find out only later."""
    return PydanticCustomError("missing", "is missing")
