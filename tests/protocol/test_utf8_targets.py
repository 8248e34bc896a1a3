"""`tolerate_utf8_targets`: characters that a client does not encode, encoded before anything else sees them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.http2 import frames
from tests.support.memory import Plane

VERSIONS = ("1.1", "2")


def sent(target: bytes, tolerates: bool, version: str, **route: Any) -> bytes:
    """The request target that the upstream gets; b"": the request was refused."""
    protocols = ["http2" if version == "2" else "http1"]
    listener = {"address": "127.0.0.1:0", "tolerate_utf8_targets": tolerates, "protocols": protocols}
    plane = Plane({"listeners": {"main": listener}, "routes": [{"name": "a", "upstream": "u", **route}]})
    client = plane.client()
    if version == "1.1":
        client.sends(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nX-A: \xff\r\n\r\n")
    else:
        fields = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", target))
        client.sends(frames.BEGINNING + frames.headers(b"".join(frames.literal(*field) for field in fields)))
    if not plane.pool.waiting:
        return b""
    return bytes(plane.connects().received.split(b" ")[1])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("target", "got"),
    [
        ("/caf\u00e9?q=\u00fc&r=%C3".encode(), b"/caf%C3%A9?q=%C3%BC&r=%C3"),
        ("/\U0001f600/../\u00e9".encode(), b"/%C3%A9"),
        (b"/caf\xe9", b""),  # Latin-1
        (b"/\xc0\xaf", b""),  # overlong
        (b"/\xed\xa0\x80", b""),  # a surrogate
        ("/\u00e9\x01".encode(), b""),
        ("/\u00e9#a".encode(), b""),
    ],
)
def test_utf8_is_encoded_where_it_is_tolerated(target: bytes, got: bytes, version: str) -> None:
    assert sent(target, True, version) == got
    assert sent(target, False, version) == b""
