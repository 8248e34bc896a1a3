"""Response whose long body is in memory: sent to the client as fast as it reads, within the node's memory budget.

Rule 1: what the body takes beyond the free allowance is in the budget from before the head until its last piece is
given to the client's connection, or the client has left. Rule 2: the next piece is given to the connection only while
it accepts more; the end follows the last piece at once, as the client needs no more than the bytes of the body.
"""

from typing import Final, final

from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Response, Trailers
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.exchange.reply import NO_CONTENT, UNKNOWN
from fastgw.shm.held_body_budget import WHY_NOT_HELD

PIECE: Final = 65536
"""Bytes of a body that are sent at once."""
PER_TURN: Final = 16
"""Maximum pieces that are sent in one iteration of the event loop."""


def send_held(exchange: Exchange, response: Response, body: bytes, trailers: Trailers, worker_loop: WorkerLoop) -> bool:
    """Send a response with a body longer than `MAX_KEPT`, or a fault if the budget does not allow it. False: nothing
    was done, because the body is not sent to this client, or has to be sent at once.
    """
    if exchange.method == b"HEAD" or response.status in NO_CONTENT:
        return False
    upload = exchange.request_body
    if upload is not None and not upload.ended and upload.sink is None:
        return False  # its client may read only after its request, whose rest is dropped once the response is complete
    if not worker_loop.held_body_budget.try_take(len(body) - MAX_KEPT):
        exchange.why = WHY_NOT_HELD
        exchange.answer_instead(Fault.OVERLOADED)
        return True
    exchange.service = held = HeldBodySender(exchange, body, trailers, worker_loop)
    response.body_length = UNKNOWN if trailers else len(body)
    held.start(response)
    return True


@final
class HeldBodySender:
    """Service side of an exchange while its body is sent."""

    __slots__ = ("_at", "_body", "_exchange", "_is_scheduled", "_paused", "_trailers", "_worker_loop")

    def __init__(self, exchange: Exchange, body: bytes, trailers: Trailers, worker_loop: WorkerLoop) -> None:
        self._exchange: Exchange | None = exchange
        self._body, self._trailers, self._worker_loop = body, trailers, worker_loop
        self._at = 0
        self._paused = self._is_scheduled = False

    def __repr__(self) -> str:
        return f"<HeldBodySender at {self._at} of {len(self._body)}>"

    def start(self, response: Response) -> None:
        """Send the head, and as much of the body as the client accepts."""
        exchange = self._exchange
        assert exchange is not None
        self._at = PIECE
        exchange.client.answer(response, self._body[:PIECE], False)
        if self._exchange is not None:
            exchange.response_bytes = PIECE
            self._send(PER_TURN - 1)

    def _send(self, left: int = PER_TURN) -> None:
        """Send what the client accepts. `left`: maximum pieces in this iteration of the event loop."""
        self._is_scheduled = False
        body = self._body
        while (exchange := self._exchange) is not None:
            if self._at >= len(body):  # also while paused: a client that has the whole body may close before the end
                self._finish(exchange)
                return
            if self._paused:
                return
            if not left:
                self._schedule()
                return
            left -= 1
            piece = body[self._at : self._at + PIECE]
            self._at += len(piece)
            exchange.response_bytes = self._at
            exchange.client.feed(piece)

    def _schedule(self) -> None:
        """Continue in the next iteration of the event loop."""
        if not self._is_scheduled and self._exchange is not None:
            self._is_scheduled = True
            self._worker_loop.loop.call_soon(self._send)

    def _finish(self, exchange: Exchange) -> None:
        self.cancel()
        exchange.service = None
        exchange.client.end(self._trailers)

    # calls of the client's side (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()  # the caller may be sending what is there

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        """Release the body and its memory. Does nothing after the end."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._worker_loop.held_body_budget.give_back(len(self._body) - MAX_KEPT)
            self._body = b""
