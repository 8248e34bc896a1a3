"""Comparisons of numbers, of which the check of a text in the event loop makes few.

The reference (jsonschema-rs) compares a number with each one that an `enum` or `const` of the schema lists, as
fractions of any size: `1` in 2 us, one of 17 digits in 7, `1e-300` in 35 and more (CPython 3.11, jsonschema-rs 0.61).
128 KiB of `1.5` took 3.9 s with an `enum` of 100 numbers, 128 KiB of `1e-300` more than a second with one. Bounds such
as `minimum` take 0.02 to 0.3 us for each other number, and do not count.

The comparisons of a check are estimated: numbers of the text, wherever they are, by those that the schema lists for one
value at most.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, final
from urllib.parse import unquote

from fastgw.filters.policies.content._schema_checks import count_comparisons
from fastgw.http.json.strict import takes_long
from fastgw.json_pointer import unescaped

MOST_COMPARISONS: Final = 8000
"""Comparisons that the check of a text in the event loop makes at most: 16 ms."""
MOST_EXPONENTS: Final = 100
"""Numbers with an exponent of two digits or more that are checked in the event loop if the schema lists at most one."""
EXPONENT_COST: Final = MOST_COMPARISONS // MOST_EXPONENTS
"""Comparisons that one with such a number counts as."""
CHARACTERS_PER_COST: Final = 8
"""Characters of another number for which it counts as one comparison more."""
_IN_FORM: Final = re.compile(rb"([0-9][0-9.]*)(?:(?:[eE]|%[46]5)(?:[+-]|%2[BbDd])?([0-9]{2})?)?")
_EXPONENT_IN_FORM: Final = re.compile(rb"([0-9])(?:[eE]|%[46]5)(?:[+-]|%2[BbDd])?([0-9]{2})")
_IN_XML: Final = re.compile(rb"(?<![\w.+-])[+-]?([0-9][0-9.]*)(?:[eE][+-]?([0-9]{2})?[0-9]*)?(?![\w.])")
_EXPONENT_IN_XML: Final = re.compile(rb"(?<![\w.+-])[+-]?([0-9][0-9.]*)[eE][+-]?([0-9]{2})[0-9]*(?![\w.])")
_HIDDEN_IN_XML: Final = re.compile(rb"<!|&#0*(?:4[35689]|5[0-7]|69|101);|&#x0*(?:3[0-9]|2[BbDdEe]|[46]5);")
"""Comments, CDATA, and references to characters of numbers: a number may be written with them."""

_REFERENCES: Final = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
_OF_VALUE: Final = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
)
"""Keywords with schemas for the same value."""
_OF_ELEMENTS: Final = frozenset(("items", "prefixItems", "additionalItems", "unevaluatedItems"))
"""Keywords of which one has the schema for an element."""
_OF_MEMBERS: Final = frozenset(("properties", "additionalProperties", "unevaluatedProperties"))
"""Keywords of which one has the schema for a member."""
_BY_NAME: Final = frozenset(("dependentSchemas", "dependencies"))
_MOST_PASSES: Final = 16
"""Passes over references that lead back to themselves. Twice as many numbers with each pass are `MOST_COMPARISONS`."""


class TakesLong(Exception):
    """The check of a text takes longer than the event loop may wait. Whether the text conforms is not known."""


@final
class ComparisonLimit:
    """Limit of a validator of an event loop: comparisons for the texts of one body that are left to the reference.

    PERF: 10 instructions a byte, a fifth of compiled checks, so no other texts are searched.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_COMPARISONS

    def begin_body(self) -> None:
        """Begin with a body."""
        self._left = MOST_COMPARISONS

    def count_in(self, text: bytes, listed: int) -> None:
        """Count the comparisons for a JSON text. `listed`: by its schema (`numbers_listed`). Raises `TakesLong`."""
        self._left -= count_comparisons(text, listed, self._left)
        if self._left < 0:
            raise TakesLong


def takes_long_to_check(text: bytes, listed: int) -> bool:
    """Return whether the check of a JSON text takes longer than the event loop may wait. `listed`: numbers that its
    schema lists (`numbers_listed`).
    """
    return takes_long(text) or count_comparisons(text, listed, MOST_COMPARISONS) > MOST_COMPARISONS


def form_takes_long_to_check(text: bytes, listed: int) -> bool:
    """Return whether the check of a form takes longer than the event loop may wait: what looks like a number may be
    one, in strings, too, because fields may be JSON.
    """
    pattern = _IN_FORM if listed else _EXPONENT_IN_FORM
    return takes_long(text) or _sum_of(pattern, text, listed, MOST_COMPARISONS) > MOST_COMPARISONS


def xml_takes_long_to_check(text: bytes, listed: int) -> bool:
    """Return whether the check of XML takes longer than the event loop may wait."""
    pattern = _IN_XML if listed else _EXPONENT_IN_XML
    return (
        takes_long(text)
        or _sum_of(pattern, text, listed, MOST_COMPARISONS) > MOST_COMPARISONS
        or len(_HIDDEN_IN_XML.findall(text)) > MOST_EXPONENTS
    )


def parameters_take_long_to_check(value: Any, listed: int) -> bool:
    """Return whether the check of parameters takes longer than the event loop may wait. `value`: an array, or an object
    whose members may be arrays.
    """
    members = value.values() if isinstance(value, dict) else (value,)
    numbers = [each for held in members for each in (held if type(held) is list else (held,)) if type(each) is not str]
    if not listed and len(numbers) <= MOST_EXPONENTS:
        return False
    texts = " ".join([repr(each) for each in numbers if type(each) in (int, float)]).encode()
    return count_comparisons(texts, listed, MOST_COMPARISONS) > MOST_COMPARISONS


def _sum_of(pattern: re.Pattern[bytes], text: bytes, listed: int, most: int) -> int:
    of_exponent = EXPONENT_COST * max(listed, 1)
    found = 0
    for match in pattern.finditer(text):
        digits, exponent = match[1], match[2]
        if digits is not None:
            found += listed * (1 + len(digits) // CHARACTERS_PER_COST) if exponent is None else of_exponent
            if found > most:
                break
    return found


class _Listed(NamedTuple):
    """Numbers that a schema lists: those that a value is compared with if it is a number, and those that a number in it
    is compared with if it is an array, or an object.
    """

    for_number: int = 0
    in_array: int = 0
    in_object: int = 0

    def plus(self, other: _Listed) -> _Listed:
        """Return the numbers of two schemas for the same value."""
        return _Listed(*(min(one + another, MOST_COMPARISONS) for one, another in zip(self, other, strict=True)))


def numbers_listed(root: Any, schemas: Collection[Any]) -> list[int]:
    """Return for each schema how many numbers its `enum` and `const` list for one value, up to `MOST_COMPARISONS`.

    `root`: the valid schema that references are in. A reference that is not a JSON Pointer in it counts as all numbers
    that it lists.
    """
    targets = _targets_in_order(root, schemas)
    pointed = {reference: target for reference, target in targets.items() if target is not None}
    known: dict[str, _Listed] = {}
    if len(pointed) < len(targets):
        all_listed = _all_listed(root)
        known = dict.fromkeys(targets, _Listed(all_listed, all_listed, all_listed))
    known |= dict.fromkeys(pointed, _Listed())
    for _ in range(_MOST_PASSES):  # one and a last one, unless references lead back to themselves
        before = known.copy()
        for reference, target in pointed.items():
            known[reference] = _listed_in(target, known)
        if known == before:
            break
    return [max(_listed_in(each, known)) for each in schemas]


def _listed_in(schema: Any, known: Mapping[str, _Listed]) -> _Listed:
    """Return the numbers that a schema lists. `known`: those of the targets of references, as far as it was found."""
    if not isinstance(schema, dict):
        return _Listed()
    listed = _Listed()
    of_element = of_member = 0  # of one element or member, by the schema for its position
    for name, value in schema.items():
        if name in ("const", "enum"):
            alternatives = value if name == "enum" and isinstance(value, list) else [value]
            listed = listed.plus(_listed_by_values(alternatives))
        elif name in _REFERENCES:
            listed = listed.plus(known.get(value, _Listed()) if isinstance(value, str) else _Listed())
        elif name in _OF_VALUE:
            for each in _schemas_of(value, by_name=name in _BY_NAME):
                listed = listed.plus(_listed_in(each, known))
        elif name in _OF_ELEMENTS:
            of_element = max(of_element, *(max(_listed_in(each, known)) for each in _schemas_of(value)), 0)
        elif name in _OF_MEMBERS:
            by_name = name == "properties"
            of_member = max(
                of_member, *(max(_listed_in(each, known)) for each in _schemas_of(value, by_name=by_name)), 0
            )
        elif name == "contains":
            listed = listed.plus(_Listed(in_array=max(_listed_in(value, known))))
        elif name == "patternProperties":  # all of them may be for the same member
            for each in _schemas_of(value, by_name=True):
                listed = listed.plus(_Listed(in_object=max(_listed_in(each, known))))
    return listed.plus(_Listed(in_array=of_element, in_object=of_member))


def _listed_by_values(values: Collection[Any]) -> _Listed:
    """Return the numbers in the values of an `enum`, or of a `const`."""
    found = {int: 0, float: 0, list: 0, dict: 0}
    for each in values:
        if type(each) in found:
            found[type(each)] += _numbers_in(each)
    return _Listed(found[int] + found[float], found[list], found[dict])


def _all_listed(root: Any) -> int:
    """Return how many numbers all `enum` and `const` in a schema list, up to `MOST_COMPARISONS`."""
    count, left = 0, [root]
    while left and count < MOST_COMPARISONS:
        held = left.pop()
        if isinstance(held, dict):
            count += _numbers_in(held.get("enum")) + _numbers_in(held.get("const"))
            left += held.values()
        elif isinstance(held, list):
            left += held
    return min(count, MOST_COMPARISONS)


def _targets_in_order(root: Any, schemas: Collection[Any]) -> dict[str, Any]:
    """Return the targets of all references by reference, each after those that it refers to, unless they lead back.
    None: the target is found in another way.
    """
    base = _base_of(root)
    found: dict[str, Any] = {}
    begun: set[str] = set()
    waiting: list[tuple[str, Any, Iterator[str]]] = [("", None, _references_in([*schemas]))]
    while waiting:
        reference, target, inner = waiting[-1]
        following = next((each for each in inner if each not in begun), None)
        if following is not None:
            begun.add(following)
            target = None if base is None else _target_of(root, following, base)
            waiting.append((following, target, _references_in(target)))
            continue
        waiting.pop()
        if waiting:
            found[reference] = target
    return found


def _references_in(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        held = left.pop()
        if isinstance(held, dict):
            yield from (held[name] for name in held.keys() & _REFERENCES if isinstance(held[name], str))
            left += held.values()
        elif isinstance(held, list):
            left += held


def _target_of(root: Any, reference: str, base: str) -> Any:
    """Return the schema that a JSON Pointer leads to; None: the reference is another one, such as to an `$anchor`.
    `base`: identifier of the root.
    """
    resource, _, pointer = reference.partition("#")
    first, *steps = unquote(pointer).split("/")
    held: Any = None if first or resource not in ("", base) else root
    for step in steps:
        key = unescaped(step)
        if isinstance(held, list):
            held = held[int(key)] if key.isdecimal() and int(key) < len(held) else None
        else:
            held = held.get(key) if isinstance(held, dict) else None
    return held


def _base_of(root: Any) -> str | None:
    """Return the identifier of a schema, "" if it has none. None: a schema in it has an identifier of its own, at which
    references may begin.
    """
    if not isinstance(root, dict):
        return ""
    name = "id" if "draft-04" in str(root.get("$schema")) else "$id"
    left = [*root.values()]
    while left:
        held = left.pop()
        if isinstance(held, dict):
            if isinstance(held.get(name), str):
                return None
            left += held.values()
        elif isinstance(held, list):
            left += held
    return str(root.get(name, "")).removesuffix("#")


def _schemas_of(value: Any, *, by_name: bool = False) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    return value.values() if by_name and isinstance(value, dict) else (value,)


def _numbers_in(value: Any) -> int:
    """Return the number of numbers in a value, up to `MOST_COMPARISONS`."""
    count, left = 0, [value]
    while left and count < MOST_COMPARISONS:
        held = left.pop()
        if isinstance(held, dict | list):
            left += held.values() if isinstance(held, dict) else held
        elif type(held) in (int, float):
            count += 1
    return count
