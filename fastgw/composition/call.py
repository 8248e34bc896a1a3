"""One request of a part: sends it, and collects its answer within the limits of the composition."""

from __future__ import annotations

from typing import Any

import cython

from fastgw.composition.part import CompiledPart, PartRequest
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed
from fastgw.exchange import Trailers
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.exchange import Exchange
from fastgw.http.messages import ResponseHead
from fastgw.shm.held_body_budget import WHY_NOT_HELD
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed, WholeListener, send_lines


class PartAnswer:
    """Answer to one request, or its failure. `head`: None for a failure without a response."""

    def __init__(self, head: ResponseHead | None = None, body: bytes = b"") -> None:
        self.head, self.body = head, body
        self.status = 0 if head is None else head.status
        self.fault: Fault | None = None
        self.why = ""

    @classmethod
    def failed(cls, fault: Fault, why: str = "", head: ResponseHead | None = None) -> PartAnswer:
        answer = cls(head)
        answer.fault, answer.why = fault, why or fault.label
        return answer

    @property
    def coding(self) -> bytes:
        """Content coding of the body, in lower case; b"": none. Several ones are a list, which is unknown."""
        values = () if self.head is None else self.head.values(b"content-encoding")
        if not values:
            return b""
        coding = b",".join(values).strip().lower()
        return b"" if coding == b"identity" else coding

    @property
    def media_type(self) -> bytes | None:
        """Value of its `Content-Type`."""
        return None if self.head is None else self.head.first(b"content-type")


class PartCalls(Timed):
    """The part of a `ComposeRun` that its requests use. `most_bytes`: maximum bytes of an answer."""

    most_bytes: int

    def take_memory(self, size: cython.Py_ssize_t) -> bool:
        """Hold this many bytes more, until the end. False: what exceeds the free allowance of an exchange does not fit
        into the node's memory for held bodies.
        """
        raise NotImplementedError

    def answered(self, call: PartCall, answer: PartAnswer) -> None:
        """Handle the end of a request, from whichever stack."""
        raise NotImplementedError


class PartCall(WholeListener):
    """Listener to the response to one request of a part. `index`: of its element, for `for_each`."""

    def __init__(self, part: CompiledPart, index: int, run: PartCalls) -> None:
        self.part, self.index = part, index
        self._run: PartCalls | None = run  # until the end of the request
        self._pieces: list[bytes] | None = None
        self._size = 0
        self._head: ResponseHead | None = None
        self._sent: Subrequest | None = None

    def send(self, exchange: Exchange, request: PartRequest, timeout: float, most_requests: cython.int) -> None:
        """Send the request, which may end before this returns. `timeout`: inf: that of the whole is enough."""
        part = self.part
        target, lines, payload = request
        body = whole_body(payload, len(payload)) if payload else None
        try:
            sent: Any = send_lines(
                *(exchange, part.upstream, part.forward, self, part.method, target, lines, body),
                timeout,
                most_requests,
            )
        except ValueError as error:
            self._finish(PartAnswer.failed(Fault.INTERNAL, str(error)))
            return
        if isinstance(sent, SubrequestFailed):
            self._finish(PartAnswer.failed(sent.fault, sent.why))
        elif self._run is not None:
            self._sent = sent

    def expire(self) -> None:
        """End the request, because the time of the whole has passed."""
        self._end(PartAnswer.failed(Fault.UPSTREAM_TIMEOUT, head=self._head))

    def cancel(self) -> None:
        """Cancel the request: its answer is not needed any more."""
        self._run = None
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.cancel()

    def _finish(self, answer: PartAnswer) -> None:
        run, self._run = self._run, None
        self._sent = self._pieces = None
        if run is not None:
            run.answered(self, answer)

    def _refuse(self, why: str) -> None:
        """End the request, whose response cannot be held."""
        self._end(PartAnswer.failed(Fault.RESPONSE_TOO_LARGE, why, self._head))

    def _end(self, answer: PartAnswer) -> None:
        """End the request before the end of its response."""
        sent, self._sent = self._sent, None
        self._finish(answer)
        if sent is not None:
            sent.cancel()

    # calls of the sub-request

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        self._head = head
        if self._takes(len(body)):
            self._finish(PartAnswer(head, body))

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        if self._takes(len(payload)):
            if self._pieces is None:
                self._pieces = [payload]
            else:
                self._pieces.append(payload)

    def on_end(self, trailers: Trailers) -> None:
        self._finish(PartAnswer(self._head, b"".join(self._pieces or ())))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._finish(PartAnswer.failed(failure.fault, failure.why, self._head))

    def _takes(self, size: cython.Py_ssize_t) -> bool:
        """Whether more bytes of the body can be held; otherwise the request ends."""
        run = self._run
        if run is None:
            return False
        self._size += size
        if self._size > run.most_bytes:
            self._refuse(f"the response has more than {run.most_bytes} bytes")
            return False
        if not run.take_memory(size):
            self._refuse(WHY_NOT_HELD)
            return False
        return True
