"""Lines of HTTP/1 that the gateway writes itself, and chunks."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.fields import Fields, folded
from fastgw.http.grammar import IS_TOKEN
from fastgw.http.reason_phrases import STATUS_LINES

VIA: Final = MappingProxyType({10: b"Via: 1.0 fastgw\r\n", 11: b"Via: 1.1 fastgw\r\n", 20: b"Via: 2 fastgw\r\n"})
"""The `Via` line for a message received in this version (RFC 9110 section 7.6.3)."""
NO_VIA: Final = b"via:off"
"""Marker among the dropped names: no `Via` of the gateway is added. It is not a name: received `Via` lines are kept."""
CHUNKED_LINE: Final = b"Transfer-Encoding: chunked\r\n"
REQUEST_ID: Final = b"x-request-id"
REQUEST_IDS: Final = frozenset((REQUEST_ID,))
UPGRADE_REQUIRED: Final = 426
"""The status whose `Upgrade` is sent on: it says which protocols the client may ask for (RFC 9110 section 15.5.22)."""
UNFRAMED: Final = -1
"""Marker in place of a body's length: the response has none, or it ends with the connection."""
IN_CHUNKS: Final = -2
LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(payload: bytes) -> bytes:
    """Return one chunk; empty for an empty payload, because an empty chunk would be the last one."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the last chunk, with the trailers."""
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % line for line in trailers)


def upgrade_offer(protocols: Sequence[bytes]) -> bytes:
    """Return the lines of a 426 that name protocols, and none without any: `Upgrade` belongs to a connection, so that
    of this one says so too (RFC 9110 section 7.8).
    """
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(protocols) if any(protocols) else b""


def own_lines(status: int, fields: Fields, dropped: frozenset[bytes]) -> bytes:
    """Return the field lines of a response of the gateway itself: without `dropped` names and hop-by-hop fields."""
    block = fields.render(dropped | HOP_BY_HOP, names_alike(dropped) if dropped else ())
    return block if status != UPGRADE_REQUIRED else block + upgrade_offer(fields.get_all(b"upgrade"))


def id_line(request_id: bytes) -> bytes:
    """Return the line with the id of a request."""
    return b"X-Request-Id: %b\r\n" % request_id


def status_line(status: int, reason: bytes | None = None) -> bytes:
    """Return the first line of a response. None: the standard reason phrase of `status`, or none."""
    if reason is None:
        line = STATUS_LINES.get(status)
        if line is not None:
            return line
        reason = b""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


@lru_cache(maxsize=64)
def names_alike(names: frozenset[bytes]) -> frozenset[bytes]:
    """Return the `folded` names of header lines to leave out, without the markers that filters add."""
    return frozenset(folded(name) for name in names if IS_TOKEN(name))
