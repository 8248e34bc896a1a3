"""Exchanges that are transcoded, in memory: whatever their end, they leave nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.filters.policies.grpc_transcode import conversions, transcoder
from tests.support.bookstore import api, message
from tests.support.collector import garbage
from tests.support.memory import Plane

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"0\r\ngrpc-status: 0\r\n\r\n"


def in_chunks(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def framed(text: str = "") -> bytes:
    content = message("Everything")(text=text).SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


@pytest.mark.parametrize("way", ["whole", "left", "lost", "malformed", "lies", "failed"])
@pytest.mark.parametrize("path", [b"/v1/echo", b"/v1/sum", b"/v1/chat", b"/v1/watch"])
def test_what_has_ended_goes_at_once(path: bytes, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector, which a worker leaves to its idle turns. The upstream speaks HTTP/1.1 here."""
    monkeypatch.setattr(transcoder, "speaks_grpc", lambda forward: True)
    file = tmp_path / "api.pb"
    file.write_bytes(api())
    plane = Plane({"filters": {"grpc_transcode": {"descriptors": str(file)}}})
    streams = path in (b"/v1/sum", b"/v1/chat")
    with garbage() as found:
        client = plane.client()
        client.sends(
            b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % path
        )
        client.sends(in_chunks(b'{"text": "a"}\n'))
        upstream = plane.connects() if streams else None
        if way == "malformed":
            client.sends(in_chunks(b"{\n") + b"0\r\n\r\n")
        elif way == "left" and streams:
            client.resets()
        else:
            client.sends(b"0\r\n\r\n")
            upstream = upstream or plane.connects()
            if way == "left":
                client.resets()
            elif way == "lost":
                upstream.sends(HEAD + in_chunks(framed()))
                upstream.resets()
            elif way == "lies":
                upstream.sends(HEAD + in_chunks(b"\0\0\0\0\1\xff") + OK)
            elif way == "failed":
                upstream.sends(HEAD + b"0\r\ngrpc-status: 5\r\n\r\n")
            else:
                upstream.sends(HEAD + in_chunks(framed("b")) + OK)
                assert b'{"text":"b"}' in client.received
        if way != "left":
            client.ends()
        del client, upstream
    kinds = ("Exchange", "Relay", "TranslatedCall", "Transcoding", "Conversions")
    assert [each for each in found if each in kinds] == []


def test_a_request_is_refused_if_too_many_wait_to_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcoder, "speaks_grpc", lambda forward: True)
    monkeypatch.setattr(conversions, "MOST_WAITING", 0)
    file = tmp_path / "api.pb"
    file.write_bytes(api())
    plane = Plane({"filters": {"grpc_transcode": {"descriptors": str(file)}}})
    client = plane.client()
    body = b'{"text": "%b"}' % (b"x" * 5000)
    head = b"POST /v1/echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n"
    client.sends(head % len(body) + body)
    assert client.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 1\r\n" in client.received
    assert plane.records[-1].fault == "overloaded"
    client.sends(head % 2 + b"{}")  # that is converted at once
    assert plane.connects().received.startswith(b"POST /bookstore.v1.Bookstore/Echo HTTP/1.1\r\n")
