"""Client side of an exchange whose response is sent at a limited bandwidth.

Rule 1: bytes that may not be sent yet wait here, and the source of the response is paused meanwhile, so that at most
what the source had already read is held. Rule 2: while bytes wait, this object is the service side for the client,
which may pause it; otherwise client and source see each other directly. Rule 3: `forget` ends the circle of references
with the exchange.
"""

import asyncio
from collections import deque
from typing import Final, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Response, ServiceSide, Trailers
from fastgw.exchange.client_wrapper import ClientWrapper
from fastgw.exchange.reply import NO_CONTENT, UNKNOWN
from fastgw.filters.policies.traffic.byte_buckets import ByteBucket, combined
from fastgw.http.messages import AS_DECLARED

SOON_S: Final = 0.001
"""Minimum wait for a timer, in seconds: timers are not finer."""


@final
class PacedClient(ClientWrapper):
    """`inner`: the client itself."""

    __slots__ = ("_bucket", "_exchange", "_held", "_is_paused", "_source", "_timer", "_trailers")

    fd: Final = -1  # nothing may be written past this object

    def __init__(self, exchange: Exchange, bucket: ByteBucket) -> None:
        super().__init__(exchange.client)
        self._exchange: Exchange | None = exchange
        self._bucket = bucket
        self._held: deque[bytes] = deque()
        self._trailers: Trailers | None = None  # the source has ended
        self._source: ServiceSide | None = None  # the paused source, while bytes are held
        self._is_paused = False  # by the client
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PacedClient held={sum(map(len, self._held))} of {self.inner!r}>"

    def add_bucket(self, bucket: ByteBucket) -> None:
        """Limit the response by another filter too."""
        self._bucket = combined(self._bucket, bucket)

    # calls of the source (`ClientSide`)

    @property
    def accepts_more(self) -> bool:
        return not self._held and self.inner.accepts_more

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        exchange = self._exchange
        assert exchange is not None
        has_none = exchange.method == b"HEAD" or response.status in NO_CONTENT or not payload
        if has_none or (response.head is None and exchange.fault is not None):  # problem documents are short
            self.inner.answer(response, payload, ended)
            return
        taken = self._bucket.take_bytes(len(payload))
        if taken == len(payload):
            self.inner.answer(response, payload, ended)
            return
        if ended and response.body_length in (AS_DECLARED, UNKNOWN):
            response.body_length = len(payload)
        self._hold(payload[taken:])
        if ended:
            self._trailers = ()
        self.inner.answer(response, payload[:taken], False)
        if response.head is None:
            exchange.response_bytes = len(payload)  # the client's side has counted the first part

    def feed(self, payload: bytes) -> None:
        if self._held:
            self._held.append(payload)
            return
        taken = self._bucket.take_bytes(len(payload))
        if taken == len(payload):
            self.inner.feed(payload)
            return
        self._hold(payload[taken:])
        if taken:
            self.inner.feed(payload[:taken])

    def end(self, trailers: Trailers) -> None:
        exchange = self._exchange
        if self._held and exchange is not None:
            self._trailers = trailers
            exchange.service = self  # the source has left
            self._source = None
        else:
            self.inner.end(trailers)

    def abort(self, fault: Fault) -> None:
        self._drop()
        self.inner.abort(fault)

    # the bytes that wait

    def _hold(self, payload: bytes) -> None:
        """Hold the rest of a piece, and take the place of its source for the client."""
        exchange = self._exchange
        assert exchange is not None
        self._held.append(payload)
        self._is_paused = not self.inner.accepts_more
        self._source, exchange.service = exchange.service, self
        if self._source is not None and not self._is_paused:
            self._source.pause()
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None and self._held and not self._is_paused:
            wait = max(self._bucket.seconds_until(len(self._held[0])), SOON_S)
            self._timer = asyncio.get_running_loop().call_later(wait, self._send)

    def _send(self) -> None:
        """Send what may be sent by now."""
        self._timer = None
        while self._held and not self._is_paused:
            piece = self._held.popleft()
            taken = self._bucket.take_bytes(len(piece))
            if taken < len(piece):
                self._held.appendleft(piece[taken:])
            if taken:
                self.inner.feed(piece[:taken])
            if taken < len(piece):
                break
        if self._held:
            self._schedule()
        elif self._exchange is not None:
            self._all_sent(self._exchange)

    def _all_sent(self, exchange: Exchange) -> None:
        source, self._source = self._source, None
        exchange.service = source
        if self._trailers is not None:
            self.inner.end(self._trailers)
        elif source is not None and not self._is_paused:  # otherwise the client resumes it
            source.resume()

    # calls of the client, while bytes are held (`ServiceSide`)

    def pause(self) -> None:
        self._is_paused = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self) -> None:
        self._is_paused = False
        self._schedule()

    def feed_raw(self, chunk: bytes) -> None:
        if self._source is not None:
            self._source.feed_raw(chunk)

    def end_raw(self) -> None:
        if self._source is not None:
            self._source.end_raw()

    def cancel(self) -> None:
        source, self._source = self._source, None
        self._drop()
        if source is not None:
            source.cancel()

    def _drop(self) -> None:
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self) -> None:
        """The exchange has ended."""
        self._drop()
        self._exchange = self._source = None
