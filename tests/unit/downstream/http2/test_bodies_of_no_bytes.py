"""Request bodies that are declared with a length of 0 and end in a later frame: an empty DATA frame, or trailers."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.filters.api import BodyHook, Phase
from tests.support.http2 import frames
from tests.support.memory import Plane, Wire, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins, data_on, ends_of

ENDS = {"an empty DATA frame": frames.data(), "trailers": frames.headers(frames.block((b"x-sum", b"6")))}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def posts(client: Wire, end: bytes, split: bool, *fields: tuple[bytes, bytes]) -> None:
    """Send a POST with a declared length of 0. `split`: its end is not in the same read."""
    begun = frames.post((b"content-length", b"0"), *fields)
    for piece in (begun, end) if split else (begun + end,):
        client.sends(piece)


def is_complete(request: bytes, has_trailers: bool) -> bool:
    """Whether an upstream that speaks HTTP/1.1 sees the end of the request: by its length, or by the last chunk."""
    head, _, body = request.partition(b"\r\n\r\n")
    if b"\r\nTransfer-Encoding: chunked" in head:
        return body == (b"0\r\nx-sum: 6\r\n\r\n" if has_trailers else b"0\r\n\r\n")
    return b"\r\ncontent-length: 0" in head.lower() and body == b""


def is_answered(plane: Plane, client: Wire, upstream: Wire) -> bool:
    upstream.sends(OK)
    return data_on(client, 1) == b"ok" and ends_of(client) == [1] and [each.status for each in plane.records] == [200]


@pytest.mark.parametrize("split", [False, True], ids=["in one read", "in two reads"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate"])
def test_decompress_lets_it_pass_as_over_http1(coding: bytes, end: bytes, split: bool) -> None:
    """There is nothing to decompress, whatever the coding: the upstream gets the header, and no body."""
    plane = Plane({**HTTP2, "routes": [{"name": "all", "upstream": "u", "filters": {"decompress": {}}}]})
    client = begins(plane)
    posts(client, end, split, (b"content-encoding", coding))
    upstream = plane.connects()
    assert b"\r\ncontent-encoding: %b\r\n" % coding in upstream.received
    assert is_complete(upstream.received, ENDS["trailers"] == end)
    assert is_answered(plane, client, upstream)


@pytest.mark.parametrize("split", [False, True], ids=["in one read", "in two reads"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_the_end_comes_out_of_a_stage_that_may_change_the_length(end: bytes, split: bool) -> None:
    changing = probe(
        "changing", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, body: body + b"!", changes=True)
    )
    plane = Plane(HTTP2, probes=[changing])
    client = begins(plane)
    posts(client, end, split)
    upstream = plane.connects()
    assert is_complete(upstream.received, ENDS["trailers"] == end)
    assert is_answered(plane, client, upstream)


@pytest.mark.parametrize("filters", [{}, {"size": {"body": "10B"}}], ids=["no filter", "size"])
def test_the_upstream_gets_the_request_before_its_end(filters: dict[str, Any]) -> None:
    plane = Plane({**HTTP2, "routes": [{"name": "all", "upstream": "u", "filters": filters}]})
    client = begins(plane)
    client.sends(frames.post((b"content-length", b"0")))
    upstream = plane.connects()
    assert b"\r\ncontent-length: 0\r\n" in upstream.received.lower()
    assert upstream.received.endswith(b"\r\n\r\n")
    client.sends(frames.data())
    assert is_answered(plane, client, upstream)
