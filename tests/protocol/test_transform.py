"""transform through a running gateway, for clients of HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.peer import Unexpected

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
RULES = {"json": {"deny": ["secret"]}}
KINDS = {
    "plain": Kind(route={"filters": {"transform": {"request": RULES, "response": RULES}}}),
    "coded": Kind(
        route={
            "filters": {
                "transform": {"request": RULES, "response": RULES},
                "compress": {"min_bytes": 1},
                "decompress": {},
            }
        }
    ),
}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lanes]:
    folder = tmp_path_factory.mktemp(f"transform-{request.param}")
    yield from running(Lanes(folder, KINDS, count=8, version=request.param))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


def whole(body: bytes, fields: bytes = JSON) -> bytes:
    return OK + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_both_bodies_are_mapped(lane: Lane) -> None:
    got, response = lane.forward(lane.post(b'{"a": 1.10, "secret": 1}', JSON), whole(b'{"b": 2.50, "secret": [{}]}'))
    assert (got.body, response.body) == (b'{"a":1.10}', b'{"b":2.50}')
    assert got.get(b"Content-Length") == b"10"
    assert response.get(b"Content-Length") == b"10"


def test_a_refused_body_ends_neither_connection_nor_gateway(lane: Lane) -> None:
    client = lane.client()
    for _ in range(2):
        client.send(lane.post(b'{"a":1,"a":2}', JSON))
        assert client.read_response().status == 400
    client.send(lane.get())
    lane.origin.accept_next().answer(whole(b'{"a":1,"a":2}'))
    assert client.read_response().status == 502
    client.send(lane.get())
    lane.origin.accept_next().answer(whole(b'{"secret":1}'))
    assert client.read_response().body == b"{}"


def test_the_client_sees_each_event_before_the_next_is_sent(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_response_head().status == 200
    for number in range(5):
        event = b'data: {"n": %d, "secret": 1}\n\n' % number
        upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert client.read_chunk() == b'data: {"n":%d}\n\n' % number
    upstream.send(b"0\r\n\r\n")
    assert client.read_chunk() == b""


def test_a_keep_alive_is_sent_before_the_next_event(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_response_head().status == 200
    event = b'data: {"n":1}\n\n'
    for piece, sent in ((b": ping\n", b": ping\n"), (event[:5] + b"\n:\n", b":\n"), (event, event)):
        upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert client.read_chunk() == sent
    upstream.send(b"0\r\n\r\n")
    assert client.read_chunk() == b""


@pytest.mark.parametrize("together", [False, True])
def test_the_client_gets_the_events_before_one_that_cannot_be_mapped(lane: Lane, together: bool) -> None:
    """However they have arrived; the response is cut off behind them, and not ended."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    head = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = b'data: {"a":1}\n\ndata: nope\n\ndata: {"a":2}\n\n'
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)
    for piece in [head + chunk] if together else [head, chunk]:
        upstream.send(piece)
        if piece is head:
            assert client.read_response_head().status == 200
    if together:
        assert client.read_response_head().status == 200
    assert client.read_chunk() == b'data: {"a":1}\n\n'
    with pytest.raises(Unexpected):
        client.read_chunk()


@pytest.mark.parametrize("lane", ["coded"], indirect=True)
def test_compressed_bodies_are_mapped_between_decompression_and_compression(lane: Lane) -> None:
    data = gzip.compress(b'{"a": 1.10, "secret": 1}')
    request = lane.post(data, JSON + b"Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n")
    got, response = lane.forward(request, whole(b'{"b":2.50,"secret":1}', JSON + b'ETag: "v"\r\n'))
    assert (got.body, got.get(b"Accept-Encoding")) == (b'{"a":1.10}', b"identity")
    assert (gzip.decompress(response.body), response.get(b"ETag")) == (b'{"b":2.50}', b'W/"v"')
    assert response.get(b"Content-Encoding") == b"gzip"


def test_a_response_that_is_longer_than_declared_or_cut_off_is_not_mapped(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + JSON + b'Content-Length: 100\r\n\r\n{"a":1}')
    upstream.close()
    assert client.read_response().status == 502
