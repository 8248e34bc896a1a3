"""Templates of parts: paths, headers and bodies with values of the request and of earlier answers.

Rule 1: a value is encoded for its position: it never adds a segment, a parameter, a header or a member. Rule 2: without
a value there is no text: `MissingValue`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from fastgw.config.base.part_templates import Pieces, TemplateVariable, parse_pieces, parse_target, variables_in
from fastgw.exchange import Exchange
from fastgw.filters.authentication.templates import Unfit, raw_value
from fastgw.http.grammar import IS_VALUE
from fastgw.http.json.tree import Node, rendered, text_of
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

_IS_PLAIN: Final = re.compile(rb"[A-Za-z0-9_-]+").fullmatch


class MissingValue(ValueError):
    """A value is missing or cannot stand in its position. The message names the variable, never its value."""


class TemplateValues(Protocol):
    """Values for one request of a part."""

    @property
    def exchange(self) -> Exchange: ...

    def item_value(self, path: tuple[str, ...]) -> bytes | None:
        """Return a value in the element of `for_each`, as JSON; None: there is none."""

    def answer_value(self, part: str, path: tuple[str, ...]) -> bytes | None:
        """Return a value in the answer of an earlier part, as JSON; None: there is none."""


@final
class RequestValues:
    """Values for a part that has no earlier ones."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def item_value(self, path: tuple[str, ...]) -> bytes | None:
        return None

    def answer_value(self, part: str, path: tuple[str, ...]) -> bytes | None:
        return None


def json_of(variable: TemplateVariable, answers: TemplateValues) -> bytes:
    """Return the value in an answer, or of the element, as JSON. Raises `MissingValue`."""
    if variable.is_item:
        found = answers.item_value(variable.path)
    else:
        found = answers.answer_value(variable.part, variable.path)
    if found is None:
        raise MissingValue(f"{{{variable.name}}} is missing")
    return found


def _text_of(variable: TemplateVariable, answers: TemplateValues) -> bytes:
    """Return the value of a variable, not encoded. Raises `MissingValue`."""
    if variable.parameter:
        value: bytes | None = unquote_to_bytes(answers.exchange.params.get(variable.parameter, b""))
    elif variable.part or variable.is_item:
        value = text_of(json_of(variable, answers))
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

    def __init__(self, text: str) -> None:
        self.pieces = parse_target(text)
        queries = (index for index, each in enumerate(self.pieces) if isinstance(each, bytes) and b"?" in each)
        self._query_from = next(queries, sys.maxsize)
        path = text.partition("?")[0]
        self._doubled = "//" in path
        literals = [piece for piece in self.pieces if isinstance(piece, bytes)]
        self._simple = not any(b"%" in piece for piece in literals)
        """Whether values of plain characters leave the path in its normal form: they complete no escape sequence."""
        self._constant = b"".join(literals) if len(literals) == len(self.pieces) else None

    def expand(self, answers: TemplateValues) -> bytes:
        """Return the target. Raises `MissingValue`."""
        if self._constant is not None:
            return self._constant
        made = b""
        simple = self._simple
        for index, piece in enumerate(self.pieces):
            if isinstance(piece, bytes):
                made += piece
                continue
            if piece.parameter and index < self._query_from:  # normal form of a path, in a path
                value = answers.exchange.params.get(piece.parameter, b"")
                if not value:
                    raise MissingValue(f"{{{piece.name}}} is missing")
            else:
                value = quote(_text_of(piece, answers), safe="").encode()
            simple = simple and (value.isalnum() or _IS_PLAIN(value) is not None)
            made += value
        if simple:
            return made
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

    __slots__ = ("_make", "variables")

    def __init__(self, text: str) -> None:
        value = json.loads(text)  # integers of any size, of which orjson makes doubles
        self._make = _compiled(value)
        self.variables: tuple[TemplateVariable, ...] = tuple(_variables_in(value))

    def expand(self, answers: TemplateValues) -> bytes:
        """Return the body. Raises `MissingValue`."""
        return rendered(self._make(answers))


def _variables_in(value: Any) -> Iterator[TemplateVariable]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _variables_in(each)
    elif isinstance(value, str):
        yield from variables_in(parse_pieces(value))


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
        constant = msgspec.json.encode(literal if isinstance(value, str) else value)
        return lambda answers: constant
    if len(pieces) == 1 and isinstance(only := pieces[0], TemplateVariable) and (only.part or only.is_item):
        variable = only
        return lambda answers: json_of(variable, answers)
    return lambda answers: _string(pieces, answers)


def _string(pieces: Pieces, answers: TemplateValues) -> bytes:
    made = b"".join(piece if isinstance(piece, bytes) else _text_of(piece, answers) for piece in pieces)
    try:
        return msgspec.json.encode(made.decode())
    except UnicodeDecodeError:
        raise MissingValue("a value in the body is not UTF-8") from None
