"""The target's side of an exchange: whose turn it is, early answers, and connections that are lost."""

import socket
from math import inf
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.eventloop.body_reads import READ_BYTES
from fastgw.upstream.forwarding.forwarding import targets_without_room
from tests.support.attempts import Service, saying
from tests.support.memory import SERVICE, Plane, Wire

HOST = b"Host: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASKING = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def settings(route: dict[str, object] | None = None, **timeouts: str) -> dict[str, object]:
    return {
        "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "timeouts": timeouts}},
        "routes": [{"name": "all", "upstream": "u", **(route or {})}],
    }


def post(fields: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def test_an_answer_rescued_from_a_lost_connection_does_not_make_it_reusable() -> None:
    """Our last write fails, as the target answered early and closed: the answer counts, the connection is gone."""
    plane = Plane()
    client = plane.client()
    client.sends(post(b"Content-Length: 6\r\n"))
    upstream = plane.connects()
    client.sends(b"abc")
    upstream.rest = OK
    client.sends(b"def")
    upstream.resets()
    assert client.received.endswith(b"\r\n\r\nok")
    plane.assert_quiet()
    assert not plane.pool.open


def test_a_client_that_takes_its_time_over_an_interim_response_does_not_shorten_the_wait_for_the_final_one() -> None:
    """`response_headers` goes on to count when the brake is off, not `idle`."""
    plane = Plane(settings(response_headers="10s", idle="1s"))
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    upstream = plane.connects()
    client.takes(room=0)
    upstream.sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    plane.passes(15)
    assert not upstream.aborted, "it is the client that is slow"
    client.takes()
    plane.passes(5)
    upstream.sends(OK)
    assert client.received.endswith(b"ok")
    plane.assert_quiet()


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_slow_upload_is_not_the_targets_fault(expect: bytes) -> None:
    """Also when the client did not wait for the 100 that it asked for."""
    plane = Plane({**settings(response_headers="1s"), "timeouts": {"request_body_idle": "10s"}})
    client = plane.client()
    client.sends(post(b"Content-Length: 6\r\n" + expect))
    upstream = plane.connects()
    client.sends(b"abc")
    plane.passes(5)
    client.sends(b"def")
    upstream.sends(OK)
    assert client.received.endswith(b"ok")
    assert b"504" not in client.received


def test_bytes_of_the_request_extend_the_idle_timeout_of_the_response() -> None:
    """`timeouts.idle` is for the next byte in either direction: the target may wait for all of the request."""
    plane = Plane(settings(idle="2s"))
    client = plane.client()
    client.sends(post(b"Transfer-Encoding: chunked\r\n"))
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    for piece in (b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"):
        plane.passes(1.5)
        client.sends(piece)
    plane.passes(1.5)
    upstream.sends(b"o")
    assert client.received.endswith(b"\r\n\r\no")
    plane.passes(2.5)
    assert [record.fault for record in plane.records] == ["upstream_stalled"]


def test_bytes_of_the_request_start_no_timeout_while_the_response_waits_for_a_slow_client() -> None:
    plane = Plane(settings(idle="2s"))
    client = plane.client()
    client.sends(post(b"Content-Length: 2\r\n"))
    upstream = plane.connects()
    client.takes(room=20)
    upstream.sends(OK[:-1])
    client.sends(b"a")
    client.sends(b"b")
    plane.passes(10)
    client.takes()
    upstream.sends(OK[-1:])
    assert client.received.endswith(b"\r\n\r\nok")
    plane.assert_quiet()


SENT = {
    "sized": (b"Content-Length: 6\r\n", b"abcdef"),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"6\r\nabcdef\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["with the head", "after the head"])
@pytest.mark.parametrize(("fields", "body"), SENT.values(), ids=SENT)
def test_the_time_for_the_head_begins_once_the_target_has_accepted_the_request(
    fields: bytes, body: bytes, at_once: bool
) -> None:
    """Until then `idle` applies, as to every body in transfer."""
    plane = Plane(settings(response_headers="1s", idle="10s"))
    client = plane.client()
    client.sends(post(fields) + (body if at_once else b""))
    upstream = plane.connects(room=0)
    client.sends(b"" if at_once else body)
    plane.passes(9)
    assert not upstream.aborted
    upstream.takes()
    plane.passes(0.8)
    assert not upstream.aborted
    plane.passes(0.4)
    assert upstream.aborted
    assert client.received.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("begun", [False, True], ids=["no response", "a response that has begun"])
def test_a_target_that_accepts_no_more_of_a_request_is_given_up_after_the_idle_timeout(begun: bool) -> None:
    """A quarter late at most, because nothing reports what the target accepts."""
    plane = Plane(settings(response_headers="60s", idle="4s"))
    client = plane.client()
    client.sends(post(b"Content-Length: 6\r\n"))
    upstream = plane.connects()
    if begun:
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    upstream.takes(room=0)
    client.sends(b"abcdef")
    for _ in range(3):  # slow, but it accepts something
        plane.passes(3.5)
        upstream.takes_some(1)
    plane.passes(3.9)
    assert not upstream.aborted
    plane.passes(1.3)
    assert upstream.aborted
    (record,) = plane.records
    assert record.fault == ("upstream_stalled" if begun else "upstream_timeout")
    assert record.fault_detail == ("" if begun else "the target did not accept the rest of the request")
    assert begun or client.received.startswith(b"HTTP/1.1 504 ")


def test_a_target_that_accepts_the_request_again_gets_the_whole_idle_timeout() -> None:
    plane = Plane(settings(idle="4s"))
    client = plane.client()
    client.sends(post(b"Content-Length: 6\r\n"))
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    upstream.takes(room=0)
    client.sends(b"abcdef")
    plane.passes(3.9)
    upstream.takes()
    plane.passes(3.9)
    upstream.sends(b"ok")
    assert client.received.endswith(b"ok")
    plane.assert_quiet()


UPLOADS = {
    "still sent": ([(0.5, b"b"), (0.6, b"o")], "request_timeout"),
    "not begun": ([], "request_timeout"),
    "mostly the client's time": ([(0.5, b"bo"), (0.3, b"dy")], "request_timeout"),
    "mostly the target's time": ([(0.2, b"bo"), (0.1, b"dy")], "upstream_timeout"),
}


@pytest.mark.parametrize("limit", [{"route": {"timeout": "1s"}}, {"settings": {"timeouts": {"total": "1s"}}}])
@pytest.mark.parametrize(("pieces", "fault"), UPLOADS.values(), ids=UPLOADS)
def test_a_timeout_is_the_fault_of_the_side_that_used_it_up(
    pieces: list[tuple[float, bytes]], fault: str, limit: dict[str, dict[str, object]]
) -> None:
    """Otherwise one slow client could open the circuit breaker, and eject every target. The client gets its 504."""
    service = Service(**limit)
    service.asks(post(b"Content-Length: 4\r\n"))
    service.connects()
    for seconds, piece in pieces:
        service.passes(seconds)
        service.asks(piece)
    service.passes(1.1)
    service.assert_over(504)
    assert service.watch.faults == [fault]
    (record,) = service.plane.records
    assert record.fault == "upstream_timeout"
    assert record.fault_detail == ("the client was slow to send the request" if fault == "request_timeout" else "")


@pytest.mark.parametrize("kind", ["whole", "late", "broken off"])
def test_an_attempt_tells_when_the_client_had_sent_the_rest_of_its_request(kind: str) -> None:
    """What the client takes for its request is no latency of the target."""
    service = Service()
    service.asks(post(b"Content-Length: 2\r\n") + (b"ab" if kind == "whole" else b"a"))
    upstream = service.connects()
    if kind == "broken off":
        upstream.resets()
    else:
        service.asks(b"b" if kind == "late" else b"")
        upstream.sends(OK)
    record = service.watch.records[-1]
    assert record.sent_at == 0.0 if kind == "whole" else record.connected_at <= record.sent_at <= record.ended_at


@pytest.mark.parametrize(("room", "fault"), [(0, "client_stalled"), (inf, "upstream_stalled")])
def test_a_total_that_ends_a_response_is_the_fault_of_the_side_that_held_it_up(room: float, fault: str) -> None:
    service = Service({"timeouts": {"total": "1s"}})
    service.asks()
    upstream = service.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
    service.client.takes(room)
    for _ in range(4):
        upstream.sends(bytes(30000))
    service.passes(1.1)
    assert upstream.aborted
    assert service.watch.faults == [fault]
    service.client.resets()
    service.plane.assert_quiet()


def test_a_total_that_ends_a_response_which_a_filter_holds_is_told_as_such() -> None:
    """Its head has come, though the client has got nothing of it."""
    holds = {"filters": {"transform": {"response": {"json": {"set": {"a": 1}}}}}}
    service = Service({"timeouts": {"total": "1s"}}, route=holds)
    service.asks()
    service.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    service.passes(1.1)
    service.assert_over(504)
    assert service.watch.faults == ["upstream_stalled"]
    (record,) = service.plane.records
    assert (record.fault, record.fault_detail) == ("upstream_stalled", "timeouts.total: 1 s")


def test_a_total_that_ends_a_response_during_the_upload_is_not_the_targets_fault() -> None:
    """The response of a gRPC stream may wait for the client for as long as the request lasts."""
    service = Service({"timeouts": {"total": "1s"}})
    service.asks(post(b"Content-Length: 4\r\n") + b"bo")
    service.connects().sends(OK[:-1])
    service.passes(1.1)
    assert service.watch.faults == ["request_timeout"]
    service.client.resets()
    service.plane.assert_quiet()


def test_an_old_target_that_was_spared_the_expectation_is_not_asked_to_answer_it() -> None:
    """HTTP/1.0 knows no 100: we have told the client to go on, so it is the client's turn."""
    plane = Plane({**settings(response_headers="1s"), "timeouts": {"request_body_idle": "10s"}})
    plane.gateway.upstreams["u"].targets[0].minor = 0
    client = plane.client()
    client.sends(post(b"Content-Length: 6\r\nExpect: 100-continue\r\n"))
    upstream = plane.connects()
    plane.passes(5)
    client.sends(b"abcdef")
    upstream.sends(OK)
    assert client.received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


def test_100_continue_is_said_once_though_the_request_is_sent_again() -> None:
    """Promise 21: a retry begins a new attempt, not a new expectation."""
    plane = Plane()
    plane.gateway.upstreams["u"].targets[0].minor = 0
    client = plane.client()
    client.sends(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    first = plane.connects()
    first.protocol.reused = True  # as if it had served before
    first.ends()
    upstream = plane.connects()
    client.sends(b"hi")
    assert upstream.received.endswith(b"hi")
    upstream.sends(OK)
    assert client.received.count(b"100 Continue") == 1


def test_100_continue_is_said_once_though_the_gateway_has_said_it_and_the_target_says_it_unasked() -> None:
    plane = Plane({**SERVICE, "filters": {"validate": {"body": {"inline": {"type": "object"}}}}})
    client = plane.client()
    client.sends(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 2\r\n")
    client.sends(b"Expect: 100-continue\r\n\r\n")
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(b"{}")
    plane.connects().sends(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert client.received.count(b"100 Continue") == 1
    assert b"HTTP/1.1 200 OK" in client.received


def retrying() -> dict[str, object]:
    retries = {"max": 1, "conditions": ["503"]}
    targets = [{"url": "http://127.0.0.1:9"}, {"url": "http://127.0.0.1:8"}]
    return {"upstreams": {"u": {"targets": targets, "retries": retries}}, "routes": [{"name": "all", "upstream": "u"}]}


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
EXPECTING = b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("early", [True, False], ids=["before the body", "after the body"])
def test_an_expectation_that_a_target_has_met_is_not_sent_again(early: bool) -> None:
    """The client gets one 100, although each target sends one."""
    plane = Plane(retrying())
    client = plane.client()
    client.sends(EXPECTING)
    first = plane.connects()
    assert b"Expect: 100-continue\r\n" in first.received
    first.sends(CONTINUE)
    if not early:
        client.sends(b"hi")
    first.sends(UNAVAILABLE)
    plane.passes(0.1)
    second = plane.connects()
    assert b"Expect" not in second.received
    second.sends(CONTINUE)
    if early:
        client.sends(b"hi")
    assert second.received.endswith(b"\r\n\r\nhi")
    second.sends(OK)
    assert client.received.startswith(CONTINUE + b"HTTP/1.1 200 OK\r\n")


def test_a_request_is_sent_again_without_its_expectation_if_its_body_is_there() -> None:
    """The client has not waited for the 100."""
    plane = Plane(retrying())
    client = plane.client()
    client.sends(EXPECTING + b"hi")
    first = plane.connects()
    assert b"Expect: 100-continue\r\n" in first.received
    first.sends(UNAVAILABLE)
    plane.passes(0.1)
    second = plane.connects()
    assert b"Expect" not in second.received
    assert second.received.endswith(b"\r\n\r\nhi")
    second.sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_expectation_that_no_target_has_met_is_sent_again() -> None:
    """The client still waits."""
    plane = Plane(retrying())
    client = plane.client()
    client.sends(EXPECTING)
    plane.connects().sends(UNAVAILABLE)
    plane.passes(0.1)
    second = plane.connects()
    assert b"Expect: 100-continue\r\n" in second.received
    second.sends(CONTINUE)
    client.sends(b"hi")
    second.sends(OK)
    assert client.received.startswith(CONTINUE + b"HTTP/1.1 200 OK\r\n")


def test_a_total_is_not_cut_down_to_the_time_for_the_head() -> None:
    """The route's `timeout` ends with the response head, the upstream's `total` with the body: each its own."""
    plane = Plane(settings({"timeout": "1s"}, total="10s", idle="30s"))
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    plane.passes(5)
    assert not upstream.aborted
    plane.passes(6)
    assert upstream.aborted
    plane.assert_quiet()


# --- tunnels ---


def tunnel(plane: Plane, early: bytes = b"") -> tuple[Wire, Wire]:
    client = plane.client()
    client.sends(ASKING + early)
    upstream = plane.connects()
    upstream.sends(SWITCHED)
    assert client.received.startswith(b"HTTP/1.1 101 ")
    return client, upstream


def test_a_target_that_takes_nothing_is_cut_by_the_tunnels_own_time() -> None:
    """`tunnel_idle`, not `response_headers`."""
    plane = Plane(settings(response_headers="1s", tunnel_idle="60s"))
    client, upstream = tunnel(plane)
    upstream.takes(room=0)
    client.sends(b"x" * 10)
    plane.passes(50)
    assert not upstream.aborted
    plane.passes(12)
    assert upstream.aborted


def test_a_client_that_takes_nothing_is_cut_by_the_tunnels_own_time() -> None:
    """`tunnel_idle`, not `response_idle`: a WebSocket client may sleep."""
    plane = Plane({**settings(tunnel_idle="60s"), "timeouts": {"response_idle": "1s"}})
    client, upstream = tunnel(plane)
    client.takes(room=0)
    upstream.sends(b"x" * 10)
    plane.passes(50)
    assert not client.aborted
    plane.passes(62)
    assert client.aborted
    assert upstream.aborted


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_bytes_still_to_be_sent_outlive_both_ends_of_a_tunnel(first: str) -> None:
    """When both sides have said their last word, what lies in our hands is still delivered, then all is closed."""
    plane = Plane()
    client, upstream = tunnel(plane)
    for each in (client, upstream):
        each.takes(room=0)
    client.sends(b"to the target")
    upstream.sends(b"to the client")
    for each in (client, upstream) if first == "client" else (upstream, client):
        each.ends()
    for each in (client, upstream):
        each.takes()
    assert upstream.received.endswith(b"to the target")
    assert client.received.endswith(b"to the client")
    assert client.ended
    assert upstream.ended
    assert client.lost
    assert upstream.lost
    plane.assert_quiet()


def test_what_a_target_never_takes_is_dropped_in_the_end() -> None:
    """The end of a tunnel waits for its target, but not for ever."""
    plane = Plane(settings(tunnel_idle="60s"))
    client, upstream = tunnel(plane)
    upstream.takes(room=0)
    client.sends(b"unwanted")
    upstream.ends()
    client.ends()
    assert not upstream.lost
    plane.passes(62)
    assert upstream.lost
    plane.assert_quiet()


def test_eager_bytes_brake_their_client_when_the_target_takes_no_more() -> None:
    """Bytes sent ahead of the 101 count like any others: at most what the brake allows is held."""
    plane = Plane()
    client = plane.client()
    client.sends(ASKING + b"x" * 50_000)
    upstream = plane.connects()
    upstream.takes(room=10)
    upstream.sends(SWITCHED)
    assert not client.reading
    client.sends(b"y" * 100_000)
    assert upstream.protocol.transport.get_write_buffer_size() < 65_536
    upstream.takes()
    assert upstream.received.endswith(b"x" * 50_000 + b"y" * 100_000)


# --- what is kept to be sent again ---


@pytest.mark.parametrize(("method", "kept"), [(b"POST", None), (b"PUT", [b"abc"])])
def test_only_what_may_be_sent_again_is_kept(method: bytes, kept: list[bytes] | None) -> None:
    """Kept bytes are memory for as long as the exchange lives: none for a POST, none once the response has begun."""
    plane = Plane()
    client = plane.client()
    client.sends(method + b" / HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nabc")
    upstream = plane.connects()
    body = client.protocol.exchange.request_body
    assert body.kept == kept
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    assert body.kept is None
    client.sends(b"def")
    assert upstream.received.endswith(b"abcdef")


def test_a_put_is_sent_again_whole_and_a_post_never() -> None:
    """Promise 1: on a reused connection that closes before any byte."""
    for method in (b"PUT", b"POST"):
        plane = Plane()
        client = plane.client()
        client.sends(method + b" / HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nabc")
        first = plane.connects()
        first.protocol.reused = True
        first.ends()
        if method == b"POST":
            assert client.received.startswith(b"HTTP/1.1 502 ")
            plane.assert_quiet()
            continue
        client.sends(b"def")
        upstream = plane.connects()
        assert upstream.received.endswith(b"\r\n\r\nabcdef")
        upstream.sends(OK)
        assert client.received.endswith(b"ok")
        plane.assert_quiet()


@pytest.mark.parametrize(
    "begun", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"]
)
def test_nothing_is_sent_again_after_a_byte_of_a_response(begun: bytes) -> None:
    plane = Plane()
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    upstream = plane.connects()
    upstream.protocol.reused = True
    upstream.sends(begun)
    upstream.ends()
    assert plane.pool.waiting == []
    assert plane.records[0].retries == 0
    plane.assert_quiet()


# --- what is shown, logged and limited ---


def test_what_is_under_way_is_shown_as_text() -> None:
    service = Service({"hedge": {"after": "50ms"}})
    service.asks()
    exchange = service.client.protocol.exchange
    assert "CHOOSING route=all service=<Forwarding by <Attempt at <Target 127.0.0.1:9: " in repr(exchange)
    service.connects()
    assert "FORWARDING route=all " in repr(exchange)
    assert " on <UpstreamConnection 127.0.0.1:9 AWAITING uses=1>>>>" in repr(exchange)
    service.passes(0.1)
    service.connects()
    assert "FORWARDING route=all " in repr(exchange)
    assert repr(exchange).endswith(" and 1 beside it>>")
    service.wires[0].sends(OK)
    service.assert_over(200, retries=1)


@pytest.mark.parametrize("body", [b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_who_expects_no_100_is_sent_none_for_an_old_target(body: bytes) -> None:
    plane = Plane()
    target = plane.gateway.upstreams["u"].targets[0]
    target.minor = 0 if b"Length" in body else 1
    client = plane.client()
    client.sends(post(body))
    plane.connects().sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("minor", [0, 1])
def test_without_a_body_there_is_nothing_to_expect(minor: int) -> None:
    """RFC 9110 section 10.1.1: no 100 where the client sends nothing behind its head; the target has its usual time."""
    plane = Plane(settings(response_headers="1s"))
    plane.gateway.upstreams["u"].targets[0].minor = minor
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n")
    plane.connects().sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    plane.assert_quiet()


def test_a_tunnel_outlives_the_time_for_the_response_head() -> None:
    plane = Plane(settings({"timeout": "1s"}, total="2s", tunnel_idle="60s"))
    client, upstream = tunnel(plane)
    plane.passes(10)
    upstream.sends(b"late")
    client.sends(b"later")
    assert client.received.endswith(b"late")
    assert upstream.received.endswith(b"later")


def test_a_long_response_is_read_in_larger_pieces_if_the_client_has_room() -> None:
    """As much as the client's socket takes at once: what it does not take would be ours to hold."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
    sizes = []
    for has_room in (False, True):
        plane = Plane()
        client = plane.client()
        client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        upstream = plane.connects()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client.plain_fd = ours.fileno() if has_room else -1
            upstream.sends(head)
            upstream.sends(b"x" * 30_000)
            sizes.append(len(upstream.protocol.buffer))
            client.resets()
    usual, large = sizes
    assert usual == READ_BYTES
    assert large > READ_BYTES


STICKY = {"load_balancing": {"sticky": {"cookie": "at", "key": "k" * 32}}}


def test_a_response_that_was_held_for_a_retry_is_passed_on_with_all_that_is_its_own() -> None:
    """The cookie by which the client stays with the target that answered, its status and the size of its body."""
    service = Service({"retries": {"max": 1, "conditions": ["503"]}, **STICKY})
    service.asks()
    service.connects().sends(saying(503, b"sorry"))
    service.passes(1)
    service.plane.cannot_connect(Fault.POOL_TIMEOUT)
    head, _, body = service.client.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert head.lower().count(b"set-cookie: at=") == 1
    assert body == b"sorry"
    (record,) = service.plane.records
    assert (record.target, record.response_bytes) == ("127.0.0.1:9", 5)
    service.assert_over(503, retries=1)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_client_that_leaves_after_one_of_two_attempts_has_failed_ends_the_other(failing: int) -> None:
    service = Service({"hedge": {"after": "50ms"}})
    service.asks()
    service.connects()
    service.passes(0.1)
    service.connects()
    service.wires[failing].ends()
    assert not service.wires[1 - failing].aborted
    service.client.ends()
    assert service.wires[1 - failing].aborted
    assert service.plane.records[0].fault == "client_left"
    service.plane.assert_quiet()
    service.watch.assert_even()


class Busy:
    """A target without a free connection, which counts its comparisons with others."""

    compared = 0
    idle = shared = ()

    def __eq__(self, other: object) -> bool:
        Busy.compared += 1
        return self is other

    __hash__ = object.__hash__


@pytest.mark.parametrize("free", [False, True])
def test_a_hedge_looks_once_at_each_of_many_targets_of_a_full_pool(free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Busy, "compared", 0)
    first, *others = targets = [Busy() for _ in range(300)]
    if free:
        others[-1].idle = ("a connection",)  # type: ignore[assignment]
    left_out: Any = targets_without_room(targets, {first}, False)  # type: ignore[arg-type]
    assert [target for target in targets if target not in left_out] == others[-1:] * free  # type: ignore[comparison-overlap]
    assert Busy.compared < len(targets)
