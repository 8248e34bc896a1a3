"""Definition of a scenario: contestants, loads, verification, tables and plots."""

from collections.abc import Callable, Sequence
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
    """Column with a figure of each sample; the median over the rounds is shown."""

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
    """Column with a figure of each contestant compared with that of its reference in the same round: median [min..max].

    `to`: contestant -> its reference; without one, or if it is not measured, the cell is empty. `of`: function of the
    two figures, the contestant's first.
    """

    heading: str
    figure: Figure
    to: Callable[[str], str | None]
    of: Callable[[str, float, float], float] = _ratio
    form: Form = THREE_DECIMALS


def ratio_to(yardstick: str, figure: Figure = CPU_US) -> Comparison:
    """Return the comparison by ratio with one contestant."""
    return Comparison(f"{figure.heading}: ratio to {yardstick}", figure, lambda name: yardstick)


@dataclass(frozen=True)
class Table:
    """Table of one load."""

    load: str
    columns: Sequence[Figure | Comparison]
    title: str = ""
    """Heading; empty: the load's name."""


class Kind(Enum):
    BARS = "cpu"
    """One figure by contestant, with its spread."""
    LINES = "latency"
    """Percentiles by contestant."""


@dataclass(frozen=True)
class Picture:
    """Plot drawn by `python -m bench plot`. `figure`: of bars, and their title."""

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
    """Paragraph above the tables: the work of the contestants, and the load."""
    peers: Sequence[Peer]
    loads: Sequence[Load]
    """Loads, run one after another, each in all rounds; a later one may use results of an earlier one."""
    tables: Sequence[Table]
    prove: Callable[[str, Running], None] = prove
    """Function that raises `NotTheSameWork` unless the contestant does all of the scenario's work."""
    origin: Callable[[Path, int], AbstractContextManager[int]] = origin.serving
    """Function that starts the origin, with a folder and a core, and yields its port."""
    prepare: Callable[[Path], None] = _nothing
    """Function that writes the loads' files into the run's folder, once. `body.json`, the origin's response, already
    exists.
    """
    fresh: bool = False
    """Whether the contestants are restarted for each round, without a warm-up: for figures that depend on their age."""
    rounds_of: int = 1
    """Run one round of this many: for long rounds with stable results."""
    pictures: Sequence[Picture] = ()
    thorough: frozenset[str] = frozenset()
    """Contestants left out by `quick`."""

    def quick(self) -> "Scenario":
        """Return the scenario without contestants that only a thorough run needs."""
        return replace(self, peers=[peer for peer in self.peers if peer.name not in self.thorough])
