"""HTTP/2 to clients: streams go on beside stalled ones, are held to their windows, and nothing of them is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.http2 import frames
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import Code, Field, Setting, block, data, headers, pseudo, window_update
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import OK, OriginConnection
from tests.support.peer import Unexpected
from tests.support.resident import Memory

MIB = 1 << 20
STREAM_WINDOW = 65_536
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
SETTINGS = {
    "listeners": {
        # What waits of an upload is less than the limit of bodies; of all uploads, less than a worker may hold.
        "main": {
            "address": "127.0.0.1:0",
            "protocols": ["http1", "http2"],
            "http2": {"stream_window": "8MiB", "connection_window": "32MiB"},
        },
        "narrow": {
            "address": "127.0.0.1:0",
            "protocols": ["http1", "http2"],
            "http2": {"max_concurrent_streams": 1},
        },
        "old": {"address": "127.0.0.1:0"},
        "trusting": {
            "address": "127.0.0.1:0",
            "protocols": ["http1", "http2"],
            "trusted_proxies": ["127.0.0.0/8"],
        },
    },
    "timeouts": {"response_idle": "1s", "request_body_idle": "1s", "request_headers": "1s", "keepalive": "1s"},
    "limits": {"body_bytes": "16MiB", "header_bytes": "8KiB"},
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("http2"), {"plain": Kind()}, count=12, settings=SETTINGS))


@pytest.fixture
def client(lane: Lane) -> Iterator[Http2Client]:
    with Http2Client(lane.gateway.address()) as client:
        yield client


def request(
    lane: Lane,
    stream: int = 1,
    path: bytes = b"/",
    method: bytes = b"GET",
    fields: tuple[Field, ...] = (),
    end: bool = True,
) -> bytes:
    return headers(block(*pseudo(method, path, lane.host), *fields), stream, end)


def test_interim_responses_pass(lane: Lane, client: Http2Client) -> None:
    """RFC 9113 section 8.1: HEADERS without END_STREAM for each; the final response follows."""
    client.begin().send(request(lane))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(HINTS)
    answer = client.answer(1)
    client.wait(lambda: answer.heads, "early hints")
    assert dict(answer.heads[0]) == {b":status": b"103", b"link": b"</a.css>; rel=preload"}
    upstream.send(HINTS + b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
    assert client.wait_for(1).statuses == [103, 103, 102, 200]
    assert answer.body == b"ok"


@pytest.mark.parametrize("listener", ["main", "trusting"])
def test_a_debug_token_reaches_no_upstream(lane: Lane, listener: str) -> None:
    """It is for the gateway alone, valid or not, whether or not the client is a trusted proxy."""
    with Http2Client(lane.gateway.address(listener)) as client:
        client.begin().send(request(lane, fields=((b"x-fastgw-debug", b"of-no-key"), (b"x-other", b"1"))))
        upstream = lane.accept()
        forwarded = upstream.read_request()
        upstream.send(OK)
        assert client.wait_for(1).statuses == [200]
    assert forwarded.get(b"X-Other") == b"1"
    assert b"X-Fastgw-Debug" not in forwarded


def test_expect_is_answered_by_the_upstream(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane, method=b"POST", fields=((b"expect", b"100-continue"),), end=False))
    upstream = lane.accept()
    head = upstream.read_request_head()
    assert head.get(b"Expect") == b"100-continue"
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    answer = client.answer(1)
    client.wait(lambda: answer.heads, "100")
    assert answer.statuses == [100]
    client.send_data(1, b"body", end=True)
    assert upstream.read_body(head.head, until_close=False).body == b"body"
    upstream.send(OK)
    assert client.wait_for(1).status == 200


def test_trailers_pass_both_ways(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane, method=b"POST", fields=((b"te", b"trailers"),), end=False))
    client.send(data(b"body", end=False) + headers(block((b"x-checked", b"yes"))))
    upstream = lane.accept()
    sent = upstream.read_request()
    assert sent.body == b"body"
    assert sent.trailers == [(b"x-checked", b"yes")]
    upstream.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    answer = client.wait_for(1)
    assert answer.body == b"ok"
    assert answer.trailers == [(b"x-sum", b"7")]


@pytest.mark.parametrize(
    ("method", "response", "status"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", 200),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: "a"\r\n\r\n', 304),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ],
)
def test_responses_without_a_body_end_with_their_head(
    lane: Lane, client: Http2Client, method: bytes, response: bytes, status: int
) -> None:
    client.begin().send(request(lane, method=method))
    lane.accept().answer(response)
    answer = client.wait_for(1)
    assert (answer.status, answer.body, len(answer.heads)) == (status, b"", 1)


def test_fields_of_http1_stay_on_their_side(lane: Lane, client: Http2Client) -> None:
    """RFC 9113 section 8.2.2, and names in lower case (8.2)."""
    client.begin().send(request(lane))
    lane.accept().answer(
        b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nX-Kept: A b\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok"
    )
    head = client.wait_for(1).head
    assert {name for name, _ in head} <= {
        b":status",
        b"x-kept",
        b"set-cookie",
        b"content-length",
        b"date",
        b"via",
        b"server",
    }
    assert [value for name, value in head if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert dict(head)[b"x-kept"] == b"A b"


@pytest.mark.parametrize(("window", "passed"), [(65535, b"0123456789"), (4, b"0123")])
def test_a_client_gets_what_came_before_a_response_broke_off_and_its_bytes_are_counted(
    lane: Lane, client: Http2Client, window: int, passed: bytes
) -> None:
    """As over HTTP/1.1. RST_STREAM discards data that waits, so data within the client's window goes first."""
    client.begin((Setting.INITIAL_WINDOW_SIZE, window)).send(request(lane))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n")
    upstream.close()
    client.wait_for_end(1)
    assert (client.answer(1).body, client.answer(1).reset) == (passed, Code.INTERNAL_ERROR)
    assert lane.gateway.wait_for_record(route=lane.name, status=200)["response_bytes"] == len(passed)


def test_a_response_that_breaks_off_is_a_reset(lane: Lane, client: Http2Client) -> None:
    """RFC 9113 section 8.1: never an end that looks whole; and the connection goes on."""
    client.begin().send(request(lane))
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    client.wait(lambda: client.answer(1).body, "half of it")
    upstream.close()
    client.wait_for_end(1)
    assert (client.answer(1).reset, client.answer(1).ended) == (Code.INTERNAL_ERROR, False)
    client.send(request(lane, 3))
    lane.accept().answer()
    assert client.wait_for(3).body == b"ok"


def test_a_cancelled_request_is_cancelled_upstream(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane) + request(lane, 3))
    first, second = lane.accept(), lane.accept()
    assert {first.read_request().request_target, second.read_request().request_target} == {b"/"}
    client.send(frames.reset(1))
    client.synchronize()
    record = lane.gateway.wait_for_record(route=lane.name, fault="client_left")
    assert record["protocol"] == "HTTP/2"
    # One of the two belongs to stream 1, and is closed; the other one answers.
    for upstream in (first, second):
        with contextlib.suppress(OSError):
            upstream.send(OK)
    assert client.wait_for(3).body == b"ok"


def test_answers_go_out_of_order(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane, 1, b"/1") + request(lane, 3, b"/3"))
    upstreams: dict[bytes, OriginConnection] = {}
    for _ in range(2):
        upstream = lane.accept()
        upstreams[upstream.read_request().request_target] = upstream
    upstreams[b"/3"].send(OK)
    assert client.wait_for(3).body == b"ok"
    assert not client.answer(1).over
    upstreams[b"/1"].send(OK)
    assert client.wait_for(1).body == b"ok"


# --- flow control ---


def stalled(lane: Lane) -> int:
    """How many of a lane's requests were not taken by their client."""
    records = lane.gateway.records
    return sum(record["route"] == lane.name and record["fault"] == "client_stalled" for record in records)


def stall_64_streams(lane: Lane, client: Http2Client) -> None:
    """They are reset, and others of the connection are served before and after that."""
    left = 64
    body = b"x" * (4 * MIB)
    lane.origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body, path=b"/large")
    lane.origin.serve()
    client.begin((Setting.INITIAL_WINDOW_SIZE, 0))
    client.send(b"".join(request(lane, n, b"/large") for n in range(1, 2 * left, 2)))
    client.wait(lambda: all(client.answer(n).heads for n in range(1, 2 * left, 2)), "64 heads")
    for number in range(1001, 1021, 2):
        client.send(request(lane, number) + window_update(100, number))
        assert client.wait_for(number).body == b"ok"
    client.wait(lambda: all(client.answer(n).over for n in range(1, 2 * left, 2)), "64 resets")
    assert {client.answer(n).reset for n in range(1, 2 * left, 2)} == {Code.CANCEL}
    assert not client.goaways
    client.send(request(lane, 2001) + window_update(100, 2001))
    assert client.wait_for(2001).body == b"ok"
    wait_until(lambda: stalled(lane) == left, "a record of each")
    lane.origin.errors.clear()


def test_64_stalled_streams_stall_nobody(lane: Lane, client: Http2Client) -> None:
    """Each is reset by its own timeout."""
    stall_64_streams(lane, client)


@pytest.mark.extended
def test_64_stalled_streams_are_held_to_their_bounds(lane: Lane, client: Http2Client) -> None:
    """What is held of each is 64 KiB and a read, not what its upstream could send."""
    with Memory(lane.gateway) as memory:
        stall_64_streams(lane, client)
    assert max(memory.growth.values()) < 40 * MIB  # 16 are 64 windows and their reads; the bodies are 256


def test_a_body_goes_as_its_window_does(lane: Lane, client: Http2Client) -> None:
    """Byte by byte, where the client opens its window so: that is no stall."""
    client.begin((Setting.INITIAL_WINDOW_SIZE, 0))
    client.send(request(lane))
    lane.accept().answer(b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz")
    answer = client.answer(1)
    for count in range(1, 27):
        client.send(window_update(1, 1))
        client.wait(lambda count=count: len(answer.body) == count, f"{count} bytes")  # type: ignore[misc]
    client.wait(lambda: answer.ended, "the end")


def test_a_quick_reader_has_all_of_it(lane: Lane, client: Http2Client) -> None:
    """All that is there is sent at once, time and again: the upstream is asked for more each time."""
    body = bytes(range(256)) * 4096 * 32
    lane.origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    lane.origin.serve()
    client.begin().send(request(lane))
    assert client.wait_for(1).body == body


def test_one_reader_at_its_leisure_has_all_of_it(lane: Lane, client: Http2Client) -> None:
    """20 MiB over a window of 64 KiB, opened as the bytes come."""
    body = bytes(range(256)) * 4096 * 20
    lane.origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    lane.origin.serve()
    client.begin((Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW)).send(request(lane))
    answer, opened = client.answer(1), STREAM_WINDOW
    while not answer.over:
        assert client.read_frame()
        if opened - answer.length < STREAM_WINDOW // 2:
            client.send(window_update(STREAM_WINDOW // 2, 1))
            opened += STREAM_WINDOW // 2
    assert len(answer.body) == len(body)
    assert answer.body == body


def send_on(connection: OriginConnection) -> None:
    """A step of a script: send until the gateway closes."""
    while True:
        connection.send(bytes(MIB))


def test_a_slow_reader_is_no_stalled_one(lane: Lane, client: Http2Client) -> None:
    """It takes some of a body again and again for longer than `timeouts.response_idle`; more is there all the time."""
    lane.origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40), send_on)
    lane.origin.serve()
    client.begin((Setting.INITIAL_WINDOW_SIZE, 0)).send(request(lane))
    answer, opened, until = client.answer(1), 0, time.monotonic() + 2.5
    while time.monotonic() < until:
        opened += 7777
        client.send(window_update(7777, 1))
        client.wait(lambda: answer.over or answer.length == opened, "what the window allows")  # noqa: B023
        assert answer.reset is None
    client.close()
    lane.gateway.wait_for_record(route=lane.name, fault="client_left")
    lane.origin.errors.clear()


def stuffed(client: Http2Client, *streams: int) -> int:
    """Send bodies to upstreams that do not read, until all windows stay closed. How much was sent."""
    sent, deadline = 0, client.deadline
    client.deadline = 0.3
    with contextlib.suppress(Unexpected):
        while True:
            client.wait(lambda: any(client.window(stream) > 0 for stream in streams), "a window")
            for stream in streams:
                part = min(frames.MAX_FRAME, client.window(stream))
                if part > 0:
                    client.send_data(stream, b"x" * part)
                    sent += part
    client.deadline = deadline
    return sent


def test_an_upload_waits_for_its_upstream(lane: Lane, client: Http2Client) -> None:
    """Nothing that the upstream does not take is given back to the window: so no more than a window of it is held."""
    client.begin().send(request(lane, method=b"POST", end=False))
    upstream = lane.accept()
    head = upstream.read_request_head()
    sent = stuffed(client, 1)
    assert client.window(1) == 0
    client.send(request(lane, 3))  # others go on meanwhile
    lane.accept().answer()
    assert client.wait_for(3).body == b"ok"
    client.send(data(b"", 1))
    assert len(upstream.read_body(head.head, until_close=False).body) == sent
    upstream.send(OK)
    assert client.wait_for(1).status == 200


def test_an_upload_of_many_windows_arrives_whole(lane: Lane, client: Http2Client) -> None:
    """What the upstream has taken is given back to both windows, of stream and connection, as it goes."""
    client.begin().send(request(lane, method=b"POST", end=False))
    upstream = lane.accept()
    head = upstream.read_request_head()
    with ThreadPoolExecutor(1) as threads:
        request_read = threads.submit(upstream.read_body, head.head, until_close=False)
        client.send_body(1, 3 * MIB)
        assert request_read.result(20).body == b"x" * (3 * MIB)
    upstream.send(OK)
    assert client.wait_for(1).status == 200


class DistantClient(Http2Client):
    """Client whose acknowledgment of our SETTINGS is still in transit."""

    def send(self, chunk: bytes) -> None:
        if chunk != frames.SETTINGS_ACK:
            super().send(chunk)


def test_the_window_of_an_upload_that_moves_grows_to_what_its_path_needs(lane: Lane) -> None:
    """To what 80 ms need, while the path is not known."""
    with DistantClient(lane.gateway.address("trusting")) as client:
        client.send(frames.PREFACE + frames.settings() + request(lane, method=b"POST", end=False))
        upstream = lane.accept()
        upstream.read_request_head()
        assert client.window(1) == 65_535
        client.send_data(1, b"x" * 16_384)
        client.send_data(1, b"x" * 16_384)
        client.wait(lambda: client.window(1) > 65_535, "a larger window")
        assert 45_000_000 < client.window(1) < 56_000_000


def test_uploads_that_wait_stall_no_other(lane: Lane, client: Http2Client) -> None:
    """However many: each holds a window of its own, and none the connection's."""
    client.begin()
    count = 40
    upstreams = []
    for number in range(1, 2 * count, 2):
        client.send(request(lane, number, method=b"POST", end=False))
        upstream = lane.accept()
        upstream.read_request_head()
        upstreams.append(upstream)
    stuffed(client, *range(1, 2 * count, 2))
    client.send(request(lane, 1001, method=b"POST", end=False))
    upstream = lane.accept()
    head = upstream.read_request_head()
    with ThreadPoolExecutor(1) as threads:
        request_read = threads.submit(upstream.read_body, head.head, until_close=False)
        client.send_body(1001, 3 * MIB)
        assert request_read.result(20).body == b"x" * (3 * MIB)
    upstream.send(OK)
    assert client.wait_for(1001).body == b"ok"
    for each in upstreams:
        each.close()


def test_an_answered_upload_is_taken_to_its_end(lane: Lane, client: Http2Client) -> None:
    """RFC 9113 section 8.1: the answer may come first; what still comes is dropped, and given back to the windows."""
    client.begin().send(request(lane, method=b"POST", end=False))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
    upstream.close()
    answer = client.wait_for(1)
    assert (answer.status, answer.body) == (413, b"large")
    client.send_body(1, 3 * MIB)
    client.send(request(lane, 3))
    lane.accept().answer()
    assert client.wait_for(3).body == b"ok"


BREACHES = {
    "more than the length": data(b"abcd"),
    "less than the length": data(b"ab"),
    "trailers with a name in upper case": data(b"abc", end=False) + headers(block((b"X-Sum", b"1"))),
}


@pytest.mark.parametrize("rest", BREACHES.values(), ids=BREACHES)
def test_a_request_that_breaks_the_protocol_is_reset_and_logged_as_that(
    lane: Lane, client: Http2Client, rest: bytes
) -> None:
    """Its answer can not come any more; the client is still there, and so are its other streams."""
    client.begin().send(
        request(lane, 1, b"/breach/%d" % len(rest), b"POST", fields=((b"content-length", b"3"),), end=False)
    )
    upstream = lane.accept()
    upstream.read_request_head()
    client.send(rest)
    answer = client.answer(1)
    client.wait(lambda: answer.over, "the end of the stream")
    assert (answer.heads, answer.reset) == ([], Code.PROTOCOL_ERROR)
    assert lane.gateway.wait_for_record(route=lane.name, path=f"/breach/{len(rest)}")["fault"] == "bad_request"
    assert len(upstream.read_to_end()) < 3 or b"x-sum" in rest.lower()  # not whole, but for what is before trailers
    client.send(request(lane, 3))
    lane.accept().answer()
    assert client.wait_for(3).body == b"ok"


@pytest.mark.parametrize("length", [None, b"16777217"], ids=["streamed", "declared"])
def test_a_body_above_the_limit_is_refused(lane: Lane, client: Http2Client, length: bytes | None) -> None:
    declared = () if length is None else ((b"content-length", length),)
    client.begin().send(request(lane, method=b"POST", fields=declared, end=False))
    if length is None:
        upstream = lane.accept()
        head = upstream.read_request_head()
        with ThreadPoolExecutor(1) as threads, contextlib.suppress(Unexpected):
            threads.submit(upstream.read_body, head.head, until_close=False)
            client.send_body(1, 16 * MIB + 1)
        assert b"0\r\n\r\n" not in upstream.unread
    assert client.wait_for(1).status == 413
    lane.origin.errors.clear()


def test_a_response_head_of_nearly_64_kib_passes(lane: Lane, client: Http2Client) -> None:
    """As over HTTP/1.1: nghttp2 would send no more by itself, and nothing at all of a larger one."""
    client.begin().send(request(lane))
    lane.accept().answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Large: " + b"a" * 65_400 + b"\r\n\r\nok")
    answer = client.wait_for(1)
    assert (answer.status, answer.body, len(answer.get(b"x-large") or b"")) == (200, b"ok", 65_400)


def test_a_target_above_the_limit_is_a_414(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane, path=b"/" + b"a" * 9_000) + request(lane, 3, fields=((b"a", b"b" * 9_000),)))
    assert client.wait_for(1).status == 414
    assert client.wait_for(3).status == 431


def test_a_client_that_waits_to_be_asked_is_not_timed(lane: Lane, client: Http2Client) -> None:
    expecting = request(lane, method=b"POST", fields=((b"expect", b"100-continue"),), end=False)
    client.begin().send(expecting)
    upstream = lane.accept()
    head = upstream.read_request_head()
    client.send(request(lane, 3, method=b"POST", end=False))  # which has the same time, and does not wait
    late = lane.accept()
    late.read_request_head()
    assert client.wait_for(3).status == 408
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.wait(lambda: client.answer(1).statuses == [100], "to be asked")
    client.send(data(b"abc"))
    assert upstream.read_body(head.head, until_close=False).body == b"abc"
    upstream.send(OK)
    assert client.wait_for(1).status == 200


def test_an_upload_that_stops_has_its_own_timeout(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane, method=b"POST", end=False) + request(lane, 3))
    for upstream in (lane.accept(), lane.accept()):
        head = upstream.read_request_head()
        if head.method == b"GET":
            upstream.send(OK)
    assert client.wait_for(3).status == 200
    client.wait(lambda: client.answer(1).statuses, "the answer of the timeout")
    assert client.answer(1).status == 408
    client.send(request(lane, 5))
    lane.origin.accept_next().answer()
    assert client.wait_for(5).status == 200


# --- time ---


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        frames.PREFACE,
        frames.BEGINNING,
        frames.BEGINNING + headers(b"", whole=False),
        frames.BEGINNING + b"\0\0\x20\1",
    ],
    ids=["nothing", "preface", "settings", "a head without an end", "half a frame's head"],
)
def test_who_asks_for_nothing_is_closed(lane: Lane, client: Http2Client, sent: bytes) -> None:
    client.send(sent)
    with contextlib.suppress(Unexpected):  # it ends with an answer of HTTP/1.1 where nothing else is known
        client.read_all()
    assert client.ended


def test_a_head_that_comes_slowly_ends_the_connection_beside_others(lane: Lane, client: Http2Client) -> None:
    """`timeouts.request_headers`, from its first byte: nobody holds a header block open (RFC 9113 section 6.10)."""
    client.begin().send(request(lane))
    upstream = lane.accept()
    upstream.read_request()
    client.send(headers(b"", 3, whole=False))
    client.read_all()
    assert client.goaways


def test_an_idle_connection_is_told_and_closed(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane))
    lane.accept().answer()
    client.wait_for(1)
    client.read_all()
    assert [code for _, code, _ in client.goaways] == [Code.NO_ERROR]


def test_pings_keep_no_connection_open(lane: Lane, client: Http2Client) -> None:
    client.begin().send(request(lane))
    lane.accept().answer()
    client.wait_for(1)
    with contextlib.suppress(OSError, Unexpected):
        for number in range(100_000):
            client.synchronize(b"%8d" % number)
    wait_until(lambda: client.ended or not client.read_frame(), "the end")
    assert client.goaways


# --- versions on one port ---


def test_http1_and_http2_on_one_port(lane: Lane, client: Http2Client) -> None:
    got, response = lane.forward(lane.get(b"/one"))
    assert (got.request_target, response.status) == (b"/one", 200)
    client.begin().send(request(lane, path=b"/two"))
    lane.origin.accept_next().answer()
    assert client.wait_for(1).status == 200
    protocols = [lane.gateway.wait_for_record(route=lane.name, path=path)["protocol"] for path in ("/one", "/two")]
    assert protocols == ["HTTP/1.1", "HTTP/2"]


def test_upgrade_to_h2c_is_never_answered(lane: Lane) -> None:
    """RFC 9113 section 3.1: it is deprecated; the request is served over HTTP/1.1, and upstreams see nothing of it."""
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    got, response = lane.forward(lane.get(fields=fields))
    assert response.status == 200
    assert b"Upgrade" not in got
    assert b"HTTP2-Settings" not in got


def test_the_preface_is_for_the_first_bytes_alone(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get())
    lane.accept().answer()
    client.read_response()
    client.send(frames.BEGINNING)
    assert client.read_response().status == 505
    client.assert_ended()


def test_a_listener_of_http1_alone_refuses_the_preface(lane: Lane) -> None:
    with Client(lane.gateway.address("old")) as client:
        client.send_gently(frames.BEGINNING)
        assert client.read_response().status == 505
        client.assert_ended()


def test_each_stream_is_one_record_of_the_access_log(lane: Lane, client: Http2Client) -> None:
    """Whether it was answered, refused by the gateway, or broken off."""
    client.begin()
    client.send(request(lane, 1, b"/logged-1") + request(lane, 3, b"/logged-3"))
    for _ in range(2):
        upstream = lane.accept()
        head = upstream.read_request_head()
        if head.request_target == b"/logged-1":
            upstream.send(OK)
        else:
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            upstream.close()
    for path, fault in ((b"/logged-1", None), (b"/logged-3", "upstream_incomplete")):
        record = lane.gateway.wait_for_record(host=lane.host.decode(), path=path.decode())
        assert (record["protocol"], record["status"], record["fault"]) == ("HTTP/2", 200, fault)


def test_streams_beyond_the_limit_are_reset_and_no_requests(lane: Lane) -> None:
    """A client may send them before it has read our SETTINGS. It repeats them; they are neither logged nor counted."""
    with Http2Client(lane.gateway.address("narrow")) as client:
        client.begin().send(request(lane, 1) + request(lane, 3) + request(lane, 5))
        client.wait(lambda: client.answer(3).over and client.answer(5).over, "the end of both")
        assert client.answer(3).reset == client.answer(5).reset == Code.REFUSED_STREAM
        upstream = lane.accept()
        upstream.read_request()
        upstream.send(OK)
        assert client.wait_for(1).status == 200
        client.send(request(lane, 7, b"/again"))
        upstream.read_request()
        upstream.send(OK)
        assert client.wait_for(7).status == 200
    lane.gateway.wait_for_record(listener="narrow", path="/again")
    logged = [(each["path"], each["status"]) for each in lane.gateway.records if each["listener"] == "narrow"]
    assert logged == [("/", 200), ("/again", 200)]
