"""JSON splices: strict check of a text, the value at a path, the elements of an array, and the union of objects.

Values keep their bytes. The compiled module `_splices` does the work without the interpreter's lock where a text is
long, so that a thread with a text of any size never makes the event loop wait. It leaves unusual short texts to this
reference; long ones that it cannot decide are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from fastgw.compiled import twin
from fastgw.http import json_tree
from fastgw.http.strict_json import InvalidJson, check_json

_SPACE: Final = b" \t\r\n"
_INDEX_LENGTH: Final = 10
_compiled: Any = twin("fastgw.http.json_splices._splices")

_TURN_NS: Final = 2_000_000
"""Maximum time in one turn of the event loop, in nanoseconds."""
_WORST_NS: Final = 60 if _compiled is None else 25
"""Nanoseconds per byte for checking and merging an object of the shortest members, which takes longest: measured as 57
and 21 (CPython 3.11, micro/compose, "shortest members")."""
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
    if _compiled is not None:
        checked = _compiled.check_text(text)
        if checked is not None:
            return cast(bytes, checked)
        if len(text) > MOST_AT_ONCE:
            raise InvalidJson("not JSON in UTF-8, or with duplicate names or unusual numbers or depth")
    check_json(text)
    return text.strip(_SPACE)


def value_at(text: bytes, path: JsonPath) -> bytes | None:
    """Return the value at a path in a valid text; None: there is none."""
    if _compiled is not None:
        return cast("bytes | None", _compiled.value_at(text, path.names, path.indexes))
    node: json_tree.Node = text
    for step, index in zip(path.steps, path.indexes, strict=True):
        node = json_tree.opened(node)
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and 0 <= index < len(node):
            node = node[index]
        else:
            return None
    return cast(bytes, node).strip(_SPACE)


def elements_of(text: bytes, most: int) -> list[bytes] | int | None:
    """Return the elements of an array in a valid text; their number if there are more than `most`; None: no array."""
    if _compiled is not None:
        return cast("list[bytes] | int | None", _compiled.elements_of(text, most))
    held = json_tree.opened(text)
    if not isinstance(held, list):
        return None
    return len(held) if len(held) > most else cast("list[bytes]", held)


def merge_objects(texts: Sequence[bytes]) -> bytes:
    """Return an object with the members of all these valid objects; a later one replaces those of the same name, in
    their position.
    """
    if _compiled is not None:
        return cast(bytes, _compiled.merge_objects(tuple(texts)))
    merged: json_tree.Object = {}
    for text in texts:
        merged.update(cast(json_tree.Object, json_tree.opened(text)))
    return json_tree.rendered(merged)
