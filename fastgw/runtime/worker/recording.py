"""Recording of requests in a worker: selects them, and sends their records to control.

Rule 1: without a recording nothing of this is on the way of a request. Rule 2: no request waits for a record: what
control does not take in time is dropped and counted. Rule 3: the recording ends with the connection to control.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast, final

from fastgw.exchange import Exchange
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.recording.record_observer import RecordObserver
from fastgw.recording.records import RecordedRequest, encode
from fastgw.recording.redaction import RecordRedaction
from fastgw.recording.tap import RecordedTrace
from fastgw.runtime.worker.observed_listeners import ObservedListeners
from fastgw.sync.feeds import Feeds
from fastgw.sync.recordings import DROPPED, FEED, NOTHING, RECORD, RecordingOrder, read, takes_status

MOST_UNSENT: Final = 8 * 1024 * 1024
"""Maximum bytes of records that wait for control."""
MOST_BYTES_PER_S: Final = 8 * 1024 * 1024
"""Maximum bytes of records per second."""
MOST_AT_ONCE: Final = 256
"""Maximum number of requests in flight that are recorded."""


@final
class WorkerRecording:
    """`observed`: the listeners whose requests are recorded."""

    def __init__(self, loop: asyncio.AbstractEventLoop, feeds: Feeds, observed: ObservedListeners) -> None:
        self._loop, self._observed = loop, observed
        self._feed = feeds[FEED]
        self._order = NOTHING
        self._link: _RecordingLink | None = None
        self._connecting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<WorkerRecording {'on' if self._link is not None else 'off'}>"

    def start(self) -> None:
        self._feed.on_change(self._follow_order)
        self._follow_order(self._feed.value)

    def stop(self) -> None:
        self._feed.forget(self._follow_order)
        self._end()

    def _follow_order(self, value: bytes) -> None:
        order = read(value)
        if order != self._order:
            self._end()
            self._order = order
            if order.address:
                self._connecting = self._loop.create_task(self._connect(order))

    async def _connect(self, order: RecordingOrder) -> None:
        with suppress(OSError):  # control has ended, and the recording with it
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect("\0" + order.address)  # at once, or not at all
            except OSError:
                sock.close()
                raise
            _, link = await self._loop.create_unix_connection(lambda: _RecordingLink(order, self._lost), sock=sock)
            if order is self._order:
                self._link = link
                self._observed.add(link.observer)
                link.tell_that_it_records()
            else:
                link.close()

    def _lost(self, link: "_RecordingLink") -> None:
        if link is self._link:
            self._link = None
            self._observed.remove(link.observer)

    def _end(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        link, self._link = self._link, None
        if link is not None:
            self._observed.remove(link.observer)
            link.close()
        self._order = NOTHING


@final
class _RecordingLink(asyncio.Protocol):
    """Connection to control for one recording."""

    def __init__(self, order: RecordingOrder, lost: "Callable[[_RecordingLink], None]") -> None:
        self._order, self._lost = order, lost
        self._transport: asyncio.WriteTransport | None = None
        self._redaction = RecordRedaction(order.redact, order.keep_cookies)
        self.observer = RecordObserver(self._sample, order.routes or None)
        self._random = random.Random()
        self._in_flight = self._dropped = 0
        self._second = self._sent = 0  # bytes that were sent in this second
        self._loop = asyncio.get_running_loop()

    def tell_that_it_records(self) -> None:
        if self._transport is not None:
            self._transport.write(bytes.fromhex(self._order.token))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # calls of the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost(self)

    # calls of requests

    def _sample(self, exchange: Exchange) -> None:
        if self._order.ratio < 1.0 and self._random.random() >= self._order.ratio:
            return
        if self._in_flight >= MOST_AT_ONCE:
            self._dropped += 1
            return
        self._in_flight += 1
        RecordedTrace(exchange, self._order.body_bytes, self._redaction, self._finished, self._left)

    def _left(self) -> None:
        self._in_flight -= 1

    def _finished(self, record: RecordedRequest) -> None:
        order = self._order
        if (order.routes and record.route not in order.routes) or not takes_status(order.statuses, record.status):
            return
        transport = self._transport
        if transport is None:
            return
        try:
            encoded = encode(record)
        except (TypeError, ValueError) as error:
            log_event(OperatorEvent.DEFECT, "a record of a request cannot be encoded", error=error)
            return
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._sent = second, 0
        if transport.get_write_buffer_size() > MOST_UNSENT or self._sent > MOST_BYTES_PER_S:
            self._dropped += 1
            return
        if self._dropped:
            transport.write((5).to_bytes(4, "big") + DROPPED + self._dropped.to_bytes(4, "big"))
            self._dropped = 0
        self._sent += len(encoded)
        transport.write((len(encoded) + 1).to_bytes(4, "big") + RECORD + encoded)
