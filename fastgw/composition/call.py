"""One request of a part: sends it, and collects its answer within the limits of the composition."""

from collections.abc import Callable
from typing import final

from fastgw.composition.part import CompiledPart, PartRequest
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Trailers
from fastgw.http.fields import Fields
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed, send_subrequest


@final
class PartAnswer:
    """PartAnswer to one request, or its failure."""

    __slots__ = ("body", "fault", "fields", "status", "why")

    def __init__(self, status: int = 0, fields: Fields | None = None, body: bytes = b"") -> None:
        self.status, self.fields, self.body = status, Fields() if fields is None else fields, body
        self.fault: Fault | None = None
        self.why = ""

    @classmethod
    def failed(cls, fault: Fault, why: str = "") -> "PartAnswer":
        answer = cls()
        answer.fault, answer.why = fault, why or fault.label
        return answer


@final
class PartCall:
    """Listener to the response to one request of a part. `index`: of its element, for `for_each`."""

    __slots__ = ("_body", "_done", "_head", "_most", "_sent", "held", "index", "part")

    def __init__(
        self, part: CompiledPart, index: int, most: int, done: "Callable[[PartCall, PartAnswer], None]"
    ) -> None:
        self.part, self.index = part, index
        self.held = 0
        """Bytes taken from the node's memory for held bodies; the composition returns them."""
        self._most = most
        self._done: Callable[[PartCall, PartAnswer], None] | None = done
        self._body = bytearray()
        self._head: ResponseHead | None = None
        self._sent: Subrequest | None = None

    def send(self, exchange: Exchange, request: PartRequest, timeout: float, most_requests: int) -> None:
        """Send the request. `done` may be called before this returns."""
        try:
            sent = send_subrequest(
                exchange,
                self.part.upstream,
                self,
                target=request.target,
                method=self.part.method,
                fields=request.fields,
                body=request.body,
                timeout=timeout,
                most=most_requests,
            )
        except ValueError as error:
            self._finish(PartAnswer.failed(Fault.INTERNAL, str(error)))
            return
        if isinstance(sent, SubrequestFailed):
            self._finish(PartAnswer.failed(sent.fault, sent.why))
        elif self._done is not None:
            self._sent = sent

    def cancel(self) -> None:
        """Cancel the request: its answer is not needed any more."""
        self._done = None
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()

    def _finish(self, answer: PartAnswer) -> None:
        done, self._done = self._done, None
        self._sent = None
        if done is not None:
            done(self, answer)

    def _refuse(self, why: str) -> None:
        """End the request, whose response cannot be held."""
        sent, self._sent = self._sent, None
        self._finish(PartAnswer.failed(Fault.RESPONSE_TOO_LARGE, why))
        if sent is not None:
            sent.cancel()

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        if self._done is None:
            return
        if len(self._body) + len(payload) > self._most:
            self._refuse(f"the response has more than {self._most} bytes")
            return
        if not self.part.upstream.worker_loop.held_body_budget.try_take(len(payload)):
            self._refuse("the node's memory for held bodies is used up")
            return
        self.held += len(payload)
        self._body += payload

    def on_end(self, trailers: Trailers) -> None:
        assert self._head is not None
        answer = PartAnswer(self._head.status, self._head.fields(), bytes(self._body))
        self._body = bytearray()
        self._finish(answer)

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._finish(PartAnswer.failed(failure.fault, failure.why))
