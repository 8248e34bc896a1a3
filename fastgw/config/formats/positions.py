"""Positions of values in a file. Computed only when there is a problem: reading a valid file does not need them."""

import errno
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from fastgw.config.base.problems import Path

DEEPEST: Final = 100
"""Maximum nesting depth of mappings and lists, and maximum number of parts of a dotted key."""

OUT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the operating system when it lacks the resources to open a file."""

Mark = tuple[int, int]
"""Line and column, from 1."""


@dataclass(slots=True)
class Position:
    """Position of a value, its key and its children."""

    value: Mark
    key: Mark
    """Position of the key; `value` where there is no key."""
    children: "dict[str | int, Position]" = field(default_factory=dict)
    empty: bool = False
    """Whether the value is empty in the file, which YAML reads as null."""

    def find(self, path: Path) -> "Position":
        """Return the position of a path, or of the nearest enclosing value in the file."""
        spot = self
        for step in path:
            if step not in spot.children:
                break
            spot = spot.children[step]
        return spot


@dataclass(frozen=True, slots=True)
class Repeat:
    """A duplicate key of a mapping."""

    path: Path
    mark: Mark
    first: Mark


@dataclass(frozen=True, slots=True)
class PositionMap:
    """Positions of all values of a file."""

    root: Position
    repeats: tuple[Repeat, ...] = ()


class SyntaxProblem(Exception):
    """A syntax error in a document. `mark`: its position, if known. `expected`: the correct form, without quoting the
    document; "" = none, or it is in `wrong`.
    """

    def __init__(self, wrong: str, mark: Mark = (0, 0), expected: str = "") -> None:
        self.wrong, self.mark, self.expected = wrong, mark, expected
        super().__init__(wrong)


class MissingPackage(SyntaxProblem):
    """The file cannot be read because an optional package is not installed."""


class OutOfResources(Exception):
    """A file cannot be opened for lack of file descriptors or memory, so its contents are unknown. The text names the
    file.
    """


def marker(text: str) -> Callable[[int], Mark]:
    """Return a function from offsets in the text to marks."""
    starts = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))

    def mark(offset: int) -> Mark:
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    return mark
