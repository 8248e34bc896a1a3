"""Sloppy responses of upstreams with `tolerate`: each is a 502 unless it is tolerated by name, and then the client gets
it in valid form. What follows a response whose end is in doubt is no response to another request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.client import Client
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway, wait_until
from tests.support.http2.translation import TranslatedClient
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.origin import Origin
from tests.support.table import for_each

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
TRAILERS = b"Connection: TE\r\nTE: trailers\r\n"
FORGED = OK + b"Content-Length: 6\r\n\r\nforged"

BOTH, LENGTHS, IDENTITY, TWICE = (
    *("content_length_with_chunked", "repeated_content_length"),
    *("transfer_encoding_identity", "repeated_chunked"),
)
LF, PADDED, STATUSES, CONTROLS = "bare_lf", "padded_chunk_sizes", "statuses_above_599", "control_characters"
NAMES = (BOTH, LENGTHS, IDENTITY, TWICE, LF, PADDED, STATUSES, CONTROLS)


class Row(NamedTuple):
    tolerate: tuple[str, ...]
    response: bytes
    lines: tuple[bytes, ...] = ()
    """End-to-end headers that the client gets beside those about the framing."""
    status: bytes = b"200 OK"
    body: bytes = b"ok"
    closed: bool = False
    """Whether the connection of the upstream is closed afterwards."""
    trailers: tuple[tuple[bytes, bytes], ...] = ()


ROWS = {
    "both": Row((BOTH,), OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, closed=True),
    "both, chunked first": Row(
        (BOTH,),
        OK + b"transfer-encoding:Chunked\r\nX-A: b\r\ncontent-length: 2\r\n\r\n" + CHUNKS,
        (b"X-A: b",),
        closed=True,
    ),
    "length repeated": Row((LENGTHS,), OK + b"Content-Length: 2\r\nX-A: b\r\ncontent-length:2\r\n\r\nok", (b"X-A: b",)),
    "a list of lengths": Row((LENGTHS,), OK + b"Content-Length: 2, 2\r\nContent-Length: 2\r\n\r\nok"),
    "identity and a length": Row(
        (IDENTITY,), OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", closed=True
    ),
    "identity and chunked": Row(
        (IDENTITY,), OK + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKS, closed=True
    ),
    "identity in HTTP/1.0": Row(
        (IDENTITY,),
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: Identity\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        closed=True,
    ),
    "chunked twice": Row((TWICE,), OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, closed=True),
    "chunked in two lines": Row(
        (TWICE,), OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, closed=True
    ),
    "LF in the head": Row((LF,), b"HTTP/1.1 200 OK\nX-A: b\r\nContent-Length: 2\n\nok", (b"X-A: b",), closed=True),
    "LF before what looks like the end of a head": Row(
        (LF,), OK + b"X-A: b\nContent-Length: 6\r\n\nok\r\n\r\n", (b"X-A: b",), body=b"ok\r\n\r\n", closed=True
    ),
    "LF in an interim head": Row(
        (LF,), b"HTTP/1.1 102 Processing\n\n" + OK + b"Content-Length: 2\r\n\r\nok", closed=True
    ),
    "LF in chunks": Row((LF,), OK + b"Transfer-Encoding: chunked\r\n\r\n1\no\r\n1\r\nk\n0\n\n", closed=True),
    "LF in trailers": Row(
        (LF,),
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\nX-U: 2\r\n\n",
        closed=True,
        trailers=((b"x-t", b"1"), (b"x-u", b"2")),
    ),
    "padded sizes": Row((PADDED,), OK + b"Transfer-Encoding: chunked\r\n\r\n1  \r\no\r\n1 ;a=b\t\r\nk\r\n0   \r\n\r\n"),
    "status 600": Row((STATUSES,), b"HTTP/1.1 600 What\r\nContent-Length: 2\r\n\r\nok", status=b"600 What"),
    "status 999": Row((STATUSES,), b"HTTP/1.1 999 \r\nContent-Length: 2\r\n\r\nok", status=b"999 "),
    "controls": Row((CONTROLS,), OK + b"X-A:\x01 b\x7f\x1bc\td\r\nContent-Length: 2\r\n\r\nok", (b"X-A: bc\td",)),
    "NUL and CR": Row((CONTROLS,), OK + b"X-A: b\0c\rd\r\r\nContent-Length: 2\r\n\r\nok", (b"X-A: b c d",)),
    "controls in the reason": Row((CONTROLS,), b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok"),
    "all at once": Row(
        NAMES,
        b"HTTP/1.1 700 W\x01hat\nTransfer-Encoding: identity, chunked\nTransfer-Encoding: chunked\nX-A: b\x02\n"
        b"Content-Length: 5\nContent-Length: 5\n\n2 \nok\n0 \n\n",
        (b"X-A: b",),
        b"700 What",
        closed=True,
    ),
}
"""Responses and what the client gets."""

REFUSED = {
    "lengths that differ": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "lengths that differ, and chunked": OK
    + b"Content-Length: 2\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKS,
    "lengths of which one is empty": OK + b"Content-Length: 2\r\nContent-Length:\r\n\r\nok",
    "lengths that are no numbers": OK + b"Content-Length: +2\r\nContent-Length: +2\r\n\r\nok",
    "a length that is no number, and chunked": OK + b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked, identity\r\n\r\n" + CHUNKS,
    "both in HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "a control in chunked": OK + b"Transfer-Encoding: chun\x01ked\r\n\r\n" + CHUNKS,
    "a control in a length": OK + b"Content-Length: 1\x012\r\n\r\nok",
    "a control in Connection": OK + b"Connection: clo\x01se\r\nContent-Length: 2\r\n\r\nok",
    "a control in a name": OK + b"X\x01A: b\r\nContent-Length: 2\r\n\r\nok",
    "a control in the version": b"HTTP/1.\x011 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a folded line": OK + b"X-A: b\n c\r\nContent-Length: 2\r\n\r\nok",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nok",
    "an interim response with a body": b"HTTP/1.1 103 Early\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "status 1000": b"HTTP/1.1 1000 What\r\nContent-Length: 2\r\n\r\nok",
    "status 099": b"HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\nok",
}
"""Responses that have no tolerated meaning, whatever is tolerated."""

SETS = {row.tolerate for row in ROWS.values()}
KINDS = {
    "strict": Kind(),
    **{f"only-{'-'.join(each) if len(each) == 1 else 'all'}": Kind({"tolerate": each}) for each in SETS},
    **{f"without-{name}": Kind({"tolerate": [each for each in NAMES if each != name]}) for name in NAMES},
    "large": Kind({"response_limits": {"header_bytes": "1MiB", "header_count": 1000}}),
}
_GATEWAYS_OWN = re.compile(rb"(?i)(?:date|via|content-length|transfer-encoding|trailer)\Z")


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("lanes"), KINDS, count=1, version=request.param))


@contextmanager
def lane_of(lanes: Lanes, kind: str) -> Iterator[Lane]:
    lane = lanes.take(kind)
    try:
        yield lane
    finally:
        lane.end()


def pieces(response: bytes, slowly: bool) -> list[bytes]:
    return [response[at : at + 1] for at in range(len(response))] if slowly else [response]


@pytest.mark.landing
@for_each("slowly", [False, True])
@for_each("name, row", ROWS.items())
def test_a_sloppy_response_that_is_tolerated_arrives_in_valid_form(
    lanes: Lanes, name: str, row: Row, slowly: bool
) -> None:
    with lane_of(lanes, f"only-{row.tolerate[0] if len(row.tolerate) == 1 else 'all'}") as lane:
        client = lane.client()
        client.send(lane.get(fields=TRAILERS))
        upstream = lane.accept()
        upstream.read_request()
        for part in pieces(row.response, slowly):
            upstream.send(part)
        got = client.read_response_head()
        while got.status < 200:
            got = client.read_response_head()
        status = got.head.start_line.removeprefix(b"HTTP/1.1 ")
        assert (status[:3] if lanes._translated else status) == (row.status[:3] if lanes._translated else row.status)
        lines = [line for line in got.head.lines if not _GATEWAYS_OWN.match(line[0])]
        assert [(each.lower(), value) for each, value in lines] == [
            (each.lower(), value) for each, _, value in (line.partition(b": ") for line in row.lines)
        ]
        message = client.read_body(got.head, until_close=False)
        trailers = [(each.lower(), value) for each, value in message.trailers]
        assert (message.body, trailers) == (row.body, [*row.trailers])
        client.send(lane.get(b"/next"))
        if row.closed:
            upstream.assert_ended()
            upstream = lane.accept()
        assert upstream.answer().request_target == b"/next"
        assert client.read_response().body == b"ok"


@pytest.mark.landing
@for_each("name, row", ROWS.items())
def test_it_is_refused_without_its_name(lanes: Lanes, name: str, row: Row) -> None:
    kinds = ["strict", *(f"without-{each}" for each in row.tolerate if len(row.tolerate) == 1)]
    for kind in kinds:
        with lane_of(lanes, kind) as lane:
            client = lane.client()
            client.send(lane.get())
            upstream = lane.accept()
            upstream.read_request()
            upstream.send_gently(row.response)
            assert_fault(client.read_response(), "upstream_malformed")
            upstream.assert_ended()


@pytest.mark.landing
@for_each("slowly", [False, True])
@for_each("name, response", REFUSED.items())
def test_what_has_no_tolerated_meaning_is_a_502(lanes: Lanes, name: str, response: bytes, slowly: bool) -> None:
    with lane_of(lanes, "only-all") as lane:
        client = lane.client()
        client.send(lane.get())
        upstream = lane.accept()
        upstream.read_request()
        for part in pieces(response, slowly):
            upstream.send_gently(part)
        assert_fault(client.read_response(), "upstream_malformed")
        upstream.assert_ended()


@pytest.mark.landing
@for_each("together", [True, False])
@for_each("name, row", ROWS.items())
def test_a_second_response_behind_it_reaches_nobody(lanes: Lanes, name: str, row: Row, together: bool) -> None:
    """Response splitting: bytes after a tolerated response never answer another request."""
    with lane_of(lanes, f"only-{row.tolerate[0] if len(row.tolerate) == 1 else 'all'}") as lane:
        client = lane.client()
        client.send(lane.get())
        upstream = lane.accept()
        upstream.read_request()
        upstream.send(row.response + (FORGED if together else b""))
        got = client.read_response()
        while got.status < 200:
            got = client.read_response()
        assert got.body == row.body
        upstream.send_gently(b"" if together else FORGED)
        upstream.assert_ended()
        client.send(lane.get(b"/next"))
        assert lane.accept().answer().request_target == b"/next"
        assert client.read_response().body == b"ok"


@pytest.mark.landing
@for_each("count, size, wanted", [(900, 900_000, 200), (900, 1_100_000, 502), (1001, 100, 502)])
def test_limits_of_an_upstream_are_its_own(lanes: Lanes, count: int, size: int, wanted: int) -> None:
    head = b"".join(b"X-%d: %b\r\n" % (number, b"a" * (size // count)) for number in range(count - 1))
    for kind, status in ("large", wanted), ("strict", 502):
        with lane_of(lanes, kind) as lane:
            client = lane.client()
            client.send(lane.get())
            upstream = lane.accept()
            upstream.read_request()
            upstream.send_gently(OK + head + b"Content-Length: 2\r\n\r\nok")
            response = client.read_response()
            assert response.status == status
            assert status == 502 or len(response.get_all(b"X-898")[0]) == size // count


@pytest.mark.landing
@for_each(
    "kind, count, length, wanted",
    [("strict", 100, 10, 200), ("strict", 101, 10, 502), ("large", 1000, 900, 200), ("large", 1001, 10, 502)],
)
def test_they_are_limits_of_trailers_too(lanes: Lanes, kind: str, count: int, length: int, wanted: int) -> None:
    lines = [(b"x-%d" % number, b"a" * length) for number in range(count)]
    with lane_of(lanes, kind) as lane:
        client = lane.client()
        client.send(lane.get(fields=TRAILERS))
        upstream = lane.accept()
        upstream.read_request()
        sent = b"".join(b"%b: %b\r\n" % line for line in lines)
        upstream.send_gently(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + sent + b"\r\n")
        got = client.read_response_head()
        assert got.status == wanted
        if wanted == 200:
            message = client.read_body(got.head, until_close=False)
            assert (message.body, [(each.lower(), value) for each, value in message.trailers]) == (b"ok", lines)


# --- all ways on which responses are read ---

SLOPPY = (
    b"HTTP/1.1 200 OK\nX-A: b\x01\nCache-Control: max-age=60\nContent-Type: application/json\nContent-Length: 9\n"
    b'Transfer-Encoding: chunked\n\n7 \n{"a":1}\n0\n\n'
)
BODY = b'{"a":1}'
ODD = SLOPPY.replace(b"200 OK", b"700 Odd")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def gateway(origin: Origin, tmp_path: Path) -> Iterator[Gateway]:
    service = {"targets": [{"url": origin.url}], "tolerate": NAMES}

    def route(name: str, filters: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return {"name": name, "paths": [f"/{name}/*", f"/{name}"], "upstream": "u", "filters": filters or {}, **more}

    parts = {"parts": [{"name": "a", "upstream": "u", "path": "/part"}]}
    config = {
        "workers": 1,
        "listeners": {
            "main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]},
            "apis": {"address": "127.0.0.1:0"},
        },
        "upstreams": {
            "u": service,
            "checked": {
                **service,
                "health_checks": {
                    "active": {
                        "path": "/check",
                        "interval": "50ms",
                        "unhealthy_threshold": 1,
                        "expected_statuses": ["777"],
                    }
                },
                "load_balancing": {"panic_threshold": "0%"},
            },
            "retried": {**service, "retries": {"conditions": ["503"], "max": 1}},
        },
        "egress": {
            "listener": "apis",
            "apps": {"shop": {"orders": {"url": origin.url, "tolerate": NAMES}}},
        },
        "routes": [
            route("plain", listeners=["main"]),
            route("filtered", {"headers": {"response": {"set": {"X-B": "c"}}}}, listeners=["main"]),
            route("compressed", {"compress": {"min_bytes": 1}}, listeners=["main"]),
            route("cached", {"cache": {}}, listeners=["main"]),
            route("mirrored", {"mirror": {"upstream": "u"}}, listeners=["main"]),
            route("retried", listeners=["main"], upstream="retried"),
            route("upgraded", listeners=["main"], upgrade=["websocket"]),
            {"name": "composed", "paths": ["/composed"], "listeners": ["main"], "compose": parts},
            route("checked", listeners=["main"], upstream="checked"),
        ],
    }
    with Gateway(config, tmp_path) as gateway:
        yield gateway


WAYS = b"/plain", b"/filtered", b"/compressed", b"/cached", b"/mirrored"


def get(client: Client, path: bytes) -> tuple[int, bytes]:
    response = client.exchange(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path)
    return response.status, response.body


@pytest.mark.landing
@pytest.mark.parametrize("version", VERSIONS)
def test_every_way_on_which_responses_are_read_tolerates_them(gateway: Gateway, origin: Origin, version: str) -> None:
    refused = b"HTTP/1.1 503 No\nContent-Length: 0\n\n"
    origin.answer(refused, path=b"/retried", times=1)
    origin.answer(b"HTTP/1.1 777 Fine\nContent-Length: 0\n\n", path=b"/check")
    upgrade = b"HTTP/1.1 101 Switching\nConnection: upgrade\nUpgrade: websocket\nX-A: b\x01\n\nhello"
    origin.answer(upgrade, path=b"/upgraded")
    for way in WAYS:
        origin.answer(ODD, path=way + b"/odd")
    origin.answer(SLOPPY)
    origin.serve()
    wait_until(lambda: [each.request_target for each in origin.requests].count(b"/check") >= 2, "two checks")
    with gateway.connect("main") if version == "http1" else TranslatedClient(gateway.address("main")) as client:
        for way in (*WAYS, b"/cached", b"/retried"):
            assert get(client, way) == (200, BODY), way
        for way in (*WAYS, b"/cached"):
            assert get(client, way + b"/odd") == (700, BODY), way
        assert get(client, b"/composed") == (200, BODY)
        assert get(client, b"/checked") == (200, BODY)
    with gateway.connect("main") as client:
        client.send(
            b"GET /upgraded HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        switched = client.read_response_head()
        assert (switched.status, switched.get(b"X-A")) == (101, b"b")
        assert client.read_exactly(5) == b"hello"
    with gateway.connect("apis") as client:
        assert get(client, b"/shop/orders/x") == (200, BODY)
    paths = [request.request_target for request in origin.requests]
    assert paths.count(b"/cached") == 1
    assert paths.count(b"/cached/odd") == 1
    assert paths.count(b"/retried") == 2
    gateway.wait_for_record(route="retried", status=200)
