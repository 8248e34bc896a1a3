"""JSON (RFC 8259), with detection of duplicate keys."""

import json
import re
from typing import Any, NoReturn

from fastgw.config.formats import syntax_messages
from fastgw.config.formats.positions import Mark, Position, PositionMap, Repeat, SyntaxProblem, marker
from fastgw.config.formats.syntax_messages import found_in

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(rf'(?P<key>{_STRING})\s*:|(?P<close>[}}\]])|(?P<open>[{{\[])|{_STRING}|[^\s,"{{}}\[\]]+')


def read(text: str) -> tuple[Any, bool]:
    """Return the document, and whether it has a duplicate key (the first one counts; `trace` finds its position)."""
    repeats = False

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        held = dict(pairs)
        if len(held) < len(pairs):
            repeats = True
            held = dict(reversed(pairs))
        return held

    try:
        document = json.loads(text, object_pairs_hook=mapping, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        wrong, expected, mark = found_in(syntax_messages.JSON, error.msg, (error.lineno, error.colno))
        raise SyntaxProblem(f"not valid JSON: {wrong}", mark, expected) from error
    except ValueError as error:  # a number with thousands of digits
        raise SyntaxProblem(f"not valid JSON: {error}") from error
    if "\\u" in text:
        _refuse_lone_surrogates(document)
    return document, repeats


def trace(text: str) -> PositionMap:
    """Return the positions of all values of a text that `read` accepts."""
    mark_at = marker(text)
    repeats = []
    root = Position((1, 1), (1, 1))
    open_spots: list[Position] = []
    path: list[str | int] = []  # of the innermost open mapping or list
    key: tuple[str, Mark] | None = None
    for token in _TOKEN.finditer(text):
        mark = mark_at(token.start())
        if token["key"]:
            key = json.loads(token["key"]), mark
            continue
        if token["close"]:
            open_spots.pop()
            path = path[:-1]
            continue
        name: str | int
        if not open_spots:
            root = spot = Position(mark, mark)
            name = ""
        else:
            siblings = open_spots[-1].children
            name, key_mark = key or (len(siblings), mark)
            spot = Position(mark, key_mark)
            if name in siblings:
                repeats.append(Repeat((*path[1:], name), key_mark, siblings[name].key))
            else:
                siblings[name] = spot
        key = None
        if token["open"]:
            open_spots.append(spot)
            path.append(name)
    return PositionMap(root, tuple(repeats))


def _refuse_constant(name: str) -> NoReturn:
    raise SyntaxProblem(f"not valid JSON: {name}")


def _refuse_lone_surrogates(document: Any) -> None:
    """Raise an error for a lone surrogate written as an escape, which UTF-8 cannot represent."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SyntaxProblem("not valid JSON: unpaired surrogate") from error
