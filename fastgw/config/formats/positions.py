"""Positions of values in a file. Looked up only when something is wrong: reading a file alone does not need it."""

import errno
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from fastgw.config.base.problems import Path

DEEPEST: Final = 100
"""How many mappings and lists may stand in each other, and how many parts a dotted key may have."""

OUT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the system when it has no resources left to open a file with."""

Mark = tuple[int, int]
"""Line and column, from 1."""


@dataclass(slots=True)
class Position:
    """Position of one value, of its key, and of the values in it."""

    value: Mark
    key: Mark
    """Position of the key; `value` where there is no key."""
    children: "dict[str | int, Position]" = field(default_factory=dict)
    empty: bool = False
    """Whether the value is empty in the file, which YAML takes for null."""

    def find(self, path: Path) -> "Position":
        """The spot of a path, or of the nearest enclosing value that is in the file."""
        spot = self
        for step in path:
            if step not in spot.children:
                break
            spot = spot.children[step]
        return spot


@dataclass(frozen=True, slots=True)
class Repeat:
    """A key that a mapping already has."""

    path: Path
    mark: Mark
    first: Mark


@dataclass(frozen=True, slots=True)
class PositionMap:
    """Positions of all values of a file."""

    root: Position
    repeats: tuple[Repeat, ...] = ()


class SyntaxProblem(Exception):
    """A text that cannot be read in its format. `mark`: where, as far as it is known. `expected`: the correct form, in
    words that quote nothing of the text; "" = there is nothing to say, or `wrong` says it.
    """

    def __init__(self, wrong: str, mark: Mark = (0, 0), expected: str = "") -> None:
        self.wrong, self.mark, self.expected = wrong, mark, expected
        super().__init__(wrong)


class MissingPackage(SyntaxProblem):
    """The file cannot be read before a package is installed."""


class OutOfResources(Exception):
    """A file cannot be opened for want of descriptors or memory: nothing is known of the file. The text names it."""


def marker(text: str) -> Callable[[int], Mark]:
    """Return a function from offsets in the text to marks."""
    starts = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))

    def mark(offset: int) -> Mark:
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    return mark
