"""JSON trees: documents that are opened only where a rule looks into them.

A node is the bytes of a value as it was received, an object opened to a dictionary, or an array opened to a list.
Values that are not opened are written as they came, so numbers keep their digits. Texts are checked before
(`http.strict_json`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec
import orjson

Node: TypeAlias = "bytes | dict[str, Node] | list[Node]"
Object: TypeAlias = dict[str, Node]

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_INDEX_LENGTH: Final = 10
_SPACE: Final = b" \t\r\n"


def opened(node: Node) -> Node:
    """Return a node with its members or elements accessible. A plain value stays bytes."""
    if not isinstance(node, bytes):
        return node
    begin = node.lstrip(_SPACE)[:1]
    if begin == b"{":
        return {name: bytes(raw) for name, raw in _MEMBERS.decode(node).items()}
    if begin == b"[":
        return [bytes(raw) for raw in _ELEMENTS.decode(node)]
    return node


def value_at(node: Node, path: Sequence[str], open_node: Callable[[Node], Node] = opened) -> Node | None:
    """Return the value at a path of names and indexes; None: there is none. Values on the way are opened in place by
    `open_node`, so that each is parsed once.
    """
    held = open_node(node) if path and isinstance(node, bytes) else node
    for position, step in enumerate(path, 1):
        index: int = -1
        if isinstance(held, dict):
            if step not in held:
                return None
            found = held[step]
        elif isinstance(held, list) and len(step) < _INDEX_LENGTH and step.isdecimal() and int(step) < len(held):
            index = int(step)
            found = held[index]
        else:
            return None
        if position < len(path) and isinstance(found, bytes):
            found = open_node(found)
            if isinstance(held, dict):
                held[step] = found
            else:
                held[index] = found
        held = found
    return held


def rendered(node: Node) -> bytes:
    """Return the text of a node."""
    if isinstance(node, bytes):
        return node
    pieces: list[bytes] = []
    _render(node, pieces)
    return b"".join(pieces)


def _render(node: Node, pieces: list[bytes]) -> None:
    if isinstance(node, bytes):
        pieces.append(node)
    elif isinstance(node, dict):
        begin = b"{"
        for name, inner in node.items():
            pieces.append(begin + orjson.dumps(name) + b":")
            _render(inner, pieces)
            begin = b","
        pieces.append(b"}" if node else b"{}")
    else:
        begin = b"["
        for inner in node:
            pieces.append(begin)
            _render(inner, pieces)
            begin = b","
        pieces.append(b"]" if node else b"[]")


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


def node_of(value: Any) -> Node:
    """Return the node of a plain value."""
    return orjson.dumps(value)
