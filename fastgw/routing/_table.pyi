from collections.abc import Mapping
from typing import Any

class Finder:
    """Lookup part of a `Router`: uses the compiled tables, and `find_in_turn` for the rest."""

    compiled: Any
    def find(self, request: Any, /) -> Any:
        """Return the result of `Router.find`."""

def match_of(router: Any, request: Any, /) -> Any:
    """Return the result of `Router.find`. `router`: a `Finder`."""

class Tables:
    def __init__(self, no_parameters: Mapping[str, bytes], /) -> None:
        """`no_parameters`: parameters of a match without any. Lookups find nothing until all entries are added and
        sealed.
        """

    def find(self, request: Any, /) -> Any:
        """Return the result of `Router.find`, or NotImplemented: call the reference.

        `request`: a `Routable`, of which host, path and method are used.
        """

    def add_host(self, name: bytes, wildcard: bool, beyond: int, /) -> int:
        """Add a host and return its number. `beyond`: number of the next less specific host, or -1."""

    def add(self, number: int, entry: Any, /) -> None:
        """Add an entry of the reference to a host, before entries that end at the same node."""

    def widen(self) -> bool:
        """Grow the tables for the next entries, in one step. False: nothing is left to do.

        Otherwise `add` and `add_host` grow them in a single step.
        """

    def seal(self) -> bool:
        """Complete the table in steps, and free memory that only building needs. False: nothing is left to do."""

    def release(self) -> bool:
        """Free a part of the memory; lookups use the reference from then on. False: nothing is left to free."""
