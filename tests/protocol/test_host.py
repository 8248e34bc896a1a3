"""Which Host an upstream is told: its own, the client's, or a literal one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lanes import VERSIONS, Kind, Lanes, running
from tests.support.origin import Request

KINDS = {
    "default": Kind(),
    "target": Kind(upstream={"host_header": "target"}),
    "preserve": Kind(upstream={"host_header": "preserve"}),
    "literal": Kind(upstream={"host_header": "inside.example:8443"}),
}


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


@pytest.mark.parametrize("kind", ["default", "target"])
def test_target_names_the_target(lanes: Lanes, kind: str) -> None:
    """RFC 9112 section 3.2.1: Host is the authority of the target that the gateway turns to."""
    got, authority, _ = host_sent(lanes, kind)
    assert got.get(b"Host") == authority.encode()


def test_preserve_keeps_what_the_client_said(lanes: Lanes) -> None:
    """`host_header: preserve`: the client's Host, port and all."""
    got, _, host = host_sent(lanes, "preserve", b"GET / HTTP/1.1\r\nHost: $HOST:8080\r\n\r\n")
    assert got.get(b"Host") == host + b":8080"


@pytest.mark.http1
def test_preserve_keeps_the_host_of_absolute_form(lanes: Lanes) -> None:
    """RFC 9112 section 3.2.2: the authority of the target is the Host."""
    got, _, host = host_sent(lanes, "preserve", b"GET http://$HOST:8080/ HTTP/1.1\r\nHost: $HOST:8080\r\n\r\n")
    assert got.get(b"Host") == host + b":8080"


def test_a_literal_is_sent_as_it_is(lanes: Lanes) -> None:
    """`host_header: inside.example:8443`."""
    got, _, _ = host_sent(lanes, "literal")
    assert got.get(b"Host") == b"inside.example:8443"
