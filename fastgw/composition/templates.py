"""Templates of parts: paths, headers and bodies with values of the request and of earlier answers.

Rule 1: a value is encoded for its position: it never adds a segment, a parameter, a header or a member. Rule 2: without
a value there is no text: `MissingValue`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, final
from urllib.parse import quote, unquote_to_bytes

import msgspec
import orjson

from fastgw.config.base.part_templates import Pieces, TemplateVariable, parse_pieces, parse_target
from fastgw.exchange import Exchange
from fastgw.filters.authentication.templates import Unfit, raw_value
from fastgw.http.grammar import IS_VALUE
from fastgw.http.json_tree import Node, rendered, text_of, value_at
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize


class MissingValue(ValueError):
    """A value is missing or cannot stand in its position. The message names the variable, never its value."""


class TemplateValues(Protocol):
    """Values for one request of a part."""

    @property
    def exchange(self) -> Exchange: ...
    @property
    def item(self) -> Node | None:
        """Element of `for_each`."""

    def answer(self, part: str) -> Node | None:
        """Return the answer of an earlier part; None: it has failed."""


@final
class RequestValues:
    """Values for a part that has no earlier ones."""

    __slots__ = ("exchange",)

    item: Final[Node | None] = None

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def answer(self, part: str) -> Node | None:
        return None


def node_of(variable: TemplateVariable, answers: TemplateValues) -> Node:
    """Return the value in an answer, or of the element. Raises `MissingValue`."""
    root = answers.item if variable.is_item else answers.answer(variable.part)
    found = None if root is None else value_at(root, variable.path)
    if found is None:
        raise MissingValue(f"{{{variable.name}}} is missing")
    return found


def _text_of(variable: TemplateVariable, answers: TemplateValues) -> bytes:
    """Return the value of a variable, not encoded. Raises `MissingValue`."""
    if variable.parameter:
        value: bytes | None = unquote_to_bytes(answers.exchange.params.get(variable.parameter, b""))
    elif variable.part or variable.is_item:
        value = text_of(node_of(variable, answers))
        if value is None:
            raise MissingValue(f"{{{variable.name}}} is no string, number or boolean")
    else:
        try:
            value = raw_value(variable.name)(answers.exchange)
        except Unfit as unfit:
            raise MissingValue(str(unfit)) from None
    if not value:
        raise MissingValue(f"{{{variable.name}}} is missing")
    return value


class TargetTemplate:
    """Template of a path with its query."""

    __slots__ = ("_doubled", "_pieces", "_query_from")

    def __init__(self, text: str) -> None:
        self._pieces = parse_target(text)
        queries = (index for index, each in enumerate(self._pieces) if isinstance(each, bytes) and b"?" in each)
        self._query_from = next(queries, sys.maxsize)
        self._doubled = "//" in text.partition("?")[0]

    def expand(self, answers: TemplateValues) -> bytes:
        """Return the target. Raises `MissingValue`."""
        made = b""
        for index, piece in enumerate(self._pieces):
            if isinstance(piece, bytes):
                made += piece
            elif piece.parameter and index < self._query_from:  # normal form of a path, in a path
                value = answers.exchange.params.get(piece.parameter, b"")
                if not value:
                    raise MissingValue(f"{{{piece.name}}} is missing")
                made += value
            else:
                made += quote(_text_of(piece, answers), safe="").encode()
        path = made.partition(b"?")[0]
        try:
            normal = normalize(path)
        except Malformed as malformed:
            raise MissingValue(f"the path cannot be sent: {malformed.reason}") from None
        if normal != path or (b"//" in path and not self._doubled):
            raise MissingValue("a value in the path is a dot segment, or has an empty one")
        return made


def header_value(pieces: Pieces, answers: TemplateValues) -> bytes:
    """Return the value of a header. Raises `MissingValue`."""
    made = b""
    for piece in pieces:
        if isinstance(piece, bytes):
            made += piece
            continue
        value = _text_of(piece, answers)
        if not IS_VALUE(value) or value != value.strip(b" \t"):
            raise MissingValue(f"{{{piece.name}}} is not allowed in a header")
        made += value
    return made


class Body:
    """Template of a JSON body: values in it are replaced, and nothing is added to its structure."""

    __slots__ = ("_make",)

    def __init__(self, text: str) -> None:
        self._make = _compiled(orjson.loads(text))

    def expand(self, answers: TemplateValues) -> bytes:
        """Return the body. Raises `MissingValue`."""
        return rendered(self._make(answers))


def _compiled(value: Any) -> Callable[[TemplateValues], Node]:
    if isinstance(value, dict):
        members = [(name, _compiled(each)) for name, each in value.items()]
        return lambda answers: {name: make(answers) for name, make in members}
    if isinstance(value, list):
        elements = [_compiled(each) for each in value]
        return lambda answers: [make(answers) for make in elements]
    pieces = parse_pieces(value) if isinstance(value, str) else ()
    if not any(isinstance(piece, TemplateVariable) for piece in pieces):
        literal = b"".join(piece for piece in pieces if isinstance(piece, bytes)).decode()
        constant = orjson.dumps(literal if isinstance(value, str) else value)
        return lambda answers: constant
    if len(pieces) == 1 and isinstance(only := pieces[0], TemplateVariable) and (only.part or only.is_item):
        variable = only
        return lambda answers: node_of(variable, answers)
    return lambda answers: _string(pieces, answers)


def _string(pieces: Pieces, answers: TemplateValues) -> bytes:
    made = b"".join(piece if isinstance(piece, bytes) else _text_of(piece, answers) for piece in pieces)
    try:
        return msgspec.json.encode(made.decode())
    except UnicodeDecodeError:
        raise MissingValue("a value in the body is not UTF-8") from None
