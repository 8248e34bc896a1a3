"""Streamed responses of functions (`InvokeWithResponseStream`): status and headers at their beginning, then the body.

A function that uses `awslambda.HttpResponseStream` sends them as a JSON object, followed at once by eight zero bytes,
which no JSON text has. The stream of another function is a body as it is, also if it begins with an object (NDJSON).
"""

import re
from collections.abc import Callable
from typing import Final, final

import orjson

from fastgw.aws.event_stream import EventStreamParser, InvalidEventStream, StreamMessage
from fastgw.exchange import Exchange, Reply
from fastgw.exchange.reply import OWN_WITHOUT_BODY, UNKNOWN
from fastgw.functions.responses import FunctionResponse, UnusableResponse, parse_head
from fastgw.upstream.client.response_action import made_response

MOST_HEAD: Final = 64 * 1024
"""Maximum bytes of status and headers; a longer text is a body."""
_END_OF_HEAD: Final = bytes(8)
_OUTSIDE_STRINGS: Final = re.compile(rb'["{}]').search
_IN_STRING: Final = re.compile(rb'["\\]').search
_NOT_JSON: Final = "the head of the function's response is not JSON"
_PLAIN: Final = FunctionResponse(200, [(b"Content-Type", b"application/octet-stream")], b"")


@final
class _ObjectScan:
    """Search for the end of the JSON object with which a text begins, as the text grows: each byte is read once."""

    __slots__ = ("_at", "_in_string", "_levels")

    def __init__(self) -> None:
        self._at = self._levels = 0
        self._in_string = False

    def end(self, text: bytearray) -> int:
        """Return where the object ends; -1: not in this text. Not called again after an end."""
        while found := (_IN_STRING if self._in_string else _OUTSIDE_STRINGS)(text, self._at):
            sign = found[0]
            self._at = found.end()
            if sign == b"\\":
                self._at += 1
            elif sign == b'"':
                self._in_string = not self._in_string
            else:
                self._levels += 1 if sign == b"{" else -1
                if not self._levels:
                    return self._at
        self._at = max(self._at, len(text))
        return -1


@final
class StreamedResponse:
    """Response of one invocation, which is sent to the client as it arrives."""

    __slots__ = ("_begun", "_complete", "_exchange", "_head", "_object_end", "_parser", "_scan", "is_over")

    def __init__(self, exchange: Exchange, begun: Callable[[], None]) -> None:
        """`begun`: called when the head is known."""
        self._exchange, self._begun = exchange, begun
        self._parser = EventStreamParser()
        self._head: bytearray | None = bytearray()
        """Beginning of the stream; None: the response has begun."""
        self._scan = _ObjectScan()
        self._object_end = -1
        self._complete = False
        self.is_over = False
        """Whether nothing more is sent: the client has got all of it, such as the head for HEAD, or has left."""

    def feed(self, data: bytes) -> str:
        """Handle the next bytes. Returns the reason why the response has failed; "": it has not."""
        try:
            for message in self._parser.feed(data):
                why = self._take_message(message)
                if why or self.is_over:
                    return why
        except (InvalidEventStream, UnusableResponse) as error:
            return str(error)
        return ""

    def end(self) -> str:
        """Handle the end of the stream, as `feed`. The caller ends the response unless it is over."""
        if not self._complete or not self._parser.is_between:
            return "the event stream is incomplete"
        try:
            if self._head is not None and not self.is_over:
                self._begin_body(bytes(self._head))
        except UnusableResponse as error:
            return str(error)
        return ""

    def _take_message(self, message: StreamMessage) -> str:
        headers = message.headers
        if headers.get(":message-type") != "event":
            return "Lambda has ended the stream with an exception"
        kind = headers.get(":event-type")
        if kind == "PayloadChunk":
            if self._complete:
                return "the event stream goes on after its end"
            if message.payload:
                self._take_piece(message.payload)
            return ""
        if kind == "InvokeComplete":
            self._complete = True
            try:
                said = orjson.loads(message.payload) if message.payload else {}
            except ValueError:
                return "the event stream has an invalid end"
            failed = isinstance(said, dict) and said.get("ErrorCode")
            return "the function has failed in its response" if failed else ""
        return ""  # events that are added later

    def _take_piece(self, piece: bytes) -> None:
        if self._head is None:
            self._send(piece)
            return
        self._head += piece
        if self._head[:1] != b"{":
            self._begin_body(bytes(self._head))
            return
        if self._object_end < 0:
            self._object_end = self._scan.end(self._head)
        end = self._object_end
        if end < 0:
            if _END_OF_HEAD in self._head:
                raise UnusableResponse(_NOT_JSON)
            if len(self._head) > MOST_HEAD:
                self._begin_body(bytes(self._head))
            return
        rest = bytes(self._head[end:])
        if rest.startswith(_END_OF_HEAD):
            try:
                result = orjson.loads(bytes(self._head[:end]))
            except ValueError:
                raise UnusableResponse(_NOT_JSON) from None
            self._begin_response(parse_head(result), rest.removeprefix(_END_OF_HEAD))
        elif not _END_OF_HEAD.startswith(rest):
            self._begin_body(bytes(self._head))

    def _begin_body(self, body: bytes) -> None:
        self._begin_response(_PLAIN, body)

    def _begin_response(self, head: FunctionResponse, piece: bytes) -> None:
        """Send the head, and the first piece of the body."""
        self._head = None
        self._begun()
        exchange = self._exchange
        response = made_response(exchange, Reply(head.status, b"", head.fields), None)
        has_none = head.status in OWN_WITHOUT_BODY or exchange.method == b"HEAD"
        if head.status not in OWN_WITHOUT_BODY:
            response.body_length = UNKNOWN
        exchange.response_bytes = 0
        if has_none:
            self.is_over = True
            exchange.service = None
        exchange.respond(response, b"", has_none)
        if piece and not self.is_over:
            self._send(piece)

    def _send(self, piece: bytes) -> None:
        self._exchange.response_bytes += len(piece)
        self._exchange.response_sink.feed(piece)
