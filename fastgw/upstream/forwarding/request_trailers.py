"""Request trailers: the fields that may be forwarded after the body, although filters have only checked the head.

Rule: a trailer is dropped if its name occurs in the head, or must not occur there. Many servers merge trailers into the
header fields, and would accept from the client a value that a filter has written, removed or checked. Dropping is
always allowed (RFC 9110 section 6.5.1). A digest is dropped if a filter has changed the body, as it is from the head.
"""

from typing import Final

from fastgw.exchange import Exchange, Trailers
from fastgw.http.field_names import DIGESTS
from fastgw.http.fields import Fields, folded
from fastgw.http.http1.reserved_fields import OWN_FIELDS

TE_TRAILERS: Final = b"Connection: TE\r\nTE: trailers\r\n"
"""Header lines that say to the target that trailers are accepted (RFC 9110 section 10.1.4)."""


def sent_trailers(exchange: Exchange, trailers: Trailers) -> Trailers:
    """Return the trailers that are forwarded. Fields that are not allowed in trailers are rejected by the parser: see
    `http.http1.body`.
    """
    if not trailers:
        return trailers
    head = exchange.head
    known = {folded(name) for name in (*exchange.request_dropped, *head.received_names())}
    known.update(folded(name) for name, _ in Fields.parse(exchange.request_added, 0))
    edited = head.fields()
    known.update(folded(name) for name, _ in edited)
    known |= edited.taken
    body = exchange.request_body
    if body is not None and body.changed:
        known |= DIGESTS
    sent = tuple(line for line in trailers if folded(line[0]) not in known)
    reserved = OWN_FIELDS if exchange.peer.trusted else exchange.listener.reserved
    return tuple(line for line in sent if not reserved.has(line[0]))
