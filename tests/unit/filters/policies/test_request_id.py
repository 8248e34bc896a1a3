"""request_id: one name for a request, wherever it is told."""

import pytest

from tests.support.memory import Plane
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: of-the-upstream\r\n\r\nok"


def names(message: bytes, field: bytes = b"x-request-id") -> list[bytes]:
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [value for name, _, value in (line.partition(b": ") for line in lines) if name.lower() == field]


def through(settings: dict[str, object], fields: bytes = b"") -> tuple[Plane, list[bytes], list[bytes]]:
    """What upstream and client are told."""
    plane = Plane({"filters": {"request_id": settings}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n")
    upstream = plane.connects()
    upstream.sends(OK)
    field = str(settings.get("header", "X-Request-Id")).lower().encode()
    return plane, names(upstream.received, field), names(client.received, field)


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Correlation-Id"])
def test_all_are_told_the_same_and_the_upstreams_own_is_replaced(header: str) -> None:
    plane, upstream, client = through({"header": header})
    assert len(upstream) == 1
    assert upstream == client == [plane.records[0].request_id]
    assert len(upstream[0]) == 32


@pytest.mark.parametrize("sent", [b"abc-1", b"!~", b"x" * 128])
def test_an_acceptable_name_is_kept(sent: bytes) -> None:
    _, upstream, client = through({}, b"X-Request-ID: " + sent + b"\r\n")
    assert upstream == client == [sent]


@for_each("sent", [b"", b"a b", b"x" * 129, b"caf\xc3\xa9", b"a\tb"])
@for_each("trust", [True, False])
def test_any_other_is_replaced(sent: bytes, trust: bool) -> None:
    """It goes into logs and fields, so it is visible ASCII of a length that fits there."""
    _, upstream, client = through({"trust_client": trust}, b"x-request-id: " + sent + b"\r\n")
    assert len(upstream) == len(client) == 1
    assert upstream == client != [sent]


def test_of_several_names_one_goes_on() -> None:
    """The log tells one, so the upstream is told no other."""
    plane, upstream, client = through({}, b"X-Request-Id: one\r\nX-Request-Id: two\r\n")
    assert upstream == client == [b"one"] == [plane.records[0].request_id]


@for_each("header", ["X-Correlation-Id", "X_Correlation_Id"])
@for_each("sent", [b"X_Correlation_Id", b"x-correlation_id", b"X-Correlation-Id"])
@for_each("trust", [True, False])
def test_no_second_name_goes_on_beside_it(header: str, sent: bytes, trust: bool) -> None:
    """To CGI and its heirs a name with an underscore would be the same field."""
    plane = Plane({"filters": {"request_id": {"header": header, "trust_client": trust}}})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + sent + b": theirs\r\n\r\n")
    upstream = plane.connects()
    upstream.sends(OK)
    told = [line for line in upstream.received.split(b"\r\n") if b"correlation" in line.lower()]
    assert told == [header.encode() + b": " + plane.records[0].request_id]
    kept = trust and sent.lower() == header.lower().encode()
    assert (plane.records[0].request_id == b"theirs") is kept


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Correlation-Id"])
def test_connection_cannot_name_it_away(header: str) -> None:
    fields = b"Connection: " + header.encode() + b"\r\n"
    plane, upstream, client = through({"header": header}, fields)
    assert upstream == client == [plane.records[0].request_id]


def test_refusals_have_one_too() -> None:
    plane = Plane({"filters": {"request_id": {}}, "routes": []})
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert client.received.startswith(b"HTTP/1.1 404 ")
    assert names(client.received) == [plane.records[0].request_id]
