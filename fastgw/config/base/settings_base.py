"""Base of all settings. All of it is immutable: mappings are read-only views."""

import copyreg
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
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


def _pickled(mapping: MappingProxyType[Any, Any]) -> Any:
    return view, (dict(mapping),)


copyreg.pickle(MappingProxyType, _pickled)  # it has no pickled form of its own, and settings pass between processes


class SettingsMeta(StructMeta):
    """Makes every settings struct frozen, keyword-only and closed to unknown keys."""

    def __new__(mcls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        strict = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcls, class_name, bases, namespace, **(strict | options))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Settings(Struct, metaclass=SettingsMeta, frozen=True):
    """Base of a section of the configuration."""

    def __reduce__(self) -> Any:
        """Only what is not the default: what is read back shares the defaults with all others.

        PERF: an upstream and a route of `egress` take 1.0 KB instead of 3.1 (CPython 3.11, bench egress).
        """
        said = {}
        for name, default in _defaults(type(self)):
            value = getattr(self, name)
            # What is a default may tell that nobody wrote it (`settings.Unwritten`): an equal one is another.
            if value is not default and (isinstance(value, Struct) or not _is_equal(value, default)):
                said[name] = value
        return _said, (type(self), said)


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same type: 1 is not True."""
    return type(one) is type(other) and bool(one == other)


@cache
def _defaults(settings: type[Settings]) -> tuple[tuple[str, Any], ...]:
    """Each field, and its default as far as that is one value."""
    return tuple((field.name, field.default) for field in msgspec.structs.fields(settings))


def _said(settings: type[Settings], said: dict[str, Any]) -> Settings:
    return settings(**said)


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
    """Marks a list that may come from elsewhere. What is found there is put in the place of this."""

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
class Shorthand:
    """Marks a struct that may be written as the value of one of its fields, where the others keep their defaults."""

    key: str
    expected: str
    """Correct form, which follows the word "expected"."""
