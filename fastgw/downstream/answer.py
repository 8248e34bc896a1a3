"""The bytes of an answer's head, and how this client is told where the body ends (RFC 9112 section 6)."""

from enum import IntEnum
from typing import Final

from fastgw.exchange import Exchange
from fastgw.wire import render
from fastgw.wire.framing import ResponseHead

NO_CONTENT: Final = frozenset((204, 304))
_VIA: Final = (b"Via: 1.0 fastgw\r\n", b"Via: 1.1 fastgw\r\n")


class Ending(IntEnum):
    """How the end of the body is known."""

    LENGTH = 1  # or there is no body
    CHUNKED = 2
    CLOSE = 3


def framing_of(exchange: Exchange, payload: bytes, ended: bool) -> tuple[Ending, bytes]:
    """How the body will end, and the field line that says so. `payload`: its first bytes; `ended`: all of them."""
    response = exchange.response
    assert response is not None
    head = response.head
    if head is None:
        return Ending.LENGTH, b"" if response.status in NO_CONTENT else _length(len(payload))
    if not head.has_body:
        return Ending.LENGTH, _length_without_body(exchange, head)
    if ended:
        return Ending.LENGTH, _length(len(payload))
    if not head.chunked and not head.until_close:
        return Ending.LENGTH, _length(head.length)
    if exchange.head.minor:
        return Ending.CHUNKED, b"Transfer-Encoding: chunked\r\n"
    return Ending.CLOSE, b""


def _length(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


def _length_without_body(exchange: Exchange, head: ResponseHead) -> bytes:
    if head.status == 204:
        return b""
    if b"content-length" in head.known:  # to HEAD, or with a 304: what GET would bring
        return _length(head.length)
    return b"" if exchange.method == b"HEAD" or head.status == 304 else _length(0)


def head_of(exchange: Exchange, framing: bytes, closing: bool, date_line: bytes) -> bytes:
    """The head of the response as it stands on the exchange. `date_line` is for one that has no date."""
    response = exchange.response
    assert response is not None
    head = response.head
    if head is None:
        reason = None
        block = response.headers.render(response.dropped | ResponseHead.DROPPED)
        dated = b"date" in response.headers
        added = response.added + framing
    else:
        reason = head.reason
        block = render.end_to_end(head, response.dropped)
        dated = head.first(b"date") is not None
        added = response.added + _VIA[head.minor] + framing
    if not dated:
        added += date_line
    if closing:
        added += b"Connection: close\r\n"
    elif exchange.head.minor == 0:
        added += b"Connection: keep-alive\r\n"
    return b"%b%b%b\r\n" % (render.status_line(response.status, reason), block, added)


def switching_head(exchange: Exchange) -> bytes:
    """The head of a 101 response."""
    response = exchange.response
    assert response is not None
    head = response.head
    assert head is not None
    added = response.added + _VIA[head.minor] + b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(head.upgrade)
    block = render.end_to_end(head, response.dropped)
    return b"%b%b%b\r\n" % (render.status_line(101, head.reason), block, added)
