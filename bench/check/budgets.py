"""`bench/budgets.toml`: read, compared with counts, and updated."""

import platform
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.check.instructions import Counts

FILE = Path(__file__).parents[1] / "budgets.toml"
WRITTEN = "# ---- From here on the file is written by `python -m bench.check --write`."
"""End of the hand-written part of the file."""
PROMISE = "Instructions per call."


@dataclass(frozen=True)
class Tolerance:
    """Allowed excess over a budget, as a share."""

    here: float
    elsewhere: float
    """The same for another version of Python or of the C library, whose instruction counts differ."""
    least: int
    """Number of instructions that is always allowed: for the smallest microbenchmarks a share would be a handful."""


@dataclass(frozen=True)
class Floor:
    """Requirement on a scenario: median over the rounds of a contestant's figure compared with another's in the same
    round.
    """

    scenario: str
    load: str
    figure: str
    of: str
    to: str
    """Contestant to compare with, or `CONTESTANT under LOAD`: its figure under another load. Empty: `at_most` applies
    to the figure itself.
    """
    at_most: float
    aim: float | None = None
    shared_by: int | None = None
    """`at_most` applies to the ratio; with this, to the difference divided by this number."""

    def __str__(self) -> str:
        whole = f"{self.scenario}, {self.load}, {self.figure}: {self.of}"
        if self.shared_by is not None:
            return f"{whole} less {self.to}, by {self.shared_by}"
        return f"{whole} to {self.to}" if self.to else whole

    @property
    def yardstick(self) -> tuple[str, str]:
        """Return the contestant to compare with, and its load."""
        contestant, _, load = self.to.partition(" under ")
        return contestant, load or self.load

    def value(self, ours: float, theirs: float) -> float:
        return ours / theirs if self.shared_by is None else (ours - theirs) / self.shared_by


@dataclass(frozen=True)
class Budgets:
    tolerance: Tolerance
    floors: tuple[Floor, ...]
    counted_by: Mapping[str, str]
    rooms: Counts

    def beside(self, modules: Collection[str]) -> Counts:
        """Return the budgets of other modules."""
        return {room: budget for room, budget in self.rooms.items() if room.partition(":")[0] not in modules}


@dataclass(frozen=True)
class Compared:
    """A microbenchmark and its budget. None: no budget, or no such microbenchmark."""

    room: str
    counted: int | None
    budget: int | None
    fault: str
    """Return the error; "" = none."""

    @property
    def change(self) -> float | None:
        """Return the change as a share of the budget."""
        return self.counted / self.budget - 1 if self.counted is not None and self.budget else None


def read(text: str) -> Budgets:
    document: dict[str, Any] = tomllib.loads(text)
    return Budgets(
        tolerance=Tolerance(**document["tolerance"]),
        floors=tuple(Floor(*each) for each in document["floors"]),
        counted_by=document.get("counted_by", {}),
        rooms=document.get("instructions", {}),
    )


def compare(counts: Counts, budgets: Budgets, counted_by: Mapping[str, str], *, all_rooms: bool) -> Iterator[Compared]:
    """Compare counts with budgets. `all_rooms`: report budgets without a microbenchmark."""
    tolerance = budgets.tolerance
    share = tolerance.here if counted_by == budgets.counted_by else tolerance.elsewhere
    for room, counted in counts.items():
        budget = budgets.rooms.get(room)
        if budget is None:
            fault = "has no budget"
        elif counted > budget + max(budget * share, tolerance.least):
            fault = f"{counted - budget:,} instructions ({counted / budget - 1:+.1%}) over its budget"
        else:
            fault = ""
        yield Compared(room, counted, budget, fault)
    if all_rooms:
        for room in budgets.rooms.keys() - counts.keys():
            yield Compared(room, None, budgets.rooms[room], "has a budget, and there is no such room")


def counter() -> dict[str, str]:
    """Return everything that affects counts apart from fastgw."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "c_library": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def renewed(text: str, counts: Counts, counted_by: Mapping[str, str]) -> str:
    """Return the file with these counts as budgets; the hand-written part is kept."""
    width = max((len(_quoted(room)) for room in counts), default=0)
    lines = [text.partition(WRITTEN)[0].rstrip("\n"), "", WRITTEN, "", "[counted_by]"]
    lines += [f"{name} = {_quoted(value)}" for name, value in counted_by.items()]
    lines += ["", f"# {PROMISE}", "[instructions]"]
    lines += [f"{_quoted(room):{width}} = {count}" for room, count in counts.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a TOML string. Names and versions contain neither quotes nor control characters; `read` would fail."""
    return f'"{text}"'
