"""Status listener: `/livez`, `/readyz` and `/metrics`, read-only, one request per connection.

The control process serves it; while control is dead or hangs, a worker does. All resources are bounded: a request head
of at most `HEAD_MAX` bytes within `HEAD_TIMEOUT` seconds, a response that is read within `ANSWER_TIMEOUT`, and
`CONNECTIONS_MAX` connections; beyond them, the oldest connection without a request is closed.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, cast

from fastgw.admin.host_check import is_of_status
from fastgw.config.settings.gateway import Status
from fastgw.http.http1.parser import find_head_end, parse_request
from fastgw.http.http1.serializer import status_line
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead

HEAD_MAX: Final = 8192
HEAD_TIMEOUT: Final = 2.0
"""Seconds from the opening of a connection to the end of the request head."""
ANSWER_TIMEOUT: Final = 10.0
"""Seconds from then to the end of the connection."""
CONNECTIONS_MAX: Final = 64

_TEXT: Final = b"text/plain; charset=utf-8"
_OTHER_HOST: Final = (
    b"The Host header must be an address, a name that is not public, or the host of the status listener. "
    b"To use another name, list it in `status.hosts`.\n"
)
Page = tuple[int, bytes, bytes]
"""Status, content type and body."""
Metrics = Callable[[bytes], tuple[bytes, bytes]]
"""Function from the Accept header to content type and text of the metrics."""


class StatusPages:
    """Pages of the status listener, and its connections."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        metrics: Callable[[bytes], tuple[bytes, bytes] | asyncio.Future[tuple[bytes, bytes]]],
        settings: Callable[[], Status | None],
        notes: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Create the pages. `metrics`: as `Metrics`, may be a coroutine. `notes`: returns what is wrong with a gateway
        that is ready.
        """
        self._is_ready, self._notes, self._settings = is_ready, notes, settings
        self._metrics = metrics
        self._pages: dict[bytes, Callable[[], Page]] = {
            b"/livez": lambda: (200, _TEXT, b"alive\n"),
            b"/readyz": self._readiness,
        }
        self.asking: dict[StatusConnection, None] = {}
        """Connections without a complete request head, oldest first."""
        self.answered: set[StatusConnection] = set()
        """Connections whose response has not been read completely."""

    def answer(self, head: RequestHead, send: Callable[[bytes], None]) -> None:
        """Send the response to a request. A request body is not read: the connection ends with the response."""
        status = self._settings()
        if status is not None and head.authority and not is_of_status(head.authority.decode("latin-1"), status):
            send(_response(head.method, (403, _TEXT, _OTHER_HOST)))
        elif head.method not in (b"GET", b"HEAD"):
            send(_response(head.method, (405, _TEXT, b"GET and HEAD only\n"), b"Allow: GET, HEAD\r\n"))
        elif head.path == b"/metrics":
            self._expose(head, send)
        else:
            page = self._pages.get(head.path)
            send(_response(head.method, page() if page else (404, _TEXT, b"/livez, /readyz or /metrics\n")))

    def _readiness(self) -> Page:
        if not self._is_ready():
            return 503, _TEXT, b"not ready\n"
        return 200, _TEXT, "".join(f"{line}\n" for line in ("ready", *self._notes())).encode()

    def _expose(self, head: RequestHead, send: Callable[[bytes], None]) -> None:
        found = self._metrics(head.first(b"accept") or b"")
        if isinstance(found, tuple):
            send(_response(head.method, (200, *found)))
            return

        def summed_up(done: asyncio.Future[tuple[bytes, bytes]]) -> None:
            if done.cancelled() or done.exception() is not None:
                send(_response(head.method, (503, _TEXT, b"the metrics are unavailable\n")))
            else:
                send(_response(head.method, (200, *done.result())))

        found.add_done_callback(summed_up)


def _response(method: bytes, page: Page, fields: bytes = b"") -> bytes:
    status, content_type, body = page
    head = status_line(status) + b"Content-Type: %b\r\nContent-Length: %d\r\n%bConnection: close\r\n\r\n" % (
        content_type,
        len(body),
        fields,
    )
    return head if method == b"HEAD" else head + body


class StatusConnection(asyncio.Protocol):
    """Connection of one request and its response."""

    def __init__(self, pages: StatusPages) -> None:
        self._pages = pages
        self._received = b""
        self._transport: asyncio.Transport
        self._late: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has no common base class
        self._late = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self.drop)
        pages = self._pages
        pages.asking[self] = None
        if len(pages.asking) + len(pages.answered) > CONNECTIONS_MAX:
            next(iter(pages.asking)).drop()

    def connection_lost(self, error: Exception | None) -> None:
        self._unregister()

    def drop(self) -> None:
        self._unregister()
        self._transport.abort()

    def _unregister(self) -> None:
        self._late.cancel()
        self._pages.asking.pop(self, None)
        self._pages.answered.discard(self)

    def data_received(self, received: bytes) -> None:
        searched = len(self._received)
        self._received += received
        try:
            end = find_head_end(self._received, searched)
            if end < 0 and len(self._received) < HEAD_MAX:
                return
            if end < 0 or end > HEAD_MAX:
                raise Malformed("The request head is too long.", 431)
            head = parse_request(self._received[:end])
        except Malformed as error:
            self._await_answer()
            self._send(_response(b"GET", (error.status, _TEXT, error.reason.encode() + b"\n")))
        else:
            self._await_answer()
            self._pages.answer(head, self._send)

    def _await_answer(self) -> None:
        self._unregister()
        self._pages.answered.add(self)
        self._late = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self.drop)
        self._transport.pause_reading()

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)
            self._transport.close()
