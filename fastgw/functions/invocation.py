"""One invocation of a function of AWS Lambda, for one exchange.

Rule 1: the body of the request and a response that is not streamed are held within `max_bytes` and the node's memory
for held bodies. Rule 2: a streamed response is passed on piece by piece, after the checksum of each. Rule 3: nothing of
a function's error reaches the client.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, final

import orjson

from fastgw.config.settings.functions import MOST_PAYLOAD
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Trailers
from fastgw.functions.events import TooManyParameters, read_request, write_event
from fastgw.functions.responses import FunctionResponse, UnusableResponse, parse_response
from fastgw.functions.streamed import StreamedResponse
from fastgw.http.messages import ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.held_body_budget import WHY_NOT_HELD
from fastgw.upstream.client.response_action import hold_body, send_made
from fastgw.upstream.client.subrequest import SubrequestFailed
from fastgw.upstream.client.subrequest_service import SubrequestService

if TYPE_CHECKING:
    from fastgw.functions.action import LambdaAction

T = TypeVar("T")

MOST_AT_ONCE: Final = 128 * 1024
"""Bytes that are encoded or parsed in the event loop; longer ones in a thread."""
_threads: Final = ThreadPoolExecutor(1, "lambda")
_FIELDS: Final = ((b"Content-Type", b"application/json"), (b"Accept-Encoding", b"identity"))
_STREAM: Final = b"application/vnd.amazon.eventstream"
_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9.]{0,99}")
_TOO_MANY_REQUESTS: Final = 429


@final
class Invocation(SubrequestService):
    """Service side of the exchange, and listener to the response of Lambda."""

    __slots__ = ("_action", "_head", "_held", "_pieces", "_streamed")

    def __init__(self, action: "LambdaAction", exchange: Exchange) -> None:
        super().__init__(exchange)
        self._action = action
        self._head: ResponseHead | None = None
        self._streamed: StreamedResponse | None = None
        self._pieces: list[bytes] = []
        self._held = 0

    def __repr__(self) -> str:
        return f"<Invocation of {self._action.settings.function}>"

    def start(self) -> None:
        """Invoke the function, once the body of the request is there."""
        exchange, action = self._exchange, self._action
        assert exchange is not None
        if exchange.request_body is None:
            self._invoke(b"")
            return
        hold_body(exchange, exchange.request_body, "lambda.max_bytes", action.settings.max_bytes, self._invoke)

    def _invoke(self, body: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        request, version = read_request(exchange), self._action.settings.payload_format

        def write() -> bytes | None:
            try:
                return write_event(request, body, version)
            except TooManyParameters:
                return None

        self._compute(len(body), write, self._send_event)

    def _send_event(self, event: bytes | None) -> None:
        exchange, action = self._exchange, self._action
        assert exchange is not None
        if event is None:
            exchange.fail(Fault.BAD_REQUEST, "There are too many query parameters.")
            return
        if len(event) > MOST_PAYLOAD:
            exchange.fail(Fault.BODY_TOO_LARGE, why="lambda: the event has more than 6 MiB, the limit of Lambda")
            return
        self._send(
            exchange,
            self,
            action.forward,
            target=action.target,
            method=b"POST",
            fields=_FIELDS,
            body=event,
            timeout=action.settings.timeout,
            is_streamed=action.settings.streaming,
        )

    def _compute(self, size: int, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run work whose cost grows with `size`, in a thread if it is large."""
        if size <= MOST_AT_ONCE:
            then(work())
            return

        def done(future: "asyncio.Future[T]") -> None:
            if self._exchange is None or future.cancelled():
                return
            if (error := future.exception()) is not None:
                log_event(OperatorEvent.DEFECT, "an event could not be processed", error=error)
                self._exchange.fail(Fault.INTERNAL)
            else:
                then(future.result())

        self._action.upstream.worker_loop.loop.run_in_executor(_threads, work).add_done_callback(done)

    # endings

    def fail(self, fault: Fault, why: str) -> None:
        """Answer with a fault, or abort the response if it has begun."""
        exchange = self._exchange
        if exchange is not None:
            self.cancel()
            exchange.service = None
            exchange.fail(fault, why=f"function {self._action.settings.function}: {why or fault.label}")

    def finish(self) -> Exchange | None:
        """Release everything: the response is decided. Returns the exchange to answer; None: it is over."""
        exchange = self._exchange
        if exchange is not None:
            self.cancel()
            exchange.service = None
        return exchange

    # calls of the exchange (`ServiceSide`)

    def cancel(self) -> None:
        """End it: the response is decided, or not needed."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        self._stop_timer()
        if self._streamed is not None:
            self._streamed.is_over = True
        if exchange.request_body is not None:
            exchange.request_body.forget_head()
        self._cancel_sent()
        self._pieces = []
        self._action.upstream.worker_loop.held_body_budget.give_back(self._held)
        self._held = 0

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._head = head
        exchange = self._exchange
        if exchange is not None and head.status == 200 and self._action.settings.streaming:
            if (head.first(b"content-type") or b"").partition(b";")[0].strip().lower() == _STREAM:
                self._streamed = StreamedResponse(exchange, self._stop_timer)
            else:
                self.fail(Fault.FUNCTION_FAILED, "the response is no event stream")

    def on_data(self, payload: bytes) -> None:
        if self._exchange is None:
            return
        if self._streamed is not None:
            if why := self._streamed.feed(payload):
                self.fail(Fault.FUNCTION_FAILED, why)
            elif self._streamed.is_over:
                self.cancel()
            return
        most = self._action.settings.max_bytes
        if self._held + len(payload) > most:
            self.fail(Fault.RESPONSE_TOO_LARGE, f"the response has more than {most} bytes (lambda.max_bytes)")
        elif not self._action.upstream.worker_loop.held_body_budget.try_take(len(payload)):
            self.fail(Fault.OVERLOADED, WHY_NOT_HELD)
        else:
            self._held += len(payload)
            self._pieces.append(payload)

    def on_end(self, trailers: Trailers) -> None:
        self._sent = None
        if self._exchange is None:
            return
        if self._streamed is not None:
            why, is_over = self._streamed.end(), self._streamed.is_over
            if why:
                self.fail(Fault.FUNCTION_FAILED, why)
            elif (exchange := self.finish()) is not None and not is_over:
                exchange.response_sink.end(())
            return
        assert self._head is not None
        payload, self._pieces = b"".join(self._pieces), []
        if refused := self._refused(self._head, payload):
            self.fail(*refused)
            return
        infers = self._action.settings.payload_format == "2.0"
        self._compute(len(payload), partial(_parsed, payload, infers), self._reply)

    @staticmethod
    def _refused(head: ResponseHead, payload: bytes) -> tuple[Fault, str] | None:
        """Return the fault and its reason for a response that is none of the function."""
        if head.status != 200:
            kind = _NAME.match(head.first(b"x-amzn-errortype") or b"")
            fault = Fault.FUNCTION_THROTTLED if head.status == _TOO_MANY_REQUESTS else Fault.FUNCTION_FAILED
            return fault, f"Lambda answers {head.status} {kind[0].decode() if kind else ''}".rstrip()
        if head.first(b"x-amz-function-error") is not None:
            return Fault.FUNCTION_FAILED, f"the function has failed: {_error_type(payload)}"
        return None

    def _reply(self, response: FunctionResponse | str) -> None:
        if isinstance(response, str):
            self.fail(Fault.FUNCTION_FAILED, response)
        elif (exchange := self.finish()) is not None:
            send_made(exchange, Reply(response.status, response.body, response.fields))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._sent = None
        self.fail(failure.fault, failure.why)


def _parsed(payload: bytes, infers: bool) -> FunctionResponse | str:
    try:
        return parse_response(payload, infers)
    except UnusableResponse as error:
        return str(error)


def _error_type(payload: bytes) -> str:
    """Return the type of a function's error, for the log: its message may have values of the request."""
    try:
        said = orjson.loads(payload[:MOST_AT_ONCE])
    except ValueError:
        return "unknown"
    kind = said.get("errorType") if isinstance(said, dict) else None
    found = _NAME.match(kind.encode("ascii", "replace")) if isinstance(kind, str) else None
    return found[0].decode() if found else "unknown"
