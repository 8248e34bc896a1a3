"""When an upstream connection serves again, in orders of events that a network brings rarely."""

import pytest

from tests.support.memory import Plane

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nok"


def test_an_exchange_leaves_nothing_behind() -> None:
    """The simplest way through, and the connection is kept for the next."""
    plane = Plane()
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    assert upstream.received.startswith(b"GET / HTTP/1.1\r\nHost: a.test\r\n")
    upstream.sends(OK)
    assert client.received.endswith(b"\r\n\r\nok")
    plane.assert_quiet()
    client.sends(GET)
    assert upstream.received.count(b"GET / ") == 2


def test_a_connection_that_a_slow_client_held_back_reads_again_when_it_is_lent_anew() -> None:
    """The client's brake is on when the last byte comes: it is for that response, not for the connection."""
    plane = Plane()
    slow, other = plane.client(), plane.client()
    slow.sends(GET)
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    slow.takes(room=1)
    upstream.sends(b"def")
    assert not slow.received.endswith(b"def")
    other.sends(GET)
    assert upstream.reading
    upstream.sends(OK)
    assert other.received.endswith(b"ok")
    slow.takes()
    assert slow.received.endswith(b"abcdef")
    plane.assert_quiet()


@pytest.mark.parametrize(
    ("request_bytes", "idle_s", "reuses"),
    [(POST, 0.9, True), (POST, 1.1, False), (GET, 1.1, True)],
    ids=["POST, just used", "POST, idle for longer", "GET, idle for longer"],
)
def test_what_must_not_be_lost_is_not_put_on_a_connection_long_idle(
    request_bytes: bytes, idle_s: float, reuses: bool
) -> None:
    """A POST takes a fresh connection; that it passed an old one over does not make that one young."""
    plane = Plane()
    first, second, third = (plane.client() for _ in range(3))
    first.sends(GET)
    old = plane.connects()
    old.sends(OK)
    plane.passes(idle_s)
    second.sends(request_bytes)
    if reuses:
        assert old.received.count(b" / HTTP/1.1\r\n") == 2
        return
    fresh = plane.connects()
    third.sends(request_bytes)
    fresher = plane.connects()
    assert [each.received.count(b"POST / HTTP/1.1\r\n") for each in (old, fresh, fresher)] == [0, 1, 1]
