"""Trailers of a request: what an upstream may be told behind the body, when filters have judged what stood before it.

Rule: a trailer says nothing that the head says, nor what the head may not say. Whoever reads trailers as fields, as
many do, would believe the client what a filter has written, removed or judged. When in doubt it is left out, as any
recipient may do (RFC 9110 section 6.5.1).
"""

from fastgw.exchange import Exchange, Trailers
from fastgw.http.fields import Fields, folded


def sent_trailers(exchange: Exchange, trailers: Trailers) -> Trailers:
    """Return the trailers that go on. What must come before any body is refused when it is read: see
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
    sent = tuple(line for line in trailers if folded(line[0]) not in known)
    if exchange.peer.trusted:
        return sent
    return tuple(line for line in sent if not exchange.listener.reserved.has(line[0]))
