"""HTTP/2 to upstreams: streams, flow control, what is retried, how connections end. The origin is made of frames."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastgw.upstream.connections.http2_connection import NO_STREAMS
from fastgw.upstream.policies.retry import MOST_REFUSED
from tests.support.certificates import Certificates, server_tls
from tests.support.client import Client
from tests.support.faults import assert_fault
from tests.support.gateway import wait_until
from tests.support.http2.frames import pseudo
from tests.support.http2_peer import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    HTTP_1_1_REQUIRED,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    OK,
    PING,
    PREFACE,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    Http2Message,
    Http2Origin,
    answer,
    frame,
)
from tests.support.listener_lanes import ListenerLane, ListenerLanes, Part, Settings
from tests.support.origin import Origin

HELD = 65_536
WIDEST = 64 * 1024**2


class World:
    """A gateway, or a lane of the one that tests share, and what it turns to."""

    def __init__(self, lane: ListenerLane, stack: contextlib.ExitStack) -> None:
        self.gateway, self.origin, self._stack = lane, lane.origin, stack

    def client(self) -> Client:
        return self._stack.enter_context(self.gateway.connect())

    def client2(self) -> Http2Client:
        return self._stack.enter_context(Http2Client(self.gateway.address()))


FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "a filter for pieces": {"compress": {"min_bytes": 1}},
    "a filter for whole bodies": {"transform": {"response": {"json": {"set": {"a": 1}}}}},
    "a cache": {"cache": {}},
    "a pace": {"bandwidth": {"rate": "1MiB/s"}},
}
SOON = {"timeouts": {"response_headers": "200ms", "idle": "200ms"}, "retries": {"max": 0}}
UNBLAMED = {"health_checks": {"passive": None}, "retries": {"max": 2}}
IMPATIENT = {"retries": {"max": 0}, "timeouts": {"connect": "1s"}}
DEMANDING = {"demands_certificate": True, "retries": {"max": 0}}
SHARED: list[tuple[int, Settings]] = [
    (94, {}),
    (4, {"retries": {"max": 0}}),
    (1, IMPATIENT),
    (2, {"retries": {"conditions": ["connect_failure"]}}),
    (1, {"pool": {"idle_timeout": "200ms"}}),
    (1, SOON),
    (2, UNBLAMED),
    *((1, {"filters": filters}) for filters in FILTERS.values()),
    (1, {"alpn": ["h2"]}),
    (1, {"alpn": ["http/1.1"]}),
    *((1, {"alpn": [offered], "protocol": "auto"}) for offered in ("h2", "http/1.1", "x")),
    (3, {"alpn": ["h2", "http/1.1"], "protocol": "auto"}),
    *((1, {"alpn": ["h2"], "protocol": choice, **DEMANDING}) for choice in ("http2", "auto")),
]
"""Settings of upstreams, and how many tests have them. A test with other ones has a gateway of its own."""


def part_of(ca: str, certificate: tuple[str, str], name: str, settings: Settings) -> Part:
    """`filters`: of the route. With `alpn` the target speaks TLS and offers that; `demands_certificate`: of clients.
    The rest is the upstream's.
    """
    left = {**settings}
    filters, alpn = left.pop("filters", {}), left.pop("alpn", None)
    clients = ca if left.pop("demands_certificate", False) else None
    origin: Any
    if alpn is None:
        origin = Http2Origin()
    else:
        tls = server_tls(certificate, clients=clients)
        tls.set_alpn_protocols(alpn)
        origin = Http2Origin(tls) if "h2" in alpn else Origin(tls=tls).serve()
        left["tls"] = {"ca": ca, "server_name": "inside.test"}
    upstream = {"targets": [{"url": origin.url}], "protocol": "http2", **left}
    route = {"name": name, "upstream": name, "filters": filters}
    return Part({name: upstream}, [route], origin, partial(origin.__exit__, None, None, None))


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenerLanes]:
    directory = tmp_path_factory.mktemp("lanes")
    authority = Certificates(directory)
    part = partial(part_of, authority.ca, authority.issue("inside.test"))
    lanes = ListenerLanes(directory, part, SHARED)
    yield lanes
    lanes.stop()


@pytest.fixture
def make_own(tmp_path: Path) -> Iterator[Any]:
    """A world with a gateway of its own: for tests that signal it, read its metrics or need other settings of it."""
    with contextlib.ExitStack() as stack:

        def made(common: Settings | None = None, **settings: Any) -> World:
            config = {"status": {"address": "127.0.0.1:0"}, **(common or {})}
            lanes = ListenerLanes(tmp_path, partial(part_of, "", ("", "")), [(1, settings)], config)
            stack.callback(lanes.stop)
            lane = lanes.take(settings)
            return World(lane, stack)

        yield made


@pytest.fixture
def make(lanes: ListenerLanes) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def made(**settings: Any) -> World:
            lane = lanes.take(settings)
            stack.callback(lane.close)
            return World(lane, stack)

        yield made


@pytest.fixture
def world(make: Any) -> World:
    return make()  # type: ignore[no-any-return]


GET = b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n"


def post(path: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


def test_a_request_is_sent_in_the_fields_of_http2_and_its_answer_comes_back(world: World) -> None:
    """RFC 9113 section 8.3.1: names in lower case, no fields of the connection."""
    client = world.client()
    client.send(
        b"POST /a?b=c HTTP/1.1\r\nHost: A.test\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: 5\r\nX-Case: Vv\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    peer = world.origin.accept()
    request = answer(peer, [*OK, (b"x-answer", b"Yes")])
    assert request.fields[:4] == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a?b=c"),
        (b":authority", b"A.test"),
    ]
    assert (request.body, request.get(b"x-case"), request.get(b"content-length")) == (b"abc", b"Vv", b"3")
    names = {name for name, _ in request.fields}
    assert not names & {b"connection", b"keep-alive", b"x-own", b"host", b"transfer-encoding"}
    response = client.read_response(b"POST")
    assert (response.status, response.body, response.get(b"X-Answer")) == (200, b"ok", b"Yes")
    assert response.get(b"Via") == b"2 fastgw"


def test_any_number_of_fields_that_the_limits_allow_passes(make_own: Any) -> None:
    world = make_own({"limits": {"header_count": 1000, "header_bytes": "64KiB"}})
    client = world.client()
    lines = [(b"x-%d" % number, b"v%d" % number) for number in range(600)]
    sent = b"".join(b"%b: %b\r\n" % line for line in lines)
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + sent + b"\r\n")
    request = answer(world.origin.accept())
    assert [line for line in request.fields if line[0].startswith(b"x-") and line[0][2:].isdigit()] == lines
    assert client.read_response().status == 200


@pytest.mark.parametrize("is_large", [False, True])
def test_limits_of_responses_are_the_upstreams_own(make_own: Any, is_large: bool) -> None:
    world = make_own(**({"response_limits": {"header_bytes": "112KiB", "header_count": 200}} if is_large else {}))
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    for count, length, status in (100, 1000, 200 if is_large else 502), (201, 10, 502), (115, 1000, 502):
        line = b"x-a", b"v" * length
        peer.headers(peer.read_message().stream, [(b":status", b"200"), *[line] * count], end=True)
        response = client.read_response()
        assert (response.status, len(response.get_all(b"x-a"))) == (status, count if status == 200 else 0)
        client.send(GET % b"/")
    answer(peer)
    assert client.read_response().status == 200


@pytest.mark.parametrize("is_large", [False, True])
def test_they_are_limits_of_trailers_too(make_own: Any, is_large: bool) -> None:
    world = make_own(**({"response_limits": {"header_bytes": "112KiB", "header_count": 200}} if is_large else {}))
    client = world.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: TE\r\nTE: trailers\r\n\r\n")
    peer = world.origin.accept()
    request = peer.read_message()
    lines = [(b"x-%d" % number, b"v" * 600) for number in range(101)]
    peer.headers(request.stream, [(b":status", b"200")])
    peer.data(request.stream, b"one")
    assert client.read_response_head().status == 200
    peer.headers(request.stream, lines, end=True)
    if is_large:
        assert client.read_chunked() == (b"one", lines)
    else:
        assert client.read_to_end() == b"3\r\none\r\n"


def test_http2_on_both_sides(world: World) -> None:
    client = world.client2()
    stream = client.ask([(b"te", b"trailers"), (b"cookie", b"a=1"), (b"cookie", b"b=2")], path=b"/x")
    peer = world.origin.accept()
    request = peer.read_message()
    assert (request.get(b"te"), request.get(b"cookie")) == (b"trailers", b"a=1; b=2")
    peer.headers(request.stream, [(b":status", b"200")])
    peer.data(request.stream, b"one")
    assert client.read_head(stream).status == 200
    peer.data(request.stream, b"two")
    peer.headers(request.stream, [(b"x-trailer", b"t")], end=True)
    message = client.read_message(stream)
    assert (message.body, message.trailers) == (b"onetwo", [(b"x-trailer", b"t")])


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_trailers_may_follow_a_declared_length_of_0(make: Any, filters: dict[str, Any]) -> None:
    """RFC 9113 section 8.1: such a head may come without END_STREAM; over HTTP/1.1 it is the whole response."""
    world = make(filters=filters)
    head = [
        (b":status", b"200"),
        (b"content-type", b"application/json"),
        (b"content-length", b"0"),
        (b"cache-control", b"max-age=60"),
    ]
    client = world.client2()
    stream = client.ask([(b"te", b"trailers"), (b"accept-encoding", b"gzip")], path=b"/2")
    peer = world.origin.accept()
    asked = peer.read_message().stream
    peer.headers(asked, head)
    assert client.read_head(stream).get(b"content-length") == b"0"
    peer.headers(asked, [(b"x-trailer", b"t")], end=True)
    message = client.read_message(stream)
    assert (message.body, message.trailers) == (b"", [(b"x-trailer", b"t")])

    old = world.client()
    for path in (b"/1", b"/1/next"):
        old.send(GET % path)
        asked = peer.read_message().stream
        peer.headers(asked, head)
        response = old.read_response()
        assert (response.body, response.get(b"Content-Length")) == (b"", b"0")
        peer.headers(asked, [(b"x-trailer", b"t")], end=True)


def test_responses_to_http1_have_the_usual_reason_phrases(world: World) -> None:
    """HTTP/2 has none (RFC 9113 section 8.3.2). In responses that come in pieces, and in whole ones."""
    client = world.client()
    peer = None
    for line in (b"200 OK", b"404 Not Found", b"422 Unprocessable Content", b"599 "):
        for is_whole in (False, True):
            client.send(GET % b"/")
            peer = peer or world.origin.accept()
            stream = peer.read_message().stream
            peer.headers(stream, [(b":status", line[:3]), (b"content-length", b"2")])
            if not is_whole:
                head = client.read_response_head().head
            peer.data(stream, b"ok", end=True)
            if is_whole:
                head = client.read_response().head
            else:
                assert client.read_exactly(2) == b"ok"
            assert head.start_line == b"HTTP/1.1 " + line


def test_trailers_of_a_request_are_sent(world: World) -> None:
    client = world.client()
    client.send(
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
    )
    request = answer(world.origin.accept())
    assert (request.body, request.trailers) == (b"abc", [(b"x-sum", b"6")])
    assert request.get(b"content-length") is None
    assert client.read_response(b"POST").body == b"ok"


@pytest.mark.parametrize("length", [0, 3, None])
def test_trailers_of_a_request_pass_whatever_length_is_declared(world: World, length: int | None) -> None:
    client = world.client2()
    declared = [] if length is None else [(b"content-length", b"%d" % length)]
    body = b"abc" if length else b""
    client.messages[1] = Http2Message(1)
    client.headers(1, [*pseudo(b"POST"), *declared])
    if body:
        client.data(1, body)
    client.headers(1, [(b"x-sum", b"6")], end=True)
    request = answer(world.origin.accept())
    assert (request.body, request.trailers) == (body, [(b"x-sum", b"6")])
    assert client.read_message(1).status == 200


def test_interim_responses_are_passed_on(world: World) -> None:
    client = world.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    peer = world.origin.accept()
    request = peer.read_head()
    assert request.get(b"expect") == b"100-continue"
    peer.headers(request.stream, [(b":status", b"103"), (b"link", b"</a>")])
    hint = client.read_response_head()
    assert (hint.head.start_line, hint.get(b"Link")) == (b"HTTP/1.1 103 Early Hints", b"</a>")
    peer.headers(request.stream, [(b":status", b"100")])
    assert client.read_response_head().head.start_line == b"HTTP/1.1 100 Continue"
    client.send(b"hi")
    assert answer(peer).body == b"hi"
    assert client.read_response(b"POST").status == 200


def test_many_requests_share_one_connection(make_own: Any) -> None:
    world = make_own()
    clients = [world.client() for _ in range(20)]
    clients[0].send(GET % b"/0")
    peer = world.origin.accept()
    peer.read_head()
    for number, client in enumerate(clients[1:], 1):
        client.send(GET % b"/%d" % number)
    got = [peer.read_message() for _ in clients]
    assert sorted(request.stream for request in got) == list(range(1, 40, 2))
    wait_until(lambda: world.gateway.whole.sum_of("fastgw_requests_in_flight") == 20, "all to be told as in flight")
    assert world.gateway.whole.sum_of("fastgw_pool_in_use_connections") == 1
    for request in reversed(got):  # in any order
        path = request.get(b":path")
        assert path is not None
        peer.headers(request.stream, [(b":status", b"200")])
        peer.data(request.stream, path, end=True)
    for number, client in enumerate(clients):
        assert client.read_response().body == b"/%d" % number
    assert world.origin.none_waits()
    wait_until(lambda: world.gateway.whole.sum_of("fastgw_requests_in_flight") == 0, "none to be in flight")


def test_no_more_streams_than_the_target_allows(world: World) -> None:
    """RFC 9113 section 5.1.2: a further request opens another connection."""
    clients = [world.client() for _ in range(3)]
    clients[0].send(GET % b"/0")
    first = world.origin.accept({MAX_CONCURRENT_STREAMS: 2})
    first.read_message()
    clients[1].send(GET % b"/1")
    second_request = first.read_message()
    clients[2].send(GET % b"/2")
    second = world.origin.accept({MAX_CONCURRENT_STREAMS: 2})
    assert answer(second).get(b":path") == b"/2"
    assert clients[2].read_response().status == 200
    first.headers(second_request.stream, [(b":status", b"204")], end=True)
    assert clients[1].read_response().status == 204


def test_a_head_that_is_too_long_for_the_target_is_refused_and_disturbs_nobody(world: World) -> None:
    """SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 section 6.5.2): targets may end the connection for a longer one."""
    client = world.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: %b\r\n\r\n" % (b"a" * 5000))
    peer = world.origin.accept({MAX_HEADER_LIST_SIZE: 4096})
    assert client.read_response().status == 431
    record = world.gateway.wait_for_record(fault="head_too_large")
    assert record["fault_detail"] == "the target accepts no head of this length (SETTINGS_MAX_HEADER_LIST_SIZE)"
    client.send(GET % b"/next")
    assert answer(peer).get(b":path") == b"/next"
    assert client.read_response().status == 200


def test_what_the_target_does_not_take_of_a_body_holds_the_client_back(make: Any) -> None:
    """Flow control is the brake: of a body that waits for a window at most 64 KiB, and a read, are held."""
    world = make()
    client = world.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000000\r\n\r\n")
    peer = world.origin.accept({INITIAL_WINDOW_SIZE: 0})
    peer.takes = False
    request = peer.read_head()
    client.send_until_held_back()
    assert not request.body
    peer.window(request.stream, 100_000)
    while len(request.body) < 65_535:  # what the connection's window allows
        peer.read_frame()
    assert len(request.body) == 65_535
    client.reset()
    assert peer.read_until_frame(RST_STREAM).stream == request.stream


WINDOW = 65_535


def uploads(client: Http2Client, count: int) -> list[int]:
    """Begin uploads that are longer than the first window of a stream, and send that window of each."""
    streams = []
    for _ in range(count):
        streams.append(stream := client.next)
        client.next += 2
        client.headers(stream, [*pseudo(b"POST", b"/", b"a.test"), (b"content-length", b"1000000")])
        for at in range(0, WINDOW, 16_384):
            client.data(stream, bytes(min(16_384, WINDOW - at)))
    return streams


def test_no_more_is_taken_of_an_upload_than_the_window_of_its_target_admits(world: World) -> None:
    """What waits for it stays in the window of the client, and is counted there. The target's connection window is
    that of its streams together.
    """
    client = world.client2()
    stalled, other = uploads(client, 2)
    peer = world.origin.accept({INITIAL_WINDOW_SIZE: 0})
    peer.takes = False
    first, second = (peer.read_head(stream) for stream in (1, 3))
    client.wait_until_read()
    assert (client.room(stalled), client.room(other)) == (0, 0)
    peer.window(second.stream, 40_000)
    while len(second.body) < 40_000:
        peer.read_frame()
    client.wait_until_read()
    assert client.room(stalled) == 0
    peer.window(0, 2**20)
    peer.window(second.stream, 2**20)
    left = 1_000_000 - WINDOW
    while left:
        while not client.room(other):
            client.read_frame()
        part = min(left, client.room(other), 16_384)
        client.data(other, bytes(part), end=part == left)
        left -= part
        while peer.room(second.stream) and len(second.body) < 1_000_000 - left:
            peer.read_frame()
    assert len(second.body) == 1_000_000
    assert client.room(stalled) == 0
    assert not first.body
    peer.headers(second.stream, OK)
    peer.data(second.stream, b"ok", end=True)
    assert client.read_message(other).body == b"ok"


def test_what_the_client_does_not_take_is_not_asked_for_and_stops_nobody_else(world: World) -> None:
    slow, quick = world.client2(), world.client()
    slow.takes = False
    stream = slow.ask()
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200")])
    slow.read_head(stream)
    sent, piece = 0, b"x" * 16_384
    for _ in range(3):  # what is given back may come a turn later
        while peer.room(request.stream) >= len(piece):
            peer.data(request.stream, piece)
            sent += len(piece)
            peer.wait_until_read()
        peer.wait_until_read()
    # The client's window, what is held, and the stream's own window: its largest, where the machine is so busy that the
    # path takes long.
    assert sent <= 65_535 + HELD + 2 * len(piece) + WIDEST
    quick.send(GET % b"/q")
    answer(peer)
    assert quick.read_response().body == b"ok"
    slow.takes = True
    slow.window(0, 2**26)
    slow.window(stream, 2**26)
    more = sent + 500_000
    while sent < more:
        while peer.room(request.stream) < len(piece):
            peer.read_frame()
        peer.data(request.stream, piece)
        sent += len(piece)
    peer.data(request.stream, b"", end=True)
    assert slow.read_message(stream).body == b"x" * sent


def test_a_client_that_leaves_resets_its_stream_alone(world: World) -> None:
    one, other = world.client2(), world.client2()
    one.ask(path=b"/one")
    peer = world.origin.accept()
    first = peer.read_message()
    waiting = other.ask(path=b"/other")
    second = peer.read_message()
    one.rst(1, CANCEL)
    assert peer.read_until_frame(RST_STREAM).stream == first.stream
    peer.headers(second.stream, OK)
    peer.data(second.stream, b"ok", end=True)
    assert other.read_message(waiting).body == b"ok"


def test_a_target_may_accept_requests_some_time_after_its_first_settings(make: Any) -> None:
    """SETTINGS_MAX_CONCURRENT_STREAMS may be 0 for a short time (RFC 9113 section 6.5.2): the request waits."""
    world = make(retries={"max": 0})
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept({MAX_CONCURRENT_STREAMS: 0})
    peer.wait_until_read()
    peer.set({MAX_CONCURRENT_STREAMS: 0})
    peer.wait_until_read()
    assert not peer.messages
    peer.set({MAX_CONCURRENT_STREAMS: 1})
    answer(peer)
    assert client.read_response().status == 200


def test_a_target_that_takes_no_requests_is_one_that_cannot_be_connected_to(make: Any) -> None:
    """Nothing waits for longer than the connect timeout, and nothing in a connection that was in use."""
    world = make(**IMPATIENT)
    client = world.client()
    client.send(GET % b"/")
    world.origin.accept({MAX_CONCURRENT_STREAMS: 0})
    assert client.read_response().status == 504
    detail = world.gateway.wait_for_record(status=504)["fault_detail"]
    assert detail == f"HTTP/2 timed out after 1 s: {NO_STREAMS}"
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    answer(peer)
    assert client.read_response().status == 200
    peer.set({MAX_CONCURRENT_STREAMS: 0})
    peer.read_until_frame(GOAWAY)
    client.send(GET % b"/")
    answer(world.origin.accept())
    assert client.read_response().status == 200


@pytest.mark.parametrize("leaves", [False, True])
def test_a_target_that_accepts_no_requests_and_ends_the_connection_speaks_http2(make: Any, leaves: bool) -> None:
    world = make(retries={"max": 0})
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept({MAX_CONCURRENT_STREAMS: 0})
    if leaves:
        peer.goaway(0)
    else:
        peer.wait_until_read()
        peer.close()
    assert client.read_response().status == 502
    assert world.gateway.wait_for_record(status=502)["fault_detail"] == f"HTTP/2: {NO_STREAMS}"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("conditions", [None, ["connect_failure"]])
def test_a_refused_stream_is_tried_again(make: Any, method: bytes, conditions: list[str] | None) -> None:
    """RFC 9113 section 8.7: it was not processed, whatever its method and the conditions of retries."""
    world = make(**({} if conditions is None else {"retries": {"conditions": conditions}}))
    client = world.client()
    client.send(GET % b"/" if method == b"GET" else post(b"/", b"body"))
    peer = world.origin.accept()
    first = peer.read_message()
    peer.rst(first.stream, REFUSED_STREAM)
    again = answer(peer)
    assert again.body == first.body
    assert client.read_response(method).status == 200
    assert world.gateway.wait_for_record(method=method.decode())["retries"] == 1


def test_a_stream_that_is_refused_again_and_again_is_answered_503(world: World) -> None:
    """Refused streams have a bound of their own: they are no load for the target, and a drain may refuse several."""
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    for _ in range(1 + MOST_REFUSED):
        peer.rst(peer.read_message().stream, REFUSED_STREAM)
    assert_fault(client.read_response(), "stream_refused")
    assert world.gateway.wait_for_record(fault="stream_refused")["retries"] == MOST_REFUSED


def test_refused_streams_do_not_use_up_other_retries(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    for _ in range(3):
        peer.rst(peer.read_message().stream, REFUSED_STREAM)
    assert answer(peer).get(b":path") == b"/"
    assert client.read_response().status == 200


def test_without_retries_a_refused_stream_is_not_tried_again(make: Any) -> None:
    world = make(retries={"max": 0})
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.rst(peer.read_message().stream, REFUSED_STREAM)
    assert_fault(client.read_response(), "stream_refused")


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_goaway_ends_what_is_above_and_lets_end_what_is_below(world: World, method: bytes) -> None:
    """RFC 9113 section 6.8."""
    below, above = world.client(), world.client()
    below.send(GET % b"/below")
    peer = world.origin.accept()
    kept = peer.read_message()
    above.send(GET % b"/above" if method == b"GET" else post(b"/above", b"body"))
    peer.read_message()
    peer.goaway(kept.stream)
    fresh = world.origin.accept()
    assert answer(fresh).get(b":path") == b"/above"
    assert above.read_response(method).status == 200
    peer.headers(kept.stream, OK)
    peer.data(kept.stream, b"ok", end=True)
    assert below.read_response().body == b"ok"
    peer.read_until_frame(GOAWAY)  # with the last stream the connection ends
    peer.read_to_end()


@pytest.mark.parametrize(
    ("begin", "status"), [(b"\x48\x03103", 103), (b"\x88", 502)], ids=["interim response", "response"]
)
def test_a_stream_that_is_refused_after_an_answer_is_not_tried_again(world: World, begin: bytes, status: int) -> None:
    """RFC 9113 section 8.7: the code says that nothing was processed, which the answer has disproved."""
    client = world.client()
    client.send(post(b"/", b"abc"))
    peer = world.origin.accept()
    stream = peer.read_message().stream
    peer.send(frame(HEADERS, END_HEADERS, stream, begin) + frame(RST_STREAM, 0, stream, b"\0\0\0\x07"))
    response = client.read_response(b"POST")
    assert response.status == status
    if status == 103:
        response = client.read_response(b"POST")
    assert_fault(response, "connection_lost")
    peer.wait_until_read()
    assert not peer.messages
    assert world.origin.none_waits()


def test_goaway_below_a_response_that_has_begun_breaks_it(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.headers(peer.read_message().stream, [(b":status", b"200")])
    client.read_response_head()
    peer.goaway(0)
    client.read_to_end()
    assert world.gateway.wait_for_record(path="/")["fault"] == "upstream_incomplete"


def test_a_reset_by_the_target_is_not_tried_again(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.rst(peer.read_message().stream, INTERNAL_ERROR)
    assert_fault(client.read_response(), "connection_lost")
    assert world.gateway.wait_for_record(fault="connection_lost")["fault_detail"] == "reset: INTERNAL_ERROR"


def test_a_reset_in_the_middle_of_a_response_breaks_it(world: World) -> None:
    client, other = world.client(), world.client2()
    client.send(GET % b"/")
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200"), (b"content-length", b"10")])
    peer.data(request.stream, b"half")
    assert client.read_response_head().status == 200
    peer.rst(request.stream, INTERNAL_ERROR)
    assert client.read_to_end() == b"half"
    stream = other.ask()
    answer(peer)
    assert other.read_message(stream).status == 200  # the connection goes on


def test_a_connection_that_breaks_takes_idempotent_requests_to_another(world: World) -> None:
    clients = [world.client() for _ in range(3)]
    clients[0].send(GET % b"/first")
    peer = world.origin.accept()
    answer(peer)
    clients[0].read_response()
    for client in clients[:2]:
        client.send(GET % b"/")
    clients[2].send(post(b"/", b"x"))
    for _ in clients:
        peer.read_message()
    peer.reset()
    fresh = world.origin.accept()
    for _ in range(2):
        answer(fresh)
    for client in clients[:2]:
        assert client.read_response().status == 200
    assert_fault(clients[2].read_response(b"POST"), "connection_lost")
    assert world.origin.none_waits()


def test_a_target_of_http1_is_told_from_one_of_http2(make: Any) -> None:
    """It is found out before anything is sent, so that a request with any method may go elsewhere."""
    world = make()
    client = world.client()
    client.send(post(b"/", b"x"))
    peer = world.origin.accept_plain()
    peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    again = world.origin.accept_plain()
    again.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    assert_fault(client.read_response(b"POST"), "connect_refused")
    why = "HTTP/2: the target has answered with HTTP/1, not HTTP/2: it needs `protocol: http1` or `auto`"
    assert why in world.gateway.stderr.wait_for(lambda line: world.origin.address.encode() in line).decode()
    assert world.gateway.wait_for_record(fault="connect_refused")["fault_detail"] == why


@pytest.mark.parametrize(("sent", "why"), [(b"<html>" * 9, "does not speak HTTP/2"), (b"", "before its SETTINGS")])
def test_a_target_without_settings_is_told_as_one(make: Any, sent: bytes, why: str) -> None:
    world = make()
    client = world.client()
    client.send(GET % b"/")
    for _ in range(2):
        peer = world.origin.accept_plain()
        peer.send(sent)
        peer.read_exactly(len(PREFACE))
        peer.close()
    assert_fault(client.read_response(), "connect_refused")
    record = world.gateway.wait_for_record(fault="connect_refused")
    assert re.match(f"HTTP/2: the target .*{why}", record["fault_detail"])


def test_an_early_answer_ends_the_upload(world: World) -> None:
    client = world.client2()
    client.headers(1, [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.test")])
    client.data(1, b"some")
    peer = world.origin.accept()
    request = peer.read_head()
    peer.headers(request.stream, [(b":status", b"403")], end=True)
    assert client.read_message(1).status == 403
    assert peer.read_until_frame(RST_STREAM, request.stream).code == CANCEL


def test_timeouts_are_those_of_the_upstream_and_end_the_stream(make: Any) -> None:
    world = make(**SOON)
    client = world.client()
    client.send(GET % b"/head")
    peer = world.origin.accept()
    late = peer.read_message()
    assert_fault(client.read_response(), "upstream_timeout")
    assert peer.read_until_frame(RST_STREAM).stream == late.stream
    client.send(GET % b"/body")
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200")])
    peer.data(request.stream, b"x")
    client.read_response_head()
    assert peer.read_until_frame(RST_STREAM).stream == request.stream
    assert world.gateway.wait_for_record(path="/body")["fault"] == "upstream_stalled"


def test_pings_of_the_target_are_answered(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    answer(peer)
    client.read_response()
    peer.frame(PING, 0, 0, b"12345678")
    assert peer.read_until_frame(PING).payload == b"12345678"


def test_over_tls_by_alpn(make: Any) -> None:
    world = make(alpn=["h2"])
    client = world.client()
    client.send(GET % b"/")
    request = answer(world.origin.accept())
    assert request.get(b":scheme") == b"https"
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize(("protocol", "offered"), [("auto", ["h2"]), ("auto", ["http/1.1"]), ("auto", ["x"])])
def test_alpn_chooses_where_it_may(make: Any, protocol: str, offered: list[str]) -> None:
    world = make(alpn=offered, protocol=protocol)
    client = world.client()
    client.send(GET % b"/")
    if "h2" in offered:
        answer(world.origin.accept())
    assert client.read_response().body == b"ok"


def test_an_upgrade_gets_a_connection_over_http1_where_the_target_may_choose(make: Any) -> None:
    """HTTP/2 has no `Upgrade` (RFC 9113 section 8.6): the handshake of its connection offers HTTP/1.1 alone."""
    world = make(alpn=["h2", "http/1.1"], protocol="auto")
    client, asking = world.client(), world.client()
    client.send(GET % b"/")
    shared = world.origin.accept()
    answer(shared)
    assert client.read_response().body == b"ok"
    asking.send(b"GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    alone = world.origin.accept_plain()
    assert alone.sock.selected_alpn_protocol() == "http/1.1"
    assert b"upgrade: websocket" in alone.read_until(b"\r\n\r\n").lower()
    alone.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert asking.read_head().start_line.split()[1] == b"101"
    asking.send(b"there")
    assert alone.read_exactly(5) == b"there"
    alone.send(b"and back")
    assert asking.read_exactly(8) == b"and back"
    client.send(GET % b"/")  # still over HTTP/2
    answer(shared)
    assert client.read_response().body == b"ok"


@pytest.mark.parametrize("by", ["stream", "connection"])
def test_a_target_that_requires_http1_gets_the_request_over_it(make: Any, by: str) -> None:
    """RFC 9113 section 7: HTTP_1_1_REQUIRED. Nothing was processed, so that a POST is sent again as well."""
    world = make(alpn=["h2", "http/1.1"], protocol="auto")
    client = world.client()
    client.send(post(b"/", b"body"))
    peer = world.origin.accept()
    stream = peer.read_message().stream
    if by == "stream":
        peer.rst(stream, HTTP_1_1_REQUIRED)
    else:
        peer.goaway(0, HTTP_1_1_REQUIRED)
    alone = world.origin.accept_plain()
    assert alone.sock.selected_alpn_protocol() == "http/1.1"
    assert alone.read_until(b"body").startswith(b"POST / HTTP/1.1\r\n")
    alone.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response(b"POST").body == b"ok"
    assert world.gateway.wait_for_record(method="POST")["retries"] == 1
    client.send(GET % b"/again")  # over what is left: the stream was refused, or the connection
    if by == "stream":
        answer(peer)
    else:
        assert alone.read_until(b"\r\n\r\n").startswith(b"GET /again HTTP/1.1\r\n")
        alone.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_response().body == b"ok"


def test_a_target_that_requires_http1_and_has_no_choice_is_a_failure(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.rst(peer.read_message().stream, HTTP_1_1_REQUIRED)
    assert_fault(client.read_response(), "connection_lost")
    assert world.gateway.wait_for_record(method="GET")["fault_detail"] == "reset: HTTP_1_1_REQUIRED"


def test_a_target_that_must_speak_http2_and_does_not_is_a_failed_handshake(make: Any) -> None:
    world = make(alpn=["http/1.1"])
    client = world.client()
    client.send(GET % b"/")
    assert_fault(client.read_response(), "tls_failed")


@pytest.mark.parametrize("protocol", ["http2", "auto"])
def test_a_refusal_behind_the_handshake_is_a_failure_of_tls(make: Any, protocol: str) -> None:
    """RFC 8446 section 4.4.3: a target refuses a client without a certificate when the client has completed already."""
    world = make(alpn=["h2"], protocol=protocol, **DEMANDING)
    client = world.client()
    client.send(GET % b"/")
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        world.origin.accept_plain()
    assert_fault(client.read_response(), "tls_failed")
    why = "tlsv13 alert certificate required"
    line = world.gateway.stderr.wait_for(lambda line: world.origin.address.encode() in line).decode()
    assert why in line
    assert "HTTP/2" not in line
    assert world.gateway.wait_for_record(fault="tls_failed")["fault_detail"] == f"TLS: {why}"


HOSTILE: dict[str, list[tuple[bytes, bytes]]] = {
    "cr": [(b"x-a", b"a\rb")],
    "lf": [(b"x-a", b"a\nb")],
    "crlf": [(b"x-a", b"a\r\nx-b: c")],
    "nul": [(b"x-a", b"a\0b")],
    "crlf in a name": [(b"x-a\r\nx-b", b"c")],
    "colon in a name": [(b"x-a: b\r\nx-c", b"d")],
    "colon alone": [(b"x-a:b", b"c")],
    "space in a name": [(b"x a", b"c")],
    "upper case": [(b"X-A", b"c")],
    "no name": [(b"", b"c")],
    "value with a space in front": [(b"x-a", b" c")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "connection": [(b"connection", b"close")],
    "upgrade": [(b"upgrade", b"h2c")],
    "keep-alive": [(b"keep-alive", b"5")],
    "proxy-connection": [(b"proxy-connection", b"close")],
    "two statuses": [(b":status", b"200")],
    "pseudo-header of a request": [(b":path", b"/")],
    "unknown pseudo-header": [(b":x", b"/")],
    "two lengths": [(b"content-length", b"2"), (b"content-length", b"3")],
    "length that is no number": [(b"content-length", b"2x")],
    "negative length": [(b"content-length", b"-2")],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("version", [1, 2])
def test_a_hostile_response_reaches_no_client(world: World, name: str, version: int) -> None:
    """Of either version: what HTTP/1.1 would read as more than it is has no way out."""
    client: Any = world.client() if version == 1 else world.client2()
    client.send(GET % b"/") if version == 1 else client.ask()
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200"), *HOSTILE[name]])
    peer.data(request.stream, b"ok", end=True)
    if version == 1:
        assert_fault(client.read_response(), "upstream_malformed", "connection_lost", "upstream_incomplete")
    else:
        assert client.read_message(1).status == 502
    assert world.gateway.wait_for_record(path="/")["status"] == 502


@pytest.mark.parametrize("length", [b"1", b"3"])
def test_a_length_that_is_a_lie_breaks_the_response(world: World, length: bytes) -> None:
    """RFC 9113 section 8.1.1: it is known when the body has ended, must not look whole, and is the target's error."""
    one, two = world.client(), world.client2()
    one.send(GET % b"/1")
    peer = world.origin.accept()
    stream = two.ask(path=b"/2")
    for _ in range(2):
        request = peer.read_message()
        peer.headers(request.stream, [(b":status", b"200"), (b"content-length", length)])
        peer.data(request.stream, b"ok", end=True)
    got = two.read_message(stream)
    assert got.status == 502 or got.reset == INTERNAL_ERROR
    for path in ("/1", "/2"):
        record = world.gateway.wait_for_record(path=path)
        assert record["fault"] == "upstream_malformed"
        assert record["fault_detail"].startswith("HTTP/2: ")
        assert record["retries"] == 0


@pytest.mark.parametrize("status", [b"20", b"2000", b"abc", b"099", b"000", b"101", b"", b"200 OK"])
def test_a_status_that_is_none_reaches_no_client(world: World, status: bytes) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.headers(peer.read_message().stream, [(b":status", status)], end=True)
    assert client.read_response().status == 502
    client2 = world.client2()
    stream = client2.ask()
    peer.headers(peer.read_message().stream, [(b":status", status)], end=True)
    assert client2.read_message(stream).status == 502


def test_a_body_where_none_may_be_is_no_response_to_the_next_request(world: World) -> None:
    client = world.client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200")])
    peer.data(request.stream, b"HTTP/1.1 200 OK\r\n\r\n", end=True)
    response = client.read_response(b"HEAD")
    assert response.status in (200, 502)
    client.assert_nothing_unread()


VIOLATIONS: dict[str, bytes] = {
    "DATA on stream 0": frame(DATA, 0, 0, b"a"),
    "DATA on a stream that was never opened": frame(DATA, 0, 99, b"a"),
    "HEADERS on a stream that was never opened": frame(HEADERS, END_HEADERS, 99, b"\x88"),
    "HEADERS on a stream of the server": frame(HEADERS, END_HEADERS, 2, b"\x88"),
    "an index beyond the table of HPACK": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x7f"),
    "a PUSH_PROMISE, which is not enabled": frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02\x82\x86\x84\x41\x01a"),
    "SETTINGS of 5 bytes": frame(SETTINGS, 0, 0, b"\0\0\0\0\0"),
    "SETTINGS on a stream": frame(SETTINGS, 0, 1),
    "ENABLE_PUSH of 2": frame(SETTINGS, 0, 0, b"\0\x02\0\0\0\x02"),
    "PING of 7 bytes": frame(PING, 0, 0, b"\0" * 7),
    "RST_STREAM of 3 bytes": frame(RST_STREAM, 0, 1, b"\0\0\0"),
    "a window of more than 2 GiB": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "CONTINUATION without HEADERS": frame(CONTINUATION, END_HEADERS, 1, b"\x88"),
    "another frame within a head": frame(HEADERS, 0, 1, b"\x88") + frame(DATA, 0, 1, b"a"),
    "more padding than payload": frame(DATA, 0x8, 1, b"\x05a"),
    "a frame of 20,000 bytes": frame(DATA, 0, 1, b"a" * 20_000),
}


@pytest.mark.parametrize("closes", [False, True])
def test_a_connection_error_is_a_malformed_response(make: Any, closes: bool) -> None:
    """RFC 9113 section 5.4.1: the fault tells that the target speaks wrongly, as over HTTP/1.1, and the log says how;
    even if it has closed the connection at once. Nothing is sent again, because it may have acted."""
    world = make(**UNBLAMED)
    for number, (name, wrong) in enumerate(VIOLATIONS.items()):
        with world.gateway.connect() as client:
            client.send(GET % b"/%d" % number)
            peer = world.origin.accept()
            assert peer.read_message().stream == 1
            peer.send(wrong)
            if closes:
                peer.shutdown_write()
            assert_fault(client.read_response(), "upstream_malformed")
            record = world.gateway.wait_for_record(path=f"/{number}")
            assert re.fullmatch("HTTP/2: .+", record["fault_detail"]), name
            assert record["retries"] == 0, name
            peer.close()
    assert world.origin.none_waits()


def test_a_head_that_is_too_long_is_refused(world: World) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200"), *((b"x-%d" % n, b"y" * 50) for n in range(150))], end=True)
    assert_fault(client.read_response(), "upstream_malformed")


def test_a_push_ends_the_connection(world: World) -> None:
    """RFC 9113 section 8.4: it was refused in our SETTINGS."""
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    request = peer.read_message()
    assert peer.settings[2] == 0
    peer.frame(5, 4, request.stream, b"\0\0\0\x02" + b"\x82\x84\x86\x41\x01a")
    assert client.read_response().status == 502
    peer.read_until_frame(GOAWAY)


@pytest.mark.parametrize(
    "frames",
    [b"\0\0\0\0\0\0\0\0\x01", b"\0\0\4\x08\0\0\0\0\0\0\0\0\0", b"\0\0\1\6\0\0\0\0\0\0"],
    ids=["data before headers", "window update of nothing", "ping of a wrong size"],
)
def test_what_breaks_the_protocol_ends_the_connection_and_the_next_request_has_another(
    world: World, frames: bytes
) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    peer.read_message()
    peer.send(frames)
    assert client.read_response().status == 502
    client.send(GET % b"/again")
    answer(world.origin.accept())
    assert client.read_response().status == 200


def test_an_idle_connection_is_said_goodbye_to(make: Any) -> None:
    world = make(pool={"idle_timeout": "200ms"})
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    answer(peer)
    client.read_response()
    assert peer.read_until_frame(GOAWAY).code == 0
    peer.read_to_end()


def test_a_drain_lets_streams_end(make_own: Any) -> None:
    world = make_own()
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    request = peer.read_message()
    peer.headers(request.stream, [(b":status", b"200")])
    client.read_response_head()
    world.gateway.whole.signal(15)
    peer.data(request.stream, b"late", end=True)
    assert re.search(rb"late", client.read_to_end())
    world.gateway.whole.wait()


def test_an_active_check_asks_by_http2(make_own: Any) -> None:
    world = make_own(health_checks={"active": {"path": "/healthy", "interval": "100ms"}})
    peer = world.origin.accept()
    request = answer(peer)
    assert (request.get(b":path"), request.get(b"connection")) == (b"/healthy", None)
    peer.read_to_end()


@pytest.mark.parametrize(("kind", "count"), [(DATA, 2), (HEADERS, 2)])
def test_frames_of_a_stream_that_is_over_are_dropped(world: World, kind: int, count: int) -> None:
    client = world.client()
    client.send(GET % b"/")
    peer = world.origin.accept()
    request = peer.read_message()
    client.close()
    peer.read_until_frame(RST_STREAM)
    for _ in range(count):
        if kind == DATA:
            peer.data(request.stream, b"x" * 100)
        else:
            peer.headers(request.stream, [(b":status", b"200")])
    other = world.client()
    other.send(GET % b"/")
    answer(peer)
    assert other.read_response().status == 200
