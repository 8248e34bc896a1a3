"""Judged heads made into what goes out: the lines for the next peer only are cut out of them, and ours are put in.

The reference, in front of which its compiled twin stands where there is one (`render`).
"""

from functools import lru_cache
from http import HTTPStatus
from typing import Final

from fastgw.wire.headers import folded
from fastgw.wire.heads import RequestHead, ResponseHead

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",  # the names of RFC 9110 where the standard library still has those of RFC 7231
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode("ascii")) for status, phrase in _PHRASES.items()
}


def request(
    head: RequestHead, target: bytes, host: bytes, also: frozenset[bytes] = frozenset(), added: bytes = b""
) -> bytes:
    """The head for the upstream: the end-to-end lines of `head` less those in `also`, and `added`, ready lines."""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (head.method, target, host, end_to_end(head, also), added)


def response(
    head: ResponseHead,
    status: int,
    also: frozenset[bytes] = frozenset(),
    added: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """The head for the client, as `request` has it, with the reason that came, and the first of the body behind it."""
    return b"%b%b%b\r\n%b" % (status_line(status, head.reason), end_to_end(head, also), added, payload)


def status_line(status: int, reason: bytes | None = None) -> bytes:
    """The first line of a response. None: the usual reason phrase of `status`, or none where it has no name."""
    if reason is None:
        line = _STATUS_LINES.get(status)
        if line is not None:
            return line
        reason = b""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


@lru_cache(maxsize=64)
def _dropping(
    dropped: frozenset[bytes], known: frozenset[bytes], also: frozenset[bytes]
) -> tuple[frozenset[bytes], frozenset[bytes], bool]:
    """All names to leave out, those in `also` as `folded`, and whether all can be cut out by their place in `known`."""
    return dropped | also, frozenset(map(folded, also)), also <= known


def end_to_end(head: RequestHead | ResponseHead, also: frozenset[bytes] = frozenset()) -> bytes:
    """The field lines that go on to the next peer, without the empty line.

    Left out are hop-by-hop fields, those that `Connection` names, framing, a request's Host, and the lower-case names
    in `also` with their twins (`Fields`). Lines that stay keep their bytes, unless a filter has changed the fields.
    """
    drop, alike, by_place = _dropping(head.DROPPED, head.KNOWN, also)
    if not by_place or head.connection_named or head.edited() is not None:
        return head.fields().render(drop, alike)
    # No twins here: a request that has one of a field in `KNOWN` was refused, and those of a response that are not
    # dropped anyway have no hyphen.
    raw, at = head.raw, head.fields_start
    cuts = [line for name, lines in head.known.items() if name in drop for line in lines]
    cuts.sort()  # in line order: a name that comes again may stand behind others
    pieces = []
    for start, end, _ in cuts:
        if start > at:
            pieces.append(raw[at:start])
        at = end
    pieces.append(raw[at:-2])
    return b"".join(pieces)
