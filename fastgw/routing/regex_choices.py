"""Several regular expressions, of which one automaton finds those that match a text, in one pass over it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from typing import Any, Final

import re2

from fastgw.config.base.route_patterns import re2_options

_MEMORY: Final = 8 << 20  # bytes for an automaton; RE2's default
_PIECE: Final = 32  # regular expressions that one step adds


class RegexChoices:
    """Regular expressions in an order, each with a number that says what it leads to."""

    __slots__ = ("_automaton", "_orders", "_sources", "_targets")

    def __init__(self) -> None:
        self._orders: list[tuple[int, bytes]] = []
        self._sources: list[bytes] = []
        self._targets: list[int] = []
        self._automaton: Any = None

    @property
    def sources(self) -> tuple[bytes, ...]:
        """The regular expressions, which decide the automaton."""
        return tuple(self._sources)

    def complete(self, automaton: Any) -> None:
        """`automaton`: `automaton_of` the sources, to which nothing is added any more."""
        self._automaton = automaton
        self._sources = []

    def append(self, source: bytes, target: int) -> None:
        """Add a regular expression after the others."""
        self._insert(len(self._targets), (0, b""), source, target)

    def target_of(self, order: int, shape: bytes) -> int | None:
        """Return the target of the regular expression with this place in the order and this shape, if it is there."""
        at = bisect_left(self._orders, (order, shape))
        return self._targets[at] if at < len(self._orders) and self._orders[at] == (order, shape) else None

    def insert(self, order: int, shape: bytes, source: bytes, target: int) -> None:
        """Add a regular expression before those of a higher order. `shape`: tells those of the same order apart."""
        self._insert(bisect_left(self._orders, (order, shape)), (order, shape), source, target)

    def _insert(self, at: int, order: tuple[int, bytes], source: bytes, target: int) -> None:
        self._orders.insert(at, order)
        self._sources.insert(at, source)
        self._targets.insert(at, target)

    def matching(self, text: bytes) -> tuple[list[int], bool]:
        """Return the targets of those that match, in order, and whether some of them are of the same order."""
        found = [at for at in sorted(self._automaton.Match(text)) if at < len(self._targets)]
        orders = {self._orders[at][0] for at in found}
        return [self._targets[at] for at in found], len(orders) < len(found)


def automaton_of(sources: Sequence[bytes]) -> Generator[None, None, Any]:
    """Compile regular expressions, in steps.

    RE2 does not report an automaton without enough memory, which just matches nothing; so the automaton has an
    additional pattern that matches everything, and gets more memory until that one matches. The compilation is one
    step: 1.3 ms for 500.
    """
    options = re2_options()
    options.max_mem = _MEMORY
    while True:
        automaton = re2.Set.SearchSet(options)
        for place, source in enumerate((*sources, b"")):
            automaton.Add(source)
            if not place % _PIECE:
                yield
        yield
        try:
            automaton.Compile()
        except re2.error:
            pass
        else:
            if automaton.Match(b"/"):
                return automaton
        options.max_mem *= 2
