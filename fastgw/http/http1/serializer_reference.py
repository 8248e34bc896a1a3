"""Serializer of parsed heads: hop-by-hop lines are removed, and the gateway's own lines are added.

This is the reference of the compiled module, which is used if available (`serializer`).
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from fastgw.http.field_names import FORWARDING, HOP_BY_HOP
from fastgw.http.fields import Fields, folded, without_fields
from fastgw.http.grammar import IS_TOKEN
from fastgw.http.http1.parser import Http1RequestHead, Http1ResponseHead
from fastgw.http.messages import AS_DECLARED, Head, RequestHead, ResponseHead
from fastgw.http.reason_phrases import STATUS_LINES

_LINE: Final = re.compile(rb"([^:\r\n]++):[^\n]*+\n")
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


def request(
    head: RequestHead,
    target: bytes | None = None,
    host: bytes | None = None,
    also: frozenset[bytes] = frozenset(),
    added: bytes = b"",
    payload: bytes = b"",
    request_id: bytes = b"",
    length: int = AS_DECLARED,
) -> bytes:
    """Return the head for the upstream, followed by the first bytes of the body, framed.

    It contains the end-to-end lines of `head` without those in `also`, `added` (serialized lines), its framing, and
    `Via` unless `NO_VIA` is in `also`. `target` and `host` None: as sent by the client. `request_id`: if not empty, it
    is the only value of `X-Request-Id`. `length`: of the body, or `UNFRAMED`, `IN_CHUNKS`, `AS_DECLARED`. Fields of
    `FORWARDING` that were set or removed in the fields of `head` are sent as they are there.
    """
    if request_id:
        sent = head.values(REQUEST_ID)
        if sent != [request_id]:
            added += id_line(request_id)
            if sent:
                also |= REQUEST_IDS
    if target is None:
        target = head.request_target
    edited = head.edited()
    if host is None:
        host = head.host_as_sent if edited is None else (head.first(b"host") or head.host_as_sent).removesuffix(b":")
    if edited is not None and (chosen := FORWARDING & edited.taken):  # a filter's, in place of the gateway's own
        also, added = frozenset(name for name in also if folded(name) not in chosen), without_fields(added, chosen)
    if length == AS_DECLARED:
        declared = head.body_length
        length = IN_CHUNKS if declared is None else declared if head.sized else UNFRAMED
    line = head.method, b" ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n"
    via = b"" if NO_VIA in also else VIA[head.version]
    kept = _end_to_end_pieces(head, Http1RequestHead, also)
    return b"".join((*line, *kept, added, _framing(length), via, b"\r\n", payload))


def _framing(length: int) -> bytes:
    """Return the line that frames a body of `length`, which may be a marker."""
    if length >= 0:
        return b"Content-Length: %d\r\n" % length
    return CHUNKED_LINE if length == IN_CHUNKS else b""


def response(
    head: ResponseHead,
    status: int,
    also: frozenset[bytes] = frozenset(),
    added: bytes = b"",
    payload: bytes = b"",
    length: int = UNFRAMED,
    date_line: Callable[[], bytes] | None = None,
    last: bytes = b"",
    request_id: bytes = b"",
) -> bytes:
    """Return the head for the client, as in `request`, followed by the first bytes of the body.

    `status`: if it differs from the received one, it is sent with the standard reason phrase. `length`: of the body, or
    `UNFRAMED`, or `IN_CHUNKS`. `date_line`: returns the `Date` line for a response without one. `last`: serialized
    lines after all others. `request_id`: as in `request`.
    """
    if request_id:
        added += id_line(request_id)
        if head.edited() is not None or head.first(REQUEST_ID) is not None:
            also |= REQUEST_IDS
    date = b""
    if date_line is not None and head.first(b"date") is None:
        date = date_line()
    line = status_line(status, head.reason if status == head.status else None)
    offer = b"" if status != UPGRADE_REQUIRED else upgrade_offer(head.values(b"upgrade"))
    ours = added, b"" if NO_VIA in also else VIA[head.version], _framing(length), date, offer, last, b"\r\n"
    return b"".join((line, *_end_to_end_pieces(head, Http1ResponseHead, also), *ours, payload))


def whole(
    head: Http1ResponseHead,
    date_line: Callable[[], bytes],
    last: bytes,
    also: frozenset[bytes] = frozenset(),
    added: bytes = b"",
    request_id: bytes = b"",
    changed: bytes | None = None,
) -> bytes:
    """Return a response that was received completely (`Http1ResponseHead.whole`), for the client; equal to `response`
    with its body, or with `changed` in place of it.
    """
    payload = head.payload if changed is None else changed
    assert payload is not None
    return response(head, head.status, also, added, payload, len(payload), date_line, last, request_id)


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


class _Dropped(NamedTuple):
    """Fields that are left out of heads of one kind."""

    names: frozenset[bytes]
    alike: frozenset[bytes]
    """Names that are left out together with their twins, as `folded`."""
    by_place: bool
    """Whether all can be removed by their position in `known`."""


@lru_cache(maxsize=64)
def _dropped(kind: type[Any], also: frozenset[bytes]) -> _Dropped:
    by_place = also <= kind.KNOWN
    # A twin of a response's `X-Request-Id` does no harm: it is kept in both cases.
    named = also if b"host" in kind.DROPPED else also - REQUEST_IDS
    return _Dropped(kind.DROPPED | also, names_alike(named), by_place)


@lru_cache(maxsize=64)
def names_alike(names: frozenset[bytes]) -> frozenset[bytes]:
    """Return the `folded` names of header lines to leave out, without the markers that filters add."""
    return frozenset(folded(name) for name in names if IS_TOKEN(name))


def end_to_end(head: Head, also: frozenset[bytes] = frozenset()) -> bytes:
    """Return the field lines that are forwarded to the next peer, without the empty line.

    Hop-by-hop fields, those that `Connection` names, framing, a request's Host, and the lower-case names in `also` with
    their twins (`Fields`) are left out. Other lines keep their bytes, unless a filter has changed the fields.
    """
    kind = Http1ResponseHead if hasattr(head, "status") else Http1RequestHead
    return b"".join(_end_to_end_pieces(head, kind, also))


def _end_to_end_pieces(
    message: Head, kind: type[Http1RequestHead | Http1ResponseHead], also: frozenset[bytes]
) -> Sequence[bytes]:
    """Return the pieces of `end_to_end`. `kind`: the kind of message whose hop-by-hop fields are left out."""
    drop, alike, by_place = _dropped(kind, also)  # type: ignore[arg-type]  # a class is hashable
    if message.edited() is not None:
        return [message.fields().render(drop, alike)]
    head = cast("Http1RequestHead | Http1ResponseHead", message)  # others are not sent as received
    if head.connection_named:
        return [head.fields().render(drop, alike)]
    raw, at = head.raw, head.fields_start
    if by_place:
        # No twins here: a request with a twin of a field in `KNOWN` was refused, and names of a response that are not
        # dropped anyway have no hyphen, except `X-Request-Id`, where a twin does no harm.
        cuts = [line for name, lines in head.known.items() if name in drop for line in lines]
        cuts.sort()  # in line order: a repeated name may come after others
    else:
        lines = _LINE.finditer(raw, at)
        cuts = [(*line.span(), b"") for line in lines if line[1].lower() in drop or folded(line[1]) in alike]
    pieces = []
    for start, end, _ in cuts:
        if start > at:
            pieces.append(raw[at:start])
        at = end
    pieces.append(raw[at:-2])
    return pieces
