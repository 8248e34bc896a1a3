"""TOML 1.0 by the standard library, with the line of every value."""

import re
import tomllib
from typing import Any, Final

from fastgw.config.formats import syntax_messages
from fastgw.config.formats.positions import DEEPEST, Mark, Position, PositionMap, SyntaxProblem, marker
from fastgw.config.formats.syntax_messages import found_in

_BASIC = r'"(?:[^"\\\n]|\\.)*"'
_LITERAL = r"'[^'\n]*'"
_PART = rf"{_BASIC}|{_LITERAL}|[A-Za-z0-9_-]+"
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY = re.compile(rf"(?:{_PART})(?:[ \t]*\.[ \t]*(?:{_PART}))*")
_KEY_PART = re.compile(_PART)
_SCALAR = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    rf"|{_BASIC}|{_LITERAL}"
    r"|\d{4}-\d\d-\d\d \d[^\s,\]}#]*|[^\s,\]}#]+",
    re.DOTALL,
)
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_DUPLICATE = re.compile(r"Cannot (?:overwrite|mutate|redefine|declare)")
_FIRST: Final = (1, 1)

# For text that may be invalid: every token ends, and no alternative is tried twice.
_ANY_PART = r'"(?>(?:[^"\\\n]|\\.?)*)"?' + r"|'[^'\n]*+'?|[A-Za-z0-9_-]++"
_PART_OF_ANY = re.compile(_ANY_PART, re.DOTALL)
_ANY = re.compile(
    r'"""(?>(?:[^"\\]|\\.?|"(?!""))*)(?:"{3,5})?'
    r"|'''.*?(?:'{3,5}|\Z)"
    r"|#[^\n]*+"
    rf"|(?P<key>(?:{_ANY_PART})(?>(?:[ \t]*+\.[ \t]*+(?:{_ANY_PART}))*))",
    re.DOTALL,
)


def read(text: str) -> tuple[Any, bool]:
    """Return the document. TOML itself rejects duplicate keys."""
    _refuse_deep_keys(text)
    try:
        return tomllib.loads(text), False
    except ValueError as error:
        raise _flaw(text, str(error)) from error


def _flaw(text: str, said: str) -> SyntaxProblem:
    lines = text.replace("\r\n", "\n").split("\n")
    position = _POSITION.search(said)
    said = said if position is None else said[: position.start()]
    if position is None:
        mark = (0, 0)
    elif position[1]:
        mark = int(position[1]), int(position[2])
    else:  # end of the document: after the last value
        line = max((number for number, each in enumerate(lines, 1) if each.strip()), default=1)
        mark = line, len(lines[line - 1].rstrip()) + 1
        said = f"{said} [end]"
    here = lines[mark[0] - 1] if mark[0] else ""
    if _DUPLICATE.match(said):  # known after the statement, or after the key's whole value
        mark = mark[0], len(here) - len(here.lstrip()) + 1
    if here[mark[1] - 1 : mark[1]] == ":":
        said += " [colon]"
    wrong, expected, mark = found_in(syntax_messages.TOML, said, mark)
    return SyntaxProblem(f"not valid TOML: {wrong}", mark, expected)


def trace(text: str) -> PositionMap:
    """Return the positions of all values of a text that `read` accepts."""
    return PositionMap(_Tracer(text.replace("\r\n", "\n")).document())


def _refuse_deep_keys(text: str) -> None:
    """Reject deep dotted keys: the time of tomllib grows with each dot, to 15 s for a key of 64 KB."""
    for token in _ANY.finditer(text):
        key = token["key"]
        if key and key.count(".") >= DEEPEST and len(_PART_OF_ANY.findall(key)) > DEEPEST:
            raise SyntaxProblem(f"a dotted key with more than {DEEPEST} parts", marker(text)(token.start()))


class _Tracer:
    """Tracer that scans a valid text once, left to right; `_at` is the offset of the next character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._mark_at = marker(text)
        self._at = 0

    def document(self) -> Position:
        root = Position(_FIRST, _FIRST)
        table = root
        while self._peek():
            if self._peek() == "[":
                table = self._header(root)
            else:
                self._pair(table)
        return root

    def _header(self, root: Position) -> Position:
        """Read a header: `[a.b]`, or `[[a.b]]`, which appends an element to a list."""
        mark = self._mark()
        repeated = self._text.startswith("[[", self._at)
        self._at += 2 if repeated else 1
        spot = _descend(root, self._key(), mark)
        self._peek()
        self._at += 2 if repeated else 1
        if repeated:
            spot.children[len(spot.children)] = spot = Position(mark, mark)
        return spot

    def _pair(self, table: Position) -> None:
        mark = self._mark()
        *parents, name = self._key()
        self._peek()
        self._at += 1  # the equals sign
        _descend(table, parents, mark).children[name] = self._value(mark)

    def _value(self, key: Mark | None) -> Position:
        opening = self._peek()
        mark = self._mark()
        spot = Position(mark, key or mark)
        if opening not in ("[", "{"):
            self._at = self._match(_SCALAR).end()
            return spot
        self._at += 1
        while (following := self._peek()) not in ("]", "}"):
            if following == ",":
                self._at += 1
            elif opening == "{":
                self._pair(spot)
            else:
                spot.children[len(spot.children)] = self._value(None)
        self._at += 1
        return spot

    def _key(self) -> list[str]:
        self._peek()
        match = self._match(_KEY)
        self._at = match.end()
        return [next(iter(tomllib.loads(f"{part} = 0"))) for part in _KEY_PART.findall(match[0])]

    def _peek(self) -> str:
        """Return the next character that is neither whitespace nor part of a comment; "" at the end."""
        self._at = self._match(_BLANK).end()
        return self._text[self._at : self._at + 1]

    def _mark(self) -> Mark:
        return self._mark_at(self._at)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise AssertionError(f"offset {self._at}: valid TOML that was not understood")
        return match


def _descend(spot: Position, names: list[str], mark: Mark) -> Position:
    """Descend a dotted key. In an array of tables, its last element is used."""
    for name in names:
        if 0 in spot.children:
            spot = spot.children[len(spot.children) - 1]
        spot = spot.children.setdefault(name, Position(mark, mark))
    return spot
