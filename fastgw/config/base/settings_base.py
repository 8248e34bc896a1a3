"""Base of all settings. All of it is immutable: mappings are read-only views, or dictionaries that nobody changes."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar, dataclass_transform

import msgspec
from msgspec import Meta, Struct, StructMeta

from fastgw.config.base.value_types import Name

T = TypeVar("T")
Some = Annotated[tuple[T, ...], Meta(min_length=1)]
NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


def view(held: dict[Any, Any]) -> Mapping[Any, Any]:
    """A read-only mapping."""
    return MappingProxyType(held) if held else NONE


class SettingsMeta(StructMeta):
    """Makes every settings struct frozen, keyword-only and closed to unknown keys."""

    def __new__(mcls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        strict = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcls, class_name, bases, namespace, **(strict | options))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Settings(Struct, metaclass=SettingsMeta, frozen=True):
    """Base of a section of the configuration."""


DECODED_SETTINGS: Final[ContextVar[Callable[[str, Any], Any]]] = ContextVar("DECODED_SETTINGS")
"""Function that makes the settings of a filter, by its type, out of plain values: set while they are decoded."""


class FilterUse(Struct, frozen=True):
    """One filter instance, at one level.

    In the file: `name: {type: …, enforced: …, shadow: …, and its type's settings}`.
    """

    name: str
    """The instance: the same name at a nearer level replaces it."""
    type: str
    """The filter type; the instance's name unless the file says otherwise."""
    settings: Any
    """The filter type's struct."""
    enforced: bool = False
    """Whether nearer levels may neither replace nor remove it."""
    shadow: bool = False
    """Whether it decides and tells, but never acts."""

    def __post_init__(self) -> None:
        if type(self.settings) in (dict, list):  # decoded by a type that cannot know the filter's
            msgspec.structs.force_setattr(self, "settings", DECODED_SETTINGS.get()(self.type, self.settings))


@dataclass(frozen=True)
class Inner:
    """Marks a `FilterUse` that stands within another filter: written as a mapping with one key, its type.

    Its name is its type, and it has none of the keys that every instance has.
    """

    phase: str
    """The only one that it may be of."""


Filters = Mapping[Name, FilterUse | None]
"""Instance name to its use; None removes what a farther level added under that name."""


@dataclass(frozen=True)
class OrFrom:
    """Marks a list that may come from elsewhere. What is found there, which may be nothing, is put in the place of
    this; a list that is written has an element at least."""

    types: tuple[type[Settings], ...]


@dataclass(frozen=True)
class Besides:
    """Marks a mapping by name in which one name may be a list of texts, about the whole, in place of an element."""

    name: str
    type: Any
    """Type of the list."""
    text: str
    """Description for the manual."""


@dataclass(frozen=True)
class Renamed:
    """Marks a setting that had another name: the former one is still read, and `check` says that it is deprecated."""

    former: str


@dataclass(frozen=True)
class Shorthand:
    """Marks a struct that may be written as the value of one of its fields, where the others keep their defaults."""

    key: str
    expected: str
    """Correct form, which follows the word "expected"."""
