"""Actions of routes that make responses of their own of those of upstreams: `compose` and `lambda`.

A filter that takes an exchange over (`translate`), such as a cache, gets their responses in the form of an upstream's,
with a head, and sends its requests by them.
"""

from collections.abc import Callable
from typing import Final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.body_relay import Relay
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import NO_CONTENT, Reply, Response, own_response
from fastgw.exchange.staged_body import fail_unheld, request_budget
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_response
from fastgw.upstream.client.call import DetachedCall

MARKS: Final = frozenset((serializer.NO_VIA,))
"""Value of `Response.dropped`: no `Via`, because the gateway is the origin of these responses."""
_MOST_FIELDS: Final = 10_000
_UNSTORED: Final = b"Cache-Control: no-store\r\n"
_UNSTORED_MARKS: Final = MARKS | {b"cache-control"}


class ResponseAction(Action):
    """Action of a route that makes responses itself, as far as a cache uses it. `marks`: markers in
    `Response.dropped`.
    """

    def __init__(self, marks: frozenset[bytes]) -> None:
        self.marks = marks

    def key_values(self, exchange: Exchange) -> list[bytes | None]:
        """Return what the response depends on in addition to route, URL and the headers that it names in `Vary`."""
        raise NotImplementedError


def is_for_cache(exchange: Exchange) -> bool:
    """Whether a filter needs a response with a head."""
    return type(exchange.client) is DetachedCall or bool(exchange.cache_status)


def send_made(exchange: Exchange, reply: Reply, stored: bool = True) -> None:
    """Answer with a response that was made of others. `stored`: whether caches of this gateway may store it."""
    if reply.fault is not None or not isinstance(reply.body, bytes) or not is_for_cache(exchange):
        exchange.reply(reply)
        return
    body = b"" if reply.status in NO_CONTENT or exchange.method == b"HEAD" else reply.body
    response = made_response(exchange, reply, len(reply.body), stored)
    exchange.response_bytes = len(body)
    exchange.respond(response, body, True)


def made_response(exchange: Exchange, reply: Reply, length: int | None, stored: bool = True) -> Response:
    """Return the response for a reply that is no fault. `length`: of its body; None: unknown."""
    if not is_for_cache(exchange):
        return own_response(reply)
    lines = b"".join(b"%b: %b\r\n" % (name, value.strip(b" \t")) for name, value in reply.fields)
    if length is not None and reply.status not in NO_CONTENT:
        lines += b"Content-Length: %d\r\n" % length
    if not stored:
        lines += _UNSTORED
    raw = b"%b%b\r\n" % (serializer.status_line(reply.status), lines)
    head = parse_response(raw, exchange.method, _MOST_FIELDS)
    return Response(reply.status, head, b"", MARKS if stored else _UNSTORED_MARKS)


def hold_body(exchange: Exchange, body: Relay, limit: str, most: int, done: Callable[[bytes], None]) -> None:
    """Receive the whole body of a request within the memory for it, which the caller releases (`forget_head`). A body
    that cannot be held is answered with the fault.

    `most`: maximum bytes. `limit`: name of the setting with this maximum. `done`: called once with the body, perhaps
    before this returns.
    """
    if body.kept is None:
        exchange.fail(Fault.INTERNAL, why="the body of the request was sent elsewhere")
        return
    if exchange.head.expects_continue and not body.bytes and not body.ended:
        exchange.client.send_interim(None)
    budget = request_budget(exchange)

    def no_room() -> None:
        body.keep_no_more()
        fail_unheld(exchange, budget.why)

    def received() -> None:
        held = b"".join(body.kept or ())
        if len(held) > body.most_kept:
            body.keep_no_more()  # first: stages release their share
        if len(held) > most:
            exchange.fail(Fault.BODY_TOO_LARGE, why=f"{limit}: the body has more than {most} bytes")
        elif body.count_held(len(held), budget):
            done(held)
        else:
            no_room()

    if body.await_head(most + 1, received, budget, no_room):
        received()
