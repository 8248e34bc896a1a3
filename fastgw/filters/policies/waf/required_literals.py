"""Required literals of patterns: texts of which every match in plain text contains one. Plain text without any of them
needs no automaton.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import product
from typing import Final, NamedTuple

from fastgw.filters.policies.waf.normalization import PLAIN, SEPARATOR

PLAIN_CHARACTERS: Final = frozenset(bytes(each for each in range(256) if PLAIN(bytes((each,)))).lower() + SEPARATOR)
"""Characters of plain text in lower case, and `SEPARATOR`."""
_MOST: Final = 128
"""Maximum number of literals of a part of a pattern, and of characters of a literal."""
_MOST_OF_CLASS: Final = 12
"""Maximum number of plain characters of a class that are literals each; of more, nothing is required."""
_MOST_REQUIRED: Final = 1024
"""Maximum number of literals that alternatives require together; of more, nothing is required."""
_LONGEST: Final = 16
"""A longer literal is cut: its beginning is required as well."""
_DIGITS: Final = frozenset(b"0123456789")
_WORD: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_")
_SPACES: Final = frozenset(b" ")
_CLASSES: Final = {
    b"d": _DIGITS,
    b"w": _WORD,
    b"s": _SPACES,
    b"D": PLAIN_CHARACTERS - _DIGITS,
    b"W": PLAIN_CHARACTERS - _WORD,
    b"S": PLAIN_CHARACTERS - _SPACES,
}
_CONTROLS: Final = {b"n": 10, b"r": 13, b"t": 9, b"f": 12, b"v": 11, b"a": 7}
_ANY_CASE: Final = b"(?i)"
_QUANTIFIERS: Final = (b"*", b"+", b"?", b"{")
_DEEPEST: Final = 50
"""Maximum number of groups within each other."""


class _UnknownSyntax(Exception):
    """The pattern has syntax that is not understood here."""


class _Part(NamedTuple):
    """Literals of a part of a pattern, for its matches in plain text.

    `begins`: texts of which each match begins with one; none: there are no matches. `is_whole`: each match is one of
    them. `required`: texts of which each match contains one; None: nothing is known.
    """

    begins: frozenset[bytes]
    is_whole: bool = True
    required: frozenset[bytes] | None = None

    def literals(self) -> frozenset[bytes] | None:
        """Return the better of `required` and `begins`. None: nothing is known."""
        return _better(self.required, None if b"" in self.begins else self.begins)


_EMPTY: Final = _Part(frozenset((b"",)))
_ANYTHING: Final = _Part(frozenset((b"",)), is_whole=False)


@lru_cache(2048)
def required_literals(pattern: bytes) -> frozenset[bytes] | None:
    """Return texts of which every match of an RE2 pattern in plain text contains one. None: nothing is required, or the
    pattern is not understood. Empty: plain text has no match. The pattern may begin with `(?i)`.
    """
    text = pattern.removeprefix(_ANY_CASE)
    try:
        found = _Reader(text, folds=text != pattern).read()
    except _UnknownSyntax:
        return None
    literals = found.literals()
    return None if literals is None else frozenset(each[:_LONGEST] for each in literals)


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: bytes, *, folds: bool) -> None:
        """`folds`: letters match in lower and in upper case."""
        self._pattern, self._at, self._depth, self._folds = pattern, 0, 0, folds

    def read(self) -> _Part:
        found = self._alternatives()
        if self._at < len(self._pattern):
            raise _UnknownSyntax
        return found

    def _peek(self, length: int = 1) -> bytes:
        return self._pattern[self._at : self._at + length]

    def _take_next(self, length: int = 1) -> bytes:
        taken = self._peek(length)
        if len(taken) < length:
            raise _UnknownSyntax
        self._at += length
        return taken

    def _alternatives(self) -> _Part:
        found = [self._sequence()]
        while self._peek() == b"|":
            self._take_next()
            found.append(self._sequence())
        begins = frozenset().union(*(each.begins for each in found))
        if len(begins) > _MOST:
            begins, is_whole = _ANYTHING.begins, False
        else:
            is_whole = all(each.is_whole for each in found)
        required: set[bytes] | None = set()
        for each in found:
            literals = each.literals()
            required = None if required is None or literals is None else required | literals
            if required is not None and len(required) > _MOST_REQUIRED:
                required = None
        return _Part(begins, is_whole, None if required is None else frozenset(required))

    def _sequence(self) -> _Part:
        parts = []
        while self._peek() not in (b"", b"|", b")"):
            parts += self._repeated()
        return _joined(parts)

    def _repeated(self) -> list[_Part]:
        """Read an element and its quantifier, as parts that follow each other."""
        part = self._element()
        sign = self._peek()
        least, most = 1, 1
        if sign == b"{":
            least, most = self._counts()
        elif sign in _QUANTIFIERS:
            self._take_next()
            least, most = {b"*": (0, _MOST), b"+": (1, _MOST), b"?": (0, 1)}[sign]
        if self._peek() == b"?" and (least, most) != (1, 1):
            self._take_next()  # which of the matches is preferred does not matter
        if self._peek() in _QUANTIFIERS:
            raise _UnknownSyntax
        if (least, most) == (0, 1):
            return [_Part(part.begins | _EMPTY.begins) if part.is_whole else _ANYTHING]
        if not part.begins and not least:
            return [_EMPTY]
        return [part] * min(least, 4) + ([] if least == most <= 4 else [_ANYTHING])

    def _counts(self) -> tuple[int, int]:
        """Read `{2}`, `{2,}` or `{2,3}`."""
        end = self._pattern.find(b"}", self._at)
        least, comma, most = self._pattern[self._at + 1 : max(end, 0)].partition(b",")
        if not least.isdigit() or not (most.isdigit() or not most):
            raise _UnknownSyntax
        self._at = end + 1
        return int(least), int(most) if most else _MOST if comma else int(least)

    def _element(self) -> _Part:
        taken = self._take_next()
        if taken == b"(":
            if self._peek() == b"?" and self._take_next(2) != b"?:":
                raise _UnknownSyntax
            self._depth += 1
            if self._depth > _DEEPEST:
                raise _UnknownSyntax
            part = self._alternatives()
            self._depth -= 1
            if self._take_next() != b")":
                raise _UnknownSyntax
            return part
        if taken == b"[":
            return self._of_class(self._class())
        if taken == b".":
            return _ANYTHING
        if taken in (b"^", b"$"):
            return _ANYTHING  # they match `SEPARATOR`, too
        if taken == b"\\":
            return self._escape()
        if taken in _QUANTIFIERS:
            raise _UnknownSyntax
        return self._of_class(frozenset(taken))

    def _escape(self) -> _Part:
        if self._peek() in (b"b", b"B"):
            self._take_next()
            return _EMPTY
        if self._peek() in (b"A", b"z"):
            self._take_next()
            return _ANYTHING  # as `^` and `$`
        return self._of_class(self._escaped())

    def _escaped(self) -> frozenset[int]:
        """Read the rest of an escape, which stands for these characters."""
        taken = self._take_next()
        if taken in _CLASSES:
            return _CLASSES[taken]
        if taken in _CONTROLS:
            return frozenset((_CONTROLS[taken],))
        if taken == b"x":
            try:
                return frozenset((int(self._take_next(2), 16),))
            except ValueError:
                raise _UnknownSyntax from None
        if taken.isalnum():
            raise _UnknownSyntax
        return frozenset(taken)

    def _class(self) -> frozenset[int]:
        """Read the characters of a class, up to its end."""
        is_negated = self._peek() == b"^"
        if is_negated:
            self._take_next()
        found: set[int] = set()
        first = True
        while first or self._peek() != b"]":
            first = False
            taken = self._take_next()
            if taken == b"[" and self._peek() in (b":", b"=", b"."):
                raise _UnknownSyntax
            characters = self._escaped() if taken == b"\\" else frozenset(taken)
            if self._peek() == b"-" and self._peek(2) != b"-]":
                self._take_next()
                taken = self._take_next()
                last = self._escaped() if taken == b"\\" else frozenset(taken)
                if len(characters) != 1 or len(last) != 1:
                    raise _UnknownSyntax
                characters = frozenset(range(min(characters), max(last) + 1))
            found |= characters
        self._take_next()
        return PLAIN_CHARACTERS - self._folded(found) if is_negated else frozenset(found)

    def _folded(self, characters: Collection[int]) -> frozenset[int]:
        """Return the characters, and with `folds` their letters in lower case."""
        return frozenset(characters).union(bytes(characters).lower() if self._folds else ())

    def _of_class(self, characters: Collection[int]) -> _Part:
        """Return the literals of one of these characters."""
        plain = PLAIN_CHARACTERS & self._folded(characters)
        return _Part(frozenset(bytes((each,)) for each in plain)) if len(plain) <= _MOST_OF_CLASS else _ANYTHING


def _joined(parts: Iterable[_Part]) -> _Part:
    """Return the literals of parts that follow each other."""
    begins: frozenset[bytes] | None = None  # None: they are `held`
    held, required = _EMPTY.begins, None
    for part in parts:
        required = _better(required, part.required)
        if len(held) * len(part.begins) > _MOST or max(map(len, held), default=0) > _MOST:
            required = _better(required, _Part(held).literals())
            begins, held = held if begins is None else begins, part.begins
        else:
            held = frozenset(map(b"".join, product(held, part.begins)))
        if not part.is_whole:
            required = _better(required, _Part(held).literals())
            begins, held = held if begins is None else begins, _EMPTY.begins
    required = _better(required, _Part(held).literals())
    if required is not None and not required:
        return _Part(frozenset())
    return _Part(held, required=required) if begins is None else _Part(begins, is_whole=False, required=required)


def _better(one: frozenset[bytes] | None, other: frozenset[bytes] | None) -> frozenset[bytes] | None:
    """Return the literals that ordinary text has less often: the longer ones, or those with signs."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=lambda texts: (min(map(_rarity, texts), default=_MOST), -len(texts)))


def _rarity(text: bytes) -> int:
    return sum(1 if character in _WORD else 2 for character in text[:_LONGEST])
