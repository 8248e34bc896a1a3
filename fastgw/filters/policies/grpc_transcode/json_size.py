"""Size of the JSON of a message, before it is written: the library makes an object of Python for each value of it.

1 MiB of Protobuf may be 70 MiB of JSON, and a GiB of objects. `JsonSizes` counts what the JSON has at least, and stops
at a limit. Imported only where the filter is configured: it needs `fastgw[grpc]`.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, final

from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from fastgw.filters.policies.grpc_transcode.json_input import WRAPPERS

_ANY: Final = "google.protobuf.Any"
_FIXED: Final = {"google.protobuf.Timestamp": 22, "google.protobuf.Duration": 4, "google.protobuf.FieldMask": 2}
"""Least bytes of messages that are a string in JSON."""
_BARE: Final = WRAPPERS | {"google.protobuf.Value"}
"""Messages whose JSON is that of their only field."""
_NAMELESS: Final = _BARE | {"google.protobuf.Struct", "google.protobuf.ListValue"}
"""Messages whose JSON has no names of their fields."""
_ENUM, _MESSAGE, _STRING, _BOOL = 8, 10, 9, 7  # kinds of values, as the library numbers them
_WIDE: Final = frozenset((2, 4))  # kinds of 64 bits, which are strings in JSON
_BYTES: Final = 12  # a type, not a kind


class JsonTooLarge(ValueError):
    """Raised for a message whose JSON has more bytes than allowed."""


class _Field(NamedTuple):
    name: int
    """Bytes of the name, with its quotes, colon and comma."""
    unset: int
    """Bytes that the message has for it if it is not set."""
    add: Callable[["_Count", Any], None]
    """Counts its value, or all of its values."""


class _Kind(NamedTuple):
    """Message type."""

    is_nameless: bool
    empty: int
    """Bytes of a message of which no field is set; one less for a comma that the last field has not."""
    unset_values: int
    fields: dict[Any, _Field]
    """Fields that have occurred."""


@final
class _Count:
    __slots__ = ("bytes", "most", "value_bytes", "values")

    def __init__(self, most: int, value_bytes: int) -> None:
        self.bytes = self.values = 0
        self.most, self.value_bytes = most, value_bytes

    def check(self) -> None:
        if self.bytes + self.values * self.value_bytes > self.most:
            raise JsonTooLarge(f"the JSON of a message is longer than the {self.most} bytes allowed")


@final
class JsonSizes:
    """Sizes of JSON in one format. It keeps what it has learned of each message type.

    `preserves_names`: names are those of the proto file. `with_defaults`: fields that are not set are written.
    """

    __slots__ = ("_enums_as_integers", "_kinds", "_pool", "_preserves_names", "_with_defaults")

    def __init__(self, pool: Any, preserves_names: bool, with_defaults: bool, enums_as_integers: bool) -> None:
        self._pool, self._preserves_names = pool, preserves_names
        self._with_defaults, self._enums_as_integers = with_defaults, enums_as_integers
        self._kinds: dict[Any, _Kind] = {}

    def least(self, message: Any, most: int, only: Any = None, value_bytes: int = 0) -> int:
        """Return the bytes that the JSON of a message has at least, and `value_bytes` more for each of its values.

        `only`: field of the message that the JSON is the value of. Raises `JsonTooLarge` beyond `most`.
        """
        count = _Count(most, value_bytes)
        if only is None:
            self._add_message(count, message)
        else:
            for field, value in message.ListFields():
                if field is only:
                    self._field(self._kind(message.DESCRIPTOR), field).add(count, value)
        count.check()
        return count.bytes + count.values * value_bytes

    def _add_message(self, count: _Count, message: Any) -> None:
        kind = self._kind(message.DESCRIPTOR)
        listed = message.ListFields()
        known = kind.fields
        fields = [known.get(each) or self._field(kind, each) for each, _ in listed]
        count.bytes += kind.empty
        count.values += 1 + kind.unset_values
        if not kind.is_nameless:  # before any check: a value may be shorter than the default in its place
            count.bytes += sum(each.name - each.unset for each in fields)
        count.check()
        for field, (_, value) in zip(fields, listed, strict=True):
            field.add(count, value)

    def _add_any(self, count: _Count, message: Any) -> None:
        count.bytes += 2
        if not message.ListFields():
            return
        count.bytes += len(message.type_url) + len('"@type":""')
        try:
            described = self._pool.FindMessageTypeByName(message.type_url.rpartition("/")[2])
            held = message_factory.GetMessageClass(described).FromString(message.value)
        except (KeyError, DecodeError):
            return  # the library refuses it
        self._way_of_message(described)(count, held)

    def _kind(self, descriptor: Any) -> _Kind:
        known = self._kinds.get(descriptor)
        if known is None:
            is_nameless = descriptor.full_name in _NAMELESS
            known = _Kind(is_nameless, 0 if descriptor.full_name in _BARE else 1, 0, {})
            if self._with_defaults and not is_nameless:
                written = [self._field(known, field) for field in descriptor.fields if not field.has_presence]
                known = known._replace(empty=1 + sum(field.unset for field in written), unset_values=len(written))
            self._kinds[descriptor] = known
        return known

    def _field(self, kind: _Kind, field: Any) -> _Field:
        known = kind.fields.get(field)
        if known is None:
            name = field.name if self._preserves_names else field.json_name
            if field.is_extension:
                name = f"[{field.full_name}]"
            name_bytes = len(name) + len('"":,')
            unset = 0
            if self._with_defaults and not kind.is_nameless and not field.has_presence:
                unset = name_bytes + self._default_bytes(field)
            known = kind.fields[field] = _Field(name_bytes, unset, self._way_of(field))
        return known

    def _default_bytes(self, field: Any) -> int:
        if field.is_repeated or field.cpp_type == _STRING:
            return 2
        if field.cpp_type == _ENUM:
            return self._enum_sizes(field.enum_type)[field.default_value]
        return len("false") if field.cpp_type == _BOOL else 3 if field.cpp_type in _WIDE else 1

    def _way_of(self, field: Any) -> Callable[[_Count, Any], None]:
        """Return the function that counts the value of a field."""
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            add_values = self._way_of_many(message.fields_by_name["value"])
            return lambda count, value: _add_map(count, value, add_values)
        if field.is_repeated:
            return self._way_of_many(field)
        if message is not None:
            return self._way_of_message(message)
        add_many = self._way_of_many(field)
        return lambda count, value: add_many(count, (value,))

    def _way_of_message(self, kind: Any) -> Callable[[_Count, Any], None]:
        if kind.full_name == _ANY:
            return self._add_any
        fixed = _FIXED.get(kind.full_name)
        return self._add_message if fixed is None else lambda count, _: _add_fixed(count, fixed, 1)

    def _way_of_many(self, field: Any) -> Callable[[_Count, Any], None]:
        """Return the function that counts values of a field, each with a comma except the first."""
        kind = field.cpp_type
        if kind == _MESSAGE:
            add = self._way_of_message(field.message_type)
            return lambda count, values: _add_each(count, values, add)
        if kind == _STRING:
            per_byte = 4 / 3 if field.type == _BYTES else 1
            return lambda count, values: _add_fixed(
                count, 3 * len(values) + int(sum(map(len, values)) * per_byte) - 1, len(values)
            )
        if kind == _ENUM:
            sizes = self._enum_sizes(field.enum_type)
            return lambda count, values: _add_fixed(
                count, sum(map(sizes.__getitem__, values)) + len(values) - 1, len(values)
            )
        each = len("true") if kind == _BOOL else 3 if kind in _WIDE else 1
        return lambda count, values: _add_fixed(count, (each + 1) * len(values) - 1, len(values))

    def _enum_sizes(self, kind: Any) -> "_EnumSizes":
        if self._enums_as_integers:
            return _EnumSizes()
        if kind.full_name == "google.protobuf.NullValue":
            return _EnumSizes({0: len("null")})
        # Of names for the same number (`allow_alias`) the first one is written.
        return _EnumSizes({value.number: len(value.name) + 2 for value in reversed(kind.values)})


@final
class _EnumSizes(dict[int, int]):
    """Bytes of each value of an enum. One without a name is a number."""

    def __missing__(self, number: int) -> int:
        return 1


def _add_fixed(count: _Count, size: int, values: int) -> None:
    count.bytes += size
    count.values += values


def _add_each(count: _Count, values: Iterable[Any], add: Callable[[_Count, Any], None]) -> None:
    for each in values:
        add(count, each)
        count.bytes += 1
        count.check()
    count.bytes -= 1


def _add_map(count: _Count, given: Any, add_values: Callable[[_Count, Any], None]) -> None:
    keys = list(given)
    if keys:
        count.bytes += sum(map(len, keys)) if isinstance(keys[0], str) else len(keys)
        count.bytes += len('"":') * len(keys)
        add_values(count, given.values())
