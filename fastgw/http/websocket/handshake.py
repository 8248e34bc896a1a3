"""The opening handshake of RFC 6455, as far as a gateway checks it, and its form for extended CONNECT (RFC 8441)."""

import re
from base64 import b64encode
from hashlib import sha1
from os import urandom
from typing import Final

from fastgw.http.messages import RequestHead, ResponseHead

WEBSOCKET: Final = b"websocket"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_KEYS_OF_CLIENT: Final = re.compile(rb"^sec-websocket-key:[^\r]*\r\n", re.MULTILINE)


def accept_for(key: bytes) -> bytes:
    """Return the `Sec-WebSocket-Accept` that belongs to a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def fault_in_request(head: RequestHead) -> str:
    """Return why the request of a client does not begin a WebSocket connection (RFC 6455 section 4.2.1); "" = it does.

    The version is not looked at.
    """
    if head.method != b"GET":
        return "The opening handshake of a WebSocket is a GET request."
    keys = head.values(b"sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return "Sec-WebSocket-Key is not 16 bytes in base64."
    return ""


def fault_in_response(request: RequestHead, response: ResponseHead) -> str:
    """Return why a 101 does not answer the request for a WebSocket (RFC 6455 section 4.1); "" = it does."""
    if response.upgrade != (WEBSOCKET,):
        return "the upstream has not switched to websocket"
    accepts = response.values(b"sec-websocket-accept")
    if accepts != [accept_for(request.first(b"sec-websocket-key") or b"")]:
        return "Sec-WebSocket-Accept does not belong to the key of the request"
    return ""


def upgrade_for(connect: bytes, protocol: bytes) -> bytes:
    """Return the request of HTTP/1.1 for an extended CONNECT, in whose text names are in lower case.

    A WebSocket gets a key of the gateway's own: RFC 8441 section 5 has none.
    """
    line_end = connect.index(b"\r\n") + 2
    lines = connect[line_end:]
    added = b"connection: upgrade\r\nupgrade: " + protocol + b"\r\n"
    if protocol.lower() == WEBSOCKET:
        lines = _KEYS_OF_CLIENT.sub(b"", lines)
        added += b"sec-websocket-key: " + b64encode(urandom(16)) + b"\r\n"
    return b"GET" + connect[connect.index(b" ") : line_end] + added + lines
