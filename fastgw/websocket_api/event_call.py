"""Request for one event of a connection. It may outlive the connection: a message that was accepted is sent."""

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, NamedTuple, final

from fastgw.consumers.index import Consumer
from fastgw.exchange import Chain, ClientSide, Exchange, Trailers
from fastgw.exchange.body_relay import whole_body
from fastgw.http.content_coding.content_encoding import codings_in
from fastgw.http.http1.made_request import build_request
from fastgw.http.messages import ResponseHead
from fastgw.observe.tracing.tracer import Trace
from fastgw.shm.held_body_budget import WHY_NOT_HELD, HeldBodyBudget
from fastgw.upstream.client.subrequest import CANCELLED, Subrequest, SubrequestFailed, Subrequests
from fastgw.upstream.forwarding.forward_action import Forward


class ConnectionClient(NamedTuple):
    """Client of a connection, as its requests need it."""

    side: ClientSide
    listener: Any
    peer: Any
    client_ip: str
    consumer: Consumer | None
    claims: Mapping[str, Any]
    authority: bytes
    lines: list[tuple[bytes, bytes]]
    """Headers of every request."""
    trace: Trace | None
    sent: Subrequests
    """Requests sent so far, which the access log of the connection lists."""


class EventAnswer(NamedTuple):
    """Answer to a request. `why`: the reason why it counts as failed; "": it does not."""

    body: bytes = b""
    content_type: bytes = b""
    why: str = ""


@final
class EventCall:
    """Listener to the response."""

    __slots__ = ("_body", "_budget", "_done", "_head", "_keeps", "_log", "_most", "_sent")

    def __init__(self, most: int, keeps: bool, budget: HeldBodyBudget, done: Callable[[EventAnswer], None]) -> None:
        """`most`: maximum bytes of the response. `keeps`: whether its body is needed. `done`: called once."""
        self._most, self._keeps, self._budget, self._done = most, keeps, budget, done
        self._body = bytearray()
        self._head: ResponseHead | None = None
        self._sent: Subrequest | None = None

    def send(
        self,
        client: ConnectionClient,
        forward: Forward,
        target: bytes,
        lines: Iterable[tuple[bytes, bytes]],
        payload: bytes,
        timeout: float,
    ) -> None:
        """Send the request. `done` may be called before this returns. `timeout`: seconds for the whole response."""
        head = build_request(b"POST", client.authority, target, [*client.lines, *lines], len(payload))
        self._sent = sent = Subrequest(self, client.side)
        self._log = client.sent
        chain: Chain = client.listener.upstream_chains.chain_of(forward.upstream.name)
        exchange = Exchange(head, sent, client.listener, client.peer, chain)
        exchange.client_ip, exchange.consumer, exchange.claims = client.client_ip, client.consumer, client.claims
        exchange.answered_by, exchange.trace = None, client.trace
        exchange.request_body = whole_body(payload, len(payload)) if payload else None
        sent.send(exchange, forward, timeout)

    def _finish(self, answer: EventAnswer, outcome: str) -> None:
        """`outcome`: for the access log."""
        done, self._done = self._done, _ignore
        assert self._sent is not None
        exchange = self._sent.exchange
        self._log.end_detached(exchange.upstream, exchange.target, outcome, monotonic() - exchange.begun_at)
        self._budget.give_back(len(self._body))
        self._body, self._sent = bytearray(), None
        done(answer)

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        if not self._keeps or self._sent is None:
            return
        why = ""
        if len(self._body) + len(payload) > self._most:
            why = f"the response has more than {self._most} bytes"
        elif not self._budget.try_take(len(payload)):
            why = WHY_NOT_HELD
        if why:
            self._sent.cancel()
            self._finish(EventAnswer(why=why), CANCELLED)
        else:
            self._body += payload

    def on_end(self, trailers: Trailers) -> None:
        head = self._head
        assert head is not None
        why = "" if 200 <= head.status < 300 else f"the response has the status {head.status}"
        if not why and self._keeps and codings_in(head.values(b"content-encoding")):
            why = "the response is compressed, although that is not accepted"  # a message has no content coding
        self._finish(EventAnswer(bytes(self._body), head.first(b"content-type") or b"", why), str(head.status))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._finish(EventAnswer(why=failure.why or failure.fault.label), failure.fault.label)


def _ignore(answer: EventAnswer) -> None: ...
