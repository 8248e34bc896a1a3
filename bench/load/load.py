"""Interface of all loads: arguments and results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from bench.peers.peer import Running
from bench.samples import Measured, Sample, Told


class NoAnswers(Exception):
    """A run without any response: there is nothing to divide by."""


@dataclass(frozen=True)
class Environment:
    """The run of a load: folder for files, core to use, and all earlier results."""

    folder: Path
    core: int
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def median(self, contestant: str, load: str, figure: Callable[[Sample], float]) -> float | None:
        """Return the median of a figure of an earlier load in this run; None if it was not measured."""
        samples = self.measured[contestant].under(load) if contestant in self.measured else []
        return median(map(figure, samples)) if samples else None


class Load(Protocol):
    """A load. It loads one contestant at a time and checks every response."""

    @property
    def name(self) -> str:
        """Name of its samples, unique in the scenario."""

    @property
    def cut_off(self) -> int:
        """Number of requests that its end may cut off: contestants may or may not log them."""

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        """Load the contestant `name`. None: it cannot handle this load, or the load is not meant for it.

        Raises `NoAnswers`.
        """
