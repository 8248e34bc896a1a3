"""Streamed request bodies of sub-requests: pieces are produced only as fast as the upstream accepts them."""

import asyncio
from collections.abc import AsyncIterable
from typing import final

from fastgw.errors import Fault
from fastgw.eventloop.body_iterator import close_iterator
from fastgw.exchange import Exchange, Relay
from fastgw.operator_events import OperatorEvent, log_event


@final
class BodyFeeder:
    """Source of a request's body: feeds the pieces of an async iterator into the relay, in a task of its own."""

    __slots__ = ("_exchange", "_pieces", "_resumed", "_task", "relay")

    def __init__(self, pieces: AsyncIterable[bytes], length: int | None) -> None:
        """`length`: bytes of all pieces; None: unknown until the last one."""
        self.relay = Relay(self, length)
        self._pieces = pieces
        self._exchange: Exchange | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start_feeding(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._task = loop.create_task(self._run(loop))

    def pause(self) -> None: ...  # the relay reports it

    def resume(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the body, which is no longer needed. The iterator is closed."""
        self._exchange = None
        if self._task is not None and not self._task.done():
            loop.call_soon(self._task.cancel)  # not before the task has begun; it may be the caller

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            why = await self._feed(loop)
        except BaseException as error:  # the edge of a filter: its exception ends this sub-request
            if self._exchange is None and isinstance(error, asyncio.CancelledError):
                return
            log_event(OperatorEvent.FILTER_RAISED, "the body of a sub-request raised", error=error)
            why = f"the body of the sub-request raised {type(error).__name__}"
        exchange, self._exchange = self._exchange, None
        if exchange is not None and why:
            exchange.fail(Fault.INTERNAL, why=why)

    async def _feed(self, loop: asyncio.AbstractEventLoop) -> str:
        """Feed the whole body. Returns the error, or \"\"."""
        relay, pieces = self.relay, aiter(self._pieces)
        length = relay.length
        try:
            async for piece in pieces:
                if self._exchange is None:  # the task ignored its cancellation
                    return ""
                if not isinstance(piece, bytes):
                    raise TypeError(f"a piece of a body is a {type(piece).__name__}; expected bytes")
                relay.bytes += len(piece)
                if length is not None and relay.bytes > length:
                    return f"the body of the sub-request has more than the {length} bytes that it should have"
                if piece:
                    relay.feed(piece)
                await asyncio.sleep(0)
                while relay.paused and self._exchange is not None:
                    self._resumed = loop.create_future()
                    await self._resumed
        finally:
            close_iterator(pieces, loop)
        if length is not None and relay.bytes < length:
            return f"the body of the sub-request has {relay.bytes} bytes, and should have {length}"
        if self._exchange is not None:
            relay.end()
        return ""
