"""Body of a client's request that is held until it is complete, within a limit and the node's memory for this."""

from collections.abc import Callable
from typing import final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Trailers
from fastgw.exchange.filter_steps import fail_unheld, request_budget


@final
class HeldBody:
    """Sink of the body. If it cannot be held, it answers the exchange with the fault."""

    __slots__ = ("_body", "_budget", "_done", "_exchange", "_held", "_limit", "_most", "ended")

    def __init__(self, exchange: Exchange, limit: str, most: int, done: Callable[[bytes], None]) -> None:
        """`most`: maximum bytes. `limit`: name of the setting with this maximum. `done`: called once with the whole
        body.
        """
        self._exchange: Exchange | None = exchange
        self._limit, self._most, self._done = limit, most, done
        self._budget = request_budget(exchange)
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
        body.is_collected = True
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
        self._budget.give_back(self._held)
        self._held = 0

    # calls of the relay (`BodySink`)

    def feed(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange is None or not payload:
            return
        if len(self._body) + len(payload) > self._most:
            exchange.fail(Fault.BODY_TOO_LARGE, why=f"{self._limit}: the body has more than {self._most} bytes")
        elif not self._budget.try_take(len(payload)):
            fail_unheld(exchange, self._budget.why)
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
