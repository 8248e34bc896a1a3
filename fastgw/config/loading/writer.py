"""Writes a configuration as a document: the inverse of `decoder`. Secrets are written as `***`.

A document can be read back to the same configuration. Defaults are included. Targets from DNS, service discovery or a
file are written as their source, and the routes of an OpenAPI document as the entry for it. Left out are: `include`,
because everything is merged; lists that are empty where a file needs an element; settings without effect on routes that
have no upstream; consumers, which are data more than settings and may be very many; and `egress`, `providers.kyma` and
`providers.kubernetes`, whose routes and upstreams are included. Parts from Kubernetes may have values that only the
cluster has, such as certificates, so they cannot be read back without it.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct

from fastgw.config.decoding.decoder import (
    AnyJson,
    ChoiceDecoder,
    Decoder,
    Either,
    EntryDecoder,
    File,
    Hidden,
    InnerInstance,
    InNotation,
    Instance,
    Null,
    Number,
    Sequence,
    Structure,
    Table,
    Text,
    Truth,
    fields_of,
    shape_of,
)
from fastgw.config.decoding.merge import Merged
from fastgw.config.settings.gateway import Config, FilterUse, Route
from fastgw.config.settings.origins import OpenApiEntry, Origins
from fastgw.config.settings.secrets import MASK, SECRET_NAMES, Secret
from fastgw.config.validation.rules import OF_UPSTREAM


def effective(config: Config) -> dict[str, Any]:
    """Return a whole configuration in built-in types."""
    said = _settings(config)
    for key in ("include", "consumers", "egress"):
        del said[key]
    for key in ("kyma", "kubernetes"):
        del said["providers"][key]
    for name, source in config.origins.targets.items():
        said["upstreams"][name]["targets"] = json.loads(source)
    for each in reversed(config.origins.openapi):
        said["routes"][each.first : each.first + each.count] = [json.loads(each.entry)]
    return said


def origins_of(merged: Merged) -> Origins:
    """Return the origins of the generated parts of a valid configuration."""
    sources = {name: _as_json(each) for name, each in merged.target_sources.items()}
    entries = (OpenApiEntry(first=at, count=count, entry=_as_json(each)) for at, count, each in merged.openapi_entries)
    return Origins(targets=MappingProxyType(sources), openapi=tuple(entries))


def written(shape: Decoder, value: Any) -> Any:
    """Return a value in the form of a file."""
    return _WRITE[type(shape)](shape, value)


def fitting(shape: Decoder, value: Any) -> Decoder:
    """Return the decoder that fits a value, of several: notations last, because their values may be of any type."""
    if not isinstance(shape, Either):
        return shape
    last_noted = sorted(shape.shapes, key=lambda each: isinstance(each, InNotation))
    return next(fitting(each, value) for each in last_noted if _FITS[type(each)](each, value))


def masked(shape: Table, key: str) -> bool:
    """Whether the text under this key is masked: the value of a header such as `Authorization`."""
    each = shape.each.shapes if isinstance(shape.each, Either) else (shape.each,)
    return any(isinstance(shape, Text | InNotation) for shape in each) and SECRET_NAMES.search(key) is not None


def _as_json(value: Struct) -> str:
    return msgspec.json.encode(written(shape_of(type(value)), value)).decode()


def _settings(value: Struct) -> dict[str, Any]:
    fields = fields_of(type(value))
    said = {key: written(field.shape, getattr(value, field.name)) for key, field in fields.items()}
    for key, field in fields.items():
        beside_the_point = isinstance(value, Route) and value.upstream is None and key in OF_UPSTREAM
        too_short = isinstance(field.shape, Sequence) and len(said[key]) < field.shape.shortest
        if beside_the_point or too_short:
            del said[key]
    return said


def _table(shape: Table, value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: MASK if masked(shape, key) else written(shape.each, each) for key, each in value.items()}


def _instance(_: Instance, use: FilterUse) -> dict[str, Any]:
    return {"type": use.type, "enforced": use.enforced, "shadow": use.shadow, **_settings(use.settings)}


def _inner(_: InnerInstance, use: FilterUse) -> dict[str, Any]:
    return {use.type: _settings(use.settings)}


def _as_it_is(_: Decoder, value: Any) -> Any:
    return value


_WRITE: Final[Mapping[type[Decoder], Callable[[Any, Any], Any]]] = {
    AnyJson: lambda shape, value: json.loads(value),  # with integers beyond 64 bits
    Text: _as_it_is,
    Number: _as_it_is,
    Truth: _as_it_is,
    Null: _as_it_is,
    ChoiceDecoder: _as_it_is,
    File: _as_it_is,
    InNotation: lambda shape, value: shape.notation.write(value),
    Hidden: lambda shape, value: MASK,
    Sequence: lambda shape, value: [written(shape.each, each) for each in value],
    Table: _table,
    Either: lambda shape, value: written(fitting(shape, value), value),
    Structure: lambda shape, value: _settings(value),
    EntryDecoder: lambda shape, value: _settings(value),
    Instance: _instance,
    InnerInstance: _inner,
}
_FITS: Final[Mapping[type[Decoder], Callable[[Any, Any], bool]]] = {
    AnyJson: lambda shape, value: isinstance(value, str),
    Text: lambda shape, value: isinstance(value, str),
    Number: lambda shape, value: isinstance(value, int | float) and not isinstance(value, bool),
    Truth: lambda shape, value: isinstance(value, bool),
    Null: lambda shape, value: value is None,
    ChoiceDecoder: lambda shape, value: any(value == each and type(value) is type(each) for each in shape.values),
    File: lambda shape, value: isinstance(value, str),
    InNotation: lambda shape, value: value is not None and not isinstance(value, Mapping),
    Hidden: lambda shape, value: isinstance(value, Secret),
    Sequence: lambda shape, value: isinstance(value, tuple),
    Table: lambda shape, value: isinstance(value, Mapping),
    Either: lambda shape, value: any(_FITS[type(each)](each, value) for each in shape.shapes),
    Structure: lambda shape, value: isinstance(value, shape.type),
    EntryDecoder: lambda shape, value: isinstance(value, shape.usual.type),
    Instance: lambda shape, value: isinstance(value, FilterUse),
    InnerInstance: lambda shape, value: isinstance(value, FilterUse),
}
