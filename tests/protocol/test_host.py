"""Which Host an upstream is told, the client's, its own, or a literal one; and what its own URLs become."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lanes import VERSIONS, Kind, Lanes, running
from tests.support.origin import Request

KINDS = {
    "default": Kind(),
    "target": Kind(upstream={"host_header": "target"}),
    "preserve": Kind(upstream={"host_header": "preserve"}),
    "changed": Kind(route={"filters": {"headers": {"request": {"set": {"X-A": "{header.Host}", "X-B": "b"}}}}}),
    "literal": Kind(upstream={"host_header": "inside.example:8443"}),
    "moved": Kind(route={"strip_prefix": "/app"}, base="/base"),
    "off": Kind(route={"strip_prefix": "/app", "proxy_redirect": "off"}, base="/base"),
}
KEEPING = ["default", "preserve"]
"""A target without TLS gets the client's by default."""


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("host"), KINDS, count=4, version=request.param))


def host_sent(
    lanes: Lanes, kind: str, request: bytes = b"GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n"
) -> tuple[Request, str, bytes]:
    lane = lanes.take(kind)
    got, response = lane.forward(request)
    assert response.status == 200
    lane.end()
    assert got.head.lines[0][0] == b"Host"
    return got, lane.origin.authority, lane.host


def test_target_names_the_target(lanes: Lanes) -> None:
    """RFC 9112 section 3.2.1: Host is the authority of the target that the gateway turns to."""
    got, authority, _ = host_sent(lanes, "target")
    assert got.get(b"Host") == authority.encode()


@pytest.mark.parametrize("kind", KEEPING)
def test_preserve_keeps_what_the_client_said(lanes: Lanes, kind: str) -> None:
    """`host_header: preserve`: the client's Host, port and all."""
    got, _, host = host_sent(lanes, kind, b"GET / HTTP/1.1\r\nHost: $HOST:8080\r\n\r\n")
    assert got.get(b"Host") == host + b":8080"


@pytest.mark.http1
def test_preserve_keeps_the_host_of_absolute_form(lanes: Lanes) -> None:
    """RFC 9112 section 3.2.2: the authority of the target is the Host."""
    got, _, host = host_sent(lanes, "preserve", b"GET http://$HOST:8080/ HTTP/1.1\r\nHost: $HOST:8080\r\n\r\n")
    assert got.get(b"Host") == host + b":8080"


def test_the_colon_of_an_empty_port_is_not_sent(lanes: Lanes) -> None:
    """RFC 3986 section 6.2.3: the two are one authority; some servers refuse the first."""
    for kind in ("preserve", "changed"):
        got, _, host = host_sent(lanes, kind, b"GET / HTTP/1.1\r\nHost: $HOST:\r\n\r\n")
        assert got.get_all(b"Host") == [host]
        assert got.get_all(b"X-Forwarded-Host") == [host]


def test_a_literal_is_sent_as_it_is(lanes: Lanes) -> None:
    """`host_header: inside.example:8443`."""
    got, _, _ = host_sent(lanes, "literal")
    assert got.get(b"Host") == b"inside.example:8443"


@pytest.mark.parametrize("kind", ["moved", "off"])
def test_urls_of_the_target_become_the_clients(lanes: Lanes, kind: str) -> None:
    """nginx's `proxy_redirect default`: of whichever status, on a new upstream connection and on an idle one."""
    lane = lanes.take(kind)
    own = f"http://{lane.origin.authority}/base".encode()
    here = own if kind == "off" else b"http://" + lane.host + b"/app"
    client = lane.client()
    upstream = None
    for status in b"201 Created", b"302 Found", b"200 OK":
        client.send(lane.get(b"/app/x"))
        upstream = lane.accept() if upstream is None else upstream
        lines = b"Location: %b/a?b#c\r\nContent-Location: %b/d\r\nRefresh: 5; url=%b/e\r\n" % (own, own, own)
        got = upstream.answer(b"HTTP/1.1 %b\r\n%bContent-Length: 2\r\n\r\nok" % (status, lines))
        assert got.request_target == b"/base/x"
        response = client.read_response()
        assert response.get(b"Location") == here + b"/a?b#c"
        assert response.get(b"Content-Location") == here + b"/d"
        assert response.get(b"Refresh") == b"5; url=" + here + b"/e"
    lane.end()
