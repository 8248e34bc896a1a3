from collections.abc import Mapping
from typing import Any

class Tables:
    def __init__(self, no_parameters: Mapping[str, bytes], /) -> None:
        """`no_parameters`: of a match that has none. Nothing is found before all is added and sealed."""

    def find(self, request: Any, /) -> Any:
        """Return the result of `Router.find`, or NotImplemented: the reference has to be asked.

        `request`: a `Routable`, whose host, path and method decide here.
        """

    def add_host(self, name: bytes, wildcard: bool, beyond: int, /) -> int:
        """The number of a host that is new. `beyond`: that of the host that answers what this one does not; or -1."""

    def add(self, number: int, entry: Any, /) -> None:
        """Add an entry of the reference to a host, before those that end where it does."""

    def widen(self) -> bool:
        """Do a piece of the work of making room for what is added next. False: nothing was left to do.

        What `add` and `add_host` would otherwise do in one go.
        """

    def seal(self) -> bool:
        """All is added: do a piece of the work of leaving only what finding takes. False: nothing was left to do."""

    def release(self) -> bool:
        """Free a piece of what is held; from then on the reference is asked. False: nothing was left."""
