"""What every contestant is told and gives back, so that the measurement need not know which one it drives."""

import re
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.processes import Pinned

HERE = Path(__file__).parent
HOST = "api.example.com"
VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


AT = " @"
"""Between the name of a contestant and its revision, where revisions are compared."""


def without_revision(name: str) -> str:
    return name.partition(AT)[0]


def routes(count: int) -> list[str]:
    """First path elements that are proxied, each a route of its own; anything else is answered 404."""
    return [f"svc{number}" for number in range(count)]


class LeftOut(Exception):
    """A contestant cannot do this scenario's work. The text says why."""


@dataclass(frozen=True)
class Place:
    """Where one contestant runs: its own folder, the cores it may use, and the origin's port."""

    folder: Path
    cores: Sequence[int]
    origin_port: int


class Changes(Protocol):
    """Other configurations that a running contestant can be given, one after another."""

    def apply(self) -> float:
        """Give it the next one; seconds until it serves by it. Raises `NotReady`."""

    def check(self) -> float:
        """Seconds that it takes to find one right, and to change nothing. Raises `NotReady`."""


@dataclass(frozen=True)
class Running:
    program: Pinned
    port: int
    access_log: Path | None
    """One JSON line per request; None for a contestant that keeps no log."""
    changes: Changes | None = None


class Peer(Protocol):
    """A program with one configuration. Peers of the same program in one scenario differ in `name`."""

    @property
    def name(self) -> str:
        """Its row in the tables."""

    @property
    def workers(self) -> int:
        """How many cores it gets."""

    def version(self) -> str | None:
        """As the program tells it; None if it is not installed. Raises `LeftOut`."""

    def running(self, place: Place) -> AbstractContextManager[Running]:
        """Run it until the block ends, listening when the block begins. Raises `NotReady`."""


def version_told(*command: str | Path) -> str | None:
    """The version number in what `command` prints, or None if there is no such program."""
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20).stdout
    except FileNotFoundError:
        return None
    number = VERSION.search(told.replace(str(command[0]), ""))  # some tell their path first, and that has numbers too
    return number[0] if number else "unknown"
