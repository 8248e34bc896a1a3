"""The requirements for a request that is sent over HTTP/2, whatever it was made from (RFC 9113 sections 8.1 to 8.3)."""

from __future__ import annotations

import re

from tests.support.http2_peer import Fields, Http2Message

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
AUTHORITY = re.compile(rb"[0-9A-Za-z.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*|\*")
OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
NOT_IN_TRAILERS = OF_HTTP1 | {b"content-length", b"host", b"te", b"authorization", b"cookie", b"trailer"}


def assert_well_formed(request: Http2Message) -> None:
    """Assert what RFC 9113 demands of a request's fields, body and trailers, and that no URL hides another one."""
    names = [name for name, _ in request.fields]
    count = sum(name.startswith(b":") for name in names)
    pseudo = dict(request.fields[:count])
    assert all(name.startswith(b":") for name in names[:count]), request.fields  # in front of all others
    assert len(pseudo) == count, request.fields  # each once
    assert {b":method", b":scheme", b":path"} <= set(pseudo) <= {b":method", b":scheme", b":path", b":authority"}
    assert TOKEN.fullmatch(pseudo[b":method"].lower())
    assert pseudo[b":scheme"] == b"http"
    assert TARGET.fullmatch(pseudo[b":path"])
    assert AUTHORITY.fullmatch(pseudo.get(b":authority", b"none"))
    ordinary = request.fields[count:]
    _assert_fields(ordinary)
    assert not OF_HTTP1.union({b"host"}).intersection(names), request.fields
    assert all(value == b"trailers" for name, value in ordinary if name == b"te"), request.fields
    lengths = [int(value) for name, value in ordinary if name == b"content-length"]
    assert len(lengths) <= 1, request.fields
    if request.ended:
        assert lengths in ([], [len(request.body)])
    _assert_fields(request.trailers)
    assert not NOT_IN_TRAILERS.intersection(name for name, _ in request.trailers), request.trailers


def _assert_fields(fields: Fields) -> None:
    for name, value in fields:
        assert TOKEN.fullmatch(name), fields
        assert VALUE.fullmatch(value), fields
