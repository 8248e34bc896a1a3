"""Functions of AWS Lambda: what is sent, and what clients get. The stand-in verifies signatures with botocore."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from math import inf
from types import MappingProxyType
from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.errors import Fault
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.explain import as_text, explain
from fastgw.filters.api import BodyHook, Bounded, Exchange, Filter, Phase
from fastgw.functions import invocation
from fastgw.gateway.compiler import compile
from tests.support.aws import ACCESS_KEY, SECRET_KEY, STREAM_END, check_signature, stream_message, stream_piece
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, Wire, probe
from tests.support.table import for_each

AWS = {
    "targets": ["http://127.0.0.1:9"],
    "filters": {
        "credentials": {
            "aws_sigv4": {
                "region": "eu-central-1",
                "service": "lambda",
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
            }
        }
    },
}
GET = (
    b"GET /d/7%20x/r?page=2&tag=a%26b&page=3 HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer s\r\n"
    b"Cookie: a=1; b=2\r\nX-A: 1\r\nX-A: 2\r\nX-Forwarded-For: 9.9.9.9\r\nUser-Agent: t\r\n\r\n"
)


class Invoked:
    """A gateway with one route to a function, whose invocation is answered by hand."""

    def __init__(
        self, request: bytes = GET, room: float = inf, probes: Sequence[type[Filter]] = (), **settings: Any
    ) -> None:
        """`room`: bytes that the client reads."""
        route = {
            "name": "f",
            "paths": ["/d/{id}/{rest:path}"],
            "lambda": {"upstream": "aws", "function": "orders", **settings},
        }
        self.plane = Plane({"upstreams": {"aws": AWS}, "routes": [route]}, probes=probes)
        self.client = self.plane.client()
        self.client.room = room
        self.client.sends(request)
        self.wire: Wire | None = self.plane.connects() if self.plane.pool.waiting else None

    @property
    def sent(self) -> bytes:
        assert self.wire is not None
        return self.wire.received

    @property
    def event(self) -> Any:
        return json.loads(self.sent.partition(b"\r\n\r\n")[2])

    def returns(self, payload: Any, *fields: str, status: int = 200) -> Invoked:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        lines = "".join(f"{field}\r\n" for field in fields)
        return self.plays(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)

    def streams(self, *messages: bytes) -> Invoked:
        body = b"".join(messages)
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\n"
        return self.plays(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def plays(self, data: bytes) -> Invoked:
        assert self.wire is not None
        self.wire.sends(data)
        self.plane.settle()
        return self

    @property
    def status(self) -> int:
        return int(self.client.received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        head, _, body = self.client.received.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head.lower():
            return body
        whole = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            whole, body = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return whole

    def headers(self, name: str) -> list[str]:
        lines = self.client.received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name.lower()}:")]

    def ended(self) -> None:
        self.plane.assert_quiet()
        assert self.plane.worker_loop.held_body_budget.in_use == 0


# events


def test_the_invocation_is_signed_and_has_nothing_of_the_client() -> None:
    made = Invoked(function="arn:aws:lambda:eu-central-1:1:function:f", qualifier="live")
    head = made.sent.partition(b"\r\n\r\n")[0]
    target = b"/2015-03-31/functions/arn:aws:lambda:eu-central-1:1:function:f/invocations?Qualifier=live"
    assert head.startswith(b"POST " + target + b" HTTP/1.1\r\n")
    assert check_signature(made.sent) == ("eu-central-1", "lambda")
    assert b"Bearer s" not in head
    assert b"X-A: 1" not in head


def test_an_event_of_format_2() -> None:
    event = Invoked().event
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/d/7%20x/r"
    assert event["rawQueryString"] == "page=2&tag=a%26b&page=3"
    assert event["queryStringParameters"] == {"page": "2,3", "tag": "a&b"}
    assert event["pathParameters"] == {"id": "7 x", "rest": "r"}
    assert event["cookies"] == ["a=1", "b=2"]
    headers = event["headers"]
    assert headers["x-a"] == "1,2"
    assert headers["authorization"] == "Bearer s"
    assert headers["host"] == "shop.test"
    assert "cookie" not in headers
    assert "9.9.9.9" not in headers["x-forwarded-for"]
    assert event["requestContext"]["http"]["method"] == "GET"
    assert event["requestContext"]["http"]["userAgent"] == "t"
    assert event["requestContext"]["domainName"] == "shop.test"
    assert (event["isBase64Encoded"], "body" in event) == (False, False)


def test_an_event_of_format_1() -> None:
    event = Invoked(payload_format="1.0").event
    assert event["version"] == "1.0"
    assert (event["httpMethod"], event["path"], event["resource"]) == ("GET", "/d/7%20x/r", "/d/7%20x/r")
    assert event["multiValueHeaders"]["x-a"] == ["1", "2"]
    assert event["headers"]["x-a"] == "2"
    assert event["headers"]["cookie"] == "a=1; b=2"
    assert event["multiValueQueryStringParameters"] == {"page": ["2", "3"], "tag": ["a&b"]}
    assert event["queryStringParameters"] == {"page": "3", "tag": "a&b"}
    assert event["pathParameters"] == {"id": "7 x", "rest": "r"}
    assert event["requestContext"]["identity"]["userAgent"] == "t"
    assert (event["body"], event["isBase64Encoded"]) == (None, False)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_an_event_has_the_claims_with_all_digits(version: str) -> None:
    claims = {"sub": "\u00e9", "list": [1.5, 10**30], "deep": {"n": -(2**64)}}

    def identify(exchange: Exchange) -> None:
        exchange.claims = MappingProxyType(claims)

    made = Invoked(payload_format=version, probes=[probe("who", Phase.AUTHENTICATE, request=identify)])
    authorizer = made.event["requestContext"]["authorizer"]
    assert (authorizer if version == "1.0" else authorizer["jwt"])["claims"] == claims


@pytest.mark.parametrize(
    ("kind", "body", "is_text"),
    [
        ("application/json", b'{"a":1}', True),
        ("text/plain; charset=utf-8", "ä".encode(), True),
        ("application/problem+json", b"{}", True),
        ("text/plain", b"\xff", False),
        ("image/png", b"abc", False),
    ],
)
def test_a_body_is_a_text_or_base64(kind: str, body: bytes, is_text: bool) -> None:
    head = f"POST /d/7/r HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    made = Invoked(head)
    assert made.wire is None
    made.client.sends(body)
    made.wire = made.plane.connects()
    event = made.event
    assert check_signature(made.sent)
    assert event["isBase64Encoded"] is not is_text
    assert (event["body"].encode() if is_text else b64decode(event["body"])) == body
    assert made.returns({"statusCode": 204}).status == 204
    made.ended()


@pytest.mark.parametrize(("length", "settings"), [(1024**2, {}), (4_000_000, {"max_bytes": "6MiB"})])
def test_a_body_within_max_bytes_is_sent_whatever_the_bound_of_the_signature(
    length: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed is the event, which is a third longer than the body, and not the body of a client."""
    monkeypatch.setattr(invocation, "MOST_AT_ONCE", inf)  # no thread
    head = b"POST /d/7/r HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
    made = Invoked(head + b"\xff" * length, **settings)
    assert check_signature(made.sent) == ("eu-central-1", "lambda")
    assert b64decode(made.event["body"]) == b"\xff" * length


def test_an_event_has_the_bound_of_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body in Base64 is a third longer than it was."""
    monkeypatch.setattr(invocation, "MOST_AT_ONCE", inf)  # no thread
    head = b"POST /d/7/r HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (5 * 1024**2)
    made = Invoked(head + b"\xff" * (5 * 1024**2), max_bytes="6MiB")
    assert made.status == 413
    assert made.plane.records[-1].fault_detail == "lambda: the event has more than 6 MiB, the limit of Lambda"
    made.ended()


def test_a_body_has_a_bound() -> None:
    made = Invoked(b"POST /d/7/r HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef", max_bytes=5)
    assert made.status == 413
    assert made.plane.records[-1].fault_detail == "lambda.max_bytes: the body has more than 5 bytes"
    made.ended()
    many = b"GET /d/7/r?%b HTTP/1.1\r\nHost: a\r\n\r\n" % b"&".join([b"a"] * 1001)
    assert Invoked(many).status == 400


# responses


def test_a_response_with_all_there_is() -> None:
    made = Invoked().returns(
        {
            "statusCode": 201,
            "headers": {"Content-Type": "image/png", "X-N": 1, "x-both": "no", "Connection": "close"},
            "multiValueHeaders": {"X-Both": ["a", "b"]},
            "cookies": ["a=1; Path=/", "b=2"],
            "body": b64encode(b"\x00\xff").decode(),
            "isBase64Encoded": True,
        }
    )
    assert (made.status, made.body) == (201, b"\x00\xff")
    assert made.headers("content-type") == ["image/png"]
    assert made.headers("x-n") == ["1"]
    assert made.headers("x-both") == ["a", "b"]
    assert made.headers("set-cookie") == ["a=1; Path=/", "b=2"]
    assert "close" not in made.headers("connection")
    made.ended()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_response_with_status_205_has_no_body(streaming: bool) -> None:
    """RFC 9110 section 15.3.6: a server sends none; a client may not expect one either."""
    made = Invoked(streaming=streaming)
    if streaming:
        made.streams(stream_piece(b'{"statusCode": 205}' + bytes(8) + b"xx"), STREAM_END)
    else:
        made.returns({"statusCode": 205, "body": "xx"})
    assert (made.status, made.body, made.headers("content-length")) == (205, b"", ["0"])
    assert made.headers("content-type") == made.headers("transfer-encoding") == []
    made.ended()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_header_that_is_no_list_is_sent_once(streaming: bool) -> None:
    """Names that differ in case are two in JSON. Functions set several cookies that way."""
    head = {
        "statusCode": 200,
        "headers": {"Content-Type": "a/b", "content-type": "c/d", "Vary": "A", "vary": "B"},
        "multiValueHeaders": {"Location": ["/a", "/b"], "Set-Cookie": ["a=1"], "set-cookie": ["b=2"]},
    }
    made = Invoked(streaming=streaming)
    if streaming:
        made.streams(stream_piece(json.dumps(head).encode() + bytes(8) + b"x"), STREAM_END)
    else:
        made.returns(head)
    assert made.headers("content-type") == ["c/d"]
    assert made.headers("location") == ["/b"]
    assert made.headers("vary") == ["A", "B"]
    assert made.headers("set-cookie") == ["a=1", "b=2"]
    made.ended()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [({"a": 1.0}, b'{"a": 1.0}'), ("text", b"text"), ([1], b"[1]"), (None, b"null"), (b"", b"")],
)
def test_a_result_without_a_status_is_the_body(payload: Any, expected: bytes) -> None:
    made = Invoked().returns(payload)
    assert (made.status, made.body, made.headers("content-type")) == (200, expected, ["application/json"])
    assert Invoked(payload_format="1.0").returns(payload).status == 502


@for_each(
    "payload",
    [
        b"no json",
        {"statusCode": 99},
        {"statusCode": True},
        {"statusCode": "x"},
        {"statusCode": 200, "body": 1},
        {"statusCode": 200, "body": "*", "isBase64Encoded": True},
        {"statusCode": 200, "headers": {"X": "a\r\nY: b"}},
        {"statusCode": 200, "headers": {"X Y": "a"}},
        {"statusCode": 200, "headers": {"X": "a" * 65536}},
        {"statusCode": 200, "headers": [1]},
        {"statusCode": 200, "headers": {"X": None}},
        {"statusCode": 200, "multiValueHeaders": {"X": "a"}},
        {"statusCode": 200, "cookies": "a"},
        b'{"statusCode": 200, "body": "\\ud800"}',
    ],
)
def test_a_response_that_cannot_be_sent(payload: Any) -> None:
    made = Invoked().returns(payload)
    assert made.status == 502
    assert b"function_failed" in made.body
    made.ended()


def test_an_error_of_the_function_is_not_shown() -> None:
    made = Invoked().returns({"errorMessage": "secret", "errorType": "KeyError"}, "X-Amz-Function-Error: Unhandled")
    assert made.status == 502
    assert b"secret" not in made.client.received
    assert b"KeyError" not in made.client.received
    made.ended()


@pytest.mark.parametrize(("status", "expected"), [(429, 503), (403, 502), (404, 502), (500, 502)])
def test_lambda_refuses_an_invocation(status: int, expected: int) -> None:
    made = Invoked().returns({"Message": "no"}, "x-amzn-ErrorType: AccessDeniedException", status=status)
    assert made.status == expected
    assert b"AccessDenied" not in made.client.received
    made.ended()


def test_a_response_has_a_bound_and_a_time() -> None:
    long = Invoked(max_bytes=10).returns({"statusCode": 200})
    assert long.status == 502
    assert long.plane.records[-1].fault_detail.endswith("the response has more than 10 bytes (lambda.max_bytes)")
    long.ended()
    late = Invoked(timeout="1s")
    late.plane.passes(2)
    assert late.status == 504
    late.ended()


def test_a_client_that_leaves_cancels_the_invocation() -> None:
    made = Invoked()
    made.client.resets()
    made.plane.settle()
    assert made.wire is not None
    assert made.wire.aborted or made.wire.ended
    made.ended()


# streams

HEAD = json.dumps({"statusCode": 201, "headers": {"X-A": "1"}, "cookies": ["a=1"]}).encode() + bytes(8)


def test_a_streamed_response() -> None:
    made = Invoked(streaming=True)
    assert made.sent.startswith(b"POST /2021-11-15/functions/orders/response-streaming-invocations HTTP/1.1\r\n")
    made.streams(stream_piece(HEAD[:9]), stream_piece(HEAD[9:] + b"ab"), stream_piece(b"cd"), STREAM_END)
    assert (made.status, made.body) == (201, b"abcd")
    assert (made.headers("x-a"), made.headers("set-cookie")) == (["1"], ["a=1"])
    made.ended()


def test_nothing_of_a_stream_follows_the_500_for_a_filter_that_has_failed() -> None:
    """A client that reads on would take it for the beginning of its next response."""

    def response(exchange: Exchange) -> None:
        raise RuntimeError

    made = Invoked(streaming=True, probes=[probe("failing", Phase.TRANSFORM, response=response)])
    made.streams(stream_piece(HEAD + b"HTTP/1.1 200 OK\r\n"), STREAM_END)
    assert made.status == 500
    assert made.headers("content-length") == [str(len(made.body))]
    made.ended()


@pytest.mark.parametrize("body", [b"plain", b'{"a": 1}', b"{" + b"x" * 70_000, b""])
def test_a_stream_without_a_head_is_a_body(body: bytes) -> None:
    made = Invoked(streaming=True).streams(*(stream_piece(each) for each in (body[:5], body[5:])), STREAM_END)
    assert (made.status, made.body) == (200, body)
    assert made.headers("content-type") == ["application/octet-stream"]
    made.ended()


@for_each("line", [b'{"i": 0}\n', b'{"a": {"b": "}\\\\\\"{"}, "c": [{}]} {', b"{}x", b"{}" + bytes(7) + b"x"])
@for_each("size", [1, 3, 100])
def test_a_stream_that_begins_with_an_object_is_sent_as_it_arrives(line: bytes, size: int) -> None:
    made = Invoked(streaming=True)
    made.streams(*(stream_piece(line[at : at + size]) for at in range(0, len(line), size)))
    assert made.status == 200
    assert line in made.client.received.replace(b"\r\n1\r\n", b"").replace(b"\r\n3\r\n", b"")
    made.client.resets()
    made.plane.settle()
    made.ended()


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_head_may_be_cut_anywhere(size: int) -> None:
    head = json.dumps({"statusCode": 201, "headers": {"X-A": '}"\\{', "X-B": ""}, "cookies": []}).encode() + bytes(8)
    made = Invoked(streaming=True)
    text = head + b"\0ab"
    made.streams(*(stream_piece(text[at : at + size]) for at in range(0, len(text), size)), STREAM_END)
    assert (made.status, made.body) == (201, b"\0ab")
    assert made.headers("x-a") == ['}"\\{']
    made.ended()


FAILED = stream_message(b'{"ErrorCode": "Unhandled"}', message_type="event", event_type="InvokeComplete")


@pytest.mark.parametrize(
    "messages",
    [
        (FAILED,),
        (stream_message(b"{}", message_type="exception", exception_type="ThrottlingException"),),
        (stream_piece(b"no" + bytes(8))[:-1] + b"\0",),
        (stream_piece(b"{" + bytes(8)),),
        (stream_piece(b"[]" + bytes(8)).replace(b"[]", b"{]"),),
        (stream_piece(b'{"statusCode": 7}' + bytes(8)),),
        (),
        (STREAM_END, stream_piece(b"late")),
    ],
)
def test_a_stream_that_fails_before_its_head(messages: tuple[bytes, ...]) -> None:
    made = Invoked(streaming=True).streams(*messages)
    assert made.status == 502
    made.ended()


@pytest.mark.parametrize("end", [FAILED, b"\0" * 16, b""])
def test_a_stream_that_fails_later_is_broken_off(end: bytes) -> None:
    made = Invoked(streaming=True).streams(stream_piece(HEAD + b"abc"), end)
    assert made.status == 201
    assert not made.client.received.endswith(b"0\r\n\r\n")
    assert made.client.aborted or made.client.ended
    made.ended()


def test_head_of_a_stream() -> None:
    made = Invoked(b"HEAD /d/7/r HTTP/1.1\r\nHost: a\r\n\r\n", streaming=True)
    made.streams(stream_piece(HEAD + b"abc"), STREAM_END)
    assert (made.status, made.body) == (201, b"")
    made.ended()


def test_a_slow_reader_stops_the_stream() -> None:
    made = Invoked(streaming=True)
    made.client.room = len(made.client.received) + 300
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nContent-Length: 9000\r\n\r\n"
    made.plays(head + stream_piece(HEAD + b"x" * 2000))
    assert made.wire is not None
    assert not made.wire.reading
    made.client.resets()
    made.plane.settle()
    made.ended()


# check and explain


def test_it_is_checked_and_explained() -> None:
    with pytest.raises(ConfigError, match=r"lambda.upstream: unknown upstream"):
        Invoked(upstream="none")
    route = {"name": "f", "lambda": {"upstream": "aws", "function": "orders", "qualifier": "live", "streaming": True}}
    loaded = load_document({**SERVICE, "upstreams": {"aws": AWS}, "routes": [route]})
    text = as_text(explain(compile(loaded, 1), "GET", "http://a/7"))
    assert "function  orders:live by aws (payload format 2.0, streamed)" in text


# slow readers


@pytest.mark.parametrize("leaves", [False, True])
def test_what_the_client_has_not_read_counts_towards_the_memory_of_the_node(leaves: bool) -> None:
    text = "x" * 4 * MAX_KEPT
    made = Invoked(room=0).returns({"statusCode": 200, "body": text})
    budget = made.plane.worker_loop.held_body_budget
    assert budget.in_use == 3 * MAX_KEPT
    if leaves:
        made.client.resets()
        assert [record.fault for record in made.plane.records] == [Fault.CLIENT_LEFT.label]
    else:
        made.client.takes()
        assert made.headers("Content-Length") == [str(len(text))]
        assert made.body == text.encode()
    made.ended()


def test_a_streamed_response_that_a_filter_changes_waits_as_well() -> None:
    body = b"y" * 2 * MAX_KEPT
    changes = probe(
        "changes",
        Phase.TRANSFORM,
        response_body=BodyHook(lambda exchange, received: body, needs=Bounded(100), changes=True),
    )
    made = Invoked(room=0, probes=(changes,), streaming=True).streams(stream_piece(HEAD + b"ab"), STREAM_END)
    assert made.plane.worker_loop.held_body_budget.in_use == MAX_KEPT
    made.client.takes()
    assert made.body == body
    made.ended()


def test_a_response_without_memory_is_a_fault() -> None:
    made = Invoked()
    budget = made.plane.worker_loop.held_body_budget
    budget.limit = 5 * MAX_KEPT  # enough for the response, and not for its longer body
    made.returns({"statusCode": 200, "body": "x" * 4 * MAX_KEPT})
    assert made.status == 200
    made = Invoked()
    budget = made.plane.worker_loop.held_body_budget
    budget.limit = 4 * MAX_KEPT
    made.returns({"statusCode": 200, "body": "x" * 4 * MAX_KEPT})
    assert made.status == 503
    made.ended()
