"""Field lines that pass as they are, those that end here, and those that the gateway adds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.lanes import Lane
from tests.support.peer import Line

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
END_TO_END = (
    b"X-B: 1\r\nx-a: 2\r\nX-B: 3\r\nAccept: text/html, */*;q=0.1\r\nCookie: a=b\r\nCookie: c=d\r\n"
    b"User-Agent:   x  y  \r\nX-LONG-name_with.odd!chars: v\r\nX-a: 2\r\n"
)
END_TO_END_LINES = [
    (b"X-B", b"1"),
    (b"x-a", b"2"),
    (b"X-B", b"3"),
    (b"Accept", b"text/html, */*;q=0.1"),
    (b"Cookie", b"a=b"),
    (b"Cookie", b"c=d"),
    (b"User-Agent", b"x  y"),
    (b"X-LONG-name_with.odd!chars", b"v"),
    (b"X-a", b"2"),
]

# RFC 9110 section 7.6.1, and what older peers treat alike
HOP_BY_HOP = [
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Upgrade: foo",
]


def only(lines: list[Line], names: list[Line]) -> list[Line]:
    """Those of `lines` whose names are among `names`, in the order and case in which they came."""
    wanted = {name.lower() for name, _ in names}
    return [line for line in lines if line[0].lower() in wanted]


def test_order_case_and_duplicates_are_kept(lane: Lane) -> None:
    """RFC 9110 section 5.3: lines of one name keep their order; nothing else is touched either, both ways."""
    got, response = lane.forward(
        lane.get(fields=END_TO_END), OK + END_TO_END + b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nok"
    )
    assert only(got.head.lines, END_TO_END_LINES) == END_TO_END_LINES
    cookies = [(b"Set-Cookie", b"a=b"), (b"Set-Cookie", b"c=d")]
    assert only(response.head.lines, END_TO_END_LINES + cookies) == END_TO_END_LINES + cookies


@pytest.mark.parametrize("field", HOP_BY_HOP)
def test_hop_by_hop_fields_of_a_request_end_here(lane: Lane, field: bytes) -> None:
    """RFC 9110 section 7.6.1: they are for the next peer only, whether Connection names them or not."""
    name = field.partition(b":")[0]
    got, _ = lane.forward(lane.get(fields=field + b"\r\nX-Kept: 1\r\n"))
    assert name not in got
    assert got.get(b"X-Kept") == b"1"
    got, _ = lane.forward(lane.get(fields=b"Connection: " + name + b"\r\n" + field + b"\r\n"))
    assert name not in got


@pytest.mark.parametrize("field", [*HOP_BY_HOP, b"Proxy-Authenticate: Basic"])
def test_hop_by_hop_fields_of_a_response_end_here(lane: Lane, field: bytes) -> None:
    """RFC 9110 section 7.6.1: the same towards the client."""
    _, response = lane.forward(lane.get(), OK + field + b"\r\nX-Kept: 1\r\n\r\nok")
    assert field.partition(b":")[0] not in response
    assert response.get(b"X-Kept") == b"1"


def test_a_426_names_the_protocols_that_it_asks_for(lane: Lane) -> None:
    """RFC 9110 sections 7.8 and 15.5.22: the one response without a switch whose `Upgrade` is for the client."""
    received = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nupgrade: websocket\r\nConnection: upgrade\r\n"
    for close in (b"", b"Connection: close\r\n"):
        _, response = lane.forward(lane.get(fields=close), received + b"Content-Length: 2\r\n\r\nno")
        assert response.body == b"no"
        sent = [line for line in response.head.lines if line[0].lower() in (b"upgrade", b"connection")]
        wanted = [(b"Connection", b"Upgrade"), (b"Upgrade", b"TLS/1.3, websocket")]
        assert sent == wanted + ([(b"Connection", b"close")] if close else [])
    _, response = lane.forward(lane.get(), b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    assert b"Upgrade" not in response
    assert b"Connection" not in response


def test_a_426_of_the_gateway_itself_names_them_too_where_the_version_has_upgrades(tmp_path: Path) -> None:
    """RFC 9113 section 8.2.2: HTTP/2 has no `Upgrade`."""
    respond = {"status": 426, "headers": {"Upgrade": "websocket"}, "body": "no"}
    listener = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
    route = {"name": "all", "paths": ["/"], "respond": respond}
    with Gateway({"workers": 1, "listeners": {"main": listener}, "routes": [route]}, tmp_path) as gateway:
        for client, offered in ((gateway.connect(), b"websocket"), (TranslatedClient(gateway.address()), None)):
            with client:
                response = client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET")
                assert (response.status, response.body) == (426, b"no")
                assert response.get(b"upgrade") == offered


def test_proxy_credentials_end_here(lane: Lane) -> None:
    """RFC 9110 section 11.7.2: Proxy-Authorization is for the proxy that asked for it."""
    got, _ = lane.forward(lane.get(fields=b"Proxy-Authorization: Basic YTpi\r\nAuthorization: Basic YTpi\r\n"))
    assert b"Proxy-Authorization" not in got
    assert got.get(b"Authorization") == b"Basic YTpi"


NAMED = (
    b"Connection: X-One, x-two ,, X-Three\r\nConnection: x-four\r\n"
    b"X-One: 1\r\nX-Two: 2\r\nx-three: 3\r\nX-Four: 4\r\nX-Five: 5\r\n"
)


def test_fields_that_connection_names_end_here(lane: Lane) -> None:
    """RFC 9110 section 7.6.1: an intermediary MUST remove them, with Connection itself, both ways."""
    got, response = lane.forward(lane.get(fields=NAMED), OK + NAMED + b"\r\nok")
    for message in (got, response):
        assert not {name.lower() for name, _ in message.head.lines} & {b"x-one", b"x-two", b"x-three", b"x-four"}
        assert message.get(b"X-Five") == b"5"
        assert b"Connection" not in message


@pytest.mark.parametrize(
    "field",
    [
        b"Authorization: Basic YTpi",
        b"Cookie: a=b",
        b"Content-Type: text/plain",
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-Proto: https",
        b"X-Real-IP: 10.0.0.1",
    ],
)
def test_connection_cannot_name_away_what_others_rely_on(lane: Lane, field: bytes) -> None:
    """RFC 9110 section 7.6.1: naming fields that are not the sender's to drop would hide who asks for what."""
    name = field.partition(b":")[0]
    got, _ = lane.forward(
        lane.get(
            method=b"POST",
            fields=b"Connection: Host, Content-Length, " + name + b"\r\nContent-Length: 0\r\n" + field + b"\r\n",
        )
    )
    assert name in got
    assert b"Host" in got


def test_connection_cannot_name_away_the_framing_of_a_body(lane: Lane) -> None:
    """RFC 9112 section 6: a body stays a body, so what is in it is never the next request."""
    for framing, body in [
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ]:
        name = framing.partition(b":")[0]
        client = lane.client()
        client.send(lane.get(method=b"POST", fields=b"Connection: " + name + b"\r\n" + framing + b"\r\n") + body)
        upstream = lane.accept()
        assert upstream.answer(OK + b"Connection: close\r\n\r\nok").body == b"hello"
        assert client.read_response().body == b"ok"


def test_te_trailers_is_passed_as_our_own(lane: Lane) -> None:
    """RFC 9110 section 10.1.4: TE is hop-by-hop: it never goes on without being named by Connection."""
    got, _ = lane.forward(lane.get(fields=b"Connection: TE\r\nTE: trailers, deflate;q=0.5\r\n"))
    if b"TE" in got:
        assert got.get(b"TE") == b"trailers"
        assert b"te" in got.get(b"Connection").lower()


def test_via_tells_of_the_gateway_both_ways(lane: Lane) -> None:
    """RFC 9110 section 7.6.3: one member is added at the end, with the version that the message came in."""
    got, response = lane.forward(lane.get(), OK + b"\r\nok")
    assert got.get(b"Via") == b"1.1 fastgw"
    assert response.get(b"Via") == b"1.1 fastgw"


def test_via_keeps_those_before(lane: Lane) -> None:
    """RFC 9110 section 7.6.3: the list grows at its end."""
    got, response = lane.forward(
        lane.get(fields=b"Via: 1.0 alpha\r\nVia: 1.1 beta\r\n"), OK + b"Via: 1.1 gamma\r\n\r\nok"
    )
    assert b", ".join(got.get_all(b"Via")) == b"1.0 alpha, 1.1 beta, 1.1 fastgw"
    assert b", ".join(response.get_all(b"Via")) == b"1.1 gamma, 1.1 fastgw"


def test_via_has_the_version_received(old_lane: Lane) -> None:
    """RFC 9110 section 7.6.3: the version is that of the message as it came to the gateway."""
    got, response = old_lane.forward(
        b"GET / HTTP/1.0\r\nHost: $HOST\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    assert got.get(b"Via") == b"1.0 fastgw"
    assert response.get(b"Via") == b"1.0 fastgw"


IMF_DATE = re.compile(rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT")


def test_date_is_added_where_missing(lane: Lane) -> None:
    """RFC 9110 section 6.6.1: a recipient with a clock adds Date when it forwards a response without one."""
    _, response = lane.forward(lane.get(), OK + b"\r\nok")
    assert IMF_DATE.fullmatch(response.get(b"Date") or b"")


def test_date_and_server_of_the_upstream_are_kept(lane: Lane) -> None:
    """RFC 9110 sections 6.6.1 and 10.2.4: both are the origin's to say."""
    _, response = lane.forward(lane.get(), OK + b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\nServer: theirs/1\r\n\r\nok")
    assert response.get(b"Date") == b"Tue, 15 Nov 1994 08:12:31 GMT"
    assert response.get(b"Server") == b"theirs/1"


def test_no_server_is_made_up(lane: Lane) -> None:
    """RFC 9110 section 10.2.4: a proxy does not name itself as the origin."""
    _, response = lane.forward(lane.get(), OK + b"\r\nok")
    assert b"Server" not in response


def test_a_request_gains_nothing_but_what_the_contract_names(lane: Lane) -> None:
    """What is added is Via and the forwarding family; what changes is Host."""
    got, _ = lane.forward(lane.get(fields=b"X-A: 1\r\n"))
    names = [name.lower() for name, _ in got.head.lines]
    assert set(names) <= {b"host", b"x-a", b"via", b"forwarded", b"x-real-ip"} | {
        name for name in names if name.startswith(b"x-forwarded-")
    }
    assert names[0] == b"host"
