"""Body of a client's request that is held until it is complete, within a limit and the node's memory for this."""

from collections.abc import Callable
from typing import final

from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Relay, Trailers
from fastgw.shm.held_body_budget import WHY_NOT_HELD


@final
class HeldBody:
    """Sink of the body. If it cannot be held, it answers the exchange with the fault."""

    __slots__ = ("_body", "_done", "_exchange", "_held", "_limit", "_most", "_worker_loop", "ended")

    def __init__(
        self, exchange: Exchange, limit: str, most: int, worker_loop: WorkerLoop, done: Callable[[bytes], None]
    ) -> None:
        """`most`: maximum bytes. `limit`: name of the setting with this maximum. `done`: called once with the whole
        body.
        """
        self._exchange: Exchange | None = exchange
        self._limit, self._most, self._worker_loop, self._done = limit, most, worker_loop, done
        self._body = bytearray()
        self._held = 0
        self.ended = False
        """Whether the whole body has arrived."""

    def collect(self, body: Relay) -> None:
        """Collect the body. `done` may be called before this returns."""
        exchange = self._exchange
        assert exchange is not None
        if body.kept is None:
            exchange.fail(Fault.INTERNAL, why="the body of the request was sent elsewhere")
            return
        if exchange.head.expects_continue and not body.bytes and not body.ended:
            exchange.client.send_interim(None)
        ended = body.ended
        self.feed(body.attach(self))
        if ended:
            self.end(())

    def release(self) -> None:
        """Release the memory, and stop collecting."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if exchange.request_body is not None and exchange.request_body.sink is self:
            exchange.request_body.sink = None
        self._body = bytearray()
        self._worker_loop.held_body_budget.give_back(self._held)
        self._held = 0

    # calls of the relay (`BodySink`)

    def feed(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is None or not payload:
            return
        if len(self._body) + len(payload) > self._most:
            exchange.fail(Fault.BODY_TOO_LARGE, why=f"{self._limit}: the body has more than {self._most} bytes")
        elif not self._worker_loop.held_body_budget.try_take(len(payload)):
            exchange.fail(Fault.OVERLOADED, why=WHY_NOT_HELD)
        else:
            self._held += len(payload)
            self._body += payload

    def end(self, trailers: Trailers) -> None:
        if self._exchange is not None:
            self.ended = True
            body, self._body = bytes(self._body), bytearray()
            self._done(body)

    def pause(self) -> None: ...
    def resume(self) -> None: ...
