"""How long the rest of a request is waited for: until the response begins, `timeouts.request_body_idle`."""

from __future__ import annotations

import pytest

from fastgw.downstream.http2.stream import LINGER_IDLE_S
from fastgw.filters.api import BodyHook, Bounded, Phase
from tests.support.http2 import frames
from tests.support.http2.frames import Code
from tests.support.memory import Plane, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins, data_on, resets

POST = frames.block(*frames.pseudo(b"POST", b"/", b"a.test"))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("held", [False, True], ids=["as it comes", "held by a filter"])
def test_a_client_that_has_its_response_may_be_silent_with_its_request(held: bool) -> None:
    """From the response on the upstream's timeouts apply, as nothing waits for the rest of the request: a client of a
    bidirectional stream may send once, and only listen from then on.
    """
    holding = probe("holding", Phase.TRANSFORM, response_body=BodyHook(lambda exchange, body: None, needs=Bounded(100)))
    plane = Plane({**HTTP2, "timeouts": {"request_body_idle": "5s"}}, probes=[holding] if held else [])
    client = begins(plane)
    client.sends(frames.headers(POST, 1, False) + frames.data(b"sub", 1, False))
    upstream = plane.connects()
    upstream.sends(CHUNKED)
    for _ in range(4):
        plane.passes(4)
        upstream.sends(b"3\r\nnew\r\n")
    upstream.sends(b"0\r\n\r\n")
    assert data_on(client, 1) == b"new" * 4
    assert [(record.status, record.fault) for record in plane.records] == [(200, "")]
    assert not resets(client)
    plane.passes(LINGER_IDLE_S + 1)
    assert resets(client) == {1: Code.NO_ERROR}  # the request never ends
    client.resets()
    plane.assert_quiet()


def test_a_silent_client_does_not_spare_the_upstream_its_timeout() -> None:
    upstreams = {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "timeouts": {"idle": "20s"}}}
    plane = Plane({**HTTP2, "timeouts": {"request_body_idle": "5s"}, "upstreams": upstreams})
    client = begins(plane)
    client.sends(frames.headers(POST, 1, False) + frames.data(b"sub", 1, False))
    plane.connects().sends(CHUNKED)
    plane.passes(19)
    assert not resets(client)
    plane.passes(2)
    assert resets(client) == {1: Code.INTERNAL_ERROR}
    assert [record.fault for record in plane.records] == ["upstream_stalled"]
