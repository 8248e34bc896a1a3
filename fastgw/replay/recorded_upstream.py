"""Upstreams of a sandbox that answer with what was recorded for the same request of a client.

A pool lends streams that need no connection. Which response a request gets is decided in `RecordedState`: that of the
same request to the same upstream, else of the next one to this upstream, else of any that is left.
"""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Any, Final, final

from fastgw.errors import Fault
from fastgw.exchange import Trailers
from fastgw.exchange.request_keys import cookies_named
from fastgw.forwarded_headers import Peer, client_scheme
from fastgw.http.http1.parser import parse_response
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead
from fastgw.recording.records import MASK, RecordedBody, RecordedCall, RecordedRequest
from fastgw.recording.tap import is_copy
from fastgw.upstream.connections.pooled_connection import Lender
from fastgw.upstream.connections.stream import NOT_ESTABLISHED, UpstreamStream
from fastgw.upstream.load_balancing.sticky_sessions import Cookies
from fastgw.upstream.targets.target import Target

_FAULTS: Final = {fault.label: fault for fault in Fault}
_NO_BODY: Final = frozenset((204, 304))
_OK: Final = RecordedCall("", "", b"", RecordedBody(), 204, b"HTTP/1.1 204 No Content\r\n\r\n", is_over=True)
"""Response to the copy of a mirror."""


@final
class RecordedState:
    """Recording of one request, and which of its calls were answered with."""

    def __init__(self, recorded: RecordedRequest) -> None:
        self.recorded = recorded
        self._left = [*recorded.calls]
        self.is_made_up = False
        """Whether an upstream has answered with the response of the client, for lack of another."""

    def refused_connection(self, upstream: str) -> Fault | None:
        """Return the fault of the next attempt at an upstream, if it has got no connection."""
        call = next((each for each in self._left if each.upstream == upstream), None)
        if call is None or call.status or call.request:
            return None
        self._left.remove(call)
        return _FAULTS.get(call.fault, Fault.CONNECT_REFUSED)

    def take_call(self, upstream: str, request: bytes) -> RecordedCall | None:
        """Return the call to answer with. None: nothing was recorded for it."""
        line = request[: request.find(b"\r\n")]
        left = [each for each in self._left if each.request]

        def same_line(call: RecordedCall) -> bool:
            return call.request[: call.request.find(b"\r\n")] == line

        choices = (
            (each for each in left if each.upstream == upstream and same_line(each)),
            (each for each in left if each.upstream == upstream),
            (each for each in left if same_line(each)),
            iter(left),
        )
        for choice in choices:
            if (call := next(choice, None)) is not None:
                self._left.remove(call)
                return call
        recorded = self.recorded
        used = [each for each in recorded.calls if each.status]
        if used:
            return next((each for each in reversed(used) if each.upstream == upstream), used[-1])
        if not recorded.status:
            return None
        self.is_made_up = True  # it came from a cache, or the gateway has made it
        head, body = recorded.response, recorded.response_body
        return RecordedCall(
            upstream, "", b"", RecordedBody(), recorded.status, head, body, recorded.trailers, is_over=True
        )

    def sent_lines(self, names: frozenset[bytes]) -> bytes:
        """Return the lines with these names in the first request that was sent to an upstream."""
        sent = next((call.request for call in self.recorded.calls if call.request), b"")
        return b"".join(b"%b\r\n" % line for line in _lines_with(names, sent))

    def own_cookies(self) -> bytes:
        """Return the lines of the response that set cookies which no upstream has set."""
        names = frozenset((b"set-cookie",))
        others = {line for call in self.recorded.calls for line in _lines_with(names, call.response)}
        lines = _lines_with(names, self.recorded.response)
        return b"".join(b"%b\r\n" % line for line in lines if line not in others)

    def own_cookie(self, name: bytes) -> bytes | None:
        """Return the value of the cookie with this name that the response sets and no upstream has set. None: it sets
        none.
        """
        for line in self.own_cookies().split(b"\r\n"):
            pair = line.partition(b":")[2].partition(b";")[0]
            if pair.partition(b"=")[0].strip() == name:
                return pair.partition(b"=")[2].strip()
        return None


def _lines_with(names: frozenset[bytes], head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n")[1:] if line.partition(b":")[0].strip().lower() in names]


@final
class RecordedCookies:
    """Cookies of the sticky sessions of an upstream (`Cookies`, which are `inner`), set where the recorded gateway has
    set one. Whether the cookie of a client was valid is known from the recording alone: its value is masked there, and
    the key may have been that of a run which is over.
    """

    def __init__(self, inner: Cookies, name: str) -> None:
        self._inner, self._name = inner, name.encode()

    def name_of(self, target: Target) -> bytes:
        return self._inner.name_of(target)

    def named(self, head: RequestHead) -> bytes:
        return self._inner.named(head)

    def line_for(self, head: RequestHead, peer: Peer, target: Target) -> bytes:
        state = getattr(peer, "state", None)
        if not isinstance(state, RecordedState):
            return self._inner.line_for(head, peer, target)
        if not any(call.status for call in state.recorded.calls):
            return b""  # the recorded response came from a cache, or the gateway has made it
        value = state.own_cookie(self._name)
        if value is None:
            if cookies_named(head, self._name):
                return b""
            value = MASK
        before, equals, rest = self._inner.line(target, client_scheme(head, peer) == b"https").partition(b"=")
        return before + equals + value + rest[rest.find(b";") :]


@final
class RecordedPool(Lender):
    """Pool of an upstream whose streams answer with what was recorded."""

    def __init__(self, upstream: str, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream, self._loop = upstream, loop
        self._waiting: set[Any] = set()

    def lend(
        self, target: Target, borrower: Any, fresh: bool = False, idle_at_most: float = inf
    ) -> UpstreamStream | Fault | None:
        exchange = borrower.exchange
        state = getattr(exchange.peer, "state", None)
        if not isinstance(state, RecordedState):
            return Fault.CONNECT_REFUSED
        copies = is_copy(exchange)
        if not copies and (fault := state.refused_connection(self._upstream)) is not None:
            self._waiting.add(borrower)
            self._loop.call_soon(self._fail, borrower, fault)
            return None
        return RecordedStream(target, self._loop, self._upstream, None if copies else state)

    def _fail(self, borrower: Any, fault: Fault) -> None:
        if borrower in self._waiting:
            self._waiting.discard(borrower)
            borrower.failed(fault)

    def may_open(self) -> bool:
        return True

    def is_queued(self, borrower: Any) -> bool:
        return False

    def withdraw(self, borrower: Any) -> None:
        self._waiting.discard(borrower)

    def share(self, workers: int) -> None: ...
    def follow_limits(self, later: "RecordedPool") -> None: ...
    def retire(self) -> None: ...
    def stop(self) -> None: ...


@final
class RecordedStream(UpstreamStream):
    """Stream whose response was recorded. `state`: of the client's request; None: it is the copy of a mirror."""

    awaits_target = False

    def __init__(
        self, target: Target, loop: asyncio.AbstractEventLoop, upstream: str, state: RecordedState | None
    ) -> None:
        self.target, self.established = target, NOT_ESTABLISHED
        self._loop, self._upstream, self._state = loop, upstream, state
        self._listener: Any = None
        self._request, self._method = b"", b""

    def send_request(self, listener: Any, request: bytes, method: bytes) -> None:
        self._listener, self._request, self._method = listener, request, method
        self._begin_answer()

    def begin_special(
        self,
        listener: Any,
        request: bytes,
        method: bytes,
        *,
        whole: bool,
        chunked: bool = False,
        source: Any = None,
        expects_continue: bool = False,
        upgrade: Sequence[bytes] = (),
        tunnel: Any = None,
    ) -> None:
        self._listener, self._request, self._method = listener, request, method
        if whole:
            self._begin_answer()

    def send_body(self, payload: bytes) -> None: ...

    def end_body(self, trailers: Trailers) -> None:
        self._begin_answer()

    def hand_over(self, listener: Any) -> None:
        self._listener = listener

    def _begin_answer(self) -> None:
        self.awaits_target = True
        self._loop.call_soon(self._answer)

    def _answer(self) -> None:
        listener = self._listener
        if listener is None:
            return
        call = _OK if self._state is None else self._state.take_call(self._upstream, self._request)
        if call is None or not call.status:
            fault = Fault.CONNECTION_LOST if call is None else _FAULTS.get(call.fault, Fault.CONNECTION_LOST)
            self._listener = None
            listener.on_failure(fault, True, "as recorded")
            return
        try:
            head = parse_response(_head_of(call, self._method), self._method, 10_000)
        except Malformed as malformed:
            self._listener = None
            listener.on_failure(Fault.UPSTREAM_MALFORMED, True, malformed.reason)
            return
        body = call.response_body.content if head.has_body else b""
        if call.is_over and not call.trailers:
            self._listener = None
            listener.on_head(head, body, True)
            return
        listener.on_head(head, body, False)
        listener = self._listener
        if listener is None:
            return  # the exchange has ended meanwhile
        self._listener = None
        if call.is_over:
            listener.on_end(call.trailers)
        else:
            listener.on_failure(_FAULTS.get(call.fault, Fault.CONNECTION_LOST), False, "as recorded")

    def cancel(self) -> None:
        self._listener = None

    release = cancel

    def attach_source(self, source: Any) -> None: ...
    def limit_times(self, head: float, idle: float) -> None: ...
    def limit_silence(self, seconds: float) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def _head_of(call: RecordedCall, method: bytes) -> bytes:
    """Return the head of a recorded response, framed."""
    lines = [line for line in call.response.removesuffix(b"\r\n\r\n").split(b"\r\n") if not _is_framing(line)]
    if method != b"HEAD" and call.status not in _NO_BODY and call.status >= 200:
        if call.trailers or not call.is_over:
            lines.append(b"Transfer-Encoding: chunked")
        else:
            lines.append(b"Content-Length: %d" % len(call.response_body.content))
    return b"\r\n".join((*lines, b"", b""))


def _is_framing(line: bytes) -> bool:
    return line.partition(b":")[0].strip().lower() in (b"content-length", b"transfer-encoding", b"connection")
