"""Captures of a worker: as long as there are any, its listeners use observed routes (`capture.observed_routes`).

A capture ends when control says so, when its time is over, or when control has closed its end of the socket.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

import msgspec

from fastgw.capture.capture_session import CaptureSession
from fastgw.capture.captured_exchange import CaptureOrder
from fastgw.capture.observed_routes import RouteObserver, observed_router
from fastgw.downstream import Listener
from fastgw.runtime.ipc.channel import Capture, close_descriptors
from fastgw.runtime.ipc.sample_stream import SampleWriter

MOST: Final = 64
"""Maximum number of captures at a time."""
_decode: Final = msgspec.msgpack.Decoder(CaptureOrder).decode


@final
class _Exchanges:
    """Capture of exchanges, with the socket for them."""

    def __init__(self, session: CaptureSession, writer: SampleWriter, expiry: asyncio.TimerHandle) -> None:
        self.session, self.writer, self.expiry = session, writer, expiry

    def stop(self) -> None:
        self.expiry.cancel()
        asyncio.get_running_loop().remove_reader(self.writer)
        self.writer.close()


@final
class Captures:
    """Captures by number. `listeners`: returns the listeners in use."""

    def __init__(self, listeners: Callable[[], Sequence[Listener]]) -> None:
        self._listeners = listeners
        self._active: dict[int, _Exchanges] = {}

    def __repr__(self) -> str:
        return f"<Captures {[*self._active]}>"

    def handle(self, message: Capture, descriptors: Sequence[int]) -> None:
        """Begin or end a capture. The descriptors belong to it."""
        if not descriptors:
            self._stop(message.number)
        elif message.number in self._active or len(self._active) >= MOST:
            close_descriptors(descriptors)
        else:
            close_descriptors(descriptors[1:])
            self._start(message, descriptors[0])

    def _start(self, message: Capture, descriptor: int) -> None:
        order = _decode(message.order)
        loop, stop = asyncio.get_running_loop(), partial(self._stop, message.number)
        writer = SampleWriter(socket.socket(fileno=descriptor), os.getpid())
        expiry = loop.call_later(max(0.0, order.until_date - time.time()), stop)
        loop.add_reader(writer, stop)  # nothing is sent in this direction: control has closed its end
        self._active[message.number] = _Exchanges(CaptureSession(order, writer.send), writer, expiry)
        self.use_tables()

    def _stop(self, number: int) -> None:
        capture = self._active.pop(number, None)
        if capture is not None:
            capture.stop()
            self.use_tables()

    def use_tables(self) -> None:
        """Observe the routes of the tables in use, which may be new ones."""
        observers: list[RouteObserver] = [each.session for each in self._active.values()]
        for listener in self._listeners():
            listener.router = observed_router(listener.router, observers)

    def stop(self) -> None:
        """End all captures."""
        for number in tuple(self._active):
            self._stop(number)
