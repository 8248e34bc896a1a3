"""What a scenario is: who takes part, what they are loaded with, what proves that all do the same, what is shown."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from bench import origin
from bench.load.load import Load
from bench.peers.peer import Peer, Running
from bench.prove import prove
from bench.samples import GIB, Sample

Form = Callable[[float], str]


def decimals(count: int) -> Form:
    return lambda value: f"{value:,.{count}f}"


TWO_DECIMALS, THREE_DECIMALS = decimals(2), decimals(3)


@dataclass(frozen=True)
class Figure:
    """A column: a figure of each sample, of which the median over the rounds is shown."""

    heading: str
    of: Callable[[Sample], float]
    form: Form = TWO_DECIMALS


CPU_US = Figure("CPU us/request", lambda s: s.cpu_us)
USER_US = Figure("user", lambda s: s.user_s / s.requests * 1e6)
SYSTEM_US = Figure("system", lambda s: s.system_s / s.requests * 1e6)
RATE = Figure("requests/s", lambda s: s.rate, decimals(0))
CORE_USED = Figure("core used", lambda s: s.cpu_s / s.seconds, lambda value: f"{value:.0%}")
CPU_PER_GIB = Figure("CPU s/GiB", lambda s: s.cpu_s / s.figures["bytes"] * GIB)
MIB_PER_S = Figure("MiB/s", lambda s: s.figures["bytes"] / s.seconds / (1 << 20), decimals(0))
P50 = Figure("p50 ms", lambda s: s.figures["p50_us"] / 1e3)
P90 = Figure("p90 ms", lambda s: s.figures["p90_us"] / 1e3)
P99 = Figure("p99 ms", lambda s: s.figures["p99_us"] / 1e3)
P999 = Figure("p99.9 ms", lambda s: s.figures["p99.9_us"] / 1e3)


def _ratio(name: str, ours: float, theirs: float) -> float:
    return ours / theirs


@dataclass(frozen=True)
class Comparison:
    """A column: a figure of each contestant beside that of its yardstick in the same round: median [least..most].

    `to`: contestant -> its yardstick; a contestant without one, or whose yardstick is not measured, gets an empty cell.
    `of`: made from the two, ours first.
    """

    heading: str
    figure: Figure
    to: Callable[[str], str | None]
    of: Callable[[str, float, float], float] = _ratio
    form: Form = THREE_DECIMALS


def ratio_to(yardstick: str, figure: Figure = CPU_US) -> Comparison:
    """The ratio of `figure` to that of one contestant."""
    return Comparison(f"{figure.heading}: ratio to {yardstick}", figure, lambda name: yardstick)


@dataclass(frozen=True)
class Table:
    """What is shown of one load."""

    load: str
    columns: Sequence[Figure | Comparison]
    title: str = ""
    """Above the table; empty: the load's name."""


class Kind(Enum):
    BARS = "cpu"
    """One figure by contestant, with its spread."""
    LINES = "latency"
    """Percentiles by contestant."""


@dataclass(frozen=True)
class Picture:
    """Drawn by `python -m bench plot`. `figure`: of bars, and what their title says."""

    kind: Kind
    load: str
    title: str
    figure: Figure = CPU_US


def _nothing(folder: Path) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    about: str
    """What the contestants do and what is sent, as a paragraph above the tables."""
    peers: Sequence[Peer]
    loads: Sequence[Load]
    """Run one after the other, each in all its rounds; a later one may build on what an earlier one measured."""
    tables: Sequence[Table]
    prove: Callable[[str, Running], None] = prove
    """Raises `NotTheSameWork` unless the contestant does all that the scenario asks for."""
    origin: Callable[[Path, int], AbstractContextManager[int]] = origin.serving
    """Started with a folder and a core; gives its port."""
    prepare: Callable[[Path], None] = _nothing
    """Writes what the loads need into the run's folder, once. `body.json`, the origin's answer, is there already."""
    fresh: bool = False
    """Whether the contestants are started anew for each round, and not warmed up: for what changes with their age."""
    rounds_of: int = 1
    """One in so many rounds is enough, where one takes long and the next tells the same."""
    parts: Callable[[], Mapping[str, float]] = dict
    """What is in fastgw's CPU time per request, in us, timed alone after the rounds: rows of the first table."""
    pictures: Sequence[Picture] = ()
    thorough: frozenset[str] = frozenset()
    """Contestants that say more of the same: `quick` leaves them out."""

    def quick(self) -> "Scenario":
        """Without those that only a thorough look needs."""
        return replace(self, peers=[peer for peer in self.peers if peer.name not in self.thorough])
