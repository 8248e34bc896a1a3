"""Hostile requests of HTTP/1.1 before an upstream of HTTP/2: the answers, and the frames that reach the upstream.

Each case ends with an ordinary request of another client over the same upstream connection: a stream before that one
would be of the case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.client import Client, Send, byte_by_byte, whole, with_bytes_after
from tests.support.faults import assert_fault, assert_refused
from tests.support.gateway import Gateway
from tests.support.http2.forwarded_request import assert_well_formed
from tests.support.http2_peer import CANCEL, OK, PREFACE, Fields, Http2Message, Http2Origin, Http2Peer, answer, frame
from tests.support.unclear_requests import BAD, CASES, CHUNKS, METHOD, posted

HOST = b"a.test"
PROOF = b"/proof"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"


class World:
    """A gateway, its one connection to an upstream, and a client that proves what else reached that."""

    def __init__(self, gateway: Gateway, origin: Http2Origin) -> None:
        self.gateway = gateway
        self._proof = Client(gateway.address())
        self._proof.send(b"GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n")
        self.authority = origin.address.encode()
        self.peer: Http2Peer = origin.accept()
        answer(self.peer)
        assert self._proof.read_response().status == 200

    def client(self) -> Client:
        return Client(self.gateway.address())

    def reached(self) -> list[Http2Message]:
        """The requests that reached the upstream since the last look, each complete or reset; none is answered."""
        self._proof.send(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % PROOF)
        got: list[Http2Message] = []
        while not got or got[-1].get(b":path") != PROOF:
            got.append(self.peer.read_message())
        *others, proof = got
        assert not self.peer.messages  # nor a stream that waits for more
        self.peer.headers(proof.stream, OK)
        self.peer.data(proof.stream, b"ok", end=True)
        assert self._proof.read_response().status == 200
        return others

    def close(self) -> None:
        self._proof.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Http2Origin() as origin:
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": {"protocol": "http2", "host_header": "preserve", "targets": [{"url": origin.url}]}},
            "routes": [{"name": "all", "upstream": "u", "upgrade": []}],
        }
        with Gateway(config, tmp_path_factory.mktemp("requests")) as gateway:
            world = World(gateway, origin)
            yield world
            world.close()


@pytest.mark.parametrize("send", [whole, with_bytes_after])
@pytest.mark.parametrize(("request_bytes", "faults"), CASES)
def test_an_unclear_head_reaches_no_stream(
    world: World, request_bytes: bytes, faults: tuple[str, ...], send: Send
) -> None:
    """A head that is refused before an upstream of HTTP/1.1 is refused before one of HTTP/2."""
    with world.client() as client:
        send(client, request_bytes.replace(b"$HOST", HOST))
        assert_refused(client, *faults)
    assert not world.reached()


def lines(*fields: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"".join(each + b"\r\n" for each in fields) + b"\r\n"


# What would be something else over HTTP/2: pseudo-headers, lines in a field, the connection's preface.
TRICKS = {
    **{
        f"{name.decode()} as a field": (lines(name + b": " + value), BAD)
        for name, value in {
            b":authority": b"evil.test",
            b":path": b"/evil",
            b":method": b"DELETE",
            b":scheme": b"https",
            b":protocol": b"websocket",
            b":status": b"200",
            b":": b"x",
            b"::path": b"/evil",
        }.items()
    },
    "a pseudo-header before Host": (b"GET / HTTP/1.1\r\n:authority: evil.test\r\nHost: a.test\r\n\r\n", BAD),
    "a pseudo-header instead of Host": (b"GET / HTTP/1.1\r\n:authority: a.test\r\n\r\n", BAD),
    "a pseudo-header behind CR": (lines(b"X-A: b\r:path: /evil"), BAD),
    "a pseudo-header behind LF": (lines(b"X-A: b\n:path: /evil"), BAD),
    "a pseudo-header behind NUL": (lines(b"X-A: b\0:path: /evil"), BAD),
    "a folded pseudo-header": (lines(b"X-A: b", b" :path: /evil"), BAD),
    "an encoded line in a path": (b"GET /a%0d%0a:path:%20/evil HTTP/1.1\r\nHost: a.test\r\n\r\n", BAD),
    "a target of two": (b"GET / :path:/evil HTTP/1.1\r\nHost: a.test\r\n\r\n", BAD),
    "an absolute target with a tab": (b"GET http://a.test\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n", BAD),
    "an authority with a query": (b"GET http://a.test?@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", BAD),
    "an authority with a fragment": (b"GET http://a.test#@evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", BAD),
    "an authority with a backslash": (b"GET http://a.test\\@evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", BAD),
    "CONNECT": (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", METHOD),
    "CONNECT of a path": (b"CONNECT / HTTP/1.1\r\nHost: a.test\r\n\r\n", (BAD, METHOD)),
    "extended CONNECT": (b"CONNECT / HTTP/1.1\r\nHost: a.test\r\n:protocol: websocket\r\n\r\n", BAD),
    "the preface": (PREFACE, (BAD, "version_not_supported")),
    "the preface and frames": (PREFACE + frame(4, 0, 0), (BAD, "version_not_supported")),
    "frames": (frame(4, 0, 0) + frame(1, 5, 1, b"\x82\x84\x86"), BAD),
}


@pytest.mark.parametrize(("request_bytes", "faults"), TRICKS.values(), ids=TRICKS)
def test_what_http2_would_read_as_more_reaches_no_stream(world: World, request_bytes: bytes, faults: Any) -> None:
    with world.client() as client:
        client.send_gently(request_bytes)
        assert_fault(client.read_response(), *((faults,) if isinstance(faults, str) else faults))
    assert not world.reached()


@dataclass
class Seen:
    """A request as its upstream sees it."""

    path: bytes = b"/"
    method: bytes = b"GET"
    authority: bytes | None = HOST  # None: the target's
    fields: Fields = ()
    """Fields that are there, in this order."""
    left_out: tuple[bytes, ...] = ()
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)


def chunked(*trailers: bytes, body: bytes = b"3\r\nabc\r\n", fields: bytes = b"") -> bytes:
    return (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n%b\r\n%b0\r\n" % (fields, body)
        + b"".join(each + b"\r\n" for each in trailers)
        + b"\r\n"
    )


def with_body(body: bytes, *fields: bytes) -> bytes:
    return posted(b"Content-Length: %d" % len(body), *fields).replace(b"$HOST", HOST) + body


TRANSLATED = {
    # RFC 9112 section 3.2, RFC 9113 section 8.3.1: one authority, and no URL in the path
    "absolute-form": (b"GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n", Seen(b"/x?y")),
    "absolute-form of https": (b"GET https://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", Seen(b"/x")),
    "absolute-form without a path": (b"GET http://a.test?y HTTP/1.1\r\nHost: a.test\r\n\r\n", Seen(b"/?y")),
    "a Host with a port": (
        b"GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n",
        Seen(authority=b"a.test:8080", left_out=(b"host",)),
    ),
    "a Host of IPv6": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Seen(authority=b"[::1]:80")),
    "no Host in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", Seen(authority=None, left_out=(b"host",))),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", Seen(b"*", b"OPTIONS")),
    "an encoded line in a query": (
        b"GET /?a%0d%0a:path:%20/evil HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Seen(b"/?a%0d%0a:path:%20/evil"),
    ),
    "a URL in a query": (
        b"GET /?http://evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Seen(b"/?http://evil.test/"),
    ),
    # names of pseudo-headers without their colon are names like others
    "pseudo-headers without a colon": (
        lines(b"Method: DELETE", b"Path: /evil", b"Scheme: ftp", b"Authority: evil.test", b"Status: 200"),
        Seen(
            fields=(
                (b"method", b"DELETE"),
                (b"path", b"/evil"),
                (b"scheme", b"ftp"),
                (b"authority", b"evil.test"),
                (b"status", b"200"),
            )
        ),
    ),
    "a pseudo-header as a value": (lines(b"X-A: :path: /evil"), Seen(fields=((b"x-a", b":path: /evil"),))),
    "a name of all characters": (
        lines(b"!#$%&'*+-.^_`|~09AZaz: 1"),
        Seen(fields=((b"!#$%&'*+-.^_`|~09azaz", b"1"),)),
    ),
    "names in upper case": (lines(b"X-ONE: A", b"x-one: B"), Seen(fields=((b"x-one", b"A"), (b"x-one", b"B")))),
    "white space around a value": (lines(b"X-A: \t b\tc \t", b"X-B:"), Seen(fields=((b"x-a", b"b\tc"), (b"x-b", b"")))),
    "high bytes": (lines(b"X-A: caf\xc3\xa9 \xff\x80"), Seen(fields=((b"x-a", b"caf\xc3\xa9 \xff\x80"),))),
    # RFC 9113 section 8.2.2: nothing of the connection
    "fields of the connection": (
        lines(b"Connection: close, X-Own", b"X-Own: 1", b"Keep-Alive: 5", b"Proxy-Connection: close"),
        Seen(left_out=(b"x-own",)),
    ),
    "fields of the connection that it does not name": (lines(b"keep-alive: 5", b"proxy-connection: close"), Seen()),
    "Connection names what others rely on": (
        lines(b"Connection: Authorization, Host, Cookie", b"Authorization: Basic YTpi", b"Cookie: a=b"),
        Seen(fields=((b"authorization", b"Basic YTpi"), (b"cookie", b"a=b"))),
    ),
    "Connection names a length": (
        posted(b"Connection: Content-Length", b"Content-Length: 42").replace(b"$HOST", HOST) + INNER.ljust(42, b"x"),
        Seen(method=b"POST", body=INNER.ljust(42, b"x"), fields=((b"content-length", b"42"),)),
    ),
    "an upgrade to HTTP/2": (
        lines(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        Seen(left_out=(b"http2-settings",)),
    ),
    "TE with codings": (lines(b"Connection: TE", b"TE: trailers, deflate;q=0.5"), Seen()),
    "TE without trailers": (lines(b"TE: gzip, chunked"), Seen()),
    # RFC 9113 section 8.1.1: the length is that of the DATA frames
    "a length with zeros": (
        posted(b"Content-Length: 0003").replace(b"$HOST", HOST) + b"abc",
        Seen(method=b"POST", body=b"abc"),
    ),
    "no length of an empty body": (posted().replace(b"$HOST", HOST), Seen(method=b"POST")),
    "chunks": (chunked(), Seen(method=b"POST", body=b"abc", left_out=(b"content-length",))),
    "chunks in capitals": (
        chunked().replace(b"chunked", b"CHUNKED", 1),
        Seen(method=b"POST", body=b"abc", left_out=(b"content-length",)),
    ),
    "chunks with GET": (chunked().replace(b"POST", b"GET"), Seen(body=b"abc")),
    "chunks that name a length in an extension": (
        chunked(body=b"3;content-length=5\r\nabc\r\n"),
        Seen(method=b"POST", body=b"abc", left_out=(b"content-length",)),
    ),
    "a request as a body": (with_body(INNER), Seen(method=b"POST", body=INNER)),
    "a request as a chunk": (chunked(body=b"%x\r\n%b\r\n" % (len(INNER), INNER)), Seen(method=b"POST", body=INNER)),
    "frames as a body": (
        with_body(PREFACE + frame(1, 5, 3, b"\x82\x84\x86")),
        Seen(method=b"POST", body=PREFACE + frame(1, 5, 3, b"\x82\x84\x86")),
    ),
    "a last chunk as a body": (with_body(b"0\r\n\r\n"), Seen(method=b"POST", body=b"0\r\n\r\n")),
    # RFC 9110 section 6.5.1
    "trailers": (
        chunked(b"X-Sum:  6 ", b"x-SIG: \xff", fields=b"Trailer: X-Sum, x-sig\r\n"),
        Seen(method=b"POST", body=b"abc", trailers=[(b"x-sum", b"6"), (b"x-sig", b"\xff")]),
    ),
    "a trailer with the name of a field": (
        chunked(b"X-A: 2", fields=b"X-A: 1\r\n"),
        Seen(method=b"POST", body=b"abc", fields=((b"x-a", b"1"),)),
    ),
}


@pytest.mark.parametrize("send", [whole, byte_by_byte])
@pytest.mark.parametrize(("request_bytes", "seen"), TRANSLATED.values(), ids=TRANSLATED)
def test_a_request_is_one_well_formed_stream(world: World, request_bytes: bytes, seen: Seen, send: Send) -> None:
    with world.client() as client:
        send(client, request_bytes)
        request = answer(world.peer)
        assert client.read_response(seen.method).status == 200
    assert_well_formed(request)
    assert request.ended
    assert (request.get(b":method"), request.get(b":path")) == (seen.method, seen.path)
    assert request.get(b":authority") == (seen.authority or world.authority)
    wanted = {name for name, _ in seen.fields}
    assert [each for each in request.fields if each[0] in wanted] == list(seen.fields)
    assert not {name for name, _ in request.fields}.intersection(seen.left_out)
    assert (request.body, request.trailers) == (seen.body, seen.trailers)
    assert not world.reached()


MALFORMED_BODIES = {
    **{name: body for name, body in CHUNKS.items() if len(body) < 1_000},
    # RFC 9113 sections 8.1 and 8.2.2: trailers have no pseudo-headers, and nothing of the connection
    **{
        f"{trailer.decode()} as a trailer": b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n"
        for trailer in (
            *(b":path: /evil", b":status: 200", b": x", b"Connection: X-A", b"Upgrade: h2c", b"Keep-Alive: 5"),
            *(b"TE: gzip", b"Cookie: a=b"),
        )
    },
}


@pytest.mark.parametrize("send", [whole, byte_by_byte])
@pytest.mark.parametrize("body", MALFORMED_BODIES.values(), ids=MALFORMED_BODIES)
def test_a_malformed_chunked_body_is_a_stream_that_is_reset(world: World, body: bytes, send: Send) -> None:
    """RFC 9113 section 8.1: END_STREAM would make a whole request of it."""
    with world.client() as client:
        send(client, posted(b"Transfer-Encoding: chunked").replace(b"$HOST", HOST) + body + INNER)
        assert_refused(client, BAD, "head_too_large")
    for request in world.reached():
        assert_well_formed(request)
        assert (request.ended, request.reset) == (False, CANCEL)
        assert (request.get(b":path"), request.trailers) == (b"/", [])
        assert b"smuggled" not in request.body


@pytest.mark.parametrize("end", ["shutdown_write", "close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [b"Content-Length: 10\r\n\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_that_is_cut_short_is_a_stream_that_is_reset(world: World, begun: bytes, end: str) -> None:
    """A length that promises more than comes must not look like a request that has ended."""
    with world.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\n" + begun)
        request = world.peer.read_head()
        while request.body != b"hel":
            world.peer.read_frame()
        getattr(client, end)()
        request = world.peer.read_message(request.stream)
    assert_well_formed(request)
    assert (request.ended, request.reset, request.body) == (False, CANCEL, b"hel")
    assert not world.reached()


def test_what_follows_a_body_is_the_next_request(world: World) -> None:
    """A length that promises less than comes: the rest is judged as a head of its own."""
    with world.client() as client:
        client.send(with_body(b"abc") + INNER + posted(b"Content-Length: 3").replace(b"$HOST", HOST) + b"abcGET")
        first = answer(world.peer)
        assert client.read_response(b"POST").status == 200
        second = answer(world.peer)
        assert client.read_response().status == 200
        third = answer(world.peer)
        assert client.read_response(b"POST").status == 200
    assert [each.get(b":path") for each in (first, second, third)] == [b"/", b"/smuggled", b"/"]
    assert [each.body for each in (first, second, third)] == [b"abc", b"", b"abc"]
    assert not world.reached()
