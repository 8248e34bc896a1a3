"""Taps: `POST /tap` streams requests with their responses as they end, a line of JSON each, without secrets."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from email.utils import formatdate
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse

from fastgw.admin.authorization import ACTOR
from fastgw.admin.node_interface import NDJSON, CapturedExchanges, Node, TooManyCaptures
from fastgw.admin.responses import NOTHING_LOADED, SAFE
from fastgw.admin.tapped_request import TappedMessage, TappedRequest, TapRequest
from fastgw.capture.captured_exchange import CapturedExchange
from fastgw.capture.redaction import RedactedBody, Redaction, request_fields
from fastgw.observe.access_log.formats import PROTOCOLS, rfc3339

LASTING: Final = "lasting"
"""Key in the request's state: function that lets the response take this number of seconds."""
IDLE_S: Final = 5.0
"""Seconds after which an empty line is sent, so that a client that has left is noticed."""
MOST_BYTES_S: Final = 2 * 1024 * 1024
"""Maximum bytes that a tap sends per second."""
_encode: Final = msgspec.json.Encoder().encode


async def tap(node: Node, request: Request, wanted: TapRequest) -> StreamingResponse:
    """Begin a tap. It ends with its time, or when the client leaves."""
    stack = AsyncExitStack()
    try:
        exchanges = await stack.enter_async_context(node.capturing(wanted.order()))
    except TooManyCaptures as error:
        raise HTTPException(429, "There are too many taps and recordings already.") from error
    except OSError as error:
        raise HTTPException(503, f"The tap cannot begin: {error.strerror or error}.") from error
    lasting = getattr(request.state, LASTING, None)
    if lasting is not None:
        lasting(wanted.seconds + 10.0)
    lines = _lines(node, exchanges, stack, wanted, getattr(request.state, ACTOR))
    headers = {"Date": formatdate(usegmt=True), **SAFE, "Content-Security-Policy": NOTHING_LOADED}
    return _Stream(lines, stack, headers)


class _Stream(StreamingResponse):
    """Response that ends the capture in any case, also if its first line was never sent."""

    def __init__(self, lines: AsyncIterator[bytes], stack: AsyncExitStack, headers: Mapping[str, str]) -> None:
        super().__init__(lines, headers=headers, media_type=NDJSON)
        self.body = b""  # for the audit log
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.aclose()


async def _lines(
    node: Node, exchanges: CapturedExchanges, stack: AsyncExitStack, wanted: TapRequest, actor: str
) -> AsyncIterator[bytes]:
    redaction, until, count = node.redaction(), time.monotonic() + wanted.seconds, 0
    try:
        yield b"\n"  # the client sees at once that the tap has begun
        while (left := until - time.monotonic()) > 0:
            captured = await exchanges.next(min(IDLE_S, left))
            if captured is None:
                yield b"\n"
                continue
            count += 1
            line = _encode(tapped(captured, redaction, wanted.body_bytes, exchanges.dropped)) + b"\n"
            yield line
            await asyncio.sleep(len(line) / MOST_BYTES_S)
    finally:
        await stack.aclose()
        await asyncio.shield(
            node.record(actor, "tap", "ended", {"requests": str(count), "dropped": str(exchanges.dropped)})
        )


def tapped(captured: CapturedExchange, redaction: Redaction, most: int, dropped: int) -> TappedRequest:
    """Return an exchange without secrets. `most`: maximum bytes of each body."""
    received = request_fields(captured)
    asked = redaction.body(received, captured.request_body, most)
    answered = redaction.body(captured.response_fields, captured.response_body, most)
    query = redaction.query(captured.query)
    return TappedRequest(
        time=rfc3339(captured.date),
        duration_s=round(captured.duration_s, 6),
        listener=captured.listener,
        route=captured.route,
        client=captured.client_ip,
        consumer=captured.consumer or None,
        method=_text(captured.method),
        scheme=_text(captured.scheme),
        host=_text(captured.host),
        path=_text(redaction.path(captured.path)),
        query=None if query is None else _text(query),
        protocol=PROTOCOLS.get(captured.version, ""),
        status=captured.status,
        fault=captured.fault or None,
        fault_detail=captured.why or None,
        upstream=captured.upstream or None,
        target=captured.target or None,
        upstream_s=round(captured.upstream_s, 6) if captured.upstream_s >= 0.0 else None,
        retries=captured.retries,
        cache=captured.cache_result or None,
        request_id=_text(captured.request_id) or None,
        trace_id=_text(captured.trace_id) or None,
        request=_message(redaction.fields(received), asked, captured.request_bytes, captured.request_complete),
        response=_message(
            redaction.fields(captured.response_fields), answered, captured.response_bytes, captured.response_complete
        ),
        dropped=dropped,
    )


def _message(fields: list[tuple[bytes, bytes]], body: RedactedBody, length: int, is_complete: bool) -> TappedMessage:
    return TappedMessage(
        headers=[(_text(name), _text(value)) for name, value in fields],
        body=_text(body.content),
        body_bytes=length,
        body_truncated=body.is_cut or not is_complete,
        body_omitted=body.omitted,
    )


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
