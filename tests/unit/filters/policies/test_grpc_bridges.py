"""grpc_web and connect_rpc on `fastgw.testing`: wherever requests and responses are cut, the bytes are the same."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import pytest

from fastgw.filters.api import BodyHook, Bounded, Filter, Hooks
from fastgw.filters.policies.grpc_bridges import ConnectRpc, GrpcWeb
from fastgw.http.grpc.status import TO_HTTP, GrpcStatus
from fastgw.testing import ConfigError, configured, run
from tests.support.collector import garbage
from tests.support.memory import Plane
from tests.support.table import for_each
from tests.unit.pipeline.test_body_hooks import filter_of

WEB, TEXT = b"application/grpc-web+proto", b"application/grpc-web-text+proto"


def framed(message: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + len(message).to_bytes(4, "big") + message


def request(body: bytes, kind: bytes, more: bytes = b"") -> bytes:
    head = b"POST /a.B/C HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n"
    return head % (kind, more, len(body)) + body


def in_chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def response(*messages: bytes, trailers: bytes = b"grpc-status: 0\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + in_chunks(*messages) + b"0\r\n" + trailers + b"\r\n"


def cut(whole: bytes, at: int) -> list[bytes]:
    return [whole[:at], whole[at:]]


UNARY = request(b"hello", b"application/proto", b"Connect-Protocol-Version: 1\r\n")
CASES = [
    (GrpcWeb(), request(framed(b"hello"), WEB), framed(b"hi") + framed(b"grpc-status:0\r\n", 0x80)),
    (
        GrpcWeb(),
        request(b64encode(framed(b"hello")[:4]) + b64encode(framed(b"hello")[4:]), TEXT),
        b64encode(framed(b"hi")) + b64encode(framed(b"grpc-status:0\r\n", 0x80)),
    ),
    (ConnectRpc(), request(framed(b"hello"), b"application/connect+proto"), framed(b"hi") + framed(b"{}", 2)),
    (ConnectRpc(), UNARY, b"hi"),
]


@pytest.mark.parametrize(("filter", "sent", "body"), CASES)
@pytest.mark.parametrize("first", [0, 1])
def test_cuts_do_not_matter(filter: GrpcWeb | ConnectRpc, sent: bytes, body: bytes, first: int) -> None:
    start = sent.index(b"\r\n\r\n") + 4
    answer = response(framed(b"hi"))
    begun = answer.index(b"\r\n\r\n") + 4
    for at in [None, *range(first, len(sent) - start, 2)]:
        ran = run(filter, [sent] if at is None else cut(sent, start + at), response=answer)
        assert (ran.status, ran.sent_body, ran.body) == (200, framed(b"hello"), body), at
        assert ran.sent_fields.get(b"Content-Type") == b"application/grpc+proto"
        assert ran.sent_fields.get(b"TE") == b"trailers"
    for at in range(first, len(answer) - begun, 2):
        ran = run(filter, sent, response=cut(answer, begun + at))
        assert (ran.status, ran.sent_body, ran.body) == (200, framed(b"hello"), body), at


def holding(bound: str) -> Filter:
    """A filter that holds a response until its end, and changes nothing."""
    return filter_of(Hooks(response_body=BodyHook(lambda exchange, payload: None, needs=Bounded(bound))))


@pytest.mark.parametrize(("filter", "sent", "body"), CASES)
def test_another_filter_may_hold_the_response(filter: GrpcWeb | ConnectRpc, sent: bytes, body: bytes) -> None:
    answer = response(framed(b"hi"))
    begun = answer.index(b"\r\n\r\n") + 4
    for at in (begun, begun + 8, len(answer) - 10):
        ran = run((filter, holding("1KiB")), sent, response=cut(answer, at))
        assert (ran.status, ran.sent_body, ran.body) == (200, framed(b"hello"), body), at
        assert ran.fields.get(b"Content-Length") == b"%d" % len(body)


@pytest.mark.parametrize(("filter", "sent", "body"), CASES[:3])
def test_a_response_that_another_filter_cannot_hold_is_a_fault(
    filter: GrpcWeb | ConnectRpc, sent: bytes, body: bytes
) -> None:
    """The last frame, with the status, makes it too long: the call has ended already."""
    ran = run((filter, holding(f"{len(body) - 1}B")), sent, response=response(framed(b"hi")))
    assert (ran.status, ran.fault) == (200, "response_too_large")
    told = b64decode(ran.body) if b"text" in sent.partition(b"\r\n\r\n")[0] else ran.body
    assert (b'"unavailable"' if isinstance(filter, ConnectRpc) else b"grpc-status:14\r\n") in told
    assert b"hi" not in told


@pytest.mark.parametrize(("filter", "sent", "body"), CASES)
def test_a_call_that_breaks_off_while_its_response_is_held_is_a_fault(
    filter: GrpcWeb | ConnectRpc, sent: bytes, body: bytes
) -> None:
    del body
    answer = response(framed(b"hi")).removesuffix(b"0\r\ngrpc-status: 0\r\n\r\n")
    ran = run((filter, holding("1KiB")), sent, response=answer)
    assert ran.fault == "upstream_incomplete"
    assert ran.fields.get(b"Content-Length") == b"%d" % len(ran.body)
    assert b"hi" not in ran.body


@pytest.mark.parametrize(("filter", "sent", "body"), CASES)
def test_others_pass_as_if_the_filter_were_not_there(filter: GrpcWeb | ConnectRpc, sent: bytes, body: bytes) -> None:
    del sent, body
    for kind in (b"application/grpc", b"application/grpc+proto", b"application/json", b"text/plain"):
        plain = request(framed(b"hello"), kind)
        ran, without = run(filter, plain), run((), plain)
        assert (ran.sent, ran.body, ran.status) == (without.sent, without.body, without.status)


def test_trailers_cannot_be_forged_by_a_line_break() -> None:
    """HTTP/1.1 and HTTP/2 let no such value through; the frame is checked by itself nevertheless."""
    answer = response(framed(b"hi"), trailers=b"grpc-status: 5\r\ngrpc-message: a\\r\\ngrpc-status:0\r\n")
    ran = run(GrpcWeb(), request(framed(b"x"), WEB), response=answer)
    assert ran.body == framed(b"hi") + framed(b"grpc-status:5\r\ngrpc-message:a\\r\\ngrpc-status:0\r\n", 0x80)


def test_headers_of_the_status_are_never_headers_of_the_response() -> None:
    """A head with a status is trailers alone, but for what HTTP knows."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 7\r\nGrpc-Message: no\r\nX-A: 1\r\n"
    answer = head + b"Vary: x\r\nContent-Length: 0\r\n\r\n"
    web = run(GrpcWeb(), request(framed(b"x"), WEB), response=answer)
    assert web.body == framed(b"grpc-status:7\r\ngrpc-message:no\r\nx-a:1\r\n", 0x80)
    unary = run(ConnectRpc(), UNARY, response=answer)
    assert (unary.status, json.loads(unary.body)) == (403, {"code": "permission_denied", "message": "no"})
    assert unary.fields.get(b"Trailer-X-A") == b"1"
    stream = run(ConnectRpc(), request(framed(b"x"), b"application/connect+proto"), response=answer)
    assert json.loads(stream.body[5:])["metadata"] == {"x-a": ["1"]}
    for ran in (web, unary, stream):
        assert ran.fields.get(b"Grpc-Status") is None
        assert (ran.fields.get(b"X-A"), ran.fields.get(b"Vary")) == (None, b"x")


def test_what_filters_hide_stays_hidden() -> None:
    """Forwarding headers and those of the hop are the gateway's, as in any request."""
    more = b"X-Forwarded-For: 6.6.6.6\r\nConnection: x-secret\r\nX-Secret: 1\r\nContent-Digest: sha-256=:AA==:\r\n"
    for filter, kind in ((GrpcWeb(), WEB), (ConnectRpc(), b"application/connect+proto")):
        sent = run(filter, request(framed(b"x"), kind, more), response=response()).sent_fields
        assert sent.get_all(b"X-Forwarded-For") == [b"192.0.2.1"]
        assert sent.get(b"X-Secret") is None
        assert sent.get(b"Content-Digest") is None
        assert len(sent.get_all(b"Content-Type")) == 1


def test_a_call_by_get_is_named_as_a_method() -> None:
    assert configured(ConnectRpc, get=["SayHello", "a.B/C"]).get == ("SayHello", "a.B/C")
    for wrong in ("/a.B/C", "a.B/", "a b", "a/b/c"):
        with pytest.raises(ConfigError):
            configured(ConnectRpc, get=[wrong])
    asked = b"GET /a.B/C?connect=v1&encoding=json&message=%7B%7D HTTP/1.1\r\nHost: a.test\r\n\r\n"
    ran = run(configured(ConnectRpc, get=["a.B/C"]), asked, response=response(framed(b"{}")))
    assert ran.sent.startswith(b"POST /a.B/C HTTP/1.1\r\n")
    assert (ran.sent_body, ran.body) == (framed(b"{}"), b"{}")
    assert run(ConnectRpc(), asked).status == 405


@pytest.mark.parametrize("filter", [GrpcWeb(), ConnectRpc()])
def test_a_fault_of_the_upstream_is_told(filter: GrpcWeb | ConnectRpc) -> None:
    kind = WEB if isinstance(filter, GrpcWeb) else b"application/connect+proto"
    ran = run(filter, request(framed(b"x"), kind), response=None)
    assert (ran.status, ran.fault) == (200, "connection_lost")
    assert (b"grpc-status:14" if kind == WEB else b'"unavailable"') in ran.body


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
KINDS = [
    request(framed(b"x"), WEB),
    request(framed(b"x"), b"application/connect+proto"),
    request(b"x", b"application/proto", b"Connect-Protocol-Version: 1\r\n"),
]
BRIDGES = {"grpc_web": {}, "connect_rpc": {}}


@for_each("sent", KINDS)
@for_each(
    ("answer", "status"),
    [
        (b"", "UNAVAILABLE"),
        (b"HTTP/1.1 503 X\r\nContent-Length: 5\r\n\r\nerror", "UNAVAILABLE"),
        (b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", "UNAUTHENTICATED"),
        (b"HTTP/1.1 503 X\r\ngrpc-status: 5\r\nContent-Length: 0\r\n\r\n", "UNAVAILABLE"),
        (HEAD, "UNAVAILABLE"),
        (HEAD + in_chunks(framed(b"hi")), "UNAVAILABLE"),
        (HEAD + in_chunks(framed(b"hi", 0x80)), "UNAVAILABLE"),
    ],
)
def test_the_log_has_the_status_that_the_client_got(sent: bytes, answer: bytes, status: str) -> None:
    """Also one of the gateway: instead of a response, or at the end of one that has begun."""
    plane = Plane({"filters": BRIDGES})
    client = plane.client()
    client.sends(sent)
    upstream = plane.connects()
    upstream.sends(answer)
    upstream.ends()
    number, name = f"grpc-status:{GrpcStatus[status]:d}\r\n".encode(), f'"{status.lower()}"'.encode()
    assert (number if sent is KINDS[0] else name) in client.received
    assert [record.grpc_status for record in plane.records] == [status]


@pytest.mark.parametrize("sent", KINDS)
@pytest.mark.parametrize(("rewrite", "path"), [("/{map.release}{path}", b"/v2/a.B/C"), ("/{route}{path}", b"/r/a.B/C")])
def test_a_path_with_values_of_the_request_is_sent(rewrite: str, path: bytes, sent: bytes) -> None:
    maps = {"release": {"source": "{header.X-Release}", "values": {"beta": "v2"}}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "rewrite": rewrite, "filters": BRIDGES}], "maps": maps})
    plane.client().sends(sent.replace(b"\r\n\r\n", b"\r\nX-Release: beta\r\n\r\n", 1))
    assert plane.connects().received.startswith(b"POST %b HTTP/1.1\r\n" % path)


@pytest.mark.parametrize("sent", KINDS)
def test_the_log_has_the_status_of_a_refused_call(sent: bytes) -> None:
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {**BRIDGES, "ip": {"deny": ["127.0.0.1"]}}}]})
    plane.client().sends(sent)
    (record,) = plane.records
    assert (record.fault, record.grpc_status) == ("client_address_denied", "PERMISSION_DENIED")


@pytest.mark.parametrize("sent", KINDS)
@pytest.mark.parametrize(
    ("fault", "asked", "name"),
    [
        ({"abort": {"grpc_status": "resource_exhausted"}}, b"", "RESOURCE_EXHAUSTED"),
        ({"by_client": True}, b"X-Fastgw-Fault-Grpc: 5\r\n", "NOT_FOUND"),
        ({"abort": {"status": 503}}, b"", "UNAVAILABLE"),
    ],
)
def test_an_injected_status_is_that_of_the_call(sent: bytes, fault: dict[str, object], asked: bytes, name: str) -> None:
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {**BRIDGES, "fault": fault}}]})
    client = plane.client()
    client.sends(sent.replace(b"Host: a.test\r\n", b"Host: a.test\r\n" + asked))
    assert not plane.pool.waiting
    code = GrpcStatus[name]
    told = f"grpc-status:{code:d}\r\n".encode() if sent is KINDS[0] else f'"{name.lower()}"'.encode()
    assert told in client.received
    (record,) = plane.records
    assert (record.fault, record.grpc_status) == ("fault_injected", name)
    assert record.status == (TO_HTTP[code] if sent is KINDS[2] else 200)


@pytest.mark.parametrize("sent", KINDS[:2])
@pytest.mark.parametrize("end", [b"", b"0\r\ngrpc-status: 0\r\n\r\n"])
def test_a_call_that_ends_within_a_message_has_no_status(sent: bytes, end: bytes) -> None:
    """The client has got none, but a response that is broken off."""
    plane = Plane({"filters": BRIDGES})
    plane.client().sends(sent)
    upstream = plane.connects()
    upstream.sends(HEAD + in_chunks(framed(b"hi")[:6]) + end)
    upstream.ends()
    (record,) = plane.records
    assert (record.fault, record.grpc_status) == ("upstream_incomplete", "")


def test_a_unary_call_without_a_message_has_the_status_for_that() -> None:
    """The upstream has ended it with OK."""
    plane = Plane({"filters": BRIDGES})
    plane.client().sends(KINDS[2])
    plane.connects().sends(response())
    assert [(record.status, record.grpc_status) for record in plane.records] == [(501, "UNIMPLEMENTED")]


def chunked_request(kind: bytes, more: bytes = b"") -> bytes:
    head = b"POST /a.B/C HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\n%bTransfer-Encoding: chunked\r\n\r\n"
    return head % (kind, more)


WAYS = ["whole", "left", "lost", "malformed"]


@for_each("way", WAYS)
@for_each(
    ("filters", "kind", "more"),
    [
        ({"grpc_web": {}}, WEB, b""),
        ({"connect_rpc": {}}, b"application/connect+proto", b""),
        ({"connect_rpc": {}}, b"application/proto", b"Connect-Protocol-Version: 1\r\n"),
    ],
)
def test_what_has_ended_goes_at_once(filters: dict[str, object], kind: bytes, more: bytes, way: str) -> None:
    """Without the collector, which a worker leaves to its idle turns."""
    plane = Plane({"filters": filters})
    message = b"hello" if kind == b"application/proto" else framed(b"hello")
    with garbage() as found:
        client = plane.client()
        client.sends(chunked_request(kind, more) + in_chunks(message[:3]))
        upstream = plane.connects()
        client.sends(in_chunks(message[3:]))
        if way == "malformed":
            client.sends(in_chunks(b"\xff" * 6) + b"0\r\n\r\n")
        elif way == "left":
            client.resets()
        elif way == "lost":
            upstream.resets()
        else:
            client.sends(b"0\r\n\r\n")
            upstream.sends(response(framed(b"hi")))
            assert client.received.endswith(b"0\r\n\r\n") or client.received.endswith(b"hi")
        if way != "left":
            client.ends()
        del client, upstream
    assert [each for each in found if "Bridge" in each or each in ("Exchange", "Relay", "TranslatedCall")] == []


def test_responses_that_are_held_share_the_memory_of_the_node() -> None:
    plane = Plane({"filters": {"connect_rpc": {}}})
    budget = plane.worker_loop.held_body_budget
    budget.limit = 100_000
    begin = chunked_request(b"application/proto", b"Connect-Protocol-Version: 1\r\n")
    first, second = plane.client(), plane.client()
    answers = []
    for client in (first, second):
        client.sends(begin + in_chunks(b"x") + b"0\r\n\r\n")
        answers.append(plane.connects())
    whole = response(framed(b"y" * 140_000))
    answers[0].sends(whole[:130_000])
    assert 0 < budget.in_use <= 130_000 - 65_536
    answers[1].sends(whole[:130_000])
    assert second.received.startswith(b"HTTP/1.1 429 ")
    assert json.loads(second.received.partition(b"\r\n\r\n")[2])["code"] == "resource_exhausted"
    answers[0].sends(whole[130_000:])
    assert first.received.endswith(b"y" * 140_000)
    del first, second, answers, client
    assert budget.in_use == 0


@pytest.mark.parametrize("way", ["whole", "left", "lost"])
def test_messages_that_are_held_share_the_memory_of_the_node(way: str) -> None:
    """What the upstream does not take at once counts until the end of the call."""
    plane = Plane({"filters": {"connect_rpc": {}}})
    budget = plane.worker_loop.held_body_budget
    budget.limit = 100_000
    begin = chunked_request(b"application/proto", b"Connect-Protocol-Version: 1\r\n")
    first, second = plane.client(), plane.client()
    first.sends(begin + in_chunks(b"x" * 60_000))
    upstream = plane.connects()
    assert budget.in_use == 0
    first.sends(in_chunks(b"x" * 60_000) + in_chunks(b"x" * 20_000))
    assert budget.in_use == 140_000 - 65_536
    second.sends(begin + in_chunks(b"x" * 60_000))
    plane.connects()
    second.sends(in_chunks(b"x" * 60_000))
    assert second.received.startswith(b"HTTP/1.1 429 ")
    assert json.loads(second.received.partition(b"\r\n\r\n")[2])["code"] == "resource_exhausted"
    del second
    if way == "left":
        first.resets()
    elif way == "lost":
        upstream.resets()
    else:
        first.sends(b"0\r\n\r\n")
        assert budget.in_use == 140_000 - 65_536
        assert framed(b"x" * 140_000) in upstream.received
        upstream.sends(response(framed(b"hi")))
        assert first.received.endswith(b"hi")
    assert budget.in_use == 0


@pytest.mark.parametrize("path", [b"/a.B/C%FF", b"/a.B/C%2FD", b"/a.B//C", b"/a.B/C?x=1&y", b"http://a.test/a.B/C"])
def test_paths_pass_as_they_would_without_the_filter(path: bytes) -> None:
    sent = request(framed(b"x"), WEB).replace(b"POST /a.B/C ", b"POST %b " % path)
    ran, without = run(GrpcWeb(), sent, response=response()), run((), sent, response=response())
    assert (ran.status, without.status) == (200, 200)
    assert ran.sent.split(b" ")[1] == without.sent.split(b" ")[1]


@pytest.mark.parametrize("trailers", [b"", b"grpc-message: x\r\n", b"grpc-status: 0\r\ngrpc-status: 5\r\n"])
def test_a_status_is_there_once_or_unknown(trailers: bytes) -> None:
    """Clients read the first, the last, or as much of `0, 5` as is a number."""
    answer = response(framed(b"hi"), trailers=b"x-a: 1\r\n" + trailers)
    web = run(GrpcWeb(), request(framed(b"x"), WEB), response=answer)
    assert web.body.count(b"grpc-status:") == 1
    assert b"x-a:1\r\ngrpc-status:2\r\n" in web.body
    unary = run(ConnectRpc(), UNARY, response=answer)
    assert (unary.status, json.loads(unary.body)["code"]) == (500, "unknown")


@pytest.mark.parametrize("filter", ["grpc_web", "connect_rpc"])
def test_a_client_that_takes_nothing_stops_the_upstream(filter: str) -> None:
    """And an upstream that takes nothing stops the client: neither side is read ahead."""
    plane = Plane({"filters": {filter: {}}})
    client = plane.client()
    kind = WEB if filter == "grpc_web" else b"application/connect+proto"
    client.sends(chunked_request(kind) + in_chunks(framed(b"a" * 10)))
    upstream = plane.connects(room=1)
    message = framed(b"x" * 60_000)
    sent = 0
    while client.reading and sent < 100:
        client.sends(in_chunks(message))
        sent += 1
    assert sent < 10
    upstream.takes()
    assert client.reading
    client.takes(1)
    upstream.sends(response(message).partition(b"0\r\n")[0])
    sent = 0
    while upstream.reading and sent < 100:
        upstream.sends(in_chunks(message))
        sent += 1
    assert sent < 10
    client.takes()
    assert upstream.reading
