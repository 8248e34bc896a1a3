"""JSON trees: documents that are opened only where a rule looks into them.

A node is the bytes of a value as it was received, an object opened to a dictionary, or an array opened to a list
(`texts.opened`). Values that are not opened are written as they came, so numbers keep their digits. Texts are checked
before (`texts.check_text`).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import msgspec
import orjson

Node: TypeAlias = "bytes | dict[str, Node] | list[Node]"
Object: TypeAlias = dict[str, Node]

DEEPEST: Final = 254
"""Maximum number of objects and arrays within one another that `rendered` writes, as orjson does."""

_SPACE: Final = b" \t\r\n"


def is_too_deep(value: Any) -> bool:
    """Whether a decoded value has more than `DEEPEST` objects and arrays within one another."""
    level = [value]
    for _ in range(DEEPEST + 1):
        held = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for inner in held for each in inner]
        if not held:
            return False
    return True


def rendered(node: Node) -> bytes:
    """Return the text of a node. Raises `RecursionError` for a tree that is opened deeper than `DEEPEST`."""
    if isinstance(node, bytes):
        return node
    try:
        return orjson.dumps(node, default=orjson.Fragment)  # of bytes, which are written as they are
    except orjson.JSONEncodeError as error:
        raise RecursionError(str(error)) from error


def text_of(node: Node) -> bytes | None:
    """Return the text of a string, number or boolean, to be encoded for its position. None: it is another value."""
    if not isinstance(node, bytes):
        return None
    value = node.strip(_SPACE)
    begin = value[:1]
    if begin == b'"':
        try:
            return cast(str, msgspec.json.decode(value)).encode()
        except (msgspec.MsgspecError, UnicodeEncodeError):
            return None
    return None if begin in (b"{", b"[", b"n", b"") else value
