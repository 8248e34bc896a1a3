"""`bench/budgets.toml`: read, compared with what was counted, and renewed."""

import platform
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.check.instructions import Counts

FILE = Path(__file__).parents[1] / "budgets.toml"
WRITTEN = "# ---- From here on the file is written by `python -m bench.check --write`."
"""Ends the part of the file that people write."""
PROMISE = (
    "Instructions per call, with the compiled modules. Plain Python is the reference, and has no promise of speed."
)


@dataclass(frozen=True)
class Tolerance:
    """How much dearer than its budget a room may be and pass, as a share."""

    here: float
    elsewhere: float
    """The same where another Python, or another C library, counts: it needs other numbers of instructions by itself."""
    least: int
    """Instructions that are never too many: the smallest rooms would be held to a handful."""


@dataclass(frozen=True)
class Floor:
    """What a scenario must show: the median over the rounds of a contestant's figure beside another's in that round."""

    scenario: str
    load: str
    figure: str
    of: str
    to: str
    """Empty: the figure itself is held to `at_most`."""
    at_most: float
    aim: float | None = None
    shared_by: int | None = None
    """Held to `at_most` is the ratio; with this, the difference, divided by so many."""

    def __str__(self) -> str:
        whole = f"{self.scenario}, {self.load}, {self.figure}: {self.of}"
        if self.shared_by is not None:
            return f"{whole} less {self.to}, by {self.shared_by}"
        return f"{whole} to {self.to}" if self.to else whole

    def value(self, ours: float, theirs: float) -> float:
        return ours / theirs if self.shared_by is None else (ours - theirs) / self.shared_by


@dataclass(frozen=True)
class Budgets:
    tolerance: Tolerance
    floors: tuple[Floor, ...]
    counted_by: Mapping[str, str]
    rooms: Counts

    def beside(self, modules: Collection[str]) -> Counts:
        """Those of the rooms of other modules."""
        return {room: budget for room, budget in self.rooms.items() if room.partition(":")[0] not in modules}


@dataclass(frozen=True)
class Compared:
    """A room. None: it has no budget; or there is a budget, and no such room."""

    room: str
    counted: int | None
    budget: int | None
    fault: str
    """What is wrong; empty if all is well."""

    @property
    def change(self) -> float | None:
        """As a share of the budget."""
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
    """Each room beside its budget. `all_rooms`: a budget whose room was not counted has lost it."""
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
    """What counts depend on besides fastgw."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "c_library": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def renewed(text: str, counts: Counts, counted_by: Mapping[str, str]) -> str:
    """The file with these counts as budgets; what people wrote stays."""
    width = max((len(_quoted(room)) for room in counts), default=0)
    lines = [text.partition(WRITTEN)[0].rstrip("\n"), "", WRITTEN, "", "[counted_by]"]
    lines += [f"{name} = {_quoted(value)}" for name, value in counted_by.items()]
    lines += ["", f"# {PROMISE}", "[instructions]"]
    lines += [f"{_quoted(room):{width}} = {count}" for room, count in counts.items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string. Names of rooms and versions have neither quotes nor control characters; `read` would tell."""
    return f'"{text}"'
