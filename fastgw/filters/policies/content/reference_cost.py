"""Cost of a check by the reference (jsonschema-rs), estimated from the text of a value before it is parsed.

What costs are numbers: the reference compares those that are no short integers as fractions of any size, `5` with
`12.34` in 3 us and with `1e-308` in 35, and writes `1e308` with its 309 digits. All else takes some 20 ns for a value,
and 100 to 800 where it is copied: an error has the value that it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, final

from fastgw.filters.policies.content.schema_copies import objects_in

AT_ONCE_NS: Final = 3_000_000
"""Maximum time of a check in the event loop, in nanoseconds, as it is estimated."""
_CHECKED_NS: Final = {b",": 30, b"[": 30, b"{": 30, b"&": 30, b"<": 30}
_COPIED_NS: Final = {b",": 140, b"[": 40, b"{": 40, b":": 600, b"&": 600, b"<": 600}
_SIZE_NS: Final = 5_000
_INTEGER_NS: Final = 1_500
_FRACTION_NS: Final = 4_000
_EXPONENT_NS: Final = 35_000
"""PERF: nanoseconds, as measured for each value of an array of 30 KB (CPython 3.11, jsonschema-rs 0.61): by what stands
before a value or member in JSON, forms and XML, to check it, and to copy it for an error; for a number of many digits,
written or by its exponent; and for each number of the schema that it is compared with: an integer with a fraction, a
fraction, and one with an exponent."""
_SHORTEST: Final = len(b"1e-308,")
_SHAPE: Final = bytes.maketrans(b"123456789+-E", b"00000000000e")
_BARE: Final = bytes.maketrans(b"E[]{}: \t\r\n=>&<", b"e,,,,,,,,,,,,,")
_DIGITS: Final = b"0123456789+-"
_LONG: Final = b"0" * 17
_LONG_TEXT: Final = b'"' + _LONG
_EXACT: Final = 2**53
_CONSTANTS: Final = ("const", "multipleOf")
_LIMITS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_IN_PLACE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose sub-schemas check the same value."""


class CostlyCheck(Exception):
    """A check takes longer than the event loop may wait. Whether the value conforms is not known."""


class Comparisons(NamedTuple):
    """Numbers of a schema with which one number of a value may be compared, at most."""

    all: int = 0
    fractions: int = 0
    """Number of them that are no integers below 2^53."""

    def or_of(self, other: Comparisons) -> Comparisons:
        return Comparisons(max(self.all, other.all), max(self.fractions, other.fractions))


@final
class ReferenceCost:
    """Estimate of the time that a check by the reference takes."""

    __slots__ = ("_exponent_ns", "_fraction_ns", "_integer_ns", "free_bytes")

    def __init__(self, comparisons: Comparisons) -> None:
        self._integer_ns = comparisons.fractions * _INTEGER_NS
        self._fraction_ns = comparisons.all * _FRACTION_NS
        self._exponent_ns = comparisons.all * _EXPONENT_NS
        self.free_bytes = AT_ONCE_NS * _SHORTEST // (2 * self._exponent_ns + _SIZE_NS)
        """Length of the texts that the event loop checks whatever they have."""

    def exceeds_turn(self, text: bytes, *, with_error: bool) -> bool:
        """Return whether a check takes longer than the event loop may wait. `with_error`: also to find the error, for
        which all is compared again.

        It is never less than what the text has, but what looks like numbers in its strings may count.
        PERF: 0.4 ms for 100 KB; a regular expression for the numbers takes 12 (CPython 3.11).
        """
        if len(text) <= self.free_bytes:
            return False
        times = 2 if with_error else 1
        integer_ns = times * self._integer_ns
        before_values = _COPIED_NS if with_error else _CHECKED_NS
        left = AT_ONCE_NS - sum(text.count(mark) * (ns + integer_ns) for mark, ns in before_values.items())
        if left < 0:
            return True
        exponent_ns, fraction_ns = times * self._exponent_ns + _SIZE_NS, times * self._fraction_ns
        shape = text.translate(_SHAPE)  # `,-1.5E+3` as `,00.0e00`
        left -= exponent_ns * (shape.count(_LONG) - shape.count(_LONG_TEXT))
        exponents, fractions = shape.count(b"0e0"), shape.count(b"0.0")
        if exponents * exponent_ns + fractions * fraction_ns > left:  # some may be in texts
            bare = text.translate(_BARE, _DIGITS)  # as `,.e`
            exponents = min(exponents, bare.count(b",e") + bare.count(b",.e"))
            fractions = min(fractions, bare.count(b",."), bare.count(b".,"))
        return exponents * exponent_ns + fractions * fraction_ns > left


def comparisons_in(schema: Any) -> Comparisons:
    """Return the comparisons of a schema with all sub-schemas, but not of those that its references lead to."""
    found = Comparisons()
    for each in objects_in(schema):
        numbers = list(_numbers_of(each))
        found = found.or_of(Comparisons(len(numbers), sum(map(_is_fraction, numbers))))
    return found


def comparisons_by_name(definitions: Mapping[str, Any]) -> dict[str, Comparisons]:
    """Return the comparisons of definitions, also those of the definitions that they refer to by name."""
    found = {name: comparisons_in(schema) for name, schema in definitions.items()}
    users: dict[str, list[str]] = {}
    for name, schema in definitions.items():
        for each in objects_in(schema):
            reference = each.get("$ref")
            if isinstance(reference, str):
                users.setdefault(reference.rpartition("/")[2], []).append(name)
    left = [name for name in users if name in found]
    while left:
        target = found[name := left.pop()]
        for user in users.get(name, ()):
            both = found[user].or_of(target)
            if both != found[user]:
                found[user] = both
                left.append(user)
    return found


def _numbers_of(schema: dict[str, Any]) -> Iterator[int | float]:
    """Yield the numbers with which the sub-schema compares a number exactly; integers as limits it does not."""
    choices = schema.get("enum")
    held: list[Any] = [*choices] if isinstance(choices, list) else []
    held += [schema[name] for name in _CONSTANTS if name in schema]
    held += [schema[name] for name in _LIMITS if name in schema and isinstance(schema[name], float)]
    for each in held:
        if type(each) is int or type(each) is float:
            yield each
    for name in _IN_PLACE:
        for inner in _listed(schema.get(name)):
            if isinstance(inner, dict):
                yield from _numbers_of(inner)


def _listed(held: Any) -> Iterable[Any]:
    return held if isinstance(held, list) else (held,)


def _is_fraction(number: float) -> bool:
    return type(number) is float or abs(number) >= _EXACT
