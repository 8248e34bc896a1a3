"""Running captures of a worker: taps, the stories of failed and slow requests, and those of debugged ones.

A capture ends when control says so, when its time is over, or when control has closed its end of the socket.
"""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Final, final

import msgspec

from fastgw.capture.capture_session import CaptureSession
from fastgw.capture.captured_exchange import CaptureOrder
from fastgw.capture.debug_session import DebugSession
from fastgw.capture.observed_tables import ExchangeObserver
from fastgw.capture.story_keeper import StoryKeeper
from fastgw.capture.story_record import DebugOrder, StoryOrder
from fastgw.observe.observer import Observer
from fastgw.runtime.ipc.channel import Capture, close_descriptors
from fastgw.runtime.ipc.sample_stream import SampleWriter
from fastgw.runtime.worker.observed_listeners import ObservedListeners

MOST: Final = 64
"""Maximum number of captures at a time."""
_decode: Final = msgspec.msgpack.Decoder(CaptureOrder | StoryOrder | DebugOrder).decode


@final
class _Capture:
    """Capture of exchanges (`observer`), or the stories of failed and slow requests (None), with the socket for
    them.
    """

    def __init__(
        self, writer: SampleWriter, observer: ExchangeObserver | None = None, expiry: asyncio.TimerHandle | None = None
    ) -> None:
        self.writer, self.observer, self.expiry = writer, observer, expiry

    def stop(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        asyncio.get_running_loop().remove_reader(self.writer)
        self.writer.close()


@final
class RunningCaptures:
    """Captures by number. `observed`: the listeners; `run_key`: key of the node."""

    def __init__(self, observed: ObservedListeners, observer: Observer, run_key: bytes) -> None:
        self._observed, self._observer, self._run_key = observed, observer, run_key
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
        session: ExchangeObserver
        expiry = None
        if isinstance(order, DebugOrder):
            session = DebugSession(order, self._run_key, writer.send)
        else:
            session = CaptureSession(order, writer.send)
            expiry = loop.call_later(max(0.0, order.until_date - time.time()), stop)
        self._active[message.number] = _Capture(writer, session, expiry)
        self._observed.add(session)
        if isinstance(order, DebugOrder):
            writer.send(b"")  # a greeting: control waits until its tokens are looked for

    def _stop(self, number: int) -> None:
        capture = self._active.pop(number, None)
        if capture is not None:
            capture.stop()
            if capture.observer is not None:
                self._observed.remove(capture.observer)
            elif self._stories == number:
                self._observer.keep_stories(None, inf)

    def stop(self) -> None:
        """End all captures."""
        for number in tuple(self._active):
            self._stop(number)
