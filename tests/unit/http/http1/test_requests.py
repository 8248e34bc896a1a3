"""Request heads: which are refused and with what status, and what the accepted ones mean."""

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import (
    find_head_end,
    leading_bytes,
    parse_request,
    parse_response,
    read_http2_request,
    read_request,
    take_begun,
    take_request,
)
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead
from tests.support.table import for_each


def head(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes | None = b"Host: a") -> bytes:
    lines = (line, *((host,) if host is not None else ()), *fields)
    return b"".join(each + b"\r\n" for each in lines) + b"\r\n"


def post(*fields: bytes) -> bytes:
    return head(b"POST / HTTP/1.1", *fields)


def with_host(*values: bytes) -> bytes:
    return head(b"GET / HTTP/1.1", *(b"Host: " + value for value in values), host=None)


REFUSED: dict[str, tuple[bytes, int]] = {
    # request line (RFC 9112 section 3)
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (head(b"GET / HTTP/1.2"), 505),
    "HTTP/2.0": (head(b"GET / HTTP/2.0"), 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/0.9 spelled out": (head(b"GET / HTTP/0.9"), 505),
    "HTTP/1.10": (head(b"GET / HTTP/1.10"), 400),
    "HTTP/1": (head(b"GET / HTTP/1"), 400),
    "HTTP/01.1": (head(b"GET / HTTP/01.1"), 400),
    "version in lower case": (head(b"GET / http/1.1"), 400),
    "another protocol": (head(b"GET / RTSP/1.0"), 400),
    "two spaces before the target": (head(b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (head(b"GET /  HTTP/1.1"), 400),
    "HTAB in the request line": (head(b"GET\t/ HTTP/1.1"), 400),
    "space behind the version": (head(b"GET / HTTP/1.1 "), 400),
    "space before the method": (head(b" GET / HTTP/1.1"), 400),
    "CRLF before the request line": (b"\r\n" + head(), 400),
    "LF before the request line": (b"\n" + head(), 400),
    "no target": (head(b"GET HTTP/1.1"), 400),
    "space in the target": (head(b"GET /a b HTTP/1.1"), 400),
    "fragment": (head(b"GET /a#b HTTP/1.1"), 400),
    "byte above 0x7f in the target": (head(b"GET /\xc3\xa9 HTTP/1.1"), 400),
    "byte above 0x7f in the query": (head(b"GET /?\xff HTTP/1.1"), 400),
    "control in the target": (head(b"GET /\x01 HTTP/1.1"), 400),
    "DEL in the target": (head(b"GET /?\x7f HTTP/1.1"), 400),
    "NUL in the target": (head(b"GET /\x00 HTTP/1.1"), 400),
    "method with a bad byte": (head(b"G{T / HTTP/1.1"), 400),
    "empty method": (head(b" / HTTP/1.1"), 400),
    "method of 33 letters": (head(b"M" * 33 + b" / HTTP/1.1"), 400),
    "unknown method in lower case": (head(b"frob / HTTP/1.1"), 501),
    "method with a sign": (head(b"GE!T / HTTP/1.1"), 501),
    "method in lower case": (head(b"get / HTTP/1.1"), 501),
    "method of the HTTP/2 preface": (head(b"PRI / HTTP/1.1"), 501),
    # forms of the target (RFC 9112 section 3.2)
    "GET *": (head(b"GET * HTTP/1.1"), 400),
    "OPTIONS **": (head(b"OPTIONS ** HTTP/1.1"), 400),
    "relative path": (head(b"GET a HTTP/1.1"), 400),
    "authority-form without CONNECT": (head(b"GET a:80 HTTP/1.1"), 400),
    "absolute form, another scheme": (head(b"GET ftp://a/ HTTP/1.1"), 400),
    "absolute form, no scheme": (head(b"GET ://a/ HTTP/1.1"), 400),
    "absolute form, userinfo": (head(b"GET http://u@a/ HTTP/1.1"), 400),
    "absolute form, empty host": (head(b"GET http:/// HTTP/1.1"), 400),
    "absolute form, port alone": (head(b"GET http://:80/ HTTP/1.1"), 400),
    "absolute form, port not a number": (head(b"GET http://a:x/ HTTP/1.1"), 400),
    "absolute form, port too large": (head(b"GET http://a:65536/ HTTP/1.1"), 400),
    "absolute form, another host": (head(b"GET http://b/ HTTP/1.1"), 400),
    "absolute form, another port": (head(b"GET http://a:81/ HTTP/1.1"), 400),
    "absolute form, https on port 80": (head(b"GET https://a/ HTTP/1.1", host=b"Host: a:80"), 400),
    "absolute form without Host": (head(b"GET http://a/ HTTP/1.1", host=None), 400),
    "absolute form without Host, HTTP/1.0": (head(b"GET http://a/ HTTP/1.0", host=None), 400),
    "CONNECT without port": (head(b"CONNECT a HTTP/1.1"), 400),
    "CONNECT with a path": (head(b"CONNECT /a HTTP/1.1"), 400),
    "CONNECT unlike Host": (head(b"CONNECT b:443 HTTP/1.1", host=b"Host: a:443"), 400),
    "CONNECT without Host": (head(b"CONNECT a:443 HTTP/1.1", host=None), 400),
    "CONNECT with a length": (head(b"CONNECT a:443 HTTP/1.1", b"Content-Length: 3", host=b"Host: a:443"), 400),
    "CONNECT in chunks": (head(b"CONNECT a:443 HTTP/1.1", b"Transfer-Encoding: chunked", host=b"Host: a:443"), 400),
    "path above the root": (head(b"GET /../a HTTP/1.1"), 400),
    "escaped NUL in the path": (head(b"GET /%00 HTTP/1.1"), 400),
    # Host (RFC 9110 section 7.2, RFC 9112 section 3.2)
    "no Host": (head(host=None), 400),
    "Host twice": (with_host(b"a", b"b"), 400),
    "Host twice, the same": (with_host(b"a", b"a"), 400),
    "Host twice, in HTTP/1.0": (head(b"GET / HTTP/1.0", b"host: b"), 400),
    "Host list": (with_host(b"a, b"), 400),
    "Host list without space": (with_host(b"a,b"), 400),
    "Host empty": (with_host(b""), 400),
    "Host of white space": (with_host(b" \t "), 400),
    "Host with userinfo": (with_host(b"u@a"), 400),
    "Host with a path": (with_host(b"a/b"), 400),
    "Host with a query": (with_host(b"a?b"), 400),
    "Host with a scheme": (with_host(b"http://a"), 400),
    "Host with a space": (with_host(b"a b"), 400),
    "Host with obs-text": (with_host(b"\xe9"), 400),
    "Host with a backslash": (with_host(b"a\\b"), 400),
    "Host with an escape": (with_host(b"a%2eb"), 400),
    "Host with a sub-delimiter": (with_host(b"a;b"), 400),
    "Host with an empty label": (with_host(b"a..b"), 400),
    "Host that begins with a dot": (with_host(b".a"), 400),
    "Host of a dot": (with_host(b"."), 400),
    "Host of 254 letters": (with_host(b"a" * 254), 400),
    "Host with two empty ports": (with_host(b"a::"), 400),
    "Host with an empty port alone": (with_host(b":"), 400),
    "Host with port zero": (with_host(b"a:0"), 400),
    "Host with a huge port": (with_host(b"a:65536"), 400),
    "Host with a port of 40 digits": (with_host(b"a:" + b"8" * 40), 400),
    "Host with a signed port": (with_host(b"a:+80"), 400),
    "Host with a port with a leading zero": (with_host(b"a:080"), 400),
    "Host with two ports": (with_host(b"a:80:80"), 400),
    "Host with an open IPv6 address": (with_host(b"[::1"), 400),
    "Host with a bare IPv6 address": (with_host(b"::1"), 400),
    "Host with a bad IPv6 address": (with_host(b"[::1::2]"), 400),
    "Host with an empty IPv6 address": (with_host(b"[]"), 400),
    "Host with an IPv6 zone": (with_host(b"[fe80::1%25eth0]"), 400),
    "Host with a future IP literal": (with_host(b"[v1.a]"), 400),
    "Host with something behind the IPv6 address": (with_host(b"[::1]a"), 400),
    # field lines (RFC 9112 section 5)
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400),
    "bare CR in a value": (head(b"GET / HTTP/1.1", b"A: b\rc"), 400),
    "bare CR before CRLF": (head(b"GET / HTTP/1.1", b"A: b\r"), 400),
    "bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "obs-fold": (head(b"GET / HTTP/1.1", b"A: b", b" c"), 400),
    "obs-fold with HTAB": (head(b"GET / HTTP/1.1", b"A: b", b"\tc"), 400),
    "white space before the first field": (head(b"GET / HTTP/1.1", host=b" Host: a"), 400),
    "space before the colon": (head(b"GET / HTTP/1.1", b"A : b"), 400),
    "HTAB before the colon": (head(b"GET / HTTP/1.1", b"A\t: b"), 400),
    "empty name": (head(b"GET / HTTP/1.1", b": b"), 400),
    "no colon": (head(b"GET / HTTP/1.1", b"A"), 400),
    "NUL in a value": (head(b"GET / HTTP/1.1", b"A: \x00"), 400),
    "NUL in a name": (head(b"GET / HTTP/1.1", b"A\x00: b"), 400),
    "control in a value": (head(b"GET / HTTP/1.1", b"A: \x0b"), 400),
    "DEL in a value": (head(b"GET / HTTP/1.1", b"A: \x7f"), 400),
    "obs-text in a name": (head(b"GET / HTTP/1.1", b"\xe9: b"), 400),
    "slash in a name": (head(b"GET / HTTP/1.1", b"A/B: c"), 400),
    "no empty line": (b"GET / HTTP/1.1\r\nHost: a\r\n", 400),
    "bytes behind the empty line": (head() + b"A: b\r\n\r\n", 400),
    "101 fields": (head(b"GET / HTTP/1.1", *[b"A: b"] * 100), 431),
    # framing (RFC 9112 section 6)
    "length and chunked": (post(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "chunked and length": (post(b"Transfer-Encoding: chunked", b"Content-Length: 3"), 400),
    "length twice": (post(b"Content-Length: 3", b"Content-Length: 3"), 400),
    "lengths that differ": (post(b"Content-Length: 3", b"content-length: 4"), 400),
    "length listed": (post(b"Content-Length: 3, 3"), 400),
    "length signed": (post(b"Content-Length: +3"), 400),
    "length negative": (post(b"Content-Length: -3"), 400),
    "length empty": (post(b"Content-Length:"), 400),
    "length in hexadecimal": (post(b"Content-Length: 0x3"), 400),
    "length with a fraction": (post(b"Content-Length: 3.0"), 400),
    "length with an inner space": (post(b"Content-Length: 3 3"), 400),
    "length with an underscore": (post(b"Content-Length: 3_3"), 400),
    "length of 19 digits": (post(b"Content-Length: 1000000000000000000"), 400),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551617"), 400),
    "length with a space before the colon": (post(b"Content-Length : 3"), 400),
    "chunked in HTTP/1.0": (head(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked"), 501),
    "gzip, then chunked": (post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), 501),
    "gzip": (post(b"Transfer-Encoding: gzip"), 400),
    "identity": (post(b"Transfer-Encoding: identity"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked"), 400),
    "chunked twice": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked, gzip": (post(b"Transfer-Encoding: chunked, gzip"), 400),
    ", chunked": (post(b"Transfer-Encoding: , chunked"), 400),
    "chunked,": (post(b"Transfer-Encoding: chunked,"), 400),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;q=1"), 400),
    "chunked in quotes": (post(b'Transfer-Encoding: "chunked"'), 400),
    "no coding": (post(b"Transfer-Encoding:"), 400),
    "chunked behind a vertical tab": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    # what would be one field to CGI
    "Content_Length": (post(b"Content_Length: 3"), 400),
    "Transfer_Encoding": (post(b"transfer_encoding: chunked"), 400),
    "X_Forwarded_For": (head(b"GET / HTTP/1.1", b"X_Forwarded_For: 1.1.1.1"), 400),
    "Content.Length": (post(b"Content.Length: 3"), 400),
    "Content+Length": (post(b"content+length: 3"), 400),
    "X.Forwarded-For": (head(b"GET / HTTP/1.1", b"X.Forwarded-For: 1.1.1.1"), 400),
    "X-Forwarded_For": (head(b"GET / HTTP/1.1", b"X-Forwarded_For: 1.1.1.1"), 400),
    # expectations (RFC 9110 section 10.1.1)
}


@pytest.mark.parametrize(("raw", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_head_that_is_malformed_or_has_two_meanings_is_refused(raw: bytes, status: int):
    with pytest.raises(Malformed) as refused:
        parse_request(raw)
    assert refused.value.status == status
    assert refused.value.reason.endswith(".")
    assert "parser" not in refused.value.reason  # clients know nothing of ours
    assert "llhttp" not in refused.value.reason


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_the_reason_names_an_empty_line_before_the_request_line(line_end: bytes):
    with pytest.raises(Malformed) as refused:
        parse_request(line_end + head())
    assert refused.value.reason == "The request line is malformed: there is an empty line before the request line."


REASONS = {
    b"A: b\rc": "A line contains a bare CR.",
    b"A: b\nc: d": "A line ends with a bare LF.",
    b" A: b": "A header line is folded (obs-fold) or begins with whitespace.",
    b": b": "A header has an empty name.",
    b"A : b": "There is whitespace between a header name and its colon.",
    b"A: \x00": "A header value has a control character.",
    b"A(: b": "A header name has an invalid character.",
    b"A": "A header line has no colon.",
}


@pytest.mark.parametrize(("line", "reason"), REASONS.items())
def test_the_reason_says_which_rule_is_broken(line: bytes, reason: str):
    with pytest.raises(Malformed) as refused:
        parse_request(head(b"GET / HTTP/1.1", line))
    assert refused.value.reason == reason


def test_the_reason_tells_no_bytes_of_the_client():
    """It goes into the log and back to the client: neither may be written by whoever sends the request."""
    for raw, _ in REFUSED.values():
        with pytest.raises(Malformed) as refused:
            parse_request(raw.replace(b"/ ", b"/?zebra "))
        assert "zebra" not in refused.value.reason


@for_each(
    ("target", "host", "scheme", "raw_path", "path", "query"),
    [
        (b"/", b"a", b"", b"/", b"/", None),
        (b"/a/%7eb", b"a", b"", b"/a/%7eb", b"/a/~b", None),
        (b"/a/../b", b"a", b"", b"/a/../b", b"/b", None),
        (b"/a?", b"a", b"", b"/a", b"/a", b""),
        (b"/a?b=c?d=/../e", b"a", b"", b"/a", b"/a", b"b=c?d=/../e"),
        (b'/?q="<>[]^`{|}\\', b"a", b"", b"/", b"/", b'q="<>[]^`{|}\\'),
        (b"//a/b", b"a", b"", b"//a/b", b"//a/b", None),
        (b"http://a/b?c", b"a", b"http", b"/b", b"/b", b"c"),
        (b"HTTP://A/b", b"a", b"http", b"/b", b"/b", None),
        (b"http://a", b"a", b"http", b"/", b"/", None),
        (b"http://a?b", b"a", b"http", b"/", b"/", b"b"),
        (b"http://a:80/", b"a", b"http", b"/", b"/", None),
        (b"http://a:/", b"a", b"http", b"/", b"/", None),
        (b"https://a/", b"a:443", b"https", b"/", b"/", None),
        (b"http://[::1]:8080/", b"[::1]:8080", b"http", b"/", b"/", None),
        (b"http://a./", b"a", b"http", b"/", b"/", None),
    ],
)
def test_the_target_is_taken_apart(target, host, scheme, raw_path, path, query):
    request = parse_request(head(b"GET " + target + b" HTTP/1.1", host=b"Host: " + host))
    assert request.request_target == target
    assert (request.scheme, request.raw_path, request.path, request.query) == (scheme, raw_path, path, query)


@pytest.mark.parametrize("target", [b"*", b"http://a"])
def test_options_may_ask_for_the_server_as_a_whole(target: bytes):
    """RFC 9112 section 3.2.4: an absolute-form target without path becomes asterisk-form."""
    request = parse_request(head(b"OPTIONS " + target + b" HTTP/1.1"))
    assert (request.raw_path, request.path, request.query) == (b"*", b"*", None)


def test_connect_is_read_so_that_it_can_be_refused_by_name():
    request = parse_request(head(b"CONNECT a:443 HTTP/1.1", host=b"Host: A:443"))
    assert (request.method, request.authority, request.raw_path, request.path) == (b"CONNECT", b"a:443", b"", b"")
    assert request.close
    assert body_reader(request).done


def test_trace_is_read_so_that_it_can_be_refused_by_name():
    assert parse_request(head(b"TRACE / HTTP/1.1")).method == b"TRACE"


@for_each("method", [*b"GET HEAD PATCH PROPFIND M-SEARCH QUERY".split(), *b"BAN FROB GETS POS DESCRIBE X_Y-1".split()])
def test_methods_pass_whether_llhttp_knows_them_or_not(method: bytes):
    """RFC 9110 section 9.1: further methods are allowed. The framing of their requests is that of all."""
    raw = head(method + b" / HTTP/1.1")
    assert parse_request(raw).method == read_http2_request(raw, 100, b"").method == method
    fields = (b"Content-Length: 3", b"Upgrade: a", b"Connection: upgrade")
    request = parse_request(head(method + b" / HTTP/1.1", *fields))
    reader = body_reader(request)
    assert (request.method, reader.feed(b"abcGET"), reader.done, reader.rest) == (method, b"abc", True, b"GET")
    with pytest.raises(Malformed):
        parse_request(head(method + b" / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked"))


@for_each("payload", [None, b"abc"])
@for_each("method", [b"frob", b"get", b"Post", b"pATCH", b"PRI", b"G!T", b"1GET", b"_GET", b"GETs"])
def test_a_method_is_judged_alike_over_both_versions(method: bytes, payload: bytes | None):
    """RFC 9110 section 9.1: methods are case-sensitive. nghttp2 accepts any token."""
    raw = head(method + b" / HTTP/1.1", b"content-length: 3")
    with pytest.raises(Malformed) as over_http1:
        parse_request(raw)
    with pytest.raises(Malformed) as over_http2:
        read_http2_request(raw, 100, payload)
    assert over_http2.value.status == over_http1.value.status == 501
    reason = "The method is unknown; methods are case-sensitive."
    assert over_http2.value.reason == over_http1.value.reason == reason


@for_each(
    ("value", "authority", "host"),
    [
        (b"Example.COM", b"example.com", b"example.com"),
        (b"a.", b"a.", b"a"),
        (b"a:80", b"a:80", b"a"),
        (b"a.:80", b"a.:80", b"a"),
        (b"a_b-c~d.e", b"a_b-c~d.e", b"a_b-c~d.e"),
        (b"127.0.0.1:65535", b"127.0.0.1:65535", b"127.0.0.1"),
        (b"[::1]", b"[::1]", b"[::1]"),
        (b"A:", b"a", b"a"),
        (b"[::1]:", b"[::1]", b"[::1]"),
        (b"[2001:DB8::1.2.3.4]:8080", b"[2001:db8::1.2.3.4]:8080", b"[2001:db8::1.2.3.4]"),
        (b"a" * 253, b"a" * 253, b"a" * 253),
        (b"\t a \t", b"a", b"a"),
    ],
)
def test_host_compares_without_case_port_and_last_dot(value, authority, host):
    request = parse_request(with_host(value))
    assert (request.authority, request.host) == (authority, host)


def test_http_1_0_may_leave_host_out():
    request = parse_request(head(b"GET / HTTP/1.0", host=None))
    assert (request.minor, request.authority, request.host) == (0, b"", b"")


@for_each(
    ("version", "connection", "close"),
    [
        (b"1.1", (), False),
        (b"1.1", (b"keep-alive",), False),
        (b"1.1", (b"close",), True),
        (b"1.1", (b"Close",), True),
        (b"1.1", (b"keep-alive, close",), True),
        (b"1.1", (b"keep-alive", b"x, CLOSE"), True),
        (b"1.1", (b"closed",), False),
        (b"1.0", (), True),
        (b"1.0", (b"keep-alive",), False),
        (b"1.0", (b"Keep-Alive",), False),
        (b"1.0", (b"KEEP-ALIVE, x",), False),
        (b"1.0", (b"keep-alive, close",), True),
        (b"1.0", (b"upgrade",), True),
    ],
)
def test_whether_the_connection_closes(version, connection, close):
    """RFC 9112 section 9.3."""
    request = parse_request(head(b"GET / HTTP/" + version, *(b"Connection: " + each for each in connection)))
    assert request.close is close


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        ((), 0, False),
        ((b"Content-Length: 0",), 0, False),
        ((b"Content-Length: 3",), 3, False),
        ((b"content-length:\t007 ",), 7, False),
        ((b"Content-Length: 999999999999999999",), 999999999999999999, False),
        ((b"Transfer-Encoding: chunked",), 0, True),
        ((b"TRANSFER-ENCODING:\tChunked",), 0, True),
        ((b"Transfer-Encoding: chunked \t",), 0, True),
    ],
)
def test_how_the_body_ends(fields, length, chunked):
    request = parse_request(post(*fields))
    assert (request.length, request.chunked) == (length, chunked)
    assert body_reader(request).done is (length == 0 and not chunked)


@for_each(
    ("version", "fields", "upgrade"),
    [
        (b"1.1", (b"Connection: Upgrade", b"Upgrade: WebSocket"), (b"websocket",)),
        (b"1.1", (b"Connection: keep-alive, upgrade", b"Upgrade: a/1, b"), (b"a/1", b"b")),
        (b"1.1", (b"Upgrade: websocket",), ()),
        (b"1.1", (b"Connection: upgrade",), ()),
        (b"1.1", (b"Connection: close", b"Upgrade: websocket"), ()),
        (b"1.0", (b"Connection: upgrade, keep-alive", b"Upgrade: websocket"), ()),
        (b"1.1", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), ()),
        (b"1.1", (b"Connection: upgrade", b"Upgrade: H2C, websocket"), (b"websocket",)),
        (b"1.1", (b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 3"), ()),
        (b"1.1", (b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"), ()),
        (b"1.1", (b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 0"), (b"websocket",)),
    ],
)
def test_what_the_client_would_upgrade_to(version, fields, upgrade):
    """RFC 9110 section 7.8: an offer, which may be ignored; ours are h2c, and any offer that comes with a body."""
    assert parse_request(head(b"GET / HTTP/" + version, *fields)).upgrade == upgrade


@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked\t"])
def test_a_body_with_an_upgrade_offer_is_read_to_its_end(framing: bytes):
    """llhttp would take the offer for the end of HTTP and the body for another protocol."""
    body = b"abc" if b"Length" in framing else b"3\r\nabc\r\n0\r\n\r\n"
    reader = body_reader(parse_request(post(b"Connection: upgrade", b"Upgrade: h2c", framing)))
    assert reader.feed(body + b"GET") == b"abc"
    assert reader.done
    assert reader.rest == b"GET"


@pytest.mark.parametrize(
    ("version", "value", "expects"),
    [
        *((b"1.1", b"100-continue", True), (b"1.1", b"100-Continue", True), (b"1.0", b"100-continue", False)),
        *((b"1.1", value, False) for value in (b"200-ok", b"100-continue, b", b"y 100-continue", b"")),
    ],
)
def test_expect_continue(version, value, expects):
    request = parse_request(head(b"POST / HTTP/" + version, b"Content-Length: 3", b"Expect: " + value))
    assert request.expects_continue is expects


@pytest.mark.parametrize(("value", "wanted"), [(b"trailers", True), (b"gzip, Trailers", True), (b"gzip", False)])
def test_accepts_trailers(value, wanted):
    assert parse_request(head(b"GET / HTTP/1.1", b"TE: " + value)).accepts_trailers is wanted


@pytest.mark.parametrize(
    ("connection", "named"),
    [
        (b"X-A", (b"x-a",)),
        (b"close, X-A, x-b, x-a", (b"x-a", b"x-b")),
        (b"keep-alive, te, upgrade, proxy-connection", ()),
        (b"host, content-length, transfer-encoding", ()),
        (b"authorization, cookie, via, max-forwards", ()),
        (b"x-forwarded-for, X-Forwarded-Proto, x-forwarded-user, forwarded, x-real-ip", ()),
        (b"x a, @, , x-b;q=1", ()),
    ],
)
def test_connection_names_away_only_what_was_meant_for_one_hop(connection, named):
    assert parse_request(head(b"GET / HTTP/1.1", b"Connection: " + connection)).connection_named == named


def test_what_connection_names_is_not_there_for_filters():
    """Whichever way they ask, before and after the fields were parsed: it does not reach the upstream either."""
    for message in (
        parse_request(head(b"GET / HTTP/1.1", b"Connection: x-a, x-b", b"X-A: b", b"C: d")),
        parse_response(b"HTTP/1.1 200 OK\r\nConnection: x-a, x-b\r\nX-A: b\r\nC: d\r\n\r\n", b"GET"),
    ):
        for _ in range(2):
            assert [message.first(name) for name in (b"x-a", b"x-b", b"c")] == [None, None, b"d"]
            assert [message.values(name) for name in (b"x-a", b"x-b", b"c")] == [[], [], [b"d"]]
            assert b"x-a" not in message.fields()


def test_legal_forms_that_look_odd_pass():
    """RFC 9110 section 5.5: obs-text in values, HTAB around them, empty values, every byte that a token may have."""
    raw = head(b"GET / HTTP/1.1", b"A:\t \xe9\xff \t", b"B:", b"!#$%&'*+-.^_`|~09azAZ: c", b"a:d")
    request = parse_request(raw)
    assert list(request.fields())[1:] == [
        (b"A", b"\xe9\xff"),
        (b"B", b""),
        (b"!#$%&'*+-.^_`|~09azAZ", b"c"),
        (b"a", b"d"),
    ]
    assert request.first(b"a") == b"\xe9\xff"
    assert request.first(b"b") == b""
    assert request.first(b"host") == b"a"
    assert request.first(b"via") is None
    assert request.first(b"z") is None


def test_first_sees_what_a_filter_has_changed():
    request = parse_request(head(b"GET / HTTP/1.1", b"A: b", b"Via: c"))
    assert request.edited() is None
    request.fields().set(b"a", b"d")
    request.fields().remove(b"via")
    assert request.edited() is request.fields()
    assert (request.first(b"a"), request.first(b"via")) == (b"d", None)


def test_received_values_are_those_of_all_lines_with_the_name():
    raw = head(b"GET / HTTP/1.1", b"x-FORWARDED-for:  1 ", b"X-Forwarded-Form: 2", b"X-Forwarded-For:3", b"TEE: 4")
    request = parse_request(raw)
    request.fields().remove(b"X-Forwarded-For")
    assert request.received_values(b"x-forwarded-for") == [b"1", b"3"]
    assert request.received_values(b"tee") == [b"4"]
    assert request.received_values(b"te") == []


@for_each("name", sorted(RequestHead.KNOWN))
def test_every_known_field_is_found(name: bytes):
    value = {b"host": b"a", b"content-length": b"0", b"transfer-encoding": b"chunked", b"expect": b"100-continue"}
    line = name.title() + b": " + value.get(name, b"a")
    request = parse_request(head(b"POST / HTTP/1.1", *([] if name == b"host" else [line])))
    assert request.received_values(name) == [value.get(name, b"a")]


def test_the_number_of_fields_is_bounded():
    raw = head(b"GET / HTTP/1.1", b"A: b", b"C: d")
    assert len(parse_request(raw, max_fields=3).fields()) == 3
    with pytest.raises(Malformed) as refused:
        parse_request(raw, max_fields=2)
    assert refused.value.status == 431


def test_a_repr_tells_the_state_without_secrets():
    request = parse_request(head(b"POST /s3cret HTTP/1.1", b"Authorization: s3cret", b"Content-Length: 3"))
    assert repr(request) == "<RequestHead POST, length 3>"


def test_the_end_of_a_head_is_found_wherever_it_is_cut():
    raw = head(b"GET / HTTP/1.1", b"A: b")
    following = b"GET / HTTP/1.1\r\n\r\n"
    for cut in range(len(raw)):
        assert find_head_end(raw[:cut]) == -1
        assert find_head_end(raw + following, cut) == len(raw)
        assert find_head_end(bytearray(raw), cut) == len(raw)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_end_of_a_head_behind_others_is_found(kind: type[bytes]):
    """What stands before it is no part of it, also where it begins as the head before has ended."""
    raw, before = head(b"GET / HTTP/1.1", b"A: b"), head(b"GET / HTTP/1.1")
    for cut in range(len(raw)):
        assert find_head_end(kind(before + raw[:cut]), 0, len(before)) == -1
        for following in (b"", raw):
            buffer = kind(before + raw + following)
            assert find_head_end(buffer, len(before) + cut, len(before)) == len(before) + len(raw)
            assert find_head_end(buffer, 0, len(before)) == len(before) + len(raw)
    assert find_head_end(kind(before + b"\r\n" + raw), 0, len(before)) == len(before) + 2 + len(raw)
    assert find_head_end(kind(b"a\nb" + raw[:-2]), 0, 3) == -1
    with pytest.raises(Malformed, match="bare LF"):
        find_head_end(kind(before + b"GET / HTTP/1.1\nA"), 0, len(before))


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\n\r\n", b"\n"])
def test_a_head_with_bare_line_feeds_is_refused_at_once(raw: bytes):
    """No CRLF CRLF may ever come: the client gets its 400 now and not a 408 after the timeout."""
    with pytest.raises(Malformed, match="bare LF"):
        find_head_end(raw)


@for_each(
    ("raw", "ordinary"),
    [
        (head(b"GET /a?b HTTP/1.1", b"Connection: keep-alive", b"Cookie: a"), True),
        (head(b"POST /a/../ HTTP/1.1"), True),
        (head(b"GET / HTTP/1.1", b"Connection: close"), True),
        (head(b"GET / HTTP/1.1", b"Connection: Close"), True),
        (head(b"POST / HTTP/1.1", b"Content-Length: 0"), True),
        (head(b"OPTIONS / HTTP/1.1"), False),
        (head(b"TRACE / HTTP/1.1"), False),
        (head(b"CONNECT a:1 HTTP/1.1", host=b"Host: a:1"), False),
        (head(b"GET http://a/ HTTP/1.1"), False),
        (head(b"OPTIONS * HTTP/1.1"), False),
        (head(b"GET / HTTP/1.0", b"Connection: keep-alive"), False),
        *(
            (head(b"GET / HTTP/1.1", line), False)
            for line in (
                b"Connection: close, a",
                b"Connection: a",
                b"Content-Length: 3",
                b"Transfer-Encoding: chunked",
                b"Expect: 100-continue",
                b"Upgrade: a",
                b"TE: trailers",
                b"Max-Forwards: 1",
            )
        ),
    ],
)
def test_of_an_ordinary_request_nothing_but_the_route_is_to_be_decided(raw: bytes, ordinary: bool):
    assert parse_request(raw).ordinary is ordinary


def take(received: bytes, max_bytes: int = 10_000, most: int = 100) -> Any:
    """What is taken out of a buffer that is read into anew at once."""
    buffer = memoryview(bytearray(received + b"\r\n\r\nof an earlier read"))
    took = take_request(buffer, len(received), max_bytes, most)
    buffer[:] = bytes(len(buffer))
    return took


POSTED = head(b"POST /a HTTP/1.1", b"Content-Length: 7", b"A: b")
BODY = b"a\r\n\r\nbc"


def test_a_body_that_came_with_its_head_is_taken_with_it():
    """As one message, which needs no reader, and is as ordinary as one without a body."""
    took = take(POSTED + BODY, max_bytes=len(POSTED))
    assert (took.raw, took.payload, took.whole, took.length, took.ordinary) == (POSTED, BODY, True, 7, True)
    took.drop_payload()
    assert (took.raw, took.payload, took.whole, took.length, took.first(b"a")) == (POSTED, None, False, 7, b"b")


def test_of_a_head_without_a_body_the_payload_is_empty():
    for raw in (head(b"GET / HTTP/1.1"), head(b"PUT / HTTP/1.1", b"Content-Length: 00")):
        for judged in (take(raw), parse_request(raw)):
            assert (judged.payload, judged.whole, judged.raw) == (b"", True, raw)


def test_a_head_alone_waits_for_its_body():
    for field in (b"Content-Length: 7", b"Transfer-Encoding: chunked"):
        took = take(head(b"POST / HTTP/1.1", field))
        assert (took.payload, took.whole, took.ordinary) == (None, False, False)


@for_each("cut", range(len(POSTED)))
def test_less_than_a_head_is_not_taken(cut: int):
    assert take((POSTED + BODY)[:cut]) == (POSTED + BODY)[:cut]


LONG = b"x" * 20_000


@for_each(
    "case",
    [
        *((POSTED, BODY, cut) for cut in range(1, len(BODY))),
        (head(b"PUT / HTTP/1.1", b"Content-Length: 20000"), LONG, 19_999),
    ],
)
def test_a_head_is_taken_with_the_beginning_of_its_body(case: tuple[bytes, bytes, int]):
    """Once; the reader goes on behind it."""
    raw, body, cut = case
    took = take(raw + body[:cut], max_bytes=len(raw))
    assert (took.raw, took.payload, took.whole, took.ordinary, took.plain) == (raw, None, False, False, True)
    assert (take_begun(took), take_begun(took)) == (body[:cut], None)
    reader = body_reader(took)
    assert (reader.feed(body[:cut]), reader.bytes_assured(), reader.done) == (body[:cut], len(body) - cut, False)
    assert (reader.feed(body[cut:]), reader.rest, reader.done) == (body[cut:], b"", True)


@pytest.mark.parametrize(
    "raw",
    [
        head(b"POST /a HTTP/1.1", b"Content-Length: 20000", b"A: " + b"b" * 100),  # longer than a head may be
        head(b"POST /a HTTP/1.1", b"Transfer-Encoding: chunked"),
        head(b"POST /a HTTP/1.1", b"Content-Length: 20000", b"Content-Length: 20000"),
        b"POST /a HTTP/1.1\nHost: a\r\nContent-Length: 20000\r\n\r\n",
        b"\r\n" + head(b"POST /a HTTP/1.1", b"Content-Length: 20000"),
    ],
)
def test_another_beginning_is_left_to_be_read_step_by_step(raw: bytes) -> None:
    received = raw + b"1000\r\n" + b"x" * 5_000
    assert take(received, max_bytes=100) == received


@pytest.mark.parametrize("behind", [b"x", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_more_than_the_whole_is_not_taken(behind: bytes):
    assert take(POSTED + BODY + behind) == POSTED + BODY + behind


@pytest.mark.parametrize(
    "received",
    [
        head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3") + b"abc",
        head(b"POST / HTTP/1.1", b"Content-Length: +3") + b"abc",
        head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"abc",
        head(b"POST / HTTP/1.1", b"Content_Length: 3") + b"abc",
        head(b"frob / HTTP/1.1", b"Content-Length: 3") + b"abc",
        head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head(b"CONNECT a:1 HTTP/1.1", b"Content-Length: 3", host=b"Host: a:1") + b"abc",
    ],
)
def test_what_is_refused_or_not_sized_is_not_taken_with_a_body(received: bytes):
    assert take(received) == received


def test_a_head_that_is_too_long_is_not_taken_with_its_body():
    assert take(POSTED + BODY, max_bytes=len(POSTED) - 1) == POSTED + BODY


@pytest.mark.parametrize(
    "line", [b"Connection: close, b", b"Expect: 100-continue", b"TE: trailers", b"Connection: upgrade\r\nUpgrade: a"]
)
def test_a_request_that_asks_for_more_is_whole_without_being_ordinary(line: bytes):
    took = take(head(b"POST / HTTP/1.1", b"Content-Length: 3", line) + b"abc")
    assert (took.payload, took.ordinary, took.upgrade) == (b"abc", False, ())


@pytest.mark.parametrize(
    ("path", "as_sent"), [(b"/a/b", True), (b"/%2F", True), (b"/%2f", False), (b"/./", False), (b"/|", False)]
)
def test_a_path_may_have_been_sent_in_its_normal_form(path: bytes, as_sent: bool):
    assert parse_request(head(b"GET " + path + b"?/./ HTTP/1.1")).path_as_sent is as_sent


@pytest.mark.parametrize("length", [0, 1, 5, 10, 11])
def test_what_was_read_is_taken_out_of_the_buffer_and_no_byte_more(length: int):
    buffer = memoryview(bytearray(b"0123456789"))
    assert leading_bytes(buffer, length) == b"0123456789"[:length]
    assert leading_bytes(buffer[2:8], length) == b"234567"[:length]


def test_all_values_of_a_field_are_told_in_order():
    request = parse_request(
        head(b"GET / HTTP/1.1", b"X-Key: a", b"x-keys: b", b"X-KEY:c \t", b"X_Key: d", b"Via: 1.1 a", b"via: 1.1 b")
    )
    for _ in ("unparsed", "parsed"):
        assert request.values(b"x-key") == [b"a", b"c"]
        assert request.values(b"via") == [b"1.1 a", b"1.1 b"]
        assert request.values(b"x-other") == []
        request.fields()
    named = parse_request(head(b"GET / HTTP/1.1", b"Connection: x-key", b"X-Key: a"))
    assert named.values(b"x-key") == []


def test_requests_with_too_many_fields_are_not_taken():
    for fields in range(1, 5):
        raw = head(b"GET / HTTP/1.1", *[b"A: b"] * (fields - 1))
        for most in range(6):
            assert isinstance(take(raw, most=most), bytes) is (most < fields)


def test_lines_of_known_fields_may_be_many_and_a_head_long():
    """More lines and bytes than usual heads have are read like those."""
    request = parse_request(head(b"GET / HTTP/1.1", *[b"Via: a"] * 90, b"A: " + b"b" * 70_000, b"Via: c"))
    assert request.values(b"via") == [b"a"] * 90 + [b"c"]
    assert request.first(b"a") == b"b" * 70_000


@for_each(
    ("raw", "host", "raw_path", "query"),
    [
        (head(b"GET http://A.b?c HTTP/1.1", host=b"Host: A.b:"), b"a.b", b"/", b"c"),
        (head(b"OPTIONS http://A.b HTTP/1.1", host=b"Host: a.B"), b"a.b", b"*", None),
        (head(b"POST /a?b HTTP/1.1", b"Content-Length: 3", host=b"Host: A.b.:80"), b"a.b", b"/a", b"b"),
    ],
)
def test_pieces_that_were_not_received_like_that_do_not_get_into_the_message(raw, host, raw_path, query):
    """A host in lower case, and a path that an absolute-form target does not have."""
    body = b"abc" if b"Content-Length" in raw else b""
    for judged in (parse_request(raw), take(raw + body)):
        assert (judged.raw, judged.host, judged.raw_path, judged.query) == (raw, host, raw_path, query)
        assert judged.authority.startswith(host)
        assert judged.host_as_sent.lower() == judged.authority
    assert judged.payload == body
    judged.drop_payload()
    assert (judged.raw, judged.host, judged.raw_path, judged.payload) == (raw, host, raw_path, None)


@for_each(
    ("lines", "accepts_trailers", "ordinary"),
    [
        ((b"te: trailers",), True, True),
        ((b"te: Trailers",), True, True),
        ((b"te: gzip",), False, False),
        ((b"te: trailers, gzip",), True, True),
        ((b"te: trailers", b"te: trailers"), True, True),
        ((b"te: trailers", b"expect: 100-continue"), True, False),
        ((b"te:",), False, False),
        ((b"content-length: 3",), False, True),
        ((b"transfer-encoding: chunked",), False, True),
    ],
)
def test_a_request_that_came_by_http2(lines, accepts_trailers, ordinary):
    """Calls of gRPC all have `te: trailers`."""
    raw = head(b"POST /a HTTP/1.1", *lines)
    request = read_http2_request(raw, 100, b"abc")
    has_body = b"content-length: 3" in lines or b"transfer-encoding: chunked" in lines
    assert (request.version, request.accepts_trailers, request.ordinary) == (20, accepts_trailers, ordinary)
    assert (request.payload, request.raw) == (b"abc" if has_body else b"", raw)
    waiting = read_http2_request(raw, 100, None)
    assert (waiting.payload, waiting.whole, waiting.ordinary) == (None, False, False)


@for_each("name", sorted(RequestHead.KNOWN | {b"authorization", b"origin", b"x" * 40}))
def test_names_are_known_in_whatever_case_and_none_that_only_seems_to_be_in_another(name: bytes):
    """A control, too, becomes a hyphen or a digit by the bit that makes letters small."""
    spellings = [name, name.upper(), name.title()]
    spellings += [name[:at] + bytes([name[at] ^ 0x20]) + name[at + 1 :] for at in range(len(name))]
    for spelling in spellings:
        try:
            request = read_request(head(b"GET / HTTP/1.0", spelling + b": 3", host=None), 100)
        except Malformed:
            continue
        assert request.first(name) == (b"3" if spelling.lower() == name else None)
        assert request.values(spelling.lower()) == [b"3"]


@for_each("size", range(70))
def test_what_stands_at_the_edges_of_what_is_read_at_once(size: int):
    """Values of every length, with every kind of end: bytes are looked at by sixteens."""
    for odd in (b"", b"\t", b"\x80", b" ", b"\x00", b"\x7f", b"\x1f", b"\r", b"\n"):
        for at in (0, size // 2, size):
            value = b"b" * at + odd + b"b" * (size - at)
            raw = head(b"GET / HTTP/1.1", b"A:" + value)
            if odd in (b"", b"\t", b"\x80", b" "):
                assert parse_request(raw).values(b"a") == [value.strip(b" \t")]
            else:
                with pytest.raises(Malformed):
                    parse_request(raw)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"b" * 13, b"\r\n\r\n", b"\r\r\n"]), max_size=20).map(
        b"".join
    ),
    st.integers(0, 60),
    st.integers(0, 60),
)
@example(b"\r\n\r\n", 4, 0)
@example(b"\r\n\r\r\n\r\n" + b"\r\n" * 20, 0, 0)
def test_where_heads_end(raw: bytes, start: int, begin: int):
    """Behind the first empty line; a bare LF is refused where none has come."""
    at = raw.find(b"\r\n\r\n", max(begin, start - 3))
    for received in (raw, bytearray(raw)):
        if at < 0 and re.compile(rb"\n(?<!\r\n)").search(raw, max(begin, start)):
            with pytest.raises(Malformed, match="bare LF"):
                find_head_end(received, start, begin)
        else:
            assert find_head_end(received, start, begin) == (at + 4 if at >= 0 else -1)
