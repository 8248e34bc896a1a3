"""What every kind of load is told and gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from bench.peers.peer import Running
from bench.samples import Measured, Sample, Told


class NoAnswers(Exception):
    """A run without a single answer: there is nothing to divide by."""


@dataclass(frozen=True)
class Environment:
    """The run that a load is part of: a folder for its files, the core it may use, and all that was measured so far."""

    folder: Path
    core: int
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def median(self, contestant: str, load: str, figure: Callable[[Sample], float]) -> float | None:
        """A figure of an earlier load of this run; None if it was not measured."""
        samples = self.measured[contestant].under(load) if contestant in self.measured else []
        return median(map(figure, samples)) if samples else None


class Load(Protocol):
    """One kind of load. It drives one contestant at a time and checks every answer."""

    @property
    def name(self) -> str:
        """Its samples are kept under this name; unique in the scenario."""

    @property
    def cut_off(self) -> int:
        """How many requests its end may cut off: whether the contestant logs those is open."""

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        """Load the contestant `name`. None: this load is more than it can do, or not meant for it.

        Raises `NoAnswers`.
        """
