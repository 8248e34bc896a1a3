"""A client's certificate expires while its connection is open: before, at and after that instant."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.support.memory import Plane
from tests.unit.downstream.test_drain import ASKING, GET, OK, SWITCHED, turns, used


def test_the_end_is_announced_before_the_expiry() -> None:
    """An idle connection is closed soon; a request that comes all the same is answered, as the last one."""

    async def live() -> None:
        plane = Plane()
        idle, upstream = used(plane)
        asking = plane.client()
        asking.sends(GET)
        upstream.sends(OK)
        for client in (idle, asking):
            client.protocol.certificate_expires_soon()
        asking.sends(GET)
        await turns()
        upstream.sends(OK)
        answer = asking.received.rpartition(b"HTTP/1.1 ")[2]
        assert answer.startswith(b"200 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert asking.lost
        plane.passes(1.2)
        assert idle.lost

    asyncio.run(live())


def test_after_the_expiry_what_is_in_flight_is_completed_and_a_further_request_refused() -> None:
    plane = Plane()
    busy = plane.client()
    busy.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK[:-1])
    busy.protocol.certificate_expired()
    upstream.sends(OK[-1:])
    assert busy.received.endswith(b"ok")
    busy.sends(GET)
    assert busy.received.rpartition(b"HTTP/1.1 ")[2].startswith(b"421 ")
    assert b"urn:fastgw:fault:connection_outdated" in busy.received
    assert busy.ended


def test_a_reload_does_not_accept_an_expired_certificate_again() -> None:
    """Not even one that removes the verification: the request would still have the certificate's identity."""
    plane = Plane()
    client, _ = used(plane)
    client.protocol.trust_as_of(plane.listener.trusts, b"an authority")
    client.protocol.certificate_expired()
    plane.listener.tls = SimpleNamespace(vouches=b"")  # type: ignore[assignment]
    client.sends(GET)
    assert client.received.rpartition(b"HTTP/1.1 ")[2].startswith(b"421 ")


@pytest.mark.parametrize("when", ["before", "in flight"])
def test_a_tunnel_continues_after_the_expiry(when: str) -> None:
    """Whether it was open, or its handshake was in flight."""

    async def live() -> None:
        plane = Plane()
        plane.listener.tls = SimpleNamespace(vouches=b"an authority")  # type: ignore[assignment]
        client = plane.client()
        client.protocol.trust_as_of(plane.listener.trusts, b"an authority")
        client.sends(ASKING)
        upstream = plane.connects()
        if when == "before":
            upstream.sends(SWITCHED)
        client.protocol.certificate_expires_soon()
        client.protocol.certificate_expired()
        if when == "in flight":
            upstream.sends(SWITCHED)
        await turns()
        plane.passes(10)
        upstream.sends(b"frame")
        assert client.received.endswith(b"\r\n\r\nframe")
        assert not client.ended
        client.resets()

    asyncio.run(live())
