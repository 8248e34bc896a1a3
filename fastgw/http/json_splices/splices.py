"""JSON splices: strict check of a text, the value at a path, the elements of an array, and the union of objects.

Values keep their bytes. The compiled module `_splices` does the work without the interpreter's lock where a text is
long, so that a thread with a text of any size never makes the event loop wait. It leaves unusual short texts to this
reference; long ones that it cannot decide are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from fastgw.http.json_splices import _splices
from fastgw.http.strict_json import InvalidJson, check_json

_SPACE: Final = b" \t\r\n"
_INDEX_LENGTH: Final = 10

_TURN_NS: Final = 2_000_000
"""Maximum time in one turn of the event loop, in nanoseconds."""
_WORST_NS: Final = 25
"""Nanoseconds per byte for checking and merging an object of the shortest members, which takes longest: measured as 21
(CPython 3.11, micro/compose, "shortest members")."""
MOST_AT_ONCE: Final = _TURN_NS // _WORST_NS
"""Bytes that are processed in the event loop; longer texts in a thread."""

OF_VALUES: Final = 16
"""How many times as long work takes that makes values of a text: measured as 30 ms for 80 KB of the shortest elements,
written as XML (CPython 3.11)."""


class JsonPath(NamedTuple):
    """Steps to a value: `names` in UTF-8, for members; `indexes`, for elements: -1 for a step that is no index."""

    steps: tuple[str, ...]
    names: tuple[bytes, ...]
    indexes: tuple[int, ...]


def path_of(steps: Iterable[str], members_only: bool = False) -> JsonPath:
    """Return a path. `members_only`: no step is an index."""
    return _path_of(tuple(steps), members_only)


@lru_cache(1024)  # paths of the configuration
def _path_of(steps: tuple[str, ...], members_only: bool) -> JsonPath:
    indexes = (-1 if members_only or not _is_index(step) else int(step) for step in steps)
    return JsonPath(steps, tuple(step.encode() for step in steps), tuple(indexes))


def _is_index(step: str) -> bool:
    return len(step) < _INDEX_LENGTH and step.isascii() and step.isdecimal()


def check_text(text: bytes) -> bytes:
    """Return a JSON text without the white space around it. Raises `InvalidJson` as `strict_json.check_json` does."""
    checked = _splices.check_text(text)
    if checked is not None:
        return checked
    if len(text) > MOST_AT_ONCE:
        raise InvalidJson("not JSON in UTF-8, or with duplicate names or unusual numbers or depth")
    check_json(text)
    return text.strip(_SPACE)


def value_at(text: bytes, path: JsonPath) -> bytes | None:
    """Return the value at a path in a valid text; None: there is none."""
    return _splices.value_at(text, path.names, path.indexes)


def elements_of(text: bytes, most: int) -> list[bytes] | int | None:
    """Return the elements of an array in a valid text; their number if there are more than `most`; None: no array."""
    return _splices.elements_of(text, most)


def merge_objects(texts: Sequence[bytes]) -> bytes:
    """Return an object with the members of all these valid objects; a later one replaces those of the same name, in
    their position.
    """
    return _splices.merge_objects(tuple(texts))
