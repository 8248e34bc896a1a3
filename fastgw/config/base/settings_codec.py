"""Codec of settings for other processes of the gateway and for digests: MessagePack, decoded by type.

Rule 1: a struct is a map of the fields that differ from their defaults; decoded structs share the default objects. Rule
2: a filter's settings are decoded by the class of its type: built-in types by name, those of other packages by class.
Encoded bytes can import nothing else.
"""

import ipaddress
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Struct

from fastgw.config.base.settings_base import DECODED_SETTINGS, FilterUse
from fastgw.config.base.value_types import IPNetwork

T = TypeVar("T")
_PLAIN: Final = frozenset((str, int, float, bool, type(None), bytes))
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(value: object) -> bytes:
    """Return settings as bytes. Raises `TypeError` for a filter whose class other processes cannot import."""
    return _ENCODER.encode(_plain(value))


def decode(raw: bytes, kind: type[T], filter_types: Mapping[str, type[Struct]]) -> T:
    """Return the decoded settings of this type. `filter_types`: built-in filters by name.

    Mappings are plain dictionaries, which are never changed.
    """
    token = DECODED_SETTINGS.set(lambda name, held: _filter_settings(name, held, filter_types))
    try:
        decoded: T = _decoder(cast(Any, kind)).decode(raw)
    finally:
        DECODED_SETTINGS.reset(token)
    return decoded


def digest(*values: object) -> bytes:
    """Return a digest of settings. Equal settings have equal digests, whether or not defaults are written out."""
    return sha256(encode(values)).digest()


def encode_object(value: Struct) -> bytes:
    """Return a struct as bytes together with its class, for `decode_object`. Raises `TypeError`."""
    return _ENCODER.encode((_name_of(type(value)), _plain(value)))


def decode_object(raw: bytes, base: type[T]) -> T:
    """Return the decoded struct, of a subclass of `base`."""
    name, held = msgspec.msgpack.decode(raw, type=tuple[str, Any])
    decoded: T = msgspec.convert(held, _class_named(name, cast(Any, base)), dec_hook=_decoded)
    return decoded


def check_class(kind: type[Struct]) -> None:
    """Raise `TypeError` if values of a struct cannot be decoded by its annotations."""
    _decoder(kind)
    left: list[Any] = [msgspec.inspect.type_info(kind)]
    seen: dict[int, Any] = {}
    while left:
        each = left.pop()
        if isinstance(each, msgspec.inspect.CustomType) and each.cls not in _READ:
            raise TypeError(f"values of the type {each.cls.__module__}.{each.cls.__qualname__} cannot be encoded")
        if isinstance(each, (tuple, msgspec.inspect.Type, msgspec.inspect.Field)) and id(each) not in seen:
            seen[id(each)] = each
            left += each if isinstance(each, tuple) else msgspec.structs.astuple(each)


def _plain(value: Any) -> Any:
    """Return a value in MessagePack's types: maps, arrays, strings, bytes and numbers."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return [_plain(each) for each in value]
    if isinstance(value, Struct):
        return _plain_use(value) if isinstance(value, FilterUse) else _plain_struct(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    write = _WRITTEN.get(kind)
    if write is not None:
        return write(value)
    if isinstance(value, (list, set, frozenset)):
        return [_plain(each) for each in value]
    return value


def _plain_struct(value: Struct) -> Any:
    layout = _layout_of(type(value))
    if layout is None:
        return value
    plain: dict[str, Any] = dict(layout.tag)
    for field in layout.fields:
        held = getattr(value, field.name)
        default = field.default
        # A default object can mean "not configured" (`DEFAULT_ADMIN`): an equal struct is not the same.
        if held is not default and (isinstance(held, Struct) or not _is_equal(held, default)):
            plain[field.key] = _plain(held)
    return plain


def _plain_use(use: FilterUse) -> dict[str, Any]:
    plain: dict[str, Any] = _plain_struct(use)
    settings = type(use.settings)
    if not settings.__module__.startswith("fastgw."):
        plain["settings"] = [_name_of(settings), plain["settings"]]
    return plain


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same type: 1 is not True. A mapping may be a view or a dictionary."""
    alike = type(one) is type(other) or (isinstance(one, Mapping) and isinstance(other, Mapping))
    return alike and bool(one == other)


class _Field(NamedTuple):
    name: str
    key: str
    default: Any


class _Layout(NamedTuple):
    """Fields of a struct that is encoded as a map."""

    fields: tuple[_Field, ...]
    tag: Mapping[str, Any]


@cache
def _layout_of(kind: type[Struct]) -> _Layout | None:
    """Return the layout of a struct type. None: msgspec encodes it as an array, with everything in it."""
    if kind.__struct_config__.array_like:
        return None
    tag = kind.__struct_config__.tag
    fields = tuple(_Field(each.name, each.encode_name, each.default) for each in msgspec.structs.fields(kind))
    return _Layout(fields, {} if tag is None else {str(kind.__struct_config__.tag_field): tag})


_WRITTEN: Final[Mapping[type, Callable[[Any], Any]]] = {
    ipaddress.IPv4Network: str,
    ipaddress.IPv6Network: str,
    range: lambda held: [held.start, held.stop],
}
_READ: Final[Mapping[Any, Callable[[Any], Any]]] = {
    IPNetwork: ipaddress.ip_network,
    ipaddress.IPv4Network: ipaddress.IPv4Network,
    ipaddress.IPv6Network: ipaddress.IPv6Network,
    range: lambda held: range(*held),
}


def _decoded(kind: type, held: Any) -> Any:
    read = _READ.get(kind)
    if read is None:
        raise NotImplementedError(f"{kind} in settings")
    return read(held)


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decoded)


def _filter_settings(name: str, held: Any, filter_types: Mapping[str, type[Struct]]) -> Any:
    kind: Any
    if isinstance(held, dict):
        kind = filter_types[name]
    else:
        class_name, held = held
        kind = _class_named(class_name, Struct)
    return msgspec.convert(held, kind, dec_hook=_decoded)


def _name_of(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _class_named(name, object) is not kind:
        raise TypeError(f"{name} is not the class in use")
    return name


def _class_named(name: str, base: Any) -> Any:
    """Return the class with this name. Raises `TypeError`."""
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise TypeError(f"other processes cannot import the class {name}") from error
    if not isinstance(found, type) or not issubclass(found, base):
        raise TypeError(f"{name} is no {base.__name__}")
    return found
