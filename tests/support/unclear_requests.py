"""Requests of HTTP/1.1 that have no meaning, or two, and the faults that they may be answered with.

`$HOST` stands for a host that has a route, so that nothing but the defect in view can be the reason.
"""

from __future__ import annotations

import pytest

BAD = "bad_request"
VERSION = "version_not_supported"
METHOD = "method_not_allowed"
UNKNOWN = "not_implemented"  # a coding or a method

# name -> (what is sent, the faults that it may be answered with)
REQUEST_LINES = {
    # RFC 9112 section 3: method SP request-target SP HTTP-version CRLF, and nothing else
    "http 0.9": (b"GET /\r\n\r\n", BAD),
    "no target": (b"GET HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "no method": (b" / HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "two spaces before the target": (b"GET  / HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a space behind the version": (b"GET / HTTP/1.1 \r\nHost: $HOST\r\n\r\n", BAD),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: $HOST\r\n\r\n", (BAD, UNKNOWN)),
    "a method that nobody knows": (b"foo / HTTP/1.1\r\nHost: $HOST\r\n\r\n", (BAD, UNKNOWN)),
    "NUL in the method": (b"G\x00T / HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "LF first": (b"\nGET / HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "LF at its end": (b"GET / HTTP/1.1\nHost: $HOST\r\n\r\n", BAD),
    "CR in it": (b"GET / HTTP/1.1\rX: y\r\nHost: $HOST\r\n\r\n", BAD),
    # RFC 9112 section 2.3: HTTP-name "/" DIGIT "." DIGIT; section 15.6.6 of RFC 9110 for what we do not speak
    "version 0.9": (b"GET / HTTP/0.9\r\nHost: $HOST\r\n\r\n", VERSION),
    "version 1.2": (b"GET / HTTP/1.2\r\nHost: $HOST\r\n\r\n", VERSION),
    "version 2.0": (b"GET / HTTP/2.0\r\nHost: $HOST\r\n\r\n", VERSION),
    "version 3.0": (b"GET / HTTP/3.0\r\nHost: $HOST\r\n\r\n", VERSION),
    "version 1.10": (b"GET / HTTP/1.10\r\nHost: $HOST\r\n\r\n", (BAD, VERSION)),
    "version 1": (b"GET / HTTP/1\r\nHost: $HOST\r\n\r\n", (BAD, VERSION)),
    "version 01.1": (b"GET / HTTP/01.1\r\nHost: $HOST\r\n\r\n", (BAD, VERSION)),
    "a version in small letters": (b"GET / http/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "another protocol": (b"GET / ICE/1.0\r\nHost: $HOST\r\n\r\n", BAD),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (BAD, VERSION)),
}

TARGETS = {
    # RFC 9112 section 3.2
    "no slash": (b"GET a HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a fragment behind a query": (b"GET /a?b#c HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "asterisk with GET": (b"GET * HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "asterisk and more": (b"OPTIONS *a HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "authority-form with GET": (b"GET $HOST:80 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a byte above 0x7f": (b"GET /caf\xe9 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "UTF-8": (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a byte above 0x7f in the query": (b"GET /?caf\xe9 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "NUL": (b"GET /\x00 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "a control": (b"GET /\x01 HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "DEL": (b"GET /\x7f HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "absolute-form without Host": (b"GET http://$HOST/ HTTP/1.1\r\n\r\n", BAD),
    "absolute-form unlike Host": (b"GET http://$HOST/ HTTP/1.1\r\nHost: other.test\r\n\r\n", BAD),
    "absolute-form with another port": (b"GET http://$HOST:81/ HTTP/1.1\r\nHost: $HOST:82\r\n\r\n", BAD),
    "absolute-form with userinfo": (b"GET http://u:p@$HOST/ HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "absolute-form of another scheme": (b"GET ftp://$HOST/ HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "absolute-form without a host": (b"GET http:/// HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "absolute-form with a port only": (b"GET http://:80/ HTTP/1.1\r\nHost: $HOST\r\n\r\n", BAD),
    "absolute-form with a bad port": (b"GET http://$HOST:8x/ HTTP/1.1\r\nHost: $HOST:8x\r\n\r\n", BAD),
    "absolute-form with a huge port": (b"GET http://$HOST:99999/ HTTP/1.1\r\nHost: $HOST:99999\r\n\r\n", BAD),
}

HOSTS = {
    # RFC 9112 section 3.2 and RFC 3986 section 3.2.2
    "missing": (b"GET / HTTP/1.1\r\n\r\n", BAD),
    "empty": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", BAD),
    "white": (b"GET / HTTP/1.1\r\nHost:  \t \r\n\r\n", BAD),
    "repeated alike": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nHost: $HOST\r\n\r\n", BAD),
    "repeated unlike": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nhost: other.test\r\n\r\n", BAD),
    "repeated at the end": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\r\nHOST: $HOST\r\n\r\n", BAD),
    "a list": (b"GET / HTTP/1.1\r\nHost: $HOST, $HOST\r\n\r\n", BAD),
    "a space in it": (b"GET / HTTP/1.1\r\nHost: $HOST other.test\r\n\r\n", BAD),
    "userinfo": (b"GET / HTTP/1.1\r\nHost: user@$HOST\r\n\r\n", BAD),
    "a scheme": (b"GET / HTTP/1.1\r\nHost: http://$HOST\r\n\r\n", BAD),
    "a path": (b"GET / HTTP/1.1\r\nHost: $HOST/a\r\n\r\n", BAD),
    "a query": (b"GET / HTTP/1.1\r\nHost: $HOST?a\r\n\r\n", BAD),
    "a fragment": (b"GET / HTTP/1.1\r\nHost: $HOST#a\r\n\r\n", BAD),
    "a backslash": (b"GET / HTTP/1.1\r\nHost: $HOST\\a\r\n\r\n", BAD),
    "a bad port": (b"GET / HTTP/1.1\r\nHost: $HOST:http\r\n\r\n", BAD),
    "a signed port": (b"GET / HTTP/1.1\r\nHost: $HOST:+80\r\n\r\n", BAD),
    "a huge port": (b"GET / HTTP/1.1\r\nHost: $HOST:65536\r\n\r\n", BAD),
    "two ports": (b"GET / HTTP/1.1\r\nHost: $HOST:80:80\r\n\r\n", BAD),
    "a port only": (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", BAD),
    "IPv6 without an end": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", BAD),
    "IPv6 that is none": (b"GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n", BAD),
    "IPv6 without brackets": (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", BAD),
    "IPv6 and more": (b"GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", BAD),
    "a byte above 0x7f": (b"GET / HTTP/1.1\r\nHost: caf\xe9.test\r\n\r\n", BAD),
    "a bracket": (b"GET / HTTP/1.1\r\nHost: <$HOST>\r\n\r\n", BAD),
    "a bad escape": (b"GET / HTTP/1.1\r\nHost: %zz.test\r\n\r\n", BAD),
}

FIELDS = {
    # RFC 9112 section 5
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A : b\r\n\r\n", BAD),
    "a tab before the colon": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A\t: b\r\n\r\n", BAD),
    "no colon": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A\r\n\r\n", BAD),
    "no name": (b"GET / HTTP/1.1\r\nHost: $HOST\r\n: b\r\n\r\n", BAD),
    "a space in the name": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX A: b\r\n\r\n", BAD),
    "a name that is no token": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX(A): b\r\n\r\n", BAD),
    "a name above 0x7f": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-\xe9: b\r\n\r\n", BAD),
    "white space before the first field": (b"GET / HTTP/1.1\r\n Host: $HOST\r\n\r\n", BAD),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\r\n c\r\n\r\n", BAD),
    "a line folded with a tab": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\r\n\tc\r\n\r\n", BAD),
    "LF as a line's end": (b"GET / HTTP/1.1\r\nHost: $HOST\nX-A: b\r\n\r\n", BAD),
    "LF as the head's end": (b"GET / HTTP/1.1\r\nHost: $HOST\r\n\n", BAD),
    "CR in a value": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\rc\r\n\r\n", BAD),
    "CR CR LF": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\r\r\n\r\n", BAD),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\x00c\r\n\r\n", BAD),
    "a control in a value": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\x01c\r\n\r\n", BAD),
    "DEL in a value": (b"GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: b\x7fc\r\n\r\n", BAD),
}


def posted(*fields: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: $HOST\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


FRAMING = {
    # RFC 9112 section 6: one way to tell the body's end, or none
    "length and chunked": (posted(b"Content-Length: 3", b"Transfer-Encoding: chunked"), BAD),
    "chunked and length": (posted(b"Transfer-Encoding: chunked", b"Content-Length: 3"), BAD),
    "length zero and chunked": (posted(b"Content-Length: 0", b"Transfer-Encoding: chunked"), BAD),
    "length repeated alike": (posted(b"Content-Length: 3", b"Content-Length: 3"), BAD),
    "length repeated unlike": (posted(b"Content-Length: 3", b"content-length: 4"), BAD),
    "a list of lengths": (posted(b"Content-Length: 3, 3"), BAD),
    "a positive length": (posted(b"Content-Length: +3"), BAD),
    "a negative length": (posted(b"Content-Length: -3"), BAD),
    "a length in hex": (posted(b"Content-Length: 0x3"), BAD),
    "a length with a space": (posted(b"Content-Length: 3 3"), BAD),
    "a length with a fraction": (posted(b"Content-Length: 3.0"), BAD),
    "a length with an underscore": (posted(b"Content-Length: 1_0"), BAD),
    "an empty length": (posted(b"Content-Length:"), BAD),
    "a length of many digits": (posted(b"Content-Length: 99999999999999999999"), (BAD, "body_too_large")),
    "a length of 2^64 and 3": (posted(b"Content-Length: 18446744073709551619"), (BAD, "body_too_large")),
    "space before the colon of the length": (posted(b"Content-Length : 3"), BAD),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n", BAD),
    "gzip": (posted(b"Transfer-Encoding: gzip"), (BAD, UNKNOWN)),
    "gzip, chunked": (posted(b"Transfer-Encoding: gzip, chunked"), UNKNOWN),
    "gzip and chunked in two lines": (posted(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"), UNKNOWN),
    "chunked, gzip": (posted(b"Transfer-Encoding: chunked, gzip"), (BAD, UNKNOWN)),
    "chunked twice": (posted(b"Transfer-Encoding: chunked, chunked"), BAD),
    "chunked in two lines": (posted(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), BAD),
    "an empty member": (posted(b"Transfer-Encoding: , chunked"), BAD),
    "an empty member behind": (posted(b"Transfer-Encoding: chunked,"), BAD),
    "an empty coding": (posted(b"Transfer-Encoding:"), BAD),
    "identity": (posted(b"Transfer-Encoding: identity"), (BAD, UNKNOWN)),
    "chunked, identity": (posted(b"Transfer-Encoding: chunked, identity"), (BAD, UNKNOWN)),
    "xchunked": (posted(b"Transfer-Encoding: xchunked"), (BAD, UNKNOWN)),
    "chunked in quotes": (posted(b'Transfer-Encoding: "chunked"'), (BAD, UNKNOWN)),
    "chunked with a parameter": (posted(b"Transfer-Encoding: chunked;a=b"), (BAD, UNKNOWN)),
    "vertical tab before chunked": (posted(b"Transfer-Encoding: \x0bchunked"), BAD),
}

TABLES = {"line": REQUEST_LINES, "target": TARGETS, "host": HOSTS, "field": FIELDS, "framing": FRAMING}
CASES = [
    pytest.param(request, (faults,) if isinstance(faults, str) else faults, id=f"{table}: {name}")
    for table, rows in TABLES.items()
    for name, (request, faults) in rows.items()
]
"""Parameters of a test: a request and the names of its faults."""

# Chunked bodies: the head is well, so the upstream may have it; it never gets an end of the body.
CHUNKS = {
    # RFC 9112 section 7.1
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "not hex": b"g\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "a positive size": b"+3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size above 2^64": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "two hundred zeros": b"0" * 200 + b"3\r\nabc\r\n0\r\n\r\n",
    "LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "CR behind the size": b"3\rabc\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nbc\r\nabc\r\n0\r\n\r\n",
    "CR in an extension": b"3;a\rbc\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "a byte behind the data": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "a long extension": b"3;" + b"a" * 65_536 + b"\r\nabc\r\n0\r\n\r\n",
    "LF at the end": b"3\r\nabc\r\n0\n\n",
    # RFC 9112 section 7.1.2, RFC 9110 section 6.5.1
    "a folded trailer": b"3\r\nabc\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    "a trailer with a space before its colon": b"3\r\nabc\r\n0\r\nX-A : b\r\n\r\n",
    "a trailer that is no field": b"3\r\nabc\r\n0\r\nabc\r\n\r\n",
    "LF behind a trailer": b"3\r\nabc\r\n0\r\nX-A: b\n\r\n",
    "NUL in a trailer": b"3\r\nabc\r\n0\r\nX-A: b\x00\r\n\r\n",
    "huge trailers": b"3\r\nabc\r\n0\r\n" + b"X-A: bcdefgh\r\n" * 8_000 + b"\r\n",
    "a trailer that frames": b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    "a trailer that frames anew": b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer that routes": b"3\r\nabc\r\n0\r\nHost: other.test\r\n\r\n",
    "a trailer that authenticates": b"3\r\nabc\r\n0\r\nAuthorization: Bearer a\r\n\r\n",
    "a trailer that forwards": b"3\r\nabc\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
}
