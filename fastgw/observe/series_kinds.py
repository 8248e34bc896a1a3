"""Kinds of finished exchanges: attributes with few combinations, by which words and JSON lines are remembered."""

from typing import Any, Final, NamedTuple

from fastgw.observe.access_log.formats import json_pieces
from fastgw.observe.access_log.record import Record

MAX_KINDS: Final = 16_384


class SeriesKey(NamedTuple):
    """Key of a series: attributes with few combinations. "" = none."""

    listener: str
    route: str
    upstream: str
    target: str
    method: bytes
    """One of `METHOD_INDEXES`: clients can send any method."""
    scheme: bytes
    status: int
    fault: str
    version: int


# Attributes that vary within a kind, with a placeholder in the line.
_VARYING: Final[dict[str, Any]] = {
    "ended_date": 0.0,
    "client": "",
    "host": b"",
    "path": b"",
    "query": None,
    "request_bytes": 0,
    "response_bytes": 0,
    "duration_s": 0.0,
}


class LazyDisposal:
    """Gradual disposal of invalid cache entries: freeing all of them at once could take milliseconds."""

    def __init__(self) -> None:
        self._learned: list[dict[Any, Any]] = []

    def instead_of(self, learned: dict[Any, Any]) -> dict[Any, Any]:
        """Return an empty dictionary, and dispose of this one later."""
        if learned:
            self._learned.append(learned)
        return {}

    def thin_out(self) -> None:
        """Free up to four entries. Each new entry frees more than one old one, so the disposal ends."""
        for _ in range(4):
            if self._learned:
                self._learned[-1].popitem()
                if not self._learned[-1]:
                    self._learned.pop()


def pieces_of(kind: SeriesKey) -> tuple[bytes, ...]:
    """Return the `json_pieces` of exchanges of this kind."""
    return json_pieces(Record(**kind._asdict(), **_VARYING))
