"""JSON of clients, checked before the library converts it, which is lax where readers could differ.

It reads `"1_0"` as 10, `"***"` as no bytes, `[]` as an empty message, and takes the last of two names of one field.
Here JSON is refused that is malformed (RFC 8259), has a key twice, or has a value that proto3 does not have for its
field.
"""

import json
import re
from collections.abc import Mapping
from math import isinf
from typing import Any, Final, NamedTuple, final

WRAPPERS: Final = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
"""Messages that are a single value in JSON."""
MOST_DEPTH: Final = 100
"""Levels of nested messages and values."""
_TOO_DEEP: Final = "The JSON is nested too deeply."
_INTEGERS: Final = frozenset((1, 2, 3, 4))  # kinds of values, as the library numbers them
_FLOATS: Final = frozenset((5, 6))
_ENUM: Final = 8
_MESSAGE: Final = 10
_BYTES: Final = 12  # a type, not a kind
_IS_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_IS_INTEGER: Final = re.compile(r"-?[0-9]+").fullmatch
_IS_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}").fullmatch
_NO_NUMBERS: Final = frozenset(("NaN", "Infinity", "-Infinity"))


class InvalidRequest(ValueError):
    """Raised for a request that is not one of the method. The text is for the client."""


def quoted(name: str) -> str:
    """A name that a client has sent, for that client."""
    return json.dumps(name if len(name) <= 100 else name[:100] + "…")


def read_json(text: bytes) -> Any:
    """Parse JSON strictly. Raises `InvalidRequest`."""
    try:
        return _decode(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidRequest("The JSON is not UTF-8.") from None
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None
    except InvalidRequest:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"The JSON is malformed: {error.msg} at {where}.") from None
    except ValueError:  # an integer of thousands of digits
        raise InvalidRequest("The JSON has a number that is too long.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidRequest(f"The JSON has the key {quoted(name)} twice in one object.")
            seen.add(name)
    return made


def _float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise InvalidRequest("The JSON has a number that is too large.")
    return number


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"The JSON has {name}, which is not a JSON value; expected a string.")


_decode: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_refuse_constant).decode


class _Field(NamedTuple):
    field: Any
    values: Any
    """Field of the values of a map; else the field itself."""
    is_map: bool


@final
class JsonChecker:
    """Checks JSON against the messages of a descriptor set. It keeps what it has learned of each message."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: dict[str, Mapping[str, _Field]] = {}

    def check(self, value: Any, kind: Any, depth: int = 0) -> None:
        """Raises `InvalidRequest`. `kind`: the message that `value` is in JSON."""
        if depth > MOST_DEPTH:
            raise InvalidRequest(_TOO_DEEP)
        if kind.file.package == "google.protobuf":
            if kind.full_name in WRAPPERS and value is not None:
                self._check_value(value, kind.fields_by_name["value"], kind.full_name, depth)
            return
        if not isinstance(value, dict):
            raise InvalidRequest(f"Expected a JSON object for {kind.full_name}.")
        fields, seen = self._fields_of(kind), set()
        for name, inner in value.items():
            known = fields.get(name)
            if known is None:
                continue  # that is for the library to refuse or to ignore
            field = known.field
            if field.number in seen:
                raise InvalidRequest(f"The JSON has the field {field.name} twice, with different names.")
            seen.add(field.number)
            if inner is None:
                continue
            if known.is_map:
                if isinstance(inner, dict):
                    for key, each in inner.items():
                        self._check_key(key, field, name)
                        self._check_value(each, known.values, name, depth)
            elif field.is_repeated:
                if isinstance(inner, list):
                    for each in inner:
                        self._check_value(each, field, name, depth)
            else:
                self._check_value(inner, field, name, depth)

    def _check_value(self, value: Any, field: Any, name: str, depth: int) -> None:
        kind = field.cpp_type
        if kind == _MESSAGE:
            self.check(value, field.message_type, depth + 1)
        elif not isinstance(value, str):
            return
        elif kind in _INTEGERS or kind in _FLOATS:
            if not _IS_NUMBER(value) and not (kind in _FLOATS and value in _NO_NUMBERS):
                raise InvalidRequest(f"{quoted(value)} is not a number, for {quoted(name)}.")
        elif kind == _ENUM:
            if value not in field.enum_type.values_by_name and not _IS_INTEGER(value):
                raise InvalidRequest(f"{quoted(value)} is not a value of {field.enum_type.full_name}.")
        elif field.type == _BYTES and not (_IS_BASE64(value) and len(value.rstrip("=")) % 4 != 1):
            raise InvalidRequest(f"{quoted(name)} is not Base64.")

    def _check_key(self, key: str, field: Any, name: str) -> None:
        if field.message_type.fields_by_name["key"].cpp_type in _INTEGERS and not _IS_INTEGER(key):
            raise InvalidRequest(f"{quoted(key)} is not a number, for a key of {quoted(name)}.")

    def _fields_of(self, kind: Any) -> Mapping[str, _Field]:
        known = self._fields.get(kind.full_name)
        if known is None:
            made: dict[str, _Field] = {}
            for field in kind.fields:
                message = field.message_type
                is_map = message is not None and message.GetOptions().map_entry
                values = message.fields_by_name["value"] if is_map else field
                made[field.name] = made[field.json_name] = _Field(field, values, is_map)
            known = self._fields[kind.full_name] = made
        return known
