"""Running captures of a worker: while there are any, listeners use observed routes (`capture.observed_routes`).

A capture ends when control says so, when its time is over, or when control has closed its end of the socket.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, final

import msgspec

from fastgw.capture.capture_session import CaptureSession
from fastgw.capture.captured_exchange import CaptureOrder
from fastgw.capture.observed_routes import RouteObserver, observed_router
from fastgw.capture.story_keeper import StoryKeeper
from fastgw.capture.story_record import StoryOrder
from fastgw.downstream import Listener
from fastgw.observe import Observer
from fastgw.runtime.ipc.channel import Capture, close_descriptors
from fastgw.runtime.ipc.sample_stream import SampleWriter

MOST: Final = 64
"""Maximum number of captures at a time."""
_decode: Final = msgspec.msgpack.Decoder(CaptureOrder | StoryOrder).decode


@final
class _Capture:
    """Capture of exchanges, or the stories of requests (`session` None), with the socket for them."""

    def __init__(
        self, writer: SampleWriter, session: CaptureSession | None = None, expiry: asyncio.TimerHandle | None = None
    ) -> None:
        self.writer, self.session, self.expiry = writer, session, expiry

    def stop(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        asyncio.get_running_loop().remove_reader(self.writer)
        self.writer.close()


@final
class RunningCaptures:
    """Captures by number. `listeners`: returns the listeners in use."""

    def __init__(self, listeners: Callable[[], Sequence[Listener]], observer: Observer) -> None:
        self._listeners, self._observer = listeners, observer
        self._active: dict[int, _Capture] = {}
        self._stories = 0  # number of the capture of stories; 0: there is none

    def __repr__(self) -> str:
        return f"<RunningCaptures {[*self._active]}>"

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
        loop.add_reader(writer, stop)  # nothing is sent in this direction: control has closed its end
        if isinstance(order, StoryOrder):
            keeper = StoryKeeper(order, writer.send, writer.count_dropped)
            self._active[message.number] = _Capture(writer)
            self._stories = message.number
            self._observer.keep_stories(keeper.keep_story, order.slower_than)
            return
        expiry = loop.call_later(max(0.0, order.until_date - time.time()), stop)
        self._active[message.number] = _Capture(writer, CaptureSession(order, writer.send), expiry)
        self.use_tables()

    def _stop(self, number: int) -> None:
        capture = self._active.pop(number, None)
        if capture is not None:
            capture.stop()
            if capture.session is not None:
                self.use_tables()
            elif self._stories == number:
                self._observer.keep_stories(None, inf)

    def use_tables(self) -> None:
        """Observe the routes of the tables in use, which may be new ones."""
        observers: list[RouteObserver] = [each.session for each in self._active.values() if each.session is not None]
        for listener in self._listeners():
            listener.router = observed_router(listener.router, observers)

    def stop(self) -> None:
        """End all captures."""
        for number in tuple(self._active):
            self._stop(number)
