"""Kinds of finished exchanges: attributes with few combinations, by which words and JSON lines are remembered."""

from typing import Any, Final, NamedTuple

from fastgw.observe.access_log.formats import json_pieces
from fastgw.observe.access_log.record import Record

MOST_SORTS: Final = 4096
"""Maximum number of sorts that are found by their attributes, and share their pieces. Others live on while one of the
recorder's places has them.
"""


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


def pieces_of(kind: SeriesKey) -> tuple[bytes, ...]:
    """Return the `json_pieces` of exchanges of this kind."""
    return json_pieces(Record(**kind._asdict(), **_VARYING))
