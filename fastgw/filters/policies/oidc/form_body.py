"""A posted form that a filter reads as a whole; it is not forwarded to the upstream."""

import asyncio
from typing import final
from urllib.parse import parse_qsl

from fastgw.exchange import Exchange
from fastgw.exchange.body_relay import MAX_KEPT, Trailers

_TYPE = b"application/x-www-form-urlencoded"


class NotRead(Exception):
    """The request has no such form. The text is the reason, without contents."""


@final
class _Whole:
    """Sink that collects the body."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.bytes = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def feed(self, payload: bytes) -> None:
        self.bytes += len(payload)
        if self.bytes <= MAX_KEPT:
            self.pieces.append(payload)
        else:
            self.end(())

    def end(self, trailers: Trailers) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def read_form(exchange: Exchange) -> dict[str, str]:
    """Read the form. Raises `NotRead`, also for a duplicate name."""
    kind = (exchange.field(b"content-type") or b"").partition(b";")[0].strip().lower()
    body = exchange.request_body
    if kind != _TYPE or body is None:
        raise NotRead("the body is not a form")
    whole = _Whole()
    if exchange.head.expects_continue and not body.bytes:
        exchange.client.send_interim(None)
    whole.feed(body.attach(whole))
    try:
        if not body.ended:
            await whole.done
    finally:
        body.detach()
    if whole.bytes > MAX_KEPT:
        raise NotRead("the form is too long")
    try:
        pairs = parse_qsl(b"".join(whole.pieces).decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise NotRead("the body is not a form") from None  # the cause would show its contents
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise NotRead("the form has a duplicate field")
    return fields
