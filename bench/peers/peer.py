"""Interface of the contestants: arguments and results, independent of the program."""

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
"""Separator of a contestant's name and its revision, when revisions are compared."""


def without_revision(name: str) -> str:
    return name.partition(AT)[0]


def routes(count: int) -> list[str]:
    """First path segments that are proxied, each a route of its own; any other path is answered 404."""
    return [f"svc{number}" for number in range(count)]


class LeftOut(Exception):
    """A contestant cannot do this scenario's work. The text has the reason."""


@dataclass(frozen=True)
class Place:
    """Resources of one contestant: its own folder, its cores, and the origin's port."""

    folder: Path
    cores: Sequence[int]
    origin_port: int


class Changes(Protocol):
    """Further configurations for a running contestant, one after another."""

    def apply(self) -> float:
        """Apply the next one; return the seconds until it is in force. Raises `NotReady`."""

    def check(self) -> float:
        """Check one without applying it; return the seconds. Raises `NotReady`."""


@dataclass(frozen=True)
class Running:
    program: Pinned
    port: int
    access_log: Path | None
    """Access log with one JSON line per request; None for a contestant without a log."""
    changes: Changes | None = None


class Peer(Protocol):
    """A program with one configuration. Peers with the same program in a scenario differ in `name`."""

    @property
    def name(self) -> str:
        """Name of its row in the tables."""

    @property
    def workers(self) -> int:
        """Number of cores."""

    def version(self) -> str | None:
        """Return the version as printed by the program; None if it is not installed. Raises `LeftOut`."""

    def running(self, place: Place) -> AbstractContextManager[Running]:
        """Run the program within the `with`; it listens when the block begins. Raises `NotReady`."""


def version_told(*command: str | Path) -> str | None:
    """Return the version number in the output of `command`, or None if there is no such program."""
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20).stdout
    except FileNotFoundError:
        return None
    number = VERSION.search(told.replace(str(command[0]), ""))  # some print their path first, with numbers
    return number[0] if number else "unknown"
