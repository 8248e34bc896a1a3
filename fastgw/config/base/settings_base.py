"""Base of all settings. Settings are immutable: mappings are read-only views, or dictionaries that are never
changed.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar, dataclass_transform

import msgspec
from msgspec import Meta, Struct, StructMeta

from fastgw.config.base.problems import Path, path_text
from fastgw.config.base.value_types import Name

T = TypeVar("T")
Some = Annotated[tuple[T, ...], Meta(min_length=1)]
NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


def listed(value: T | tuple[T, ...]) -> tuple[T, ...]:
    """Return the values of a setting that has one or some."""
    return value if isinstance(value, tuple) else (value,)


def view(held: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return a read-only view of a mapping."""
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
"""Function that creates the settings of a filter, by its type, from plain values. Set while settings are decoded."""


class FilterUse(Struct, frozen=True):
    """One filter instance, at one level.

    In the file: `name: {type: …, enforced: …, shadow: …, and its type's settings}`.
    """

    name: str
    """Instance name. The same name at an inner level replaces the filter."""
    type: str
    """Filter type. Default: the instance's name."""
    settings: Any
    """Settings, of the filter type's struct."""
    enforced: bool = False
    """Whether inner levels must not replace or remove it."""
    shadow: bool = False
    """Whether it evaluates and reports, but never acts."""
    namespace: str = ""
    """Kubernetes namespace of the policy that it belongs to, whose consumers it knows; "" = it is the operator's."""

    def __post_init__(self) -> None:
        if type(self.settings) in (dict, list):  # decoded by a type that does not know the filter's settings
            msgspec.structs.force_setattr(self, "settings", DECODED_SETTINGS.get()(self.type, self.settings))


class SettingsErrors(ValueError):
    """Several errors of a section, or of a filter that cannot be built: the steps from it to each value, and the text,
    in which the expected form follows "; ".
    """

    def __init__(self, errors: Iterable[tuple[Path, str]]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(": ".join(filter(None, (path_text(steps), text))) for steps, text in self.errors))


@dataclass(frozen=True)
class Inner:
    """Marks a `FilterUse` inside another filter, written as a mapping with one key, its type.

    Its name is its type, and it has none of the common keys of instances.
    """

    phase: str
    """Phase that the filter must belong to."""


Filters = Mapping[Name, FilterUse | None]
"""Filter uses by instance name. None removes the filter that an outer level added under that name."""


@dataclass(frozen=True)
class Generated:
    """Marks a field that is no setting: no file has it."""


@dataclass(frozen=True)
class OrFrom:
    """Marks a list that may come from another source, such as a file. The elements of the source, possibly none,
    replace the list; a list in the configuration has at least one element."""

    types: tuple[type[Settings], ...]


@dataclass(frozen=True)
class AnyValue:
    """Marks a setting that may be any value; it is held as its JSON text."""

    is_schema: bool = False
    """Whether it is a JSON Schema, whose misspelt keywords are noted."""


Json = Annotated[str, AnyValue()]
InlineSchema = Annotated[str, AnyValue(is_schema=True)]


@dataclass(frozen=True)
class Besides:
    """Marks a mapping by name in which one name may hold a list of strings about the whole mapping instead of an
    element.
    """

    name: str
    type: Any
    """Type of the list."""
    text: str
    """Description for the manual."""


@dataclass(frozen=True)
class OrEntry:
    """Marks a struct in whose place a file may have another one, known by its first key, which is expanded to several
    of them when the configuration is read."""

    type: type[Settings]


@dataclass(frozen=True)
class Renamed:
    """Marks a renamed setting: the old name is still accepted, and `check` reports it as deprecated."""

    former: str


@dataclass(frozen=True)
class Shorthand:
    """Marks a struct that may be written as the value of one of its fields; the other fields keep their defaults."""

    key: str
    expected: str
    """Correct form, which follows the word "expected"."""
