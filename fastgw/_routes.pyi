from collections.abc import Callable, Sequence
from typing import Any

class Tables:
    def __init__(self, hosts: list[tuple[bytes, bool, int, Sequence[Any]]], match: Callable[..., Any], /) -> None:
        """`hosts`: name, whether it is a wildcard's, the number of the less specific host that goes on (-1: none), and
        the reference's entries, in match order where their paths are the same. `match`: what makes a match."""

    def find(self, host: bytes, path: bytes, method: bytes, /) -> Any:
        """What `Router.find` gives for such a request, or NotImplemented: the reference has to be asked."""
