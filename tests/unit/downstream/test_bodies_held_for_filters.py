"""Bodies that filters need as a whole are held within the node's memory for held bodies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.exchange.body_stages import PendingOutput
from fastgw.filters.api import BodyHook, BodyStage, Bounded, Phase, Reply, StageFactory
from fastgw.shm.held_body_budget import FREE_BYTES
from tests.support.http2 import frames
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins

BODY = b'{"x":"%b"}' % (b"y" * 30_000)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
JSON, LINES, EVENTS = b"application/json", b"application/x-ndjson", b"text/event-stream"
MAPPED = {"transform": {"request": {"json": {"set": {"a": 1}}}}}
TRANSFORM = {"transform": {"request": {"json": {"set": {"a": 1}}}, "response": {"json": {"set": {"a": 1}}}}}
VALIDATE: dict[str, Any] = {"validate": {"body": {"inline": {}}}}
OBSERVE: dict[str, Any] = {"validate": {"body": {"inline": {}}, "mode": "report"}}
OBSERVED_IN_SHADOW: dict[str, Any] = {"validate": {"body": {"inline": {}}, "mode": "report", "shadow": True}}
SHADOW = {"transform": {"request": {"json": {"set": {"a": 1}}}, "shadow": True}}


class Keeping(BodyStage):
    """Stage that holds the body back, without declaring that it needs all of it."""

    keeps_length = True

    def __init__(self) -> None:
        self._held = b""

    def feed(self, payload: bytes) -> bytes:
        self._held += payload
        return b""

    def end(self) -> bytes:
        return self._held


class Waiting(BodyStage):
    """Stage whose output is computed outside the event loop."""

    may_wait = True

    def __init__(self) -> None:
        self.output: Future[bytes] = Future()
        self.factory = StageFactory(lambda exchange: self)

    def feed(self, payload: bytes) -> bytes:
        return b""

    def pending(self) -> PendingOutput:
        return self.output

    def end(self) -> bytes:
        return self.output.result()

    def cancel(self) -> None:
        self.output.cancel()


WHOLE = probe("whole", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, body: None, needs=Bounded("1MiB")))
REFUSES = probe(
    "refuses", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, body: Reply(400), needs=Bounded("1MiB"))
)
KEEPING = probe("keeping", Phase.TRANSFORM, request_body=StageFactory(lambda exchange: Keeping()))
WAYS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "transform": (TRANSFORM, ()),
    "validate": (VALIDATE, ()),
    "validate, then transform": (VALIDATE | TRANSFORM, ()),
    "waf": ({"waf": {"body_bytes": "128KiB"}}, ()),
    "filter that needs the body": ({}, (WHOLE,)),
    "stage that holds the body back": ({}, (KEEPING,)),
}


def plane_for(way: str, **settings: Any) -> Plane:
    filters, probes = WAYS[way]
    return Plane({"filters": filters, **settings}, probes=probes)


def in_use(plane: Plane) -> int:
    return plane.worker_loop.held_body_budget.in_use


def post(body: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def busy(plane: Plane) -> Wire:
    """Return the upstream's end of the connection with a request."""
    (connection,) = [each for each in plane.pool.open if each not in each.target.idle]
    wire: Wire = connection.transport
    return wire


def held(plane: Plane) -> Wire:
    """Return a client that has sent all but the last byte of a body."""
    client = plane.client()
    client.sends(post(BODY)[:-1])
    return client


@pytest.mark.parametrize("way", WAYS)
def test_a_body_that_is_not_complete_counts_once(way: str) -> None:
    plane = plane_for(way)
    held(plane)
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    held(plane)
    assert in_use(plane) == 2 * (len(BODY) - 1 - FREE_BYTES)


@pytest.mark.parametrize("way", WAYS)
def test_a_body_for_which_no_memory_is_left_is_refused(way: str) -> None:
    plane = plane_for(way)
    plane.worker_loop.held_body_budget.limit = len(BODY)
    first, second = held(plane), held(plane)
    assert second.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"urn:fastgw:fault:overloaded" in second.received
    [record] = plane.records
    assert record.fault == Fault.OVERLOADED.label
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    first.sends(BODY[-1:])
    upstream = plane.connects()
    assert b"y" * 30_000 in upstream.received
    upstream.sends(NO_BODY)
    assert first.received.startswith(b"HTTP/1.1 204 ")
    assert in_use(plane) == 0


@for_each("head", ["with the body", "before the body"])
@for_each("way", WAYS)
def test_a_body_that_is_complete_needs_no_memory_of_the_node(way: str, head: str) -> None:
    """Nothing waits for its client, so clients that stall do not keep others from being served."""
    plane = plane_for(way)
    plane.worker_loop.held_body_budget.limit = 0
    client = plane.client()
    request = post(BODY)
    for piece in [request] if head == "with the body" else [request.removesuffix(BODY), BODY]:
        client.sends(piece)
    upstream = plane.connects()
    assert b"y" * 30_000 in upstream.received
    upstream.sends(NO_BODY)
    assert client.received.startswith(b"HTTP/1.1 204 ")
    assert held(plane).received.startswith(b"HTTP/1.1 503 ")
    few = plane.client()
    few.sends(post(BODY)[: FREE_BYTES - len(BODY)])
    assert few.received == b""


@pytest.mark.parametrize("has_memory", [True, False])
def test_a_complete_body_counts_while_a_stage_computes_its_output(has_memory: bool) -> None:
    waiting = Waiting()
    plane = Plane(
        probes=(probe("waits", Phase.TRANSFORM, request_body=BodyHook(waiting.factory, needs=Bounded("1MiB"))),)
    )
    if not has_memory:
        plane.worker_loop.held_body_budget.limit = 0
    client = plane.client()
    client.sends(post(BODY))
    if has_memory:
        assert in_use(plane) == len(BODY) - FREE_BYTES
        waiting.output.set_result(b"changed")
        assert plane.connects().received.endswith(b"\r\n\r\nchanged")
    else:
        assert client.received.startswith(b"HTTP/1.1 503 ")
        assert waiting.output.cancelled()
    assert in_use(plane) == 0


@pytest.mark.parametrize("leave", [Wire.ends, Wire.resets])
def test_a_client_that_leaves_while_a_stage_computes_its_output_frees_the_memory(leave: Callable[[Wire], None]) -> None:
    waiting = Waiting()
    plane = Plane(
        probes=(probe("waits", Phase.TRANSFORM, request_body=BodyHook(waiting.factory, needs=Bounded("1MiB"))),)
    )
    client = plane.client()
    client.sends(post(BODY))
    leave(client)
    assert waiting.output.cancelled()
    assert in_use(plane) == 0
    assert [(record.status, record.fault) for record in plane.records] == [(499, "client_left")]
    plane.assert_quiet()


def test_a_response_that_is_complete_needs_no_memory_of_the_node() -> None:
    plane = plane_for("transform")
    plane.worker_loop.held_body_budget.limit = 0
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK + BODY)
    assert client.received.endswith(b',"a":1}')


def test_what_a_stage_holds_back_counts_after_the_rest_is_on_its_way() -> None:
    plane = Plane(probes=(KEEPING,))
    client = held(plane)
    upstream = plane.connects()
    assert upstream.received.endswith(b"\r\n\r\n")
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    client.sends(BODY[-1:])
    assert upstream.received.endswith(BODY)
    assert in_use(plane) == 0


@pytest.mark.parametrize("kind", ["request", "response"])
@pytest.mark.parametrize("content_type", [LINES, EVENTS])
def test_an_incomplete_line_counts(content_type: bytes, kind: str) -> None:
    plane = Plane({"filters": {"transform": {kind: {"json": {"set": {"a": 1}}}}}})
    client = plane.client()
    begin = b'data: {"x":"%b' % (b"y" * 30_000) if content_type == EVENTS else b'{"x":"%b' % (b"y" * 30_000)
    head = b"\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (content_type, len(begin) + 4)
    if kind == "request":
        client.sends(b"POST / HTTP/1.1\r\nHost: a.test" + head + begin)
        upstream = plane.connects()
        sender, receiver = client, upstream
    else:
        client.sends(GET)
        upstream = plane.connects()
        upstream.sends(b"HTTP/1.1 200 OK" + head + begin)
        sender, receiver = upstream, client
    assert in_use(plane) == len(begin) - FREE_BYTES
    sender.sends(b'"}\n\n')
    assert b'","a":1}' in receiver.received
    assert in_use(plane) == 0


@pytest.mark.parametrize("content_type", [LINES, EVENTS])
def test_an_incomplete_line_that_a_filter_in_shadow_holds_counts(content_type: bytes) -> None:
    """It passes in any case: without memory for it, what the filter would do is unknown."""
    for limit, expected in ((100_000, 30_000 - FREE_BYTES), (10_000, 0)):
        plane = Plane({"filters": SHADOW})
        plane.worker_loop.held_body_budget.limit = limit
        client = plane.client()
        begin = (b'data: {"x":"' if content_type == EVENTS else b'{"x":"').ljust(30_000, b"y")
        head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\nContent-Length: 30004\r\n\r\n"
        client.sends(head % content_type + begin)
        upstream = plane.connects()
        assert in_use(plane) == expected
        client.sends(b'"}\n\n')
        assert upstream.received.endswith(begin + b'"}\n\n')
        upstream.sends(NO_BODY)
        assert in_use(plane) == 0


def test_an_incomplete_line_for_which_no_memory_is_left_is_refused() -> None:
    plane = Plane({"filters": MAPPED})
    plane.worker_loop.held_body_budget.limit = 10_000
    client = plane.client()
    head = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/x-ndjson\r\nContent-Length: 90000\r\n\r\n"
    client.sends(head + b'{"x":"' + b"y" * 30_000)
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert b"urn:fastgw:fault:overloaded" in client.received
    assert in_use(plane) == 0


@for_each("way", WAYS)
@for_each("end", ["answer", "client leaves", "client stalls", "upstream is lost"])
def test_the_memory_is_given_back_however_the_exchange_ends(way: str, end: str) -> None:
    plane = plane_for(way, timeouts={"request_body_idle": "5s"})
    client = held(plane)
    assert in_use(plane)
    if end == "client leaves":
        client.resets()
    elif end == "client stalls":
        if plane.pool.waiting:
            plane.connects()  # until then, the client is not asked for more
        plane.passes(6)
    else:
        client.sends(BODY[-1:])
        upstream = plane.connects()
        if end == "answer":
            upstream.sends(NO_BODY)
        else:
            upstream.resets()
    assert len(plane.records) == 1
    assert in_use(plane) == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_memory_is_given_back_when_the_stream_is_reset(way: str) -> None:
    plane = plane_for(way, **HTTP2)
    client = begins(plane)
    client.sends(frames.post((b"content-type", b"application/json")))
    client.sends(frames.data(BODY[:16_000], end=False) + frames.data(BODY[16_000:-1], end=False))
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    client.sends(frames.reset())
    assert in_use(plane) == 0


def test_the_memory_of_a_refused_body_is_given_back() -> None:
    plane = Plane(probes=(REFUSES,))
    client = held(plane)
    assert in_use(plane)
    client.sends(BODY[-1:])
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert in_use(plane) == 0
    plane = plane_for("transform")
    client = plane.client()
    client.sends(post(BODY[:-1] + b"!")[:-1])
    assert in_use(plane)
    client.sends(b"!")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert in_use(plane) == 0


def test_a_body_counts_until_it_is_on_its_way_to_the_upstream() -> None:
    plane = plane_for("validate")
    plane.client().sends(post(BODY))
    assert in_use(plane) == 0  # it came as a whole: nothing was held for the filter
    client = held(plane)
    client.sends(BODY[-1:])
    assert in_use(plane)  # there is no connection yet
    plane.connects()
    plane.connects()
    assert in_use(plane) == 0


def test_a_body_that_may_be_sent_again_counts_until_the_response_begins() -> None:
    body = b'"%b"' % (b"y" * (MAX_KEPT + 30_000))
    plane = Plane(
        {
            "filters": VALIDATE,
            "upstreams": {"u": {"targets": ["http://127.0.0.1:9"], "retries": {"body_bytes": "1MiB"}}},
        }
    )
    for method in (b"PUT", b"POST"):
        client = plane.client()
        client.sends(post(body).replace(b"POST", method)[:-1])
        client.sends(body[-1:])
        upstream = plane.connects() if method == b"PUT" else busy(plane)
        # A POST that has been sent is not sent again.
        assert in_use(plane) >= len(body) - MAX_KEPT if method == b"PUT" else in_use(plane) == 0
        upstream.sends(NO_BODY)
        assert client.received.startswith(b"HTTP/1.1 204 ")
        assert in_use(plane) == 0


@pytest.mark.parametrize("end", ["answer", "client leaves", "upstream is lost"])
def test_responses_count_until_they_are_complete(end: str) -> None:
    plane = plane_for("transform")
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK + BODY[:-1])
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    if end == "answer":
        upstream.sends(BODY[-1:])
        assert client.received.endswith(b',"a":1}')
    elif end == "client leaves":
        client.resets()
    else:
        upstream.resets()
        assert client.received.startswith(b"HTTP/1.1 502 ")
    assert in_use(plane) == 0


def test_a_response_for_which_no_memory_is_left_is_replaced() -> None:
    plane = plane_for("transform")
    plane.worker_loop.held_body_budget.limit = 10_000
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK + BODY[:-1])
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert b"urn:fastgw:fault:overloaded" in client.received
    assert in_use(plane) == 0


@pytest.mark.parametrize("filters", [OBSERVE, SHADOW, OBSERVED_IN_SHADOW])
def test_a_body_that_is_only_observed_passes_without_memory_for_it(filters: dict[str, Any]) -> None:
    plane = Plane({"filters": filters})
    plane.worker_loop.held_body_budget.limit = len(BODY)
    first, second = held(plane), held(plane)
    assert in_use(plane) == len(BODY) - 1 - FREE_BYTES
    for client in (first, second):
        upstream = plane.connects()
        client.sends(BODY[-1:])
        assert upstream.received.endswith(BODY)
        upstream.sends(NO_BODY)
        assert client.received.startswith(b"HTTP/1.1 204 ")
    assert in_use(plane) == 0


SMALL_PIECES: dict[str, tuple[dict[str, Any], tuple[Any, ...], bytes]] = {
    **{way: (*WAYS[way], JSON) for way in ("transform", "validate", "waf", "filter that needs the body")},
    "observer": (OBSERVE, (), JSON),
    "filter in shadow": (SHADOW, (), JSON),
    "beginning in shadow": ({"waf": {"body_bytes": "128KiB", "shadow": True}}, (), JSON),
    "line": (MAPPED, (), LINES),
    "event": (MAPPED, (), EVENTS),
    "nothing": ({}, (), JSON),
}


@pytest.mark.extended
@pytest.mark.parametrize("case", SMALL_PIECES)
def test_a_body_in_small_pieces_takes_about_as_much_memory_as_its_bytes(case: str) -> None:
    """An object for each piece of two bytes would take some forty bytes, which no limit counts."""
    filters, probes, content_type = SMALL_PIECES[case]
    plane = Plane({"filters": filters, **HTTP2}, probes=probes)
    client = begins(plane)
    client.sends(frames.post((b"content-type", content_type)))
    if plane.pool.waiting:
        plane.connects()
    pieces = frames.data(b"yy", end=False) * 500
    client.sends(pieces)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(20):
        client.sends(pieces)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not plane.records  # the exchange goes on
    assert after - before < 150_000  # 20,000 bytes, and 74,000 of what a fake upstream has received
