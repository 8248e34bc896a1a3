"""The bytes of an answer's head, and how this client is told where the body ends (RFC 9112 section 6)."""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from fastgw.exchange import Exchange, Response
from fastgw.wire import render
from fastgw.wire.framing import ResponseHead

NO_CONTENT: Final = frozenset((204, 304))
_VIA: Final = (b"Via: 1.0 fastgw\r\n", b"Via: 1.1 fastgw\r\n")


class Ending(IntEnum):
    """How the end of the body is known."""

    LENGTH = 1  # or there is no body
    CHUNKED = 2
    CLOSE = 3


LENGTH, CHUNKED, CLOSE = Ending


def framing_of(exchange: Exchange, response: Response, payload: bytes, ended: bool) -> tuple[Ending, bytes]:
    """How the body will end, and the field line that says so. `payload`: its first bytes; `ended`: all of them."""
    head = response.head
    if head is None:
        return LENGTH, b"" if response.status in NO_CONTENT else _length(len(payload))
    if not head.has_body:
        return LENGTH, _length_without_body(exchange, head)
    if ended:
        return LENGTH, b"Content-Length: %d\r\n" % len(payload)
    if not head.chunked and not head.until_close:
        return LENGTH, _length(head.length)
    if exchange.head.minor:
        return CHUNKED, b"Transfer-Encoding: chunked\r\n"
    return CLOSE, b""


def _length(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


def _length_without_body(exchange: Exchange, head: ResponseHead) -> bytes:
    if head.status == 204:
        return b""
    if b"content-length" in head.known:  # to HEAD, or with a 304: what GET would bring
        return _length(head.length)
    return b"" if exchange.method == b"HEAD" or head.status == 304 else _length(0)


def answer_of(response: Response, framing: bytes, date_line: Callable[[], bytes], last: bytes, payload: bytes) -> bytes:
    """The head of a response and the first of its body.

    `framing` and `last`: lines of the connection's; `date_line`: for a response that has no date.
    """
    head = response.head
    if head is None:
        lines = response.added + framing
        if b"date" not in response.headers:
            lines += date_line()
        block = response.headers.render(response.dropped | ResponseHead.DROPPED)
        return b"%b%b%b%b\r\n%b" % (render.status_line(response.status), block, lines, last, payload)
    lines = response.added + _VIA[head.minor] + framing
    if head.first(b"date") is None:
        lines += date_line()
    return render.response(head, response.status, response.dropped, lines + last, payload)


def switching_head(exchange: Exchange) -> bytes:
    """The head of a 101 response."""
    response = exchange.response
    assert response is not None
    head = response.head
    assert head is not None
    added = response.added + _VIA[head.minor] + b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(head.upgrade)
    block = render.end_to_end(head, response.dropped)
    return b"%b%b%b\r\n" % (render.status_line(101, head.reason), block, added)
