"""mirror: copies go to another upstream behind the answer, and nothing that becomes of them is anybody's trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from fastgw import config
from fastgw.filters import TYPES
from fastgw.filters.api import Services
from fastgw.filters.policies import mirror
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm.node_limits import own_counts
from fastgw.upstream.client import mirror_request
from tests.support.generations import load_document
from tests.support.memory import Plane, Wire
from tests.support.table import for_each

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SENT, DIFFERENT, FAILED, SKIPPED = (
    FilterEvent.COPY_SENT,
    FilterEvent.COPY_DIFFERENT,
    FilterEvent.COPY_FAILED,
    FilterEvent.COPY_SKIPPED,
)
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Mirrored:
    """A gateway whose requests to `u` are copied to `v`. `also`: further filters. `route`: settings of the route.
    `beside`: further parts of the configuration.
    """

    def __init__(
        self,
        also: Mapping[str, Any] = NOTHING,
        route: Mapping[str, Any] = NOTHING,
        beside: Mapping[str, Any] = NOTHING,
        **settings: Any,
    ) -> None:
        upstreams = {
            "u": {"targets": [{"url": "http://127.0.0.1:9/base"}], "retries": {"max": 0}},
            "v": {"targets": [{"url": "http://127.0.0.2:9"}], "retries": {"max": 0}},
        }
        filters = {
            "own": {"type": "headers", "request": {"set": {"X-Own": "1"}, "remove": ["X-Secret"]}},
            "mirror": {"upstream": "v", **settings},
            **also,
        }
        path = {} if "rewrite" in route else {"strip_prefix": "/api"}
        routes = [{"name": "all", "upstream": "u", "filters": filters, **path, **route}]
        self.plane = Plane({"upstreams": upstreams, "routes": routes, **beside})
        nothing: Any = None
        services = Services(
            nothing, nothing, nothing, nothing, own_counts(), upstreams=self.plane.gateway.upstreams.get
        )
        for link in self.plane.gateway.live:
            assert link.hooks.start is not None
            link.hooks.start(services)
        self.client = self.plane.client()

    def asks(
        self, request: bytes = b"GET /api/a?b=c HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n", answer: bytes = OK
    ) -> Wire:
        """The upstream's end of a request that is answered."""
        self.client.sends(request)
        upstream = self.plane.connects()
        assert upstream.received.partition(b" ")[2].startswith(b"/base/")
        upstream.sends(answer)
        return upstream

    def copied(self) -> Wire:
        """The other upstream's end of a copy."""
        assert [target.host for _, target in self.plane.pool.waiting] == ["127.0.0.2"]
        return self.plane.connects()

    @property
    def counted(self) -> Counter[FilterEvent]:
        return Counter(event for name, event in self.plane.observer.filters if name == "mirror")


def test_a_copy_goes_out_behind_the_answer() -> None:
    mirrored = Mirrored()
    mirrored.client.sends(b"GET /api/a?b=c HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n")
    upstream = mirrored.plane.connects()
    assert not mirrored.plane.pool.waiting  # nobody is asked twice at a time
    upstream.sends(OK)
    assert mirrored.client.received.endswith(b"ok")
    copy = mirrored.copied()
    assert copy.target == "127.0.0.2:9"
    assert copy.received.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n")
    assert b"\r\nX-Own: 1\r\n" in copy.received
    assert b"X-Secret" not in copy.received
    assert not mirrored.counted
    copy.sends(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nwrong")
    assert mirrored.counted == {SENT: 1}
    assert mirrored.client.received.count(b"HTTP/1.1") == 1
    assert [record.upstream for record in mirrored.plane.records] == ["u"]
    mirrored.plane.assert_quiet()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 7", b"Transfer-Encoding: chunked", b"Content-Length: 7\r\nExpect: 100-continue"]
)
def test_a_body_goes_with_it(framing: bytes) -> None:
    mirrored = Mirrored()
    body = b"3\r\npay\r\n4\r\nload\r\n0\r\n\r\n" if b"chunked" in framing else b"payload"
    mirrored.client.sends(b"POST /api/a HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + body[:3])
    upstream = mirrored.plane.connects()
    mirrored.client.sends(body[3:])
    upstream.sends(OK)
    copy = mirrored.copied()
    head, _, sent = copy.received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a HTTP/1.1\r\n")
    assert b"Expect" not in head
    assert sent == (b"7\r\npayload\r\n0\r\n\r\n" if b"chunked" in framing else b"payload")
    copy.sends(OK)
    assert mirrored.counted == {SENT: 1}
    mirrored.plane.assert_quiet()


@pytest.mark.parametrize(
    "request_",
    [b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\npayload"],
    ids=["GET", "POST"],
)
def test_nothing_is_copied_in_shadow(request_: bytes) -> None:
    """A copy may pay a bill twice: the dry run of a mirror sends none."""
    upstreams = {name: {"targets": [{"url": f"http://127.0.0.{at}:9"}]} for at, name in ((1, "u"), (2, "v"))}
    use = {"upstream": "v", "compare": True, "shadow": True}
    plane = Plane({"upstreams": upstreams, "routes": [{"name": "all", "upstream": "u", "filters": {"mirror": use}}]})
    nothing: Any = None
    services = Services(nothing, nothing, nothing, nothing, own_counts(), upstreams=plane.gateway.upstreams.get)
    for link in plane.gateway.live:
        if link.hooks.start is not None:
            link.hooks.start(services)
    client = plane.client()
    client.sends(request_)
    plane.connects().sends(OK)
    assert client.received.endswith(b"ok")
    assert not plane.pool.waiting
    assert [record.shadowed for record in plane.records] == ["mirror: unknown: copies are not sent in shadow"]
    assert plane.observer.filters == [("mirror", FilterEvent.UNKNOWN)]
    plane.assert_quiet()


def test_what_is_for_one_upstream_alone_is_not_copied() -> None:
    """A mirror is another host: it gets no secret that the gateway brings for the upstream of the route."""
    parameters = {"headers": {"X-Tenant": "t1"}, "query": {"key": "of u"}}
    mirrored = Mirrored(also={"request_parameters": parameters})
    upstream = mirrored.asks()
    assert upstream.received.startswith(b"GET /base/a?b=c&key=of%20u HTTP/1.1\r\n")
    assert b"\r\nX-Tenant: t1\r\n" in upstream.received
    copy = mirrored.copied()
    assert copy.received.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert b"\r\nX-Own: 1\r\n" in copy.received
    assert b"X-Tenant" not in copy.received
    assert b"X-Secret" not in copy.received
    copy.sends(OK)
    assert mirrored.counted == {SENT: 1}
    mirrored.plane.assert_quiet()


def test_a_copy_is_sent_with_the_host_and_via_of_its_route() -> None:
    for route, host, via in (
        ({}, b"a.test", True),
        ({"host_header": "target"}, b"127.0.0.2:9", True),
        ({"host_header": "b.test"}, b"b.test", True),
        ({"via": "off"}, b"a.test", False),
    ):
        mirrored = Mirrored(route=route)
        mirrored.asks(b"GET /api/a HTTP/1.1\r\nHost: a.test\r\n\r\n")
        copy = mirrored.copied()
        assert copy.received.startswith(b"GET /a HTTP/1.1\r\nHost: %b\r\n" % host)
        assert (b"\r\nVia: " in copy.received) is via
        copy.sends(OK)
        assert mirrored.counted == {SENT: 1}
        mirrored.plane.assert_quiet()


def test_a_copy_has_the_trailers_of_its_request() -> None:
    """Except for those that its head has as well: filters have checked that."""
    mirrored = Mirrored()
    head = b"POST /api/a HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, X-Own\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream = mirrored.asks(head + b"4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-Own: 2\r\n\r\n")
    copy = mirrored.copied()
    for received in (upstream.received, copy.received):
        assert received.partition(b"\r\n\r\n")[2] == b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n"
    copy.sends(OK)
    assert mirrored.counted == {SENT: 1}
    mirrored.plane.assert_quiet()


MAPS = {"release": {"source": "{cookie.release}", "values": {"beta": "v2"}, "default": "v1"}}


@pytest.mark.parametrize(
    ("rewrite", "path"),
    [("/{map.release}{path}", b"/v2/api/a"), ("/of/{route}", b"/of/all"), ("/by/{request_id}", b"/by/%b")],
)
def test_the_path_of_a_copy_has_the_values_of_its_request(rewrite: str, path: bytes) -> None:
    mirrored = Mirrored(route={"rewrite": rewrite}, beside={"maps": MAPS, "filters": {"request_id": {}}})
    upstream = mirrored.asks(b"GET /api/a HTTP/1.1\r\nHost: a\r\nCookie: release=beta\r\n\r\n")
    request_id = upstream.received.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0]
    path = path % request_id if b"%b" in path else path
    copy = mirrored.copied()
    assert upstream.received.startswith(b"GET /base%b HTTP/1.1\r\n" % path)
    assert copy.received.startswith(b"GET %b HTTP/1.1\r\n" % path)
    copy.sends(OK)
    assert mirrored.counted == {SENT: 1}
    mirrored.plane.assert_quiet()


def test_what_comes_back_is_compared() -> None:
    mirrored = Mirrored(compare=True)
    for answer, event in (
        (OK, SENT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnok", DIFFERENT),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nok", DIFFERENT),
    ):
        before = mirrored.counted[event]
        mirrored.client = mirrored.plane.client()
        mirrored.client.sends(b"GET /api/a HTTP/1.1\r\nHost: a\r\n\r\n")
        answers(mirrored, OK, answer)
        assert mirrored.counted[event] == before + 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_responses_are_compared_as_the_upstreams_sent_them(framing: str) -> None:
    mirrored = Mirrored(also={"compress": {"min_bytes": "1B"}}, compare=True)
    request = b"GET /api/a HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
    for second, event in ((b'{"a":"1"}', SENT), (b'{"a":"12"}', DIFFERENT)):
        mirrored.client = mirrored.plane.client()
        mirrored.client.sends(request)
        answers(mirrored, *(json_answer(body, framing) for body in (b'{"a":"0"}', second)))
        assert mirrored.counted[event] == 1
        assert b"\r\nContent-Encoding: gzip\r\n" in mirrored.client.received


def json_answer(body: bytes, framing: str) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def answers(mirrored: Mirrored, first: bytes, second: bytes) -> None:
    """Have the request and its copy answered, over new connections or those that are idle."""
    for answer in (first, second):
        if mirrored.plane.pool.waiting:
            mirrored.plane.connects()
        (busy,) = [each for each in mirrored.plane.pool.open if each not in each.target.idle]
        busy.transport.sends(answer)


FRAMED = b"\0\0\0\0\5hello"
CALLS = {
    "web": (b"application/grpc-web+proto", FRAMED),
    "stream": (b"application/connect+proto", FRAMED),
    "unary": (b"application/proto\r\nConnect-Protocol-Version: 1", b"hello"),
}
GRPC = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n"


def grpc_answer(message: bytes, end: bytes = b"0\r\ngrpc-status: 0\r\n\r\n") -> bytes:
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return GRPC + b"%x\r\n%b\r\n" % (len(framed), framed) + end


@for_each("call", CALLS)
@for_each(
    ("answer", "event"),
    [
        (grpc_answer(b"hi"), SENT),
        (grpc_answer(b"other"), DIFFERENT),
        (grpc_answer(b"hi", b""), FAILED),
        (b"", FAILED),
    ],
)
def test_a_call_of_another_protocol_is_copied_as_one_of_grpc(call: str, answer: bytes, event: FilterEvent) -> None:
    """Its responses are compared as the client would get them."""
    kind, body = CALLS[call]
    mirrored = Mirrored(also={"grpc_web": {}, "connect_rpc": {}}, compare=True)
    head = b"POST /api/a.B/C HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    upstream = mirrored.asks(head % (kind, len(body)) + body, grpc_answer(b"hi"))
    copy = mirrored.copied()
    assert copy.received.startswith(b"POST /a.B/C HTTP/1.1\r\n")
    assert copy.received.endswith(b"\r\n\r\n" + FRAMED)
    for received in (upstream.received, copy.received):
        assert b"\r\nContent-Type: application/grpc+proto\r\n" in received
        assert b"\r\nX-Own: 1\r\n" in received
        assert b"X-Secret" not in received
    copy.sends(answer)
    copy.ends()
    assert mirrored.counted == {event: 1}
    assert [record.upstream for record in mirrored.plane.records] == ["u"]
    mirrored.client.ends()
    mirrored.plane.assert_quiet()


def test_a_call_that_another_upstream_answers_without_grpc_is_answered() -> None:
    mirrored = Mirrored(also={"grpc_web": {}})
    kind, body = CALLS["web"]
    head = b"POST /api/a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    mirrored.asks(head % (kind, len(body)) + body, grpc_answer(b"hi"))
    mirrored.copied().sends(OK)
    assert mirrored.counted == {SENT: 1}


def test_translated_responses_are_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_request, "MOST_BYTES", 1000)
    mirrored = Mirrored(also={"grpc_web": {}})
    kind, body = CALLS["web"]
    head = b"POST /api/a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    mirrored.asks(head % (kind, len(body)) + body, grpc_answer(b"hi"))
    copy = mirrored.copied()
    copy.sends(grpc_answer(bytes(1000), b""))
    assert copy.lost
    assert mirrored.counted == {FAILED: 1}
    mirrored.plane.assert_quiet()


@pytest.mark.parametrize("how", ["cannot connect", "resets", "breaks off"])
def test_a_copy_that_fails_is_nobodys_trouble(how: str) -> None:
    mirrored = Mirrored()
    mirrored.asks()
    if how == "cannot connect":
        mirrored.plane.cannot_connect()
    else:
        copy = mirrored.copied()
        if how == "breaks off":
            copy.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        copy.resets()
    assert mirrored.counted == {FAILED: 1}
    assert mirrored.client.received.count(b"HTTP/1.1 200 OK") == 1
    mirrored.client.sends(b"GET /api/b HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not mirrored.client.lost


def test_what_is_not_copied() -> None:
    mirrored = Mirrored(body_bytes="4B", in_flight=1)
    mirrored.asks(b"POST /api/long HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345")
    assert mirrored.counted == {SKIPPED: 1}
    assert not mirrored.plane.pool.waiting
    left = mirrored.plane.client()
    left.sends(b"POST /api/left HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12")
    left.ends()
    assert mirrored.counted == {SKIPPED: 2}
    mirrored.client = mirrored.plane.client()
    mirrored.client.sends(b"GET /api/a HTTP/1.1\r\nHost: a\r\n\r\n")
    busy = [each for each in mirrored.plane.pool.open if each not in each.target.idle]
    if not busy:
        mirrored.plane.connects()
        busy = [each for each in mirrored.plane.pool.open if each not in each.target.idle]
    busy[0].transport.sends(OK)
    assert len(mirrored.plane.pool.waiting) == 1  # the only copy at a time
    mirrored.client.sends(b"GET /api/b HTTP/1.1\r\nHost: a\r\n\r\n")
    (again,) = [each for each in mirrored.plane.pool.open if each not in each.target.idle]
    again.transport.sends(OK)
    assert mirrored.counted == {SKIPPED: 3}


def test_a_share_of_nothing_copies_nothing() -> None:
    mirrored = Mirrored(share="0%")
    mirrored.asks()
    assert not mirrored.plane.pool.waiting
    assert not mirrored.counted


def test_the_upstream_has_to_be_there() -> None:
    with pytest.raises(config.ConfigError, match=r'filters\.mirror\.upstream: unknown upstream "w"'):
        load_document(
            {"version": 1, "listeners": {"m": {"address": "127.0.0.1:0"}}, "filters": {"mirror": {"upstream": "w"}}},
            TYPES,
        )


def test_an_answer_without_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_request, "MOST_BYTES", 1000)
    mirrored = Mirrored()
    mirrored.asks()
    copy = mirrored.copied()
    copy.sends(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1000))
    assert not copy.lost
    copy.sends(b"x")
    assert copy.lost
    assert mirrored.counted == {FAILED: 1}
    mirrored.plane.assert_quiet()


def test_bodies_are_held_up_to_a_bound_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_HELD", 10)
    mirrored = Mirrored()
    clients = [mirrored.plane.client() for _ in range(3)]
    for client in clients:
        client.sends(b"POST /api/a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n1234")
    assert mirrored.counted == {SKIPPED: 1}  # the third, for which nothing is left
    for client in clients:
        client.resets()
    assert mirrored.counted == {SKIPPED: 3}
    mirrored.client = mirrored.plane.client()
    mirrored.client.sends(b"POST /api/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1234567890")
    assert mirrored.counted == {SKIPPED: 3}  # all of it is free again


@pytest.mark.parametrize("settings", [{}, {"upstream": "http://127.0.0.1:9"}, {"upstream": ["u"]}])
def test_what_names_no_upstream_is_told(settings: dict[str, Any]) -> None:
    with pytest.raises(config.ConfigError, match=r"filters\.mirror\.upstream: "):
        load_document(
            {"version": 1, "listeners": {"m": {"address": "127.0.0.1:0"}}, "filters": {"mirror": settings}}, TYPES
        )
