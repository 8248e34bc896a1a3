"""A request that is made here goes over the wire as one with the same meaning that came from a client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http1 import serializer
from fastgw.http.http1.made_request import build_request
from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

NAMES = st.sampled_from([b"Accept", b"X-A", b"x-request-id", b"Cookie", b"Via", b"X-Forwarded-For", b"Trailer"])
VALUES = st.binary(max_size=12).map(lambda text: bytes(byte for byte in text if 0x21 <= byte <= 0x7E))
PIECES = st.text("abc%/~.-_0", max_size=8).map(str.encode)


@given(
    method=st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PURGE"]),
    path=st.text("ab/~-_0", max_size=8).map(lambda text: b"/" + text.encode()),
    query=st.none() | st.text("ab=&0", max_size=8).map(str.encode),
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=5),
    length=st.sampled_from([0, 1, 7, None]),
    dropped=st.sets(st.sampled_from([b"x-a", b"cookie", b"x-absent"])).map(frozenset),
    added=st.sampled_from([b"", b"X-Added: 1\r\n"]),
)
def test_it_is_sent_as_one_that_came_is(method, path, query, fields, length, dropped, added) -> None:
    target = path if query is None else path + b"?" + query
    built = build_request(method, b"A.test:81", target, fields, length)
    lines = b"".join(b"%b: %b\r\n" % line for line in fields)
    framing = b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % (length or 0)
    if length == 0 and not built.sized:
        framing = b""
    came = parse_request(b"%b %b HTTP/1.1\r\nHost: A.test:81\r\n%b%b\r\n" % (method, target, lines, framing))
    assert serializer.request(built, None, b"b", dropped, added) == serializer.request(came, None, b"b", dropped, added)
    for name in ("method", "scheme", "authority", "host", "host_as_sent", "request_target", "raw_path", "path", "query",
                 "path_as_sent", "body_length", "sized", "version", "expects_continue", "upgrade"):  # fmt: skip
        assert getattr(built, name) == getattr(came, name), name
    for name in (b"accept", b"x-a", b"cookie", b"via"):
        assert built.first(name) == came.first(name)
        assert built.values(name) == came.values(name)
    assert list(built.received_fields()) == list(came.received_fields())
    assert built.made
    assert not came.made


def test_what_a_filter_changes_is_sent_and_what_was_given_is_remembered() -> None:
    head = build_request(b"GET", b"a", b"/", [(b"Via", b"1.1 x"), (b"X-Api_Key", b"k")])
    head.fields().set(b"Via", b"2 y")
    assert head.first(b"via") == b"2 y"
    assert head.received_values(b"via") == [b"1.1 x"]
    assert head.received_names() == {b"Host", b"Via", b"X-Api_Key"}
    assert serializer.request(head, None, b"b") == (
        b"GET / HTTP/1.1\r\nHost: b\r\nVia: 2 y\r\nX-Api_Key: k\r\nVia: 1.1 fastgw\r\n\r\n"
    )


@for_each(
    ("method", "authority", "target", "name"),
    [
        (b"GE T", b"a", b"/", b"A"),
        (b"GET", b"a b", b"/", b"A"),
        (b"GET", b"a", b"/ HTTP/1.1\r\n", b"A"),
        (b"GET", b"a", b"/ HTTP/1.1\r\nX: y", b"A"),
        (b"GET", b"a\r\nX: y", b"/", b"A"),
        (b"GET", b" a", b"/", b"A"),
        (b"GET / HTTP/1.1\r\nX: y", b"a", b"/", b"A"),
        (b"GET", b"a", b"", b"A"),
        (b"GET", b"a", b"/%00", b"A"),
        (b"GET", b"a", b"/", b"A\r\nB"),
        (b"GET", b"a", b"/", b"Host"),
        (b"GET", b"a", b"/", b"content-length"),
        (b"GET", b"a", b"/", b"Transfer-Encoding"),
    ],
)
def test_what_no_request_may_be_is_refused(method: bytes, authority: bytes, target: bytes, name: bytes) -> None:
    with pytest.raises((Malformed, ValueError)):
        build_request(method, authority, target, [(name, b"1")])
