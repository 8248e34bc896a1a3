"""size: a body of just so many bytes passes, one byte more does not."""

import pytest

from tests.support.memory import Plane
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SIZE = {"filters": {"size": {"body": 10}}}


@pytest.mark.parametrize(("length", "passes"), [(0, True), (10, True), (11, False), (10**17, False)])
def test_a_declared_length_is_judged_before_anything_is_sent(length: int, passes: bool) -> None:
    plane = Plane(SIZE)
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % length)
    assert bool(plane.pool.waiting) is passes
    if not passes:
        assert client.received.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in client.received
        plane.assert_quiet()


@for_each("size", [9, 10, 11])
@for_each("cut", range(0, 24, 4))
def test_chunks_are_counted_wherever_they_are_cut(size: int, cut: int) -> None:
    plane = Plane(SIZE)
    client = plane.client()
    body = b"5\r\n" + b"x" * 5 + b"\r\n%x\r\n" % (size - 5) + b"x" * (size - 5) + b"\r\n0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    client.sends(head + body[:cut])
    if plane.pool.waiting:
        plane.connects()
    client.sends(body[cut:])
    if size > 10:
        assert client.received.startswith(b"HTTP/1.1 413 ")
        assert [record.fault for record in plane.records] == ["body_too_large"]
        return
    if plane.pool.waiting:
        plane.connects()
    (connection,) = plane.pool.open
    wire = connection.transport
    wire.sends(OK)  # type: ignore[attr-defined]
    assert client.received.endswith(b"ok")
    assert wire.received.count(b"x") == size  # type: ignore[attr-defined]


def test_the_gateways_own_limit_holds_before_any_filter() -> None:
    """`limits.body_bytes`: for every request, route or not."""
    plane = Plane({"limits": {"body_bytes": 10}, "routes": []})
    for framing in (b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\nxxxxxxxxxxx\r\n0\r\n\r\n"):
        client = plane.client()
        client.sends(b"POST / HTTP/1.1\r\n" + HOST + framing)
        assert client.received.startswith(b"HTTP/1.1 413 ")
    plane.assert_quiet()
