"""compress and decompress through a running gateway, for clients of HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest

from fastgw.http.content_coding.compressors import zstd
from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running

OK = b"HTTP/1.1 200 OK\r\n"
SAMPLE = re.compile(r"^fastgw_content_coding_(input|output)_bytes_total\{(.*)\} (\S+)$", re.MULTILINE)
READERS: dict[bytes, Callable[[], Callable[[bytes], bytes]]] = {
    b"gzip": lambda: zlib.decompressobj(31).decompress,
    b"br": lambda: brotli.Decompressor().process,
    b"zstd": lambda: zstd.ZstdDecompressor().decompress,
}
KINDS = {
    "plain": Kind(route={"filters": {"compress": {}, "decompress": {}}}),
    "padded": Kind(route={"filters": {"compress": {"random_padding": True}}}),
}
SETTINGS = {"listeners": {"main": {"address": "127.0.0.1:0"}}, "status": {"address": "127.0.0.1:0"}}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lanes]:
    folder = tmp_path_factory.mktemp(f"compression-{request.param}")
    yield from running(Lanes(folder, KINDS, count=16, settings=SETTINGS, version=request.param))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


@pytest.mark.parametrize("coding", [b"zstd", b"gzip"])
@pytest.mark.parametrize("media_type", [b"text/event-stream", b"application/x-ndjson"])
def test_the_client_sees_each_event_before_the_next_is_sent(lane: Lane, coding: bytes, media_type: bytes) -> None:
    client = lane.client()
    client.send(lane.get(fields=b"Accept-Encoding: %b\r\n" % coding))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % media_type)
    head = client.read_response_head()
    assert (head.get(b"Content-Encoding"), head.get(b"Vary")) == (coding, b"Accept-Encoding")
    read = READERS[coding]()
    for number in range(20):
        event = b'{"event": %d}\n\n' % number
        upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
        seen = b""
        while len(seen) < len(event):
            seen += read(client.read_chunk())
        assert seen == event
    upstream.send(b"0\r\n\r\n")
    assert not read(b"".join(iter(client.read_chunk, b"")))  # the trailer of the format, and no event


@pytest.mark.parametrize("lane", ["plain", "padded"], indirect=True)
@pytest.mark.parametrize("coding", READERS)
def test_a_large_response_arrives_as_it_was_sent(lane: Lane, coding: bytes) -> None:
    """Through every window and buffer; of it the client reads nothing for a while."""
    numbers = random.Random(1)
    content = b"".join(b"%d,%d\n" % (number, numbers.getrandbits(40)) for number in range(60_000))
    client = lane.client()
    client.send(lane.get(fields=b"Accept-Encoding: %b\r\n" % coding))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Type: text/csv\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    got = client.read_response()
    assert got.get(b"Content-Encoding") == coding
    whole = {b"gzip": gzip.decompress, b"br": brotli.decompress, b"zstd": zstd.decompress}[coding](got.body)
    assert whole == content
    assert len(got.body) < len(content)


def test_a_client_that_leaves_ends_the_response(lane: Lane) -> None:
    """Nothing more is fetched and compressed for it."""
    client = lane.client()
    client.send(lane.get(fields=b"Accept-Encoding: zstd\r\n"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(OK + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    client.read_response_head()
    client.read_chunk()
    client.close()
    upstream.assert_ended()


@pytest.mark.parametrize("coding", READERS)
def test_a_compressed_upload_reaches_the_upstream_in_plain(lane: Lane, coding: bytes) -> None:
    content = b'{"name": "a name", "count": 12}\n' * 2000
    data = {b"gzip": gzip.compress, b"br": brotli.compress, b"zstd": zstd.compress}[coding](content)
    got, response = lane.forward(lane.post(data, b"Content-Encoding: %b\r\n" % coding))
    assert (got.body, response.status) == (content, 200)
    assert b"Content-Encoding" not in got


def test_a_bomb_never_reaches_the_upstream_as_a_whole_request(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.post(gzip.compress(bytes(8 * 1024 * 1024)), b"Content-Encoding: gzip\r\n"))
    assert client.read_response().status == 413


def counted(lane: Lane) -> dict[tuple[str, str, str], int]:
    """Samples of the lane's route."""
    with Client(lane.gateway.ready["status"]) as client:
        text = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body.decode()
    found = {}
    for side, labels, value in SAMPLE.findall(text):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if told["route"] == lane.name:
            found[told["operation"], told["encoding"], side] = int(float(value))
    return found


def test_bytes_before_and_after_are_counted(lane: Lane) -> None:
    before = counted(lane)
    assert before == {} or min(before.values()) > 0  # lanes are used again
    content = b"a line of text\n" * 100
    data = gzip.compress(content)
    response = OK + b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    _, got = lane.forward(lane.post(data, b"Content-Encoding: gzip\r\nAccept-Encoding: zstd\r\n"), response)
    expected = dict(before)
    for key, count in {
        ("compress", "zstd", "input"): len(content),
        ("compress", "zstd", "output"): len(got.body),
        ("decompress", "gzip", "input"): len(data),
        ("decompress", "gzip", "output"): len(content),
    }.items():
        expected[key] = expected.get(key, 0) + count
    wait_until(lambda: counted(lane) == expected, f"{expected}")
