"""Bandwidth: bodies are never faster than configured, arrive whole, and hold back who sends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from tests.support.lanes import VERSIONS, Kind, Lanes, running

RATE = 65_536
BURST = 8192
BODY = bytes(range(256)) * 128
LEAST = (len(BODY) - BURST) / RATE
SLOW = {"rate": "64KiB/s", "burst": "8KiB"}
LARGE = b"x" * 16 * 1024**2


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lanes]:
    directory = tmp_path_factory.mktemp("bandwidth")
    root = directory / "root"
    root.mkdir()
    (root / "file").write_bytes(BODY)
    kinds = {
        "plain": Kind(route={"filters": {"bandwidth": SLOW}}),
        "compressed": Kind(route={"filters": {"bandwidth": SLOW, "compress": {"types": ["text/plain"]}}}),
        "cached": Kind(route={"filters": {"bandwidth": SLOW, "cache": {"ttl": "1h"}}}),
        "file": Kind(route={"upstream": None, "files": {"root": str(root)}, "filters": {"bandwidth": SLOW}}),
        "by-host": Kind(route={"filters": {"bandwidth": {**SLOW, "key": "host"}}}),
        "upload": Kind(route={"filters": {"bandwidth": {"request_rate": "64KiB/s", "burst": "8KiB"}}}),
        "both": Kind(
            route={
                "filters": {
                    "bandwidth": {**SLOW, "key": "host", "request_rate": "64KiB/s"},
                    "each": {"type": "bandwidth", "rate": "1MiB/s", "request_rate": "1MiB/s"},
                }
            }
        ),
        "crawling": Kind(route={"filters": {"bandwidth": {"rate": "1KiB/s"}}}),
    }
    yield from running(Lanes(directory, kinds, count=2, version=request.param))


def _ok(body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), fields, body)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_response_arrives_whole_and_not_faster(lanes: Lanes, chunked: bool) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    begun = monotonic()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    if chunked:
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(BODY), BODY))
        upstream.send(b"0\r\n\r\n")
    else:
        upstream.send(_ok(BODY))
    assert client.read_response().body == BODY
    assert monotonic() - begun >= LEAST
    client.send(lane.get())  # and the connection goes on
    upstream.read_request()
    upstream.send(_ok(b"ok"))
    assert client.read_response().body == b"ok"
    lane.end()


@pytest.mark.parametrize("kind", ["cached", "file"])
def test_stored_responses_and_files_are_not_faster_either(lanes: Lanes, kind: str) -> None:
    lane = lanes.take(kind)
    client = lane.client()
    if kind == "cached":
        client.send(lane.get(b"/file"))
        upstream = lane.accept()
        upstream.read_request()
        upstream.send(_ok(BODY, b"Cache-Control: public, max-age=3600\r\n"))
        assert client.read_response().body == BODY
    begun = monotonic()
    client.send(lane.get(b"/file"))
    assert client.read_response().body == BODY
    assert monotonic() - begun >= LEAST
    lane.end()


def test_what_counts_is_what_is_sent(lanes: Lanes) -> None:
    """A compressed response is as fast as its compressed bytes allow: here they fit into the burst."""
    lane = lanes.take("compressed")
    client = lane.client()
    client.send(lane.get(fields=b"Accept-Encoding: gzip\r\n"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(_ok(b"a" * 1024**2, b"Content-Type: text/plain\r\n"))
    assert len(client.read_response().body) < BURST
    lane.end()


def test_responses_with_one_key_share_the_bandwidth(lanes: Lanes) -> None:
    lane = lanes.take("by-host")
    begun = monotonic()

    def fetch() -> None:
        _, response = lane.forward(b"GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n", _ok(BODY))
        assert response.body == BODY

    others = [threading.Thread(target=fetch) for _ in range(2)]
    for each in others:
        each.start()
        each.join()
    assert monotonic() - begun >= (2 * len(BODY) - BURST) / RATE
    lane.end()


def test_a_request_body_is_read_not_faster(lanes: Lanes) -> None:
    """The client is held back by flow control, and the whole body arrives."""
    lane = lanes.take("upload")
    client = lane.client()
    body = BODY * 4
    sending = threading.Thread(target=client.send, args=(lane.post(body),))
    sending.start()
    upstream = lane.accept()
    assert upstream.read_request().body == body
    upstream.send(_ok(b"ok"))
    assert client.read_response().body == b"ok"
    sending.join()
    lane.end()


def test_of_two_filters_the_narrower_one_is_not_lost(lanes: Lanes) -> None:
    """Whichever runs last, each of them limits request and response."""
    lane = lanes.take("both")
    client = lane.client()
    sending = threading.Thread(target=client.send, args=(lane.post(BODY),))
    sending.start()
    upstream = lane.accept()
    assert upstream.read_request().body == BODY
    begun = monotonic()
    upstream.send(_ok(BODY))
    assert client.read_response().body == BODY
    assert monotonic() - begun >= LEAST
    sending.join()
    lane.end()


def test_the_upstream_is_held_back(lanes: Lanes) -> None:
    """A large response is not read into memory: the upstream's socket takes no more."""
    lane = lanes.take("crawling")
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.sock.settimeout(1.0)
    upstream.sock.setsockopt(1, 7, 65_536)  # SO_SNDBUF
    with pytest.raises(TimeoutError):
        upstream.sock.sendall(_ok(LARGE))
    client.close()
    lane.gateway.wait_for_record(host=lane.host.decode(), fault="client_left")
    lane.end()
