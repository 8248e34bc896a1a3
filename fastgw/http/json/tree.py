"""JSON trees: documents that are opened only where a rule looks into them.

A node is the bytes of a value as it was received, an object opened to a dictionary, or an array opened to a list
(`texts.opened`). Values that are not opened are written as they came, so numbers keep their digits. Texts are checked
before (`texts.check_text`).
"""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import msgspec
import orjson

Node: TypeAlias = "bytes | dict[str, Node] | list[Node]"
Object: TypeAlias = dict[str, Node]

_SPACE: Final = b" \t\r\n"


def rendered(node: Node) -> bytes:
    """Return the text of a node. Raises `RecursionError` for a tree that is opened deeper than orjson writes."""
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
