"""Cases of header blocks: HPACK, names, values, pseudo-headers, lengths, trailers, and request smuggling into
HTTP/1.1.
"""

from __future__ import annotations

from typing import Final

from tests.support.http2.case import COMPRESSION, MALFORMED, SERVED, Case, Right, refused, stream_error, unique
from tests.support.http2.frames import (
    Code,
    Field,
    added,
    block,
    continuation,
    data,
    get,
    headers,
    indexed,
    integer,
    literal,
    never_indexed,
    post,
    pseudo,
    string,
    table_size,
)

GET: Final = block(*pseudo())
OK: Final = b"x"
TOO_LARGE: Final = refused(431)


def huffman(text: bytes) -> bytes:
    """Return a string literal with the Huffman flag set (RFC 7541 section 5.2)."""
    return integer(len(text), 7, 0x80) + text


def with_field(name: bytes, value: bytes) -> bytes:
    return get((name, value))


def asked(
    method: bytes | None = b"GET",
    path: bytes | None = b"/",
    authority: bytes | None = b"a.test",
    scheme: bytes | None = b"http",
    *fields: Field,
) -> bytes:
    return headers(block(*pseudo(method, path, authority, scheme), *fields))


def length(value: bytes, body: bytes | None = None, *more: Field) -> bytes:
    sent = post((b"content-length", value), *more, end=body is None)
    return sent if body is None else sent + data(body)


def trailers(*fields: Field, end: bool = True) -> bytes:
    return post() + data(b"body", end=False) + headers(block(*fields), end=end)


# A string of 'a's in Huffman code: 00011 each.
EIGHT_A: Final = bytes.fromhex("18c6318c63")

HPACK: Final = [
    Case("index-0", "7541 6.1", headers(GET + b"\x80"), COMPRESSION),
    Case("index-62-empty-table", "7541 2.3.3", headers(GET + indexed(62)), COMPRESSION),
    Case("index-beyond", "7541 2.3.3", headers(GET + added(b"x-a", b"1") + indexed(63)), COMPRESSION),
    Case("index-huge", "7541 5.1", headers(GET + b"\xff\xff\xff\xff\xff\x0f"), COMPRESSION),
    Case("index-overflow", "7541 5.1", headers(GET + b"\xff" + b"\xff" * 12 + b"\x01"), COMPRESSION),
    Case("index-without-end", "7541 5.1", headers(GET + b"\xff\x80\x80"), COMPRESSION),
    Case("name-index-beyond", "7541 6.2.1", headers(GET + integer(70, 6, 0x40) + string(b"x")), COMPRESSION),
    Case("literal-name-cut", "7541 5.2", headers(GET + b"\x00\x05ab"), COMPRESSION),
    Case("literal-value-cut", "7541 5.2", headers(GET + b"\x00\x01a\x05ab"), COMPRESSION),
    Case("literal-value-missing", "7541 5.2", headers(GET + b"\x00\x01a"), COMPRESSION),
    Case("literal-length-huge", "7541 5.2", headers(GET + b"\x00\x7f\xff\xff\xff\x7f"), COMPRESSION),
    Case("literal-length-1-mib", "7541 5.2", headers(GET + b"\x00\x01a" + integer(1 << 20, 7) + b"b"), COMPRESSION),
    Case("huffman-eos", "7541 5.2", headers(GET + b"\x00\x01a" + huffman(b"\xff\xff\xff\xff")), COMPRESSION),
    Case("huffman-eos-inside", "7541 5.2", headers(GET + b"\x00\x01a" + huffman(b"\x1f\xff\xff\xff\xe3")), COMPRESSION),
    Case("huffman-padding-of-8", "7541 5.2", headers(GET + b"\x00\x01a" + huffman(EIGHT_A + b"\xff")), COMPRESSION),
    Case("huffman-padding-of-zeros", "7541 5.2", headers(GET + b"\x00\x01a" + huffman(b"\x18")), COMPRESSION),
    Case("huffman-cut", "7541 5.2", headers(GET + b"\x00\x01a" + huffman(b"\xff\xff")), COMPRESSION),
    Case("table-size-above-setting", "7541 4.2", headers(table_size(4097) + GET), COMPRESSION),
    Case("table-size-huge", "7541 4.2", headers(b"\x3f\xff\xff\xff\xff\x07" + GET), COMPRESSION),
    Case("table-size-behind-a-field", "7541 4.2", headers(GET + table_size(0)), COMPRESSION),
    Case("table-size-in-the-midst", "7541 4.2", headers(GET[:13] + table_size(0) + GET[13:]), COMPRESSION),
    Case(
        "evicted-by-a-large-entry",
        "7541 4.4",
        headers(GET + added(b"x-a", b"1") + added(b"x-b", bytes(99) * 50) + indexed(62)),
        COMPRESSION,
    ),
    Case(
        "evicted-by-size-0",
        "7541 4.3",
        headers(GET + added(b"x-a", b"1")) + headers(table_size(0) + GET + indexed(62), 3),
        COMPRESSION,
    ),
    Case("trailers-index-beyond", "7541 2.3.3", post() + headers(indexed(99)), COMPRESSION),
    Case("block-on-idle-then-bad", "7541 2.3.3", headers(indexed(99), 9), COMPRESSION, 9),
    Case("block-cut-by-end-headers", "9113 4.3", headers(GET + b"\x40"), COMPRESSION),
]

TABLE: Final = [
    Case("table-size-0-and-back", "7541 4.2", headers(table_size(0) + table_size(4096) + GET), SERVED),
    Case("never-indexed", "7541 6.2.3", headers(GET + never_indexed(b"authorization", b"x")), SERVED),
    Case(
        "integer-with-zeros",
        "7541 5.1",
        headers(GET + b"\x00\x7f\x82\x00" + b"a" * 129 + b"\x01b"),
        SERVED | COMPRESSION,
    ),
    Case(
        "huffman-value",
        "7541 5.2",
        headers(GET + b"\x00\x03x-a" + huffman(EIGHT_A)),
        SERVED,
        seen=(b"GET /", b"", {b"x-a": b"a" * 8}),
    ),
    Case(
        "table-over-requests", "7541 2.2", headers(GET + added(b"x-a", b"1")) + headers(GET + indexed(62), 3), SERVED, 3
    ),
    Case(
        "table-after-malformed",
        "9113 4.3",
        headers(GET + added(b"x-a", b"1") + literal(b"X", b"")) + headers(GET + indexed(62), 3),
        SERVED,
        3,
    ),
    Case(
        "table-after-reset",
        "9113 4.3",
        headers(GET + added(b"x-a", b"1"), end=False) + b"\0\0\4\3\0\0\0\0\1\0\0\0\x08" + headers(GET + indexed(62), 3),
        SERVED,
        3,
    ),
    Case(
        "table-after-too-large",
        "9113 10.5.1",
        headers(GET + literal(b"x", bytes(b"a" * 9000)) * 1 + added(b"x-a", b"1")) + headers(GET + indexed(62), 3),
        SERVED,
        3,
    ),
    Case(
        "table-by-trailers",
        "9113 4.3",
        post() + headers(added(b"x-t", b"1")) + headers(GET + indexed(62), 3),
        SERVED,
        3,
    ),
]

NAMES: Final = [
    Case(f"name-{told}", "9113 8.2.1", with_field(name, OK), MALFORMED)
    for told, name in {
        "upper-case": b"X-A",
        "upper-case-last": b"x-aA",
        "empty": b"",
        "space": b"x a",
        "space-first": b" xa",
        "space-last": b"xa ",
        "tab": b"x\ta",
        "colon": b"x:a",
        "colon-last": b"xa:",
        "cr": b"x\ra",
        "lf": b"x\na",
        "crlf-field": b"x: 1\r\ny",
        "nul": b"x\0a",
        "del": b"x\x7fa",
        "0x80": b"x\x80a",
        "0xff": b"x\xff",
        "bracket": b"x(a",
        "comma": b"x,a",
        "slash": b"x/a",
        "quote": b'x"a',
        "equals": b"x=a",
        "control": b"x\x01a",
        "request-line": b"get / http/1.1\r\nhost",
    }.items()
]

VALUES: Final = [
    Case(f"value-{told}", "9113 8.2.1", with_field(b"x-a", value), MALFORMED)
    for told, value in {
        "cr": b"a\rb",
        "lf": b"a\nb",
        "crlf-field": b"a\r\nx-evil: 1",
        "crlf-crlf": b"a\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
        "nul": b"a\0b",
        "nul-last": b"a\0",
        "cr-last": b"a\r",
        "lf-first": b"\na",
        "space-first": b" a",
        "space-last": b"a ",
        "tab-first": b"\ta",
        "tab-last": b"a\t",
        "space-only": b" ",
        "control": b"a\x01b",
        "escape": b"a\x1bb",
        "del": b"a\x7fb",
    }.items()
]
VALUES += [
    Case(f"value-{told}", "9110 5.5", with_field(b"x-a", value), SERVED, seen=(b"GET /", b"", {b"x-a": value}))
    for told, value in {
        "empty": b"",
        "tab-inside": b"a\tb",
        "high": b"\x80\xff",
        "colon": b":a: b",
        "all-tokens": b"!#$%&'*+-.^_`|~",
    }.items()
]
VALUES += [Case("name-of-all-token-characters", "9110 5.6.2", with_field(b"!#$%&'*+-.^`|~09az", b"1"), SERVED)]

PSEUDO: Final = [
    Case("no-method", "9113 8.3.1", asked(None), MALFORMED),
    Case("no-path", "9113 8.3.1", asked(path=None), MALFORMED),
    Case("no-scheme", "9113 8.3.1", asked(scheme=None), MALFORMED),
    Case("no-pseudo-headers", "9113 8.3.1", headers(block((b"x-a", b"1"))), MALFORMED),
    Case("no-headers-at-all", "9113 8.3.1", headers(b""), MALFORMED),
    Case("no-authority-no-host", "9113 8.3.1", asked(authority=None), MALFORMED),
    *(
        Case(f"{told}-twice", "9113 8.3", headers(GET + literal(name, value)), MALFORMED)
        for told, name, value in (
            ("method", b":method", b"GET"),
            ("path", b":path", b"/"),
            ("scheme", b":scheme", b"http"),
            ("authority", b":authority", b"a.test"),
        )
    ),
    Case(
        "path-behind-a-field",
        "9113 8.3",
        headers(block(*pseudo(path=None), (b"x-a", b"1"), (b":path", b"/"))),
        MALFORMED,
    ),
    Case(
        "authority-behind-a-field",
        "9113 8.3",
        headers(block(*pseudo(authority=None), (b"x-a", b"1"), (b":authority", b"a.test"))),
        MALFORMED,
    ),
    Case("status-in-request", "9113 8.3", with_field(b":status", b"200"), MALFORMED),
    Case("status-first-in-request", "9113 8.3", headers(literal(b":status", b"200") + GET), MALFORMED),
    Case("unknown-pseudo", "9113 8.3", headers(literal(b":evil", b"1") + GET), MALFORMED),
    Case("empty-pseudo", "9113 8.3", headers(literal(b":", b"1") + GET), MALFORMED),
    Case("pseudo-upper-case", "9113 8.2.1", headers(block((b":Method", b"GET"), *pseudo(None))), MALFORMED),
    Case("protocol-with-get", "8441 4", headers(literal(b":protocol", b"websocket") + GET), MALFORMED),
    Case(
        "connect-websocket-not-offered",
        "8441 3",
        headers(block((b":protocol", b"websocket"), *pseudo(b"CONNECT"))),
        MALFORMED | refused(405, 501),
    ),
    Case("connect", "9113 8.5", asked(b"CONNECT", None, b"a.test:443", None), MALFORMED | refused(405, 501)),
    Case("connect-with-path", "9113 8.5", asked(b"CONNECT", b"/"), MALFORMED | refused(405, 501)),
    Case("connect-without-authority", "9113 8.5", asked(b"CONNECT", None, None, None), MALFORMED | refused(405, 501)),
    Case("connect-lower-case", "9110 9.1", asked(b"connect"), MALFORMED | refused(405, 501)),
    Case("trace", "9110 9.3.8", asked(b"TRACE"), refused(405, 501)),
]
PSEUDO += [
    Case(f"method-unknown-{method.decode()}", "9110 9.1", asked(method), SERVED if method.isupper() else refused(501))
    for method in (b"FOO", b"get", b"Post", b"GETS", b"DESCRIBE")
]
PSEUDO += [
    Case(f"method-{told}", "9110 9.1", asked(method), MALFORMED | refused(405, 501))
    for told, method in {
        "empty": b"",
        "space": b"GET /evil HTTP/1.1",
        "space-last": b"GET ",
        "crlf": b"GET / HTTP/1.1\r\nHost: evil\r\n\r\nGET",
        "nul": b"GET\0",
        "tab": b"GET\t",
        "high": b"GET\x80",
        "colon": b"GE:T",
        "pri": b"PRI",
    }.items()
]
PSEUDO += [
    Case(f"path-{told}", "9113 8.3.1", asked(path=path), MALFORMED | refused(414))
    for told, path in {
        "empty": b"",
        "relative": b"evil",
        "absolute-form": b"http://evil.test/",
        "asterisk-of-get": b"*",
        "authority-form": b"a.test:80",
        "fragment": b"/a#b",
        "space": b"/a b",
        "space-and-version": b"/ HTTP/1.1",
        "crlf": b"/ HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /evil",
        "lf": b"/\nx: 1",
        "cr": b"/\rx",
        "nul": b"/\0",
        "tab": b"/\t",
        "del": b"/\x7f",
        "high": b"/\xe4",
        "space-first": b" /",
        "space-last": b"/ ",
        "bad-percent": b"/%zz",
        "encoded-nul": b"/%00",
    }.items()
]
PSEUDO += [
    Case(f"authority-{told}", "9113 8.3.1", asked(authority=authority), MALFORMED | refused(421))
    for told, authority in {
        "empty": b"",
        "userinfo": b"user@a.test",
        "userinfo-password": b"u:p@a.test",
        "path": b"a.test/evil",
        "query": b"a.test?x",
        "fragment": b"a.test#x",
        "space": b"a.test evil",
        "crlf": b"a.test\r\nx-evil: 1",
        "nul": b"a.test\0",
        "comma": b"a.test,b.test",
        "port-text": b"a.test:http",
        "port-large": b"a.test:99999",
        "port-twice": b"a.test:80:80",
        "backslash": b"a.test\\evil",
        "high": b"a\xe4.test",
        "bracket": b"[::1",
        "space-first": b" a.test",
    }.items()
]
PSEUDO += [
    Case(f"scheme-{told}", "9113 8.3.1", asked(scheme=scheme), MALFORMED | refused(421))
    for told, scheme in {
        "empty": b"",
        "ftp": b"ftp",
        "with-url": b"http://evil.test/?",
        "crlf": b"http\r\nx: 1",
        "space": b"http ",
        "nul": b"http\0",
    }.items()
]

HOSTS: Final = [
    Case("host-other", "9113 8.3.1", get((b"host", b"evil.test")), MALFORMED),
    Case("host-other-port", "9113 8.3.1", get((b"host", b"a.test:81")), MALFORMED),
    Case("host-port-of-https", "9113 8.3.1", get((b"host", b"a.test:443")), MALFORMED),
    Case("host-in-capitals", "9113 8.3.1", get((b"host", b"A.Test")), SERVED),
    Case("host-with-default-port", "9113 8.3.1", get((b"host", b"a.test:80")), SERVED),
    Case("host-empty", "9113 8.3.1", get((b"host", b"")), MALFORMED),
    Case(
        "host-twice",
        "9110 7.2",
        asked(b"GET", b"/", None, b"http", (b"host", b"a.test"), (b"host", b"a.test")),
        MALFORMED,
    ),
    Case("host-twice-other", "9110 7.2", get((b"host", b"a.test"), (b"host", b"evil.test")), MALFORMED),
    Case("host-userinfo", "9110 7.2", asked(b"GET", b"/", None, b"http", (b"host", b"u@a.test")), MALFORMED),
    Case("host-crlf", "9113 8.2.1", asked(b"GET", b"/", None, b"http", (b"host", b"a\r\nx: 1")), MALFORMED),
]

OF_HTTP1: Final = [
    Case(f"field-{told}", "9113 8.2.2", get((name, value)), MALFORMED)
    for told, name, value in (
        ("connection", b"connection", b"close"),
        ("connection-te", b"connection", b"te"),
        ("keep-alive", b"keep-alive", b"timeout=5"),
        ("proxy-connection", b"proxy-connection", b"close"),
        ("transfer-encoding", b"transfer-encoding", b"chunked"),
        ("transfer-encoding-identity", b"transfer-encoding", b"identity"),
        ("upgrade", b"upgrade", b"websocket"),
        ("upgrade-h2c", b"upgrade", b"h2c"),
        ("te-gzip", b"te", b"gzip"),
        ("te-trailers-and-more", b"te", b"trailers, gzip"),
        ("te-chunked", b"te", b"chunked"),
    )
]
OF_HTTP1 += [
    Case(
        "te-cl",
        "9113 8.2.2",
        post((b"transfer-encoding", b"chunked"), (b"content-length", b"4")) + data(b"0\r\n\r"),
        MALFORMED,
    ),
    Case(
        "te-body",
        "9113 8.2.2",
        post((b"transfer-encoding", b"chunked")) + data(b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"),
        MALFORMED,
    ),
    Case("te-by-name", "9113 8.2.1", post((b"transfer-encoding: chunked\r\nx", b"1")) + data(b"0\r\n\r\n"), MALFORMED),
    Case("te-by-value", "9113 8.2.1", post((b"x", b"1\r\ntransfer-encoding: chunked")) + data(b"0\r\n\r\n"), MALFORMED),
    Case("te-by-spaced-name", "9113 8.2.1", post((b"transfer-encoding ", b"chunked")) + data(b"0\r\n\r\n"), MALFORMED),
    Case("host-by-value", "9113 8.2.1", get((b"x", b"1\r\nhost: evil.test")), MALFORMED),
]

LENGTHS: Final = [
    Case("length-10-of-0", "9113 8.1.1", length(b"10"), MALFORMED),
    Case("length-10-of-empty-data", "9113 8.1.1", length(b"10", b""), MALFORMED),
    Case("length-5-of-4", "9113 8.1.1", length(b"5", b"body"), MALFORMED),
    Case("length-3-of-4", "9113 8.1.1", length(b"3", b"body"), MALFORMED),
    Case("length-0-of-1", "9113 8.1.1", length(b"0", b"x"), MALFORMED),
    Case(
        "length-4-of-3-and-2",
        "9113 8.1.1",
        post((b"content-length", b"4")) + data(b"abc", end=False) + data(b"de"),
        MALFORMED,
    ),
    Case("length-4-of-smuggled", "9113 8.1.1", length(b"4", b"bodyGET /evil HTTP/1.1\r\n\r\n"), MALFORMED),
    Case(
        "length-short-by-trailers",
        "9113 8.1.1",
        post((b"content-length", b"9")) + data(b"x", end=False) + headers(block((b"x-t", b"1"))),
        MALFORMED,
    ),
    *(
        Case(f"length-{told}", "9110 8.6", length(value, b"body"), MALFORMED)
        for told, value in {
            "plus": b"+4",
            "minus": b"-4",
            "list": b"4, 4",
            "list-other": b"4,5",
            "hexadecimal": b"0x4",
            "empty": b"",
            "letters": b"four",
            "fraction": b"4.0",
            "space-inside": b"4 4",
            "2-64": b"18446744073709551620",
            "2-63": b"9223372036854775812",
            "digits-of-others": "\u0664".encode(),
        }.items()
    ),
    Case("length-twice", "9110 8.6", length(b"4", b"body", (b"content-length", b"4")), MALFORMED),
    Case("length-twice-other", "9110 8.6", length(b"4", b"body", (b"content-length", b"9")), MALFORMED),
]

TRAILERS: Final = [
    Case("trailers-with-pseudo", "9113 8.1", trailers((b":path", b"/")), MALFORMED),
    Case("trailers-with-status", "9113 8.1", trailers((b":status", b"200")), MALFORMED),
    Case("trailers-upper-case", "9113 8.2.1", trailers((b"X-T", b"1")), MALFORMED),
    Case("trailers-crlf", "9113 8.2.1", trailers((b"x-t", b"1\r\nx: 1")), MALFORMED),
    Case("trailers-space-last", "9113 8.2.1", trailers((b"x-t", b"1 ")), MALFORMED),
    Case("trailers-connection", "9113 8.2.2", trailers((b"connection", b"close")), MALFORMED),
    Case("trailers-transfer-encoding", "9113 8.2.2", trailers((b"transfer-encoding", b"chunked")), MALFORMED),
    Case("trailers-content-length", "9110 6.5.1", trailers((b"content-length", b"4")), MALFORMED),
    Case("trailers-host", "9110 6.5.1", trailers((b"host", b"evil.test")), MALFORMED),
    Case("trailers-authorization", "9110 6.5.1", trailers((b"authorization", b"x")), MALFORMED),
    Case("trailers-too-large", "9113 10.5.1", trailers((b"x-t", b"a" * 9000)), MALFORMED | TOO_LARGE),
    Case("trailers-without-end", "9113 8.1", trailers((b"x-t", b"1"), end=False), stream_error(Code.PROTOCOL_ERROR)),
]

_LARGE = Right(resets=frozenset({Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR})) | TOO_LARGE
LARGE: Final = [
    Case("head-too-large", "9113 10.5.1", with_field(b"x-a", b"a" * 9000), _LARGE),
    Case("head-of-too-many-fields", "9113 10.5.1", get(*[(b"x-%d" % n, b"1") for n in range(200)]), _LARGE),
    Case("head-of-too-many-cookies", "9113 8.2.3", get(*[(b"cookie", b"a=%d" % n) for n in range(200)]), _LARGE),
    Case("path-too-long", "9110 15.5.15", asked(path=b"/" + b"a" * 9000), _LARGE | refused(414)),
    Case("authority-too-long", "9113 10.5.1", asked(authority=b"a" * 9000), _LARGE | MALFORMED),
    Case("hpack-bomb", "CVE-2016-1544", headers(GET + added(b"x", b"a" * 4000) + indexed(62) * 9000), _LARGE),
    Case("hpack-bomb-of-empty", "CVE-2016-1544", headers(GET + added(b"x", b"") + indexed(62) * 16_000), _LARGE),
    Case(
        "hpack-bomb-of-cookies",
        "CVE-2025-53020",
        headers(GET + added(b"cookie", b"") + indexed(62) * 16_000),
        _LARGE,
    ),
    Case(
        "hpack-bomb-in-continuations",
        "CVE-2016-1544",
        headers(GET + added(b"x", b"a" * 4000) + indexed(62) * 9000, whole=False)
        + continuation(indexed(62) * 16_000, whole=False)
        + continuation(indexed(62) * 16_000),
        _LARGE,
    ),
    Case(
        "hpack-bomb-in-trailers",
        "CVE-2016-1544",
        post() + headers(added(b"x", b"a" * 4000) + indexed(62) * 9000),
        _LARGE,
    ),
]

HEAD_CASES: Final = unique(HPACK + TABLE + NAMES + VALUES + PSEUDO + HOSTS + OF_HTTP1 + LENGTHS + TRAILERS + LARGE)
