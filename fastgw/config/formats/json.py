"""JSON (RFC 8259), with detection of duplicate keys."""

import json
import re
import sys
from collections.abc import Callable
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

    def refuse(constant: str) -> NoReturn:
        expected = "expected a number, or a string in quotes"
        raise _problem_at(text, lambda token: token.startswith(constant), constant, expected)

    try:
        document = json.loads(text, object_pairs_hook=mapping, parse_constant=refuse)
    except json.JSONDecodeError as error:
        wrong, expected, mark = found_in(syntax_messages.JSON, error.msg, (error.lineno, error.colno))
        raise SyntaxProblem(f"not valid JSON: {wrong}", mark, expected) from error
    except ValueError as error:  # a number with thousands of digits
        most = sys.get_int_max_str_digits()
        wrong, expected = "a number with too many digits", f"expected at most {most}"
        is_too_long = re.compile(rf"-?[0-9]{{{most + 1},}}").fullmatch
        raise _problem_at(text, lambda token: is_too_long(token) is not None, wrong, expected) from error
    if "\\u" in text:
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            expected = r"expected the escapes of whole pairs, such as \ud83d\ude00"
            raise _problem_at(text, _has_lone_surrogate, "an unpaired surrogate", expected) from error
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


def _problem_at(text: str, is_wrong: Callable[[str], bool], wrong: str, expected: str) -> SyntaxProblem:
    """Return the problem of the first token that is wrong."""
    starts = (token.start() for token in _TOKEN.finditer(text) if is_wrong(token["key"] or token[0]))
    return SyntaxProblem(f"not valid JSON: {wrong}", marker(text)(next(starts)), expected)


def _has_lone_surrogate(token: str) -> bool:
    """Whether a string has a lone surrogate written as an escape, which UTF-8 cannot represent."""
    if "\\u" not in token:
        return False
    try:
        json.loads(token).encode()
    except UnicodeEncodeError:
        return True
    return False
