from collections.abc import Mapping
from typing import Generic, TypeVar

from fastgw.routing.entry import Routable, RouteEntry
from fastgw.routing.regex_choices import RegexChoices

R = TypeVar("R")

class Finder(Generic[R]):
    """The lookup of a route table."""

    trees: tuple[RouteTree, ...] | None
    """One for each priority, the highest first. None: a subclass has a `find` of its own."""
    def find(self, request: Routable, /) -> tuple[R, Mapping[str, bytes]] | None:
        """Return the route of `request`, and the parameters of its path. None: `Router.allowed_methods` decides between
        405 and 404.
        """

def match_of(router: Finder[R], request: Routable, /) -> tuple[R, Mapping[str, bytes]] | None:
    """Return the result of `Finder.find`."""

class RouteTree:
    """The routes of one priority, by host and path. Lookups may begin when all entries are added, `choices` are
    completed and the tree is sealed.
    """

    def entries(self, request: Routable, /) -> list[tuple[RouteEntry, Mapping[str, bytes]]]:
        """Return each entry whose host and path match, and its parameters, in match order."""

    def add_host(self, name: bytes, beyond: int, /) -> int:
        """Add a host and return its number. `beyond`: number of the next less specific host, or -1."""

    def add(self, number: int, entry: RouteEntry, /) -> None:
        """Add an entry to a host: after the others if its path is a regular expression, otherwise before those that end
        at the same node.
        """

    def choices(self) -> list[RegexChoices]:
        """Return all choices between regular expressions, which have to be completed when every entry is added."""

    def widen(self, steps: int, /) -> bool:
        """Make room for an entry with this many segments, in one step. False: nothing is left to do.

        Otherwise `add` and `add_host` do it in a single step.
        """

    def seal(self) -> bool:
        """Complete the tree in steps, and free memory that only building needs. False: nothing is left to do."""

    def release(self) -> bool:
        """Free a part of the memory; nothing is found from then on. False: nothing is left to free."""
