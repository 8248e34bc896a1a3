"""JSON of clients, checked before the library converts it, which is lax where readers could differ.

It reads `"1_0"` as 10, `"***"` as no bytes, `[]` as an empty message, `"1e400"` as infinity, true as 1.0, rounds
integers with a fraction or exponent to a double, and takes the last of two names of one field. Here JSON is refused
that is malformed (RFC 8259), has a key twice, or has a value that proto3 does not have for its field; and numbers are
converted, so that they are exact.
"""

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from math import inf, isinf
from struct import Struct
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
_REALS: Final = {5: Struct("<d"), 6: Struct("<f")}
"""Formats of each kind of floating-point values."""
_MOST_DIGITS: Final = 20
"""Digits of the largest integer of 64 bits."""
_MOST_KEY: Final = 100
"""Characters of a key that is a number, with zeros at its beginning."""
_ENUM: Final = 8
_MESSAGE: Final = 10
_BOOL: Final = 7
_STRING: Final = 9
_BYTES: Final = 12  # a type, not a kind
_IS_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_IS_INTEGER: Final = re.compile(r"-?[0-9]+").fullmatch
_IS_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}").fullmatch
_ANY: Final = "google.protobuf.Any"
_IS_DURATION: Final = re.compile(r"-?[0-9]+(?:\.[0-9]{1,9})?s").fullmatch
_IS_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch
_TIMES: Final = {
    "google.protobuf.Duration": (_IS_DURATION, 'a duration such as "1.5s"'),
    "google.protobuf.Timestamp": (_IS_TIMESTAMP, 'a time (RFC 3339) such as "2026-01-31T12:00:00Z"'),
}
_SHAPES: Final[Mapping[str, tuple[type, str]]] = {
    "google.protobuf.Any": (dict, "an object"),
    "google.protobuf.Empty": (dict, "an object"),
    "google.protobuf.FieldMask": (str, 'a string such as "name,displayName"'),
    "google.protobuf.ListValue": (list, "an array"),
    "google.protobuf.Struct": (dict, "an object"),
    **{name: (str, expected) for name, (_, expected) in _TIMES.items()},
}
"""The JSON of messages that is not an object of their fields."""
_IN_VALUE: Final = WRAPPERS | _SHAPES.keys() - {"google.protobuf.Empty"} | {"google.protobuf.Value"}
"""Messages whose JSON in an Any is its `value`."""
_ESCAPES: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)", re.DOTALL
)
"""Escape sequences in JSON. The group: half of a surrogate pair."""
_NO_NUMBERS: Final = frozenset(("NaN", "Infinity", "-Infinity"))


class InvalidRequest(ValueError):
    """Raised for a request that is not one of the method. The text is for the client."""


def quoted(name: str) -> str:
    """A name that a client has sent, for that client."""
    return json.dumps(name if len(name) <= 100 else name[:100] + "…")


def read_json(text: bytes) -> Any:
    """Parse JSON strictly. Raises `InvalidRequest`."""
    try:
        characters = text.decode("utf-8")
        value = _decode(characters)
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
    # No string of a message can have it, and names with it are no text that the library can look for.
    if "\\u" in characters and any(found[1] for found in _ESCAPES.finditer(characters)):
        raise InvalidRequest("The JSON has half of a surrogate pair.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidRequest(f"The JSON has the key {quoted(name)} twice in one object.")
            seen.add(name)
    return made


class _Number(float):
    """A number with a fraction or an exponent, and its text: a double may be another number."""

    __slots__ = ("text",)
    text: str


def _number(text: str) -> _Number:
    number = _Number(text)
    if isinf(number):
        raise InvalidRequest("The JSON has a number that is too large.")
    number.text = text
    return number


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"The JSON has {name}, which is not a JSON value; expected a string.")


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_constant=_refuse_constant
).decode


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

    def check(self, value: Any, kind: Any, depth: int = 0, name: str = "") -> Any:
        """Return the value, with numbers as the library converts them exactly; an object is changed in place.

        Raises `InvalidRequest`. `kind`: the message that `value` is in JSON. `name`: of its field; "" = it has none.
        """
        if depth > MOST_DEPTH:
            raise InvalidRequest(_TOO_DEEP)
        if kind.file.package == "google.protobuf":
            if kind.full_name in WRAPPERS:
                return self._check_value(value, kind.fields_by_name["value"], name or kind.full_name, depth)
            shape, expected = _SHAPES.get(kind.full_name, (object, ""))
            if not isinstance(value, shape):
                raise InvalidRequest(f"Expected {expected} for {quoted(name or kind.full_name)}.")
            if kind.full_name == _ANY and isinstance(value, dict):
                self._check_any(value, kind.file.pool, depth, name or kind.full_name)
            is_valid, expected = _TIMES.get(kind.full_name, (None, ""))
            if is_valid is not None and isinstance(value, str) and not is_valid(value):
                raise InvalidRequest(f"{quoted(value)} is not {expected}.")
            return value
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
                if not isinstance(inner, dict):
                    raise InvalidRequest(f"Expected an object for {quoted(name)}.")
                self._check_keys(inner, field, name)
                for key, each in inner.items():
                    inner[key] = self._check_value(each, known.values, name, depth)
            elif field.is_repeated:
                if not isinstance(inner, list):
                    raise InvalidRequest(f"Expected an array for {quoted(name)}.")
                inner[:] = [self._check_value(each, field, name, depth) for each in inner]
            else:
                value[name] = self._check_value(inner, field, name, depth)
        return value

    def _check_any(self, value: dict[str, Any], pool: Any, depth: int, name: str) -> None:
        if not value:
            return
        url = value.get("@type")
        if not isinstance(url, str):
            raise InvalidRequest(f'Expected a string for "@type" in {quoted(name)}.')
        try:
            kind = pool.FindMessageTypeByName(url.rpartition("/")[2])
        except KeyError:
            raise InvalidRequest(f"The type {quoted(url)} of {quoted(name)} is unknown.") from None
        if kind.file.package != "google.protobuf":
            self.check(value, kind, depth + 1)  # no field is named @type
        elif "value" not in value:
            if kind.full_name in _IN_VALUE:
                raise InvalidRequest(f'"value" is missing in {quoted(name)}, which is a {kind.full_name}.')
        else:
            value["value"] = self.check(value["value"], kind, depth + 1)

    def _check_value(self, value: Any, field: Any, name: str, depth: int) -> Any:
        kind = field.cpp_type
        if kind == _MESSAGE:
            return self.check(value, field.message_type, depth + 1, name)
        if kind in _INTEGERS:
            return _integer(value, name)
        if kind in _REALS:
            return _real(value, _REALS[kind], name)
        if kind == _ENUM:
            return _enum_value(value, field.enum_type, name)
        if kind == _BOOL and not isinstance(value, bool):
            raise InvalidRequest(f"Expected true or false for {quoted(name)}.")
        if kind == _STRING and not isinstance(value, str):
            raise InvalidRequest(f"Expected a string for {quoted(name)}.")
        if field.type == _BYTES and not (_IS_BASE64(value) and len(value.rstrip("=")) % 4 != 1):
            raise InvalidRequest(f"{quoted(name)} is not Base64.")
        return value

    def _check_keys(self, keys: Iterable[str], field: Any, name: str) -> None:
        if field.message_type.fields_by_name["key"].cpp_type not in _INTEGERS:
            return
        seen: dict[int, str] = {}
        for key in keys:
            if not _IS_INTEGER(key) or len(key) > _MOST_KEY:
                raise InvalidRequest(f"{quoted(key)} is not a number, for a key of {quoted(name)}.")
            other = seen.setdefault(int(key), key)
            if other is not key:
                raise InvalidRequest(f"{quoted(key)} and {quoted(other)} are the same key of {quoted(name)}.")

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


def _shown(value: str | float) -> str:
    """A value that a client has sent, for that client."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)[:100]


def _integer(value: Any, name: str) -> Any:
    """Return an integer that is written with a fraction or an exponent as it is; the library checks the rest."""
    text = value.text if isinstance(value, _Number) else value
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise InvalidRequest(f"Expected an integer for {quoted(name)}.")
    if not isinstance(text, str):
        return value
    if not _IS_NUMBER(text):
        raise InvalidRequest(f"{quoted(text)} is not a number, for {quoted(name)}.")
    if _IS_INTEGER(text):
        return value
    number = _decimal(text)
    if number is None or number.adjusted() >= _MOST_DIGITS or number != number.to_integral_value():
        raise InvalidRequest(f"{quoted(text)} is not an integer of 64 bits, for {quoted(name)}.")
    return int(number)


def _decimal(text: str) -> Decimal | None:
    """Return an exact number. None: its exponent is out of the range of decimal."""
    try:
        return Decimal(text) or Decimal(0)  # without the exponent of zero
    except InvalidOperation:
        return None


def _enum_value(value: Any, kind: Any, name: str) -> Any:
    if value is None:
        return value  # which is one of google.protobuf.NullValue
    if not isinstance(value, (str, bool)):
        return _integer(value, name)
    if isinstance(value, bool) or (value not in kind.values_by_name and not _IS_INTEGER(value)):
        raise InvalidRequest(f"{_shown(value)} is not a value of {kind.full_name}.")
    return value


def _real(value: Any, format: Struct, name: str) -> Any:
    """Return a number as the float that the field holds: the shortest text of the largest one of 32 bits, which
    responses have, is a larger double.
    """
    if isinstance(value, bool) or (isinstance(value, str) and not _IS_NUMBER(value) and value not in _NO_NUMBERS):
        raise InvalidRequest(f"{_shown(value)} is not a number, for {quoted(name)}.")
    if not isinstance(value, (str, int, float)):
        raise InvalidRequest(f"Expected a number for {quoted(name)}.")
    if value in _NO_NUMBERS:
        return value
    try:
        number: float = format.unpack(format.pack(float(value)))[0]
    except OverflowError:
        number = inf
    if isinf(number):
        raise InvalidRequest(f"{_shown(value)} is too large, for {quoted(name)}.")
    return number
