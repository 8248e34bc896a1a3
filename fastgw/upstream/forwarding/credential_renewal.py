"""Credential renewal: a response that rejects the gateway's credentials is held back while a filter renews them
(`Hooks.renew`).

Rule 1: no part of the response was sent to the client, so the request may still be sent once more. Rule 2: the body
received in the meantime is buffered; reading pauses at `MOST_HELD` bytes. Rule 3: the decision is made once, by the
filter or its timeout, unless it is cancelled (`cancel`).
"""

import asyncio
from collections.abc import Awaitable
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Trailers
from fastgw.exchange.exchange import filter_timeout_of
from fastgw.exchange.filter_steps import count_raised
from fastgw.exchange.hooks import RenewStep
from fastgw.http.messages import ResponseHead
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.connections.stream import ResponseListener, UpstreamStream
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.attempt import Attempt
    from fastgw.upstream.forwarding.forwarding import Forwarding


MOST_HELD: Final = 65536
"""Bytes of a response body that are read before it is decided whether the client gets it."""


class HeldResponse(NamedTuple):
    """A complete response that is not forwarded yet. `seconds`: time until its head was received."""

    target: Target
    head: ResponseHead
    payload: bytes
    seconds: float
    trailers: Trailers = ()


@final
class CredentialRenewal(ResponseListener):
    """Credential renewal: listens to the rest of a response instead of its attempt, until it is decided whether the
    client gets it.
    """

    def __init__(self, forwarding: "Forwarding", attempt: "Attempt", head: ResponseHead, payload: bytes) -> None:
        self._forwarding = forwarding
        self._size = len(payload)
        self.attempt = attempt
        self._head = head
        self._pieces = [payload]
        self._trailers: Trailers = ()
        self.fault: Fault | None = None  # fault by which the response was aborted
        self.why = ""
        self.reset_code: int | None = None
        self.sent = 0  # bytes of the request's body that were sent to this target

    def __repr__(self) -> str:
        return f"<CredentialRenewal after {self._head.status} by {self.attempt!r}>"

    def renew_credential(self, ended: bool, step: RenewStep, outcome: Awaitable[bool]) -> None:
        """Hold the response, and wait. `ended`: the response is complete."""
        forwarding, exchange = self._forwarding, self._forwarding.exchange
        body = exchange.request_body
        if body is not None:  # the target has already responded: no more of the body is sent for now
            assert body.kept is not None
            self.sent = sum(map(len, body.kept))
        if ended:
            self._give_back()
        else:
            self.attempt.deadline = inf
            assert self.attempt.stream is not None
            self.attempt.hand_response_to(self)
            self.attempt.stream.attach_source(None)
        if body is not None:
            body.detach()
        loop = forwarding.upstream.worker_loop.loop
        self._step = step
        self._task: asyncio.Task[None] | None = loop.create_task(self._wait(exchange, outcome))
        self._limit = loop.call_later(filter_timeout_of(exchange.route, exchange.client), self.late)

    async def _wait(self, exchange: Exchange, outcome: Awaitable[bool]) -> None:
        renewed = False
        try:
            renewed = await outcome
            if renewed is not True and renewed is not False:
                raise TypeError(f"a renew step of a filter waited for a {type(renewed).__name__}; expected a bool")
        except BaseException as error:  # the edge of a filter: exceptions of tasks are not reported
            if self._task is None and not isinstance(error, Exception):
                return  # cancelled: it is no longer needed
            exchange.why = count_raised(self._step, "renew", exchange)
            renewed = False
        if self._task is not None:
            self._decided(renewed)

    def late(self) -> None:
        """Abort the renewal after its timeout."""
        exchange = self._forwarding.exchange
        name = exchange.chain.name_of(self._step)
        exchange.client.counts.count_filter(name, FilterEvent.LATE)
        exchange.why = f"filter {name} timed out while renewing credentials"
        self._decided(False)

    def _decided(self, renewed: bool) -> None:
        forwarding = self._forwarding
        exchange = forwarding.exchange
        self.cancel()
        try:
            if renewed:
                forwarding.send_again(self)
            else:
                forwarding.pass_on(self)
        except Exception:  # the edge of this exchange: exceptions of tasks are not reported
            log_event(
                OperatorEvent.DEFECT, "a defect while taking the response of %s", self.attempt.target.label, error=True
            )
            exchange.fail(Fault.INTERNAL)

    def held_response(self) -> HeldResponse:
        """Return the received part of the response."""
        seconds = self.attempt.head_at - self._forwarding.exchange.begun_at
        return HeldResponse(self.attempt.target, self._head, b"".join(self._pieces), seconds, self._trailers)

    def cancel(self) -> None:
        """Cancel the renewal, which is no longer needed."""
        task, self._task = self._task, None
        self._limit.cancel()
        if task is not None:
            self._forwarding.upstream.worker_loop.loop.call_soon(task.cancel)  # not before the wait has begun

    def _give_back(self) -> None:
        """Handle the end of the response: its connection may be reused while the filter decides."""
        self._forwarding.current = None
        self.attempt.release()

    # calls of the stream

    def on_data(self, payload: bytes) -> None:
        self._pieces.append(payload)
        self._size += len(payload)
        stream = self.attempt.stream
        if self._size >= MOST_HELD and stream is not None:
            stream.pause()

    def on_end(self, trailers: Trailers) -> None:
        self._trailers = trailers
        self._give_back()

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self.fault, self.why = fault, why
        if self.attempt.stream is not None:
            self.reset_code = self.attempt.stream.reset_code
        self._forwarding.current = None
        self.attempt.give_up(fault)

    def forward_response(self, stream: UpstreamStream) -> None:
        """Hand the response back to the attempt, which forwards it to the client as it arrives."""
        self.attempt.hand_response_to(self.attempt)
        stream.resume()
