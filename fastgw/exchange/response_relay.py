"""Response relay: forwards the body of a response to the client if filters have body hooks.

Without such filters it is not used: data goes directly to the client's side. Rule 1: the head is sent when the length
of the body is known, or known to be unknown: at once, or, if a filter needs the whole body, with it.
Rule 2: a body that may have changed is sent without digest, strong ETag and ranges.
"""

from functools import lru_cache, partial
from typing import TYPE_CHECKING, final

from fastgw.errors import Fault
from fastgw.exchange.body_relay import BodySink, Trailers
from fastgw.exchange.filter_steps import count_raised
from fastgw.exchange.reply import UNKNOWN, Response
from fastgw.exchange.staged_body import StagedBody
from fastgw.exchange.states import ANSWER_BEGUN
from fastgw.http.field_names import DIGESTS, NOT_IN_TRAILERS
from fastgw.http.fields import Fields

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange

_OF_THE_BODY = DIGESTS | {b"accept-ranges"}
_OF_THE_BODY_IN_TRAILERS = DIGESTS | {b"etag"}


@final
class ResponseRelay(BodySink):
    """Relay that passes the body of one response through its stages, and the trailers through the hooks of filters."""

    __slots__ = ("_began", "_exchange", "_over", "_stages", "_unsent")

    def __init__(self, exchange: "Exchange", stages: StagedBody) -> None:
        self._exchange = exchange
        self._stages = stages
        self._began = False  # the head was sent
        self._over = False
        self._unsent = b""  # output of the stages for a body that was received at once

    def start_response(self, response: Response, payload: bytes, ended: bool) -> None:
        """Take the head and the first part of the body. `ended`: all of it."""
        exchange, stages = self._exchange, self._stages
        is_empty = ended and not payload and not stages.takes_empty
        if is_empty or not _has_body(exchange, response):
            if stages.changes and (exchange.method == b"HEAD" or response.status == 304):
                tell_of_change(response)
                response.body_length = UNKNOWN
            self._over = ended  # otherwise trailers may follow: a declared length of 0 over HTTP/2 does not end it
            stages.skip()
            self._send(payload, ended)
            return
        if not stages.holds and stages.changes:
            tell_of_change(response)
        if ended:
            passed = stages.feed(payload, True) if payload else b""
            if passed is not None:
                self._unsent = passed
                self.end(())
            return
        if stages.holds:
            self.feed(payload)
            return
        if not stages.keeps_length or (exchange.head.accepts_trailers and exchange.chain.trailer_steps):
            response.body_length = UNKNOWN
        exchange.response_bytes = 0
        begun = stages.feed(payload) if payload else b""
        if begun is not None:
            self._send(begun, False)
            exchange.response_bytes = len(begun)

    def _answer_whole(self, trailers: Trailers, rest: bytes) -> None:
        """Send the response with its whole body: `rest`, behind what was passed on before."""
        exchange, stages = self._exchange, self._stages
        response, body = exchange.response, self._unsent + rest
        if self._over or response is None:
            return
        stages.release_held()  # the client's side counts what it has to hold
        if stages.holds and stages.changed:
            tell_of_change(response)
        trailers = self._pass_trailers(trailers)
        if self._over:
            return
        self._over = True
        exchange.response_bytes = len(body)
        if not _takes_trailers(exchange, response):
            trailers = ()
        response.body_length = UNKNOWN if trailers else len(body)
        self._send(body, True, trailers)

    def _send(self, payload: bytes, ended: bool, trailers: Trailers = ()) -> None:
        exchange = self._exchange
        assert exchange.response is not None
        self._began = True
        exchange.state = ANSWER_BEGUN[exchange.state]
        exchange.begin_answer(exchange.response, payload, ended, trailers)

    # calls of the service side

    def feed(self, payload: bytes) -> None:
        exchange = self._exchange
        if not payload or self._over:
            return
        exchange.response_bytes -= len(payload)  # first: if a stage aborts the body, it is reported as such
        passed = self._stages.feed(payload)
        if passed:
            exchange.response_bytes += len(passed)
            exchange.client.feed(passed)

    def end(self, trailers: Trailers) -> None:
        exchange = self._exchange
        answer_whole = partial(self._answer_whole, trailers)  # later: a stage that still computes has held all of it
        rest = None if self._over else self._stages.end(answer_whole)
        if rest is None:
            return
        if not self._began:
            answer_whole(rest)
            return
        if rest:
            exchange.response_bytes += len(rest)
            exchange.client.feed(rest)
        trailers = self._pass_trailers(trailers)
        if not self._over:
            self._over = True
            exchange.client.end(trailers)

    def cancel(self) -> None:
        """Cancel the response, which is no longer needed."""
        if not self._over:
            self._over = True
            self._stages.cancel()

    # the stages

    def send_passed(self, payload: bytes) -> None:
        """Send what the stages have passed of a body that is cut off now."""
        exchange, response = self._exchange, self._exchange.response
        assert response is not None
        payload = self._unsent + payload
        if not payload:
            return
        if self._began:
            exchange.response_bytes += len(payload)
            exchange.client.feed(payload)
        else:
            response.body_length = UNKNOWN
            exchange.response_bytes = len(payload)
            self._send(payload, False)

    def _pass_trailers(self, trailers: Trailers) -> Trailers:
        exchange = self._exchange
        if trailers and self._stages.changes:
            trailers = tuple(line for line in trailers if line[0].lower() not in _OF_THE_BODY_IN_TRAILERS)
        for step in exchange.chain.trailer_steps_due(exchange.answered_by):
            try:
                trailers = _checked(step(exchange, trailers))
            except BaseException:  # the edge of a filter, as in `StagedBody`
                self._over = True
                exchange.fail(Fault.INTERNAL, why=count_raised(step, "trailers", exchange))
                return ()
        return trailers


def _has_body(exchange: "Exchange", response: Response) -> bool:
    if response.head is not None:
        return response.head.has_body
    return exchange.method != b"HEAD"


def _takes_trailers(exchange: "Exchange", response: Response) -> bool:
    """Whether the client accepts trailers, or the response is chunked anyway."""
    head = exchange.head
    in_chunks = response.head is not None and response.head.body_length is None
    return head.version >= 11 and (head.accepts_trailers or in_chunks)


def tell_of_change(response: Response) -> None:
    """Drop the header fields that describe the received body, and make its ETag weak (RFC 9110 section 8.8.1)."""
    etags = response.values(b"etag")
    weakens = bool(etags) and not etags[0].startswith(b"W/") and b"etag" not in response.dropped  # by a filter
    response.dropped = dropped_with_body(response.dropped, weakens)
    if weakens:
        response.added += b"ETag: W/%b\r\n" % etags[0]


@lru_cache(64)
def dropped_with_body(dropped: frozenset[bytes], weakens: bool) -> frozenset[bytes]:
    """Return the names that are dropped from a response whose body has changed. Cached, because the serializer
    recognizes the same object.
    """
    return dropped | _OF_THE_BODY | ({b"etag"} if weakens else set())


def _checked(trailers: object) -> Trailers:
    """Return the trailers. Raises `ValueError` or `TypeError` for invalid ones."""
    fields = tuple(Fields(trailers))  # type: ignore[arg-type]  # which raises
    for name, _ in fields:
        if name.lower() in NOT_IN_TRAILERS:
            raise ValueError(f"a trailers hook returned {name!r}, which must come before the body")
    return fields
