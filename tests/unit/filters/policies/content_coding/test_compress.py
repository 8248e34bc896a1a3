"""compress: which responses are compressed, how, and what of their head changes with them."""

from __future__ import annotations

import gzip
import weakref
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import brotli
import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.explain import explain
from fastgw.filters import TYPES
from fastgw.filters.api import BodyHook, Bounded, Phase
from fastgw.filters.policies.content_coding import compression
from fastgw.filters.policies.content_coding.compress_filter import Compress
from fastgw.filters.policies.content_coding.compression import LARGEST_AT_ONCE, LARGEST_HELD
from fastgw.filters.policies.content_coding.media_types import Kind, MediaTypes
from fastgw.http.content_coding.compressors import Level, PaddedCompressor, open_compressor, whole_compressor, zstd
from fastgw.testing import ConfigError, configured
from tests.support.collector import no_collector
from tests.support.memory import Plane, probe
from tests.support.table import for_each

HTML = "Content-Type: text/html; charset=utf-8"
PAGE = b"<p>A page of some length.</p>\n" * 40
ALL = "Accept-Encoding: gzip, deflate, br, zstd"
DECODERS = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstd.decompress}


class Answer:
    """What the client got, and what the upstream was asked."""

    def __init__(self, received: bytes, asked: bytes, method: str) -> None:
        self.asked = asked.decode()
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(received)
        head = reader.next_event()
        assert isinstance(head, h11.Response), received
        self.status = head.status_code
        self.lines = [(name.decode().lower(), value.decode()) for name, value in head.headers]
        self.fields = dict(self.lines)
        self.body, self.trailers = b"", {}
        self.whole = False
        while isinstance(event := reader.next_event(), h11.Data):
            self.body += event.data
        if isinstance(event, h11.EndOfMessage):
            self.whole = True
            self.trailers = {name.decode().lower(): value.decode() for name, value in event.headers}

    @property
    def encoding(self) -> str:
        return self.fields.get("content-encoding", "")

    @property
    def content(self) -> bytes:
        return DECODERS[self.encoding](self.body) if self.encoding else self.body

    @property
    def is_untouched(self) -> bool:
        """Neither compressed nor marked as one that could have been."""
        return not self.encoding and "vary" not in self.fields


def plane(filters: dict[str, Any] | None = None, **given: Any) -> Plane:
    route = {"name": "all", "upstream": "u", "filters": {"compress": given, **(filters or {})}}
    return Plane({"upstreams": {"u": {"targets": [{"url": "http://u"}], "retries": {"max": 0}}}, "routes": [route]})


def ask(
    *fields: str, request: tuple[str, ...] = (ALL,), body: bytes = PAGE, status: str = "200 OK", method: str = "GET",
    framing: str | None = None, pieces: list[bytes] | None = None, filters: dict[str, Any] | None = None, **given: Any,
) -> Answer:  # fmt: skip
    """The answer where the upstream answers with these header lines. `pieces`: its body, each sent by itself."""
    client = (made := plane(filters, **given)).client()
    client.sends("\r\n".join([f"{method} / HTTP/1.1", "Host: a", *request, "", ""]).encode())
    framing = f"Content-Length: {len(body)}" if framing is None else framing
    upstream = made.connects()
    head = "\r\n".join([f"HTTP/1.1 {status}", *fields, *([framing] if framing else []), "", ""]).encode()
    if pieces is None:
        upstream.sends(head + (b"" if method == "HEAD" else body))
    else:
        upstream.sends(head)
        for piece in pieces:
            upstream.sends(piece)
    return Answer(client.received, upstream.received, method)


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def test_a_page_is_compressed_and_its_head_says_so() -> None:
    got = ask(HTML, 'ETag: "v1"', "Accept-Ranges: bytes", "Repr-Digest: sha-256=:AA==:", "Content-MD5: abc", "X-A: b")
    assert (got.encoding, got.content, got.whole) == ("zstd", PAGE, True)
    assert int(got.fields["content-length"]) == len(got.body) < len(PAGE) / 4
    assert (got.fields["vary"], got.fields["etag"], got.fields["x-a"]) == ("Accept-Encoding", 'W/"v1"', "b")
    assert not {"accept-ranges", "repr-digest", "content-md5"} & set(got.fields)


@for_each("encoding", ["zstd", "br", "gzip"])
@for_each("level", ["fast", "default", "best"])
@for_each("padded", [False, True])
def test_each_encoding_at_each_level(encoding: str, level: str, padded: bool) -> None:
    """Of a body that comes at once, and of one in pieces."""
    request = (f"Accept-Encoding: {encoding}",)
    got = ask(HTML, request=request, level=level, random_padding=padded)
    assert (got.encoding, got.content) == (encoding, PAGE)
    half = len(PAGE) // 2
    got = ask(HTML, request=request, pieces=[PAGE[:half], PAGE[half:]], level=level, random_padding=padded)
    assert (got.encoding, got.content, got.whole) == (encoding, PAGE, True)
    assert got.fields["transfer-encoding"] == "chunked"
    assert "content-length" not in got.fields


def test_the_first_encoding_of_the_configuration_wins_among_equals() -> None:
    assert ask(HTML, encodings=["gzip", "br"]).encoding == "gzip"
    assert ask(HTML, request=("Accept-Encoding: gzip, br;q=0.9",), encodings=["br", "gzip"]).encoding == "gzip"


def test_a_client_that_accepts_none_gets_the_page_with_vary() -> None:
    """Caddy and others leave `Vary` out where nothing was compressed: a cache then serves that to everybody."""
    for request in ((), ("Accept-Encoding: identity",), ("Accept-Encoding: zstd;q=0, br;q=0, gzip;q=0",)):
        got = ask(HTML, 'ETag: "v1"', request=request)
        assert (got.encoding, got.body, got.fields["vary"], got.fields["etag"]) == ("", PAGE, "Accept-Encoding", '"v1"')
        assert int(got.fields["content-length"]) == len(PAGE)


def test_vary_is_completed_and_never_repeated() -> None:
    assert [value for name, value in ask(HTML, "Vary: Origin").lines if name == "vary"] == ["Origin", "Accept-Encoding"]
    assert [value for name, value in ask(HTML, "Vary: origin, ACCEPT-encoding").lines if name == "vary"] == [
        "origin, ACCEPT-encoding"
    ]
    assert [value for name, value in ask(HTML, "Vary: *").lines if name == "vary"] == ["*"]


# --- what others get wrong: see the guide ---


def test_a_strong_etag_becomes_weak() -> None:
    """Caddy 2.6 keeps it strong, Envoy 1.40 removes it."""
    assert ask(HTML, 'ETag: "a"').fields["etag"] == 'W/"a"'
    assert ask(HTML, 'ETag: W/"a"').fields["etag"] == 'W/"a"'


@pytest.mark.parametrize("request_field", [False, True])
def test_no_transform_is_honoured(request_field: bool) -> None:
    """nginx 1.22 and Caddy 2.6 compress nevertheless (RFC 9111 sections 5.2.1.6 and 5.2.2.6)."""
    field = "Cache-Control: max-age=60,NO-Transform"
    got = ask(HTML, *(() if request_field else (field,)), request=(ALL, *((field,) if request_field else ())))
    assert (got.encoding, got.body) == ("", PAGE)
    assert ("vary" in got.fields) is request_field  # other clients may get it compressed
    assert ask(HTML, "Cache-Control: x-no-transform-not").encoding == "zstd"


def test_a_partial_response_stays_as_it_is() -> None:
    """Caddy 2.6 and Envoy 1.40 compress a 206: the client puts it at the wrong place of the content."""
    fields = HTML, f"Content-Range: bytes 0-{len(PAGE) - 1}/99999", 'ETag: "a"'
    got = ask(*fields, status="206 Partial Content", request=(ALL, "Range: bytes=0-"))
    assert "Range: bytes=0-" in got.asked  # ranges of the content as it is can be had
    assert (got.encoding, got.body, got.fields["etag"]) == ("", PAGE, '"a"')
    assert got.fields["vary"] == "Accept-Encoding"
    assert ask(HTML, "Content-Range: bytes */9", status="416 Range Not Satisfiable").encoding == ""
    assert ask(HTML, status="206 Partial Content").encoding == ""


def test_several_parts_have_the_vary_of_their_200() -> None:
    """RFC 9110 section 15.3.7. Only the parts say which type it has, so it may be one that is compressed."""
    parts = "Content-Type: Multipart/byteranges; boundary=a"
    answer = {"status": "206 Partial Content", "request": (ALL, "Range: bytes=0-1,3-4")}
    got = ask(parts, 'ETag: "a"', **answer)
    assert (got.encoding, got.body, got.fields["etag"], got.fields["vary"]) == ("", PAGE, '"a"', "Accept-Encoding")
    for line in ("Content-Encoding: br", "Cache-Control: no-transform"):
        assert "vary" not in ask(parts, line, **answer).fields
    assert [each for each in ask(parts, "Vary: accept-encoding", **answer).lines if each[0] == "vary"] == [
        ("vary", "accept-encoding")
    ]
    assert ask(parts).is_untouched


def test_head_is_answered_as_get_without_a_length() -> None:
    """Caddy 2.6 answers Content-Length: 20, Envoy 1.40 as if it never compressed (RFC 9110 section 9.3.2)."""
    got, head = ask(HTML, 'ETag: "a"'), ask(HTML, 'ETag: "a"', "Accept-Ranges: bytes", method="HEAD")
    assert "content-length" not in head.fields
    differ = {"content-length", "date", "x-request-id"}
    assert {k: v for k, v in head.lines if k not in differ} == {k: v for k, v in got.lines if k not in differ}
    small = ask(HTML, body=b"small", method="HEAD")
    assert (small.encoding, small.fields["content-length"]) == ("", "5")


def test_accept_ranges_goes() -> None:
    """Envoy 1.40 keeps it, for ranges that nobody can be given."""
    assert "accept-ranges" not in ask(HTML, "Accept-Ranges: bytes").fields
    assert "accept-ranges" in ask(HTML, "Accept-Ranges: bytes", request=()).fields


@for_each("media_type", ["text/event-stream", "application/x-ndjson", "application/grpc-web+json",
                                        "text/html"])  # fmt: skip
@for_each("framing", ["Transfer-Encoding: chunked", ""])
@for_each("encoding", ["zstd", "gzip", "br"])
def test_each_event_can_be_read_before_the_next_is_sent(media_type: str, framing: str, encoding: str) -> None:
    """nginx 1.22 holds events back until its buffer is full. Of unknown length, pages pass as events do."""
    client = (made := plane()).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {encoding}\r\n\r\n".encode())
    upstream = made.connects()
    upstream.sends(f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n{framing}\r\n\r\n".replace("\r\n" * 3, "\r\n" * 2)
                   .encode())  # fmt: skip
    assert client.received.endswith(b"\r\n\r\n")  # the head does not wait for the first event
    reads = {
        "gzip": zlib.decompressobj(31).decompress, "br": brotli.Decompressor().process,
        "zstd": zstd.ZstdDecompressor().decompress, "": lambda data: data,
    }  # fmt: skip
    used = Answer(client.received, b"", "GET").encoding
    assert used == ("" if encoding == "br" and media_type != "text/html" else encoding)
    read, sent, got = reads[used], b"", b""
    for number in range(12):
        event = b"data: event %d\n\n" % number
        sent += event
        seen = len(Answer(client.received, b"", "GET").body)
        upstream.sends(chunked(event) if framing else event)
        got += read(Answer(client.received, b"", "GET").body[seen:])
        assert got == sent


def test_brotli_is_not_used_for_event_streams() -> None:
    """It needs 280 KiB for each open stream; with another encoding beside it, that one is used."""
    stream = "Content-Type: text/event-stream"
    assert ask(stream, request=("Accept-Encoding: br",)).encoding == ""
    assert ask(stream, request=("Accept-Encoding: br, gzip;q=0.1",)).encoding == "gzip"


# --- what is left alone ---


@pytest.mark.parametrize("fields", [
    ("Content-Type: image/png",),
    ("Content-Type: application/grpc",),
    ("Content-Type: application/grpc+json",),
    ("Content-Type: application/connect+json",),
    (),
    ("Content-Type: text/html", "Content-Type: text/plain"),
    (HTML, "Content-Encoding: gzip"),
    (HTML, "Content-Encoding: br, gzip"),
    (HTML, "Cache-Control: public, no-transform"),
])  # fmt: skip
def test_other_responses_stay_as_they_are(fields: tuple[str, ...]) -> None:
    got = ask(*fields, 'ETag: "a"', "Accept-Ranges: bytes")
    assert (got.body, got.fields["etag"], got.fields["accept-ranges"]) == (PAGE, '"a"', "bytes")
    assert got.encoding == ("" if not any("Encoding" in each for each in fields) else fields[1].partition(": ")[2])
    assert "vary" not in got.fields


def test_small_responses_stay_as_they_are_unless_the_client_refuses_that() -> None:
    for size, encoding in ((255, ""), (256, "zstd"), (1, ""), (0, "")):
        got = ask(HTML, body=PAGE[:size])
        assert (got.encoding, got.content) == (encoding, PAGE[:size])
        assert got.fields["vary"] == "Accept-Encoding"
    assert ask(HTML, body=b"a", request=("Accept-Encoding: gzip, identity;q=0",)).encoding == "gzip"
    assert ask(HTML, body=b"", request=("Accept-Encoding: gzip, identity;q=0",)).encoding == ""
    assert ask(HTML, body=b"a" * 100, min_bytes=100).encoding == "zstd"


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "201 Created"])
def test_the_status_does_not_matter(status: str) -> None:
    assert ask(HTML, status=status).encoding == "zstd"


def test_an_empty_body_whose_end_comes_late_is_a_valid_stream() -> None:
    for encoding in DECODERS:
        got = ask(HTML, request=(f"Accept-Encoding: {encoding}",), framing="Transfer-Encoding: chunked",
                  pieces=[b"0\r\n\r\n"])  # fmt: skip
        assert (got.encoding, got.content, got.whole) == (encoding, b"", True)
    got = ask(HTML, framing="Transfer-Encoding: chunked", body=b"0\r\n\r\n")
    assert (got.encoding, got.body, got.whole) == ("", b"", True)


def test_trailers_pass_but_digests_of_the_content() -> None:
    pieces = [chunked(PAGE), b"0\r\nContent-Digest: sha-256=:AA==:\r\nX-Cost: 3\r\n\r\n"]
    got = ask(HTML, request=(ALL, "TE: trailers"), framing="Transfer-Encoding: chunked", pieces=pieces)
    assert (got.content, got.trailers) == (PAGE, {"x-cost": "3"})


def test_a_body_that_breaks_off_has_no_end() -> None:
    """A client must not take half of a page for all of it."""
    client = (made := plane()).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
    upstream = made.connects()
    upstream.sends(f"HTTP/1.1 200 OK\r\n{HTML}\r\nContent-Length: 100000\r\n\r\n".encode() + PAGE)
    upstream.resets()
    assert client.aborted or client.lost
    assert not client.received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("leaves", ["client", "upstream"])
def test_the_compressor_of_a_response_that_breaks_off_is_freed_at_once(
    monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    """Each has up to 740 KiB."""
    made: list[weakref.ref[Any]] = []

    class Watched(PaddedCompressor):  # type: ignore[misc]  # a final class, and one that can be referenced weakly
        pass

    def opened(coding: bytes, level: Level) -> Watched:
        compressor = Watched(coding, open_compressor(coding, level), 1)
        made.append(weakref.ref(compressor))
        return compressor

    monkeypatch.setattr(compression, "open_compressor", opened)
    client = (running := plane()).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
    upstream = running.connects()
    upstream.sends(f"HTTP/1.1 200 OK\r\n{HTML}\r\nContent-Length: 1000000\r\n\r\n".encode() + PAGE)
    assert [each() is not None for each in made] == [True]
    with no_collector():
        (client if leaves == "client" else upstream).resets()
        assert [each() for each in made] == [None]


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br"])
def test_a_body_of_known_length_is_compressed_in_one_piece(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Up to 128 KiB, however it arrives, and as well as one that arrives at once."""
    monkeypatch.delattr(compression, "open_compressor")  # of streams
    page = PAGE * 80
    pieces = [page[at : at + 7_001] for at in range(0, len(page), 7_001)]
    got = ask(HTML, request=(f"Accept-Encoding: {encoding}",), body=page, pieces=pieces)
    assert (got.encoding, got.content, got.whole) == (encoding, page, True)
    assert got.body == whole_compressor(encoding.encode(), "default")(page)


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br"])
@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_a_large_body_that_is_there_at_once_is_compressed_with_a_faster_level(level: Level, encoding: str) -> None:
    """In one turn of the event loop: more than 128 KiB of Brotli would stop it for long."""
    page = PAGE * 200
    assert LARGEST_HELD < len(page) < LARGEST_AT_ONCE
    respond = {"body": page.decode(), "headers": {"Content-Type": "text/html"}}
    filters = {"compress": {"encodings": [encoding], "level": level}}
    client = Plane({"routes": [{"name": "all", "respond": respond, "filters": filters}]}).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
    got = Answer(client.received, b"", "GET")
    expected = "fast" if encoding == "br" else "default" if level == "best" else level
    assert got.body == whole_compressor(encoding.encode(), expected)(page)
    assert got.content == page


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br"])
def test_a_large_body_that_another_filter_has_held_is_compressed_with_a_faster_level(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """It comes in one piece, too."""
    levels: list[Level] = []
    monkeypatch.setattr(
        compression, "open_compressor", lambda coding, level: levels.append(level) or open_compressor(coding, level)
    )
    held = probe(
        "held", Phase.TRANSFORM, response_body=BodyHook(lambda exchange, body: body.upper(), needs=Bounded("1MiB"))
    )
    route = {"name": "all", "upstream": "http://u", "filters": {"compress": {"encodings": [encoding], "level": "best"}}}
    client = (made := Plane({"routes": [route]}, probes=[held])).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
    page = PAGE * 200
    upstream = made.connects()
    upstream.sends(f"HTTP/1.1 200 OK\r\n{HTML}\r\nTransfer-Encoding: chunked\r\n\r\n{len(page):x}\r\n".encode() + page)
    upstream.sends(b"\r\n0\r\n\r\n")
    assert levels == ["fast" if encoding == "br" else "default"]
    assert b"\r\nContent-Encoding: %b\r\n" % encoding.encode() in client.received


def ask_behind(
    change: Callable[[bytes], bytes], body: bytes, accept: str = ALL, method: str = "GET", framing: str | None = None
) -> Answer:
    """The answer behind a filter that changes the whole body. `framing`: None: its length is declared."""
    held = probe(
        "held", Phase.TRANSFORM, response_body=BodyHook(lambda exchange, whole: change(whole), needs=Bounded("1MiB"))
    )
    route = {"name": "all", "upstream": "http://u", "filters": {"compress": {}}}
    client = (made := Plane({"routes": [route]}, probes=[held])).client()
    client.sends(f"{method} / HTTP/1.1\r\nHost: a\r\n{accept}\r\n\r\n".encode())
    upstream = made.connects()
    framing = f"Content-Length: {len(body)}" if framing is None else framing
    upstream.sends(f'HTTP/1.1 200 OK\r\n{HTML}\r\nETag: "a"\r\n{framing}\r\n\r\n'.encode())
    if method == "GET":
        for piece in (body[:100], body[100:]):
            upstream.sends(chunked(piece) if "chunked" in framing and piece else piece)
        if "chunked" in framing:
            upstream.sends(b"0\r\n\r\n")
    return Answer(client.received, upstream.received, method)


@for_each("framing", [None, "Transfer-Encoding: chunked"])
@for_each(("made_of_it", "before"), [(255, 6000), (1, 6000), (0, 6000), (256, 6000), (6000, 200)])
def test_what_another_filter_has_made_of_a_whole_body_counts(made_of_it: int, before: int, framing: str | None) -> None:
    content = (PAGE * 6)[:made_of_it]
    got = ask_behind(lambda body: content, PAGE[:10] * (before // 10), framing=framing)
    assert got.encoding == ("" if made_of_it < 256 else "zstd")
    assert got.content == content
    assert got.fields["vary"] == "Accept-Encoding"
    assert got.fields["content-length"] == str(len(got.body))
    assert got.fields["etag"] == 'W/"a"'


def test_a_small_body_that_another_filter_has_made_is_compressed_if_the_client_refuses_it_otherwise() -> None:
    got = ask_behind(lambda body: b"a", PAGE, "Accept-Encoding: gzip, identity;q=0")
    assert (got.encoding, got.content) == ("gzip", b"a")


def test_a_small_body_that_another_filter_has_left_as_it_is_keeps_its_etag() -> None:
    got = ask_behind(lambda body: body, b"small", framing="Transfer-Encoding: chunked")
    assert (got.encoding, got.body, got.fields["etag"]) == ("", b"small", '"a"')


def test_head_is_answered_by_the_declared_length_if_another_filter_changes_the_body() -> None:
    """What it would make of the body is not known."""
    assert ask_behind(lambda body: b"a", PAGE, method="HEAD").encoding == "zstd"
    assert ask_behind(lambda body: PAGE, b"small", method="HEAD").encoding == ""


def test_what_transform_leaves_of_a_body_counts() -> None:
    filters = {"transform": {"response": {"json": {"deny": ["pad"]}}}}
    body = b'{"n":1,"pad":"%b"}' % (b"z" * 6000)
    for pieces in (None, [body[:3000], body[3000:]]):
        got = ask("Content-Type: application/json", body=body, filters=filters, pieces=pieces)
        assert (got.encoding, got.body, got.fields["vary"]) == ("", b'{"n":1}', "Accept-Encoding")


def test_a_trailer_loses_what_is_about_the_uncompressed_body() -> None:
    client = (made := plane()).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n{ALL}\r\n\r\n".encode())
    upstream = made.connects()
    body = b"%x\r\n%b\r\n0\r\n" % (len(PAGE), PAGE)
    trailers = b'X-T: v\r\nETag: "t"\r\nContent-Digest: sha-256=:AAAA:\r\n\r\n'
    upstream.sends(f"HTTP/1.1 200 OK\r\n{HTML}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body + trailers)
    assert client.received.endswith(b"\r\n0\r\nX-T: v\r\n\r\n")


def test_a_response_to_head_has_no_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(compression, "open_compressor")
    assert ask(HTML, method="HEAD").encoding == "zstd"


# --- conditions ---


def test_a_304_has_the_etag_and_vary_of_what_the_client_holds() -> None:
    """RFC 9111 section 4.3.4: a strong ETag would not freshen the compressed response, which has a weak one."""
    fields = ('ETag: "a"',)
    not_modified = {"status": "304 Not Modified", "framing": "", "body": b""}
    got = ask(*fields, request=(ALL, 'If-None-Match: "b", W/"a"'), **not_modified)
    assert (got.fields["etag"], got.fields["vary"]) == ('W/"a"', "Accept-Encoding")
    assert 'If-None-Match: "b", W/"a"' in got.asked
    got = ask(*fields, request=(ALL, 'If-None-Match: "a"'), **not_modified)  # it has the uncompressed response
    assert (got.fields["etag"], got.fields["vary"]) == ('"a"', "Accept-Encoding")
    date = "If-Modified-Since: Mon, 23 Nov 2026 10:00:00 GMT"
    for request, fields, etag in (
        ((ALL, date), ('ETag: "a"',), 'W/"a"'),
        ((ALL, date), ('ETag: "a"', HTML), 'W/"a"'),
        (("Accept-Encoding: identity", date), ('ETag: "a"',), '"a"'),
    ):
        got = ask(*fields, request=request, **not_modified)
        assert (got.fields["etag"], got.fields["vary"]) == (etag, "Accept-Encoding")
    for line in ("Content-Type: image/png", "Cache-Control: no-transform", "Content-Encoding: br"):
        got = ask('ETag: "a"', line, request=(ALL, date), **not_modified)
        assert got.fields["etag"] == '"a"'
        assert "vary" not in got.fields
    got = ask('ETag: "a"', request=(ALL, date, "Cache-Control: no-transform"), **not_modified)
    assert (got.fields["etag"], got.fields["vary"]) == ('"a"', "Accept-Encoding")


@pytest.mark.parametrize(
    ("request_lines", "response_lines", "kept"),
    [
        (("If-Modified-Since: Mon, 23 Nov 2026 10:00:00 GMT",), (), False),
        (('If-None-Match: "a"',), ('ETag: "a"',), False),
        (('If-None-Match: W/"a"',), ('ETag: W/"a"',), False),
        (('If-None-Match: "a"', "Accept-Encoding: identity"), ('ETag: "a"',), True),
        (('If-None-Match: "a"', "Cache-Control: no-transform"), ('ETag: "a"',), True),
        (('If-None-Match: "a"',), ('ETag: "a"', "Cache-Control: no-transform"), True),
        (('If-None-Match: "a"',), ('ETag: "a"', "Content-Type: image/png"), True),
    ],
)
def test_a_304_has_the_length_and_digests_of_the_content_unless_its_200_would_be_compressed(
    request_lines: tuple[str, ...], response_lines: tuple[str, ...], kept: bool
) -> None:
    """RFC 9110 section 8.6: the length in a 304 has to be that of the content of a 200 to the same request."""
    coding = () if "Accept-Encoding: identity" in request_lines else (ALL,)
    of_content = ("Content-Digest: sha-256=:AA==:", "Repr-Digest: sha-256=:AA==:", "Content-MD5: abc")
    got = ask(
        *response_lines,
        *of_content,
        request=(*coding, *request_lines),
        status="304 Not Modified",
        framing="Content-Length: 1200",
        body=b"",
    )
    assert (got.status, got.whole) == (304, True)
    names = {"content-length", "content-digest", "repr-digest", "content-md5"}
    assert names & set(got.fields) == (names if kept else set())


def test_no_range_is_requested_that_a_client_would_append_to_compressed_data() -> None:
    date = "If-Range: Mon, 23 Nov 2026 10:00:00 GMT"
    for condition, passes in ((date, False), ('If-Range: W/"a"', False), ('If-Range: "a"', True)):
        got = ask(HTML, request=(ALL, "Range: bytes=10-", condition))
        assert ("Range: bytes=10-" in got.asked, condition in got.asked) == (passes, passes)
    got = ask(HTML, request=("Range: bytes=10-", date))  # it has nothing compressed
    assert date in got.asked


def test_accept_encoding_reaches_the_upstream_and_counts_if_it_does_not() -> None:
    assert ALL in ask(HTML).asked
    removed = {"headers": {"request": {"remove": ["Accept-Encoding"]}}, "size": {"body": 10}}
    got = ask(HTML, filters=removed)
    assert (ALL in got.asked, got.encoding) == (False, "zstd")


# --- answers of the gateway ---


def test_an_answer_of_the_gateway_is_compressed_and_a_fault_is_not() -> None:
    def answered(respond: dict[str, Any], filters: dict[str, Any], method: str = "GET") -> Answer:
        route = {"name": "all", "respond": respond, "filters": {"compress": {}, **filters}}
        client = Plane({"routes": [route]}).client()
        client.sends(f"{method} / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
        return Answer(client.received, b"", method)

    page = {"body": PAGE.decode(), "headers": {"Content-Type": "text/html"}}
    for method in ("GET", "HEAD"):
        got = answered(page, {}, method)
        assert (got.encoding, got.fields["vary"]) == ("zstd", "Accept-Encoding")
        assert got.body == b"" if method == "HEAD" else got.content == PAGE
    assert answered({"body": "short", "headers": {"Content-Type": "text/html"}}, {}).encoding == ""
    refused = answered(page, {"ip": {"deny": ["0.0.0.0/0", "::/0"]}})
    assert (refused.status, refused.is_untouched) == (403, True)


def test_each_response_of_a_connection_is_compressed_or_not_by_its_own_head() -> None:
    client = (made := plane()).client()
    upstream = None
    for fields, encoding, pieces in (
        (HTML, "zstd", 1),
        ("Content-Type: image/png", "", 1),
        (HTML, "zstd", 2),
        (f'{HTML}\r\nETag: "a"\r\nAccept-Ranges: bytes', "zstd", 1),
        ("Content-Type: image/png", "", 1),
        (f"{HTML}\r\nContent-Encoding: gzip", "gzip", 1),
    ):
        client.received = b""
        client.sends(f"GET / HTTP/1.1\r\nHost: a\r\n{ALL}\r\n\r\n".encode())
        upstream = upstream or made.connects()
        head = f"HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {len(PAGE)}\r\n\r\n".encode()
        upstream.sends(head + PAGE if pieces == 1 else head + PAGE[:99])
        if pieces == 2:
            upstream.sends(PAGE[99:])
        got = Answer(client.received, b"", "GET")
        assert got.encoding == encoding
        assert got.body == PAGE or got.content == PAGE
        if encoding == "zstd" and "ETag" in fields:
            assert (got.fields["etag"], "accept-ranges" in got.fields) == ('W/"a"', False)


# --- the filter ---


def test_settings_are_checked() -> None:
    for wrong in ({"encodings": []}, {"encodings": ["gzip", "gzip"]}, {"encodings": ["deflate"]}, {"types": ["text"]},
                  {"types": ["TEXT/html"]}, {"types": ["*/*"]}, {"level": 9}):  # fmt: skip
        with pytest.raises(ConfigError):
            configured(Compress, **wrong)


KINDS = {
    "text/html": Kind.DOCUMENT, "text/html;charset=utf-8": Kind.DOCUMENT, " TEXT/Plain ; a=b": Kind.DOCUMENT,
    "application/problem+json": Kind.DOCUMENT, "application/jsonx": Kind.OTHER, "image/svg+xml": Kind.DOCUMENT,
    "image/jpeg": Kind.OTHER, "application/octet-stream": Kind.OTHER, "text": Kind.OTHER, "": Kind.OTHER,
    "text/event-stream": Kind.STREAM, "text/event-stream; charset=utf-8": Kind.STREAM,
    "application/x-ndjson": Kind.STREAM, "application/ndjson": Kind.STREAM, "application/jsonl": Kind.STREAM,
    "application/grpc-web+json": Kind.STREAM, "application/grpc+json": Kind.OTHER, "application/grpc": Kind.OTHER,
    "application/connect+json": Kind.OTHER, "application/a/b+json": Kind.OTHER,
}  # fmt: skip


@for_each("content_type", KINDS)
def test_kinds_of_media_types(content_type: str) -> None:
    types = MediaTypes(Compress().types)
    for _ in range(2):  # the second from memory
        assert types.kind_of(content_type.encode()) is KINDS[content_type]


def test_the_kinds_kept_in_memory_are_few() -> None:
    """An upstream may send any number of different ones."""
    types = MediaTypes(["text/*"])
    for number in range(1000):
        assert types.kind_of(b"text/a; b=%d" % number) is Kind.DOCUMENT
    assert len(types._known) == 256


def test_it_stands_outside_of_filters_that_change_the_content_and_of_a_cache() -> None:
    """So that they see the content as it is, and each hit of a cache is compressed for its client."""
    names = list(TYPES)  # in running order
    for inner in ("decompress", "size", "headers", "response_urls"):
        assert names.index("compress") < names.index(inner)


CONTENT = st.one_of(
    st.binary(max_size=3000), st.builds(lambda part, n: part * n, st.binary(min_size=1), st.integers(1, 500))
)


@settings(max_examples=40, deadline=None)
@given(content=CONTENT, cuts=st.lists(st.integers(0, 3000), max_size=5), encoding=st.sampled_from(list(DECODERS)),
       framing=st.sampled_from(["length", "chunked", "close"]))  # fmt: skip
def test_what_the_client_decompresses_is_what_the_upstream_sent(
    content: bytes, cuts: list[int], encoding: str, framing: str
) -> None:
    places = [0, *sorted(min(each, len(content)) for each in cuts), len(content)]
    parts = [content[a:b] for a, b in pairwise(places) if a < b]
    client = (made := plane(min_bytes=0)).client()
    client.sends(f"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {encoding}\r\n\r\n".encode())
    upstream = made.connects()
    declared = {
        "length": f"Content-Length: {len(content)}\r\n",
        "chunked": "Transfer-Encoding: chunked\r\n",
        "close": "",
    }
    upstream.sends(f"HTTP/1.1 200 OK\r\n{HTML}\r\n{declared[framing]}\r\n".encode())
    for part in parts:
        upstream.sends(chunked(part) if framing == "chunked" else part)
    if framing == "chunked":
        upstream.sends(b"0\r\n\r\n")
    elif framing == "close":
        upstream.ends()
    got = Answer(client.received, b"", "GET")
    assert (got.content, got.whole) == (content, True)
    assert got.encoding == (encoding if content or framing != "length" else "")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([ALL], "are compressed with zstd"),
        ([ALL, "Cache-Control: no-transform"], "the request has no-transform: not compressed"),
        (["Accept-Encoding: identity"], "the client accepts none of zstd, br, gzip: not compressed"),
    ],
)
def test_explain_says_whether_responses_are_compressed(lines: list[str], told: str) -> None:
    explained = explain(plane().gateway, "GET", "http://a/", lines)
    assert any(told in step.decision for step in explained.filters), explained
