"""Service side of an exchange whose response comes from one sub-request: sends it, and passes the client's pace on."""

import asyncio
from collections.abc import Iterable
from math import inf

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed, SubresponseListener, send_subrequest
from fastgw.upstream.forwarding.forward_action import Forward


class SubrequestService:
    """Base of services that are the listener to their sub-request as well.

    A client that does not read pauses the response, from whenever it is there. `on_failure` is also called for a
    sub-request that cannot be sent or whose response head is late.
    """

    __slots__ = ("_exchange", "_paused", "_sent", "_timer")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange: Exchange | None = exchange
        """None once the response is decided, or not needed."""
        self._sent: Subrequest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    def on_failure(self, failure: SubrequestFailed) -> None:
        """Handle the failure of the sub-request: no other call follows."""
        raise NotImplementedError

    def _send(
        self,
        exchange: Exchange,
        listener: SubresponseListener,
        forward: Forward,
        *,
        target: bytes,
        method: bytes,
        fields: Iterable[tuple[bytes, bytes]],
        body: bytes | Relay | None,
        timeout: float,
        is_streamed: bool,
    ) -> None:
        """Send the sub-request. `listener`: this service. `timeout`: seconds for the whole response; if `is_streamed`,
        until `_stop_timer`.
        """
        if is_streamed:
            self._timer = forward.upstream.worker_loop.loop.call_later(timeout, self._expire, timeout)
        try:
            sent = send_subrequest(
                exchange,
                forward.upstream,
                listener,
                target=target,
                method=method,
                fields=fields,
                body=body,
                timeout=inf if is_streamed else timeout,
                forward=forward,
            )
        except ValueError as error:
            sent = SubrequestFailed(Fault.INTERNAL, str(error))
        if isinstance(sent, SubrequestFailed):
            self.on_failure(sent)
        elif self._exchange is not None:
            self._sent = sent
            if self._paused:
                sent.pause()

    def _expire(self, timeout: float) -> None:
        self._timer = None
        self._cancel_sent()
        self.on_failure(SubrequestFailed(Fault.UPSTREAM_TIMEOUT, f"no response within {timeout:g} s"))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _cancel_sent(self) -> None:
        """Cancel the sub-request, if it has not ended."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()

    # calls of the exchange (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True
        if self._sent is not None:
            self._sent.pause()

    def resume(self) -> None:
        self._paused = False
        if self._sent is not None:
            self._sent.resume()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...
