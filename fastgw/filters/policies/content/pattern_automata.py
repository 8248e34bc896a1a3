"""Simple patterns of JSON Schema as deterministic automata over ASCII, for the compiled checks of schemas.

Only what ECMA 262 and the regular expressions of the reference read the same way is taken: literals, classes, `.`,
groups, alternatives, counted and other greedy repetitions, and anchors at the ends. All else, and every character that
they may read differently, is left to the reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, final

MOST_POSITIONS: Final = 256
"""Characters of a pattern whose repetitions are written out."""
MOST_STATES: Final = 255
_MOST_LENGTH: Final = 512
_MOST_DEPTH: Final = 20
UNSURE: Final = 255
"""Class of the characters whose meaning is left to the reference."""
DEAD: Final = 0
"""State in which nothing matches any more."""
ACCEPTED: Final = 1
"""State in which all that follows matches."""

_ASCII: Final = (1 << 128) - 1
_LITERAL: Final = re.compile(r"[A-Za-z0-9 !\"#%&',/:;<=>@_`~-]")
_ESCAPED: Final = frozenset(r".-/+*?()[]{}^$|\\")
_COUNTS: Final = re.compile(r"\{([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}")


def _set_of(characters: str) -> int:
    made = 0
    for each in characters:
        made |= 1 << ord(each)
    return made


_DIGIT: Final = _set_of("0123456789")
_WORD: Final = _set_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_SPACE: Final = _set_of("\t\n\v\f\r ")
_CLASSES: Final = {
    "d": _DIGIT,
    "w": _WORD,
    "s": _SPACE,
    "D": _ASCII & ~_DIGIT,
    "W": _ASCII & ~_WORD,
    "S": _ASCII & ~_SPACE,
    "n": _set_of("\n"),
    "r": _set_of("\r"),
    "t": _set_of("\t"),
}
_ANY: Final = _ASCII & ~_set_of("\n\r")


@final
class Automaton(NamedTuple):
    """Deterministic automaton. It begins in `start`; the next state is `steps[state * class_count + classes[byte]]`."""

    classes: bytes
    class_count: int
    steps: bytes
    accepts: bytes
    """Whether a text that ends in a state matches, by state."""
    start: int


class _NotSimple(Exception):
    """A pattern is left to the reference."""


class _Part(NamedTuple):
    """Part of a pattern (Glushkov): sets of positions, as bits."""

    nullable: bool
    first: int
    last: int


def automaton_of(pattern: str) -> Automaton | None:
    """Return the automaton that finds a pattern in a text; None: it is left to the reference."""
    try:
        return _Parser(pattern).automaton()
    except _NotSimple:
        return None


@final
class _Parser:
    def __init__(self, pattern: str) -> None:
        if len(pattern) > _MOST_LENGTH:
            raise _NotSimple
        self._anchored = pattern.startswith("^")
        self._ends = pattern.endswith("$") and not _is_escaped(pattern, len(pattern) - 1)
        self._text = pattern[self._anchored : len(pattern) - self._ends]
        self._at = 0
        self._depth = 0
        self._sets: list[int] = []
        self._follow: list[int] = []
        self._unsure = 0

    def automaton(self) -> Automaton:
        whole = self._alternatives(whole=True)
        if self._at != len(self._text):
            raise _NotSimple
        return self._determined(whole)

    # the grammar

    def _alternatives(self, *, whole: bool = False) -> _Part:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise _NotSimple
        made = self._sequence()
        while self._next() == "|":
            if whole and (self._anchored or self._ends):
                raise _NotSimple  # an anchor belongs to one of them
            self._at += 1
            other = self._sequence()
            made = _Part(made.nullable or other.nullable, made.first | other.first, made.last | other.last)
        self._depth -= 1
        return made

    def _sequence(self) -> _Part:
        made = _Part(nullable=True, first=0, last=0)
        while self._next() not in ("", "|", ")"):
            made = self._joined(made, self._repeated())
        return made

    def _joined(self, one: _Part, other: _Part) -> _Part:
        for position in _positions(one.last):
            self._follow[position] |= other.first
        return _Part(
            one.nullable and other.nullable,
            one.first | other.first if one.nullable else one.first,
            one.last | other.last if other.nullable else other.last,
        )

    def _repeated(self) -> _Part:
        begin = self._at
        made = self._atom()
        sign = self._next()
        if sign not in ("*", "+", "?", "{"):
            return made
        if sign == "{":
            counts = _COUNTS.match(self._text, self._at)
            if counts is None:
                raise _NotSimple
            after = counts.end()
            least = int(counts[1])
            most = least if counts[2] is None else None if counts[3] is None else int(counts[3])
            if most is not None and (most < least or most == 0):
                raise _NotSimple
        else:
            after = self._at + 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        if self._text[after : after + 1] in ("*", "+", "?", "{") and after < len(self._text):
            raise _NotSimple
        made = self._copies(made, begin, least, most)
        self._at = after
        return made

    def _copies(self, first: _Part, begin: int, least: int, most: int | None) -> _Part:
        """Write a repetition out: `least` copies, and the optional ones. `begin`: where the repeated atom begins."""
        copies = max(least, 1) if most is None else most
        made = _optional(first) if least == 0 else first
        last = first
        for count in range(1, copies):
            self._at = begin
            last = self._atom()
            made = self._joined(made, _optional(last) if count >= least else last)
        if most is None:
            for position in _positions(last.last):
                self._follow[position] |= last.first
        return made

    def _atom(self) -> _Part:
        character = self._next()
        if character == "(":
            self._at += 1
            if self._text.startswith("?:", self._at):
                self._at += 2
            made = self._alternatives()
            if self._next() != ")":
                raise _NotSimple
            self._at += 1
            return made
        if character == "[":
            return self._position(self._class())
        if character == ".":
            self._at += 1
            self._unsure |= _set_of("\r")
            return self._position(_ANY)
        if character == "\\":
            return self._position(self._escaped())
        if not _LITERAL.fullmatch(character):
            raise _NotSimple
        self._at += 1
        return self._position(_set_of(character))

    def _class(self) -> int:
        self._at += 1
        negated = self._next() == "^"
        self._at += negated
        made = 0
        is_first = True
        while self._next() != "]":
            low = self._member(is_first=is_first)
            is_first = False
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member(is_first=False)
                if low.bit_count() != 1 or high.bit_count() != 1 or low > high:
                    raise _NotSimple
                low = (high << 1) - low  # all from low to high
            made |= low
        if not made:
            raise _NotSimple
        self._at += 1
        return _ASCII & ~made if negated else made

    def _member(self, *, is_first: bool) -> int:
        character = self._next()
        if character == "\\":
            return self._escaped()
        follows = self._text[self._at + 1 : self._at + 2]
        if character in ("&", "~", "-") and character == follows:
            raise _NotSimple  # operators of classes for some
        if character == "-" and not is_first and follows != "]":
            raise _NotSimple
        if not (_LITERAL.fullmatch(character) or (character and character in ".+*?(){}$|")):
            raise _NotSimple
        self._at += 1
        return _set_of(character)

    def _escaped(self) -> int:
        character = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if character in _CLASSES:
            return _CLASSES[character]
        if character and character in _ESCAPED:
            return _set_of(character)
        raise _NotSimple

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _position(self, characters: int) -> _Part:
        if len(self._sets) == MOST_POSITIONS:
            raise _NotSimple
        bit = 1 << len(self._sets)
        self._sets.append(characters)
        self._follow.append(0)
        return _Part(nullable=False, first=bit, last=bit)

    # from positions to states

    def _determined(self, whole: _Part) -> Automaton:
        classes, members = self._character_classes()
        count = len(members)
        if whole.nullable and not self._ends:
            return Automaton(classes, count, bytes(2 * count), b"\0\1", ACCEPTED)
        again = 0 if self._anchored else whole.first  # positions at which a match may begin later
        states: dict[tuple[int, bool], int] = {}
        steps = bytearray(bytes(count) + bytes([ACCEPTED]) * count)
        accepts = bytearray(b"\0\1")
        waiting: list[int] = []  # sets of the states whose steps are not known yet

        def state_of(positions: int, *, is_start: bool) -> int:
            if positions & whole.last and not self._ends:
                return ACCEPTED
            if not positions and not is_start and self._anchored:
                return DEAD
            key = positions, is_start
            if key not in states:
                if len(states) + 2 == MOST_STATES:
                    raise _NotSimple
                states[key] = len(states) + 2
                # a text in which an unanchored pattern may begin again matches at its end as an empty one does
                empty = whole.nullable and (is_start or not self._anchored)
                accepts.append(bool(positions & whole.last) or empty)
                waiting.append(whole.first if is_start else self._follows(positions) | again)
            return states[key]

        start = state_of(0, is_start=True)
        done = 0
        while done < len(waiting):
            reachable = waiting[done]
            done += 1
            steps += bytes(state_of(reachable & each, is_start=False) for each in members)
        return Automaton(classes, count, bytes(steps), bytes(accepts), start)

    def _follows(self, positions: int) -> int:
        made = 0
        for position in _positions(positions):
            made |= self._follow[position]
        return made

    def _character_classes(self) -> tuple[bytes, list[int]]:
        """Return the class of each byte, and for each class the positions that its characters are at."""
        classes = bytearray([UNSURE]) * 256
        numbers: dict[int, int] = {}
        for code in range(128):
            if self._unsure >> code & 1:
                continue
            at = sum(1 << position for position, each in enumerate(self._sets) if each >> code & 1)
            classes[code] = numbers.setdefault(at, len(numbers))
        return bytes(classes), list(numbers)


def _optional(part: _Part) -> _Part:
    return part._replace(nullable=True)


def _positions(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _is_escaped(text: str, index: int) -> bool:
    """Whether an odd number of backslashes is before a character."""
    before = text[:index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1
