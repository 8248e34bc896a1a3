"""The application behind uvicorn: what a service of today does, in the plain terms of ASGI."""

from __future__ import annotations

import hashlib
from typing import Any

PIECES = [b"piece %d\n" % number for number in range(20)]


async def service(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await {"/echo": echo, "/digest": digest, "/pieces": pieces, "/status": status}[scope["path"]](scope, receive, send)


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request", "the client left"
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def answer(send: Any, code: int, body: bytes, *fields: tuple[bytes, bytes]) -> None:
    lines = [(b"content-length", b"%d" % len(body)), *fields]
    await send({"type": "http.response.start", "status": code, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The body as it came; and how it was framed."""
    framing = [name + b"=" + value for name, value in scope["headers"] if name in FRAMING]
    await answer(send, 200, await body_of(receive), (b"x-framing", b", ".join(framing)))


FRAMING = (b"content-length", b"transfer-encoding")


async def digest(scope: Any, receive: Any, send: Any) -> None:
    """What the body's SHA-256 is."""
    seen, more = hashlib.sha256(), True
    while more:
        message = await receive()
        seen.update(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, 200, seen.hexdigest().encode())


async def pieces(scope: Any, receive: Any, send: Any) -> None:
    """A body of unknown length: uvicorn sends it chunked."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for piece in PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def status(scope: Any, receive: Any, send: Any) -> None:
    """The status that the query names, as an error page or without a body."""
    code = int(scope["query_string"])
    if code in (204, 304):
        await send({"type": "http.response.start", "status": code, "headers": [(b"etag", b'"v1"')]})
        await send({"type": "http.response.body", "body": b""})
    else:
        await answer(send, code, b"status %d" % code)
