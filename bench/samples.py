"""Samples: one per contestant, load and round; and the conditions for a valid one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass(frozen=True)
class Told:
    """Result of a load. CPU time is divided by `requests` or `seconds`."""

    requests: int
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures by name: `p50_us`, `p90_us`, `p99_us`, `p99.9_us`; `bytes` transferred; and others of the load."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Errors and their counts. Zero is left out of the sample."""


@dataclass(frozen=True)
class Sample:
    """One contestant under one load in one round."""

    load: str
    round: int
    requests: int
    seconds: float
    cpu_s: float
    user_s: float
    system_s: float
    figures: dict[str, float]
    log_lines: int | None
    faults: dict[str, int]
    """Errors and their counts; empty for a valid run."""

    @property
    def cpu_us(self) -> float:
        """Return the CPU microseconds per request."""
        return self.cpu_s / self.requests * 1e6

    @property
    def rate(self) -> float:
        """Return the requests per second."""
        return self.requests / self.seconds


@dataclass
class Measured:
    """A contestant with its samples."""

    name: str
    version: str
    samples: list[Sample] = field(default_factory=list)

    def under(self, load: str) -> list[Sample]:
        """Return its samples under one load, in the order of the rounds."""
        return sorted((sample for sample in self.samples if sample.load == load), key=lambda sample: sample.round)

    @property
    def void(self) -> Iterator[str]:
        """Return the reasons why this contestant's numbers are void; empty = they are valid."""
        for sample in self.samples:
            for fault, count in sample.faults.items():
                yield f"{self.name}, {sample.load}, round {sample.round}: {fault}: {count}"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` per cent of `ordered` do not exceed. `ordered`: ascending, not
    empty.
    """
    rank = -(-len(ordered) * share // 100)  # ceiling
    return ordered[max(0, int(rank) - 1)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the four percentiles of every load, by the names of `Told.figures`."""
    ordered = sorted(values)
    return {f"p{share:g}_us": percentile(ordered, share) for share in (50, 90, 99, 99.9)}
