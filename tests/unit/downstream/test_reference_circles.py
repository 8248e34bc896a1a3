"""What has ended goes at once. A circle would wait for the collector, and never go where a reload has frozen it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from tests.support.collector import garbage
from tests.support.on_loop import on_loop, until
from tests.unit.downstream.test_retiring import GET, OK, Node, Taken, serving


async def kept_alive(node: Node, client: Taken) -> None:
    for count in (1, 2):
        client.sends(GET % b"old")
        await until(lambda: bool(node.taken))
        await until(lambda count=count: node.taken[0].received.count(b"GET /old") == count)
        node.taken[0].sends(OK)
        await until(lambda count=count: client.received.count(b"200 OK") == count)


async def cut_off(node: Node, client: Taken) -> None:
    client.sends(GET % b"old")
    await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)


async def refused(node: Node, client: Taken) -> None:
    node.service.close()
    client.sends(GET % b"old")
    await until(lambda: b" 502 " in client.received)


async def ended_by_the_service(node: Node, client: Taken) -> None:
    await kept_alive(node, client)
    node.taken[0].transport.close()
    await until(lambda: not node.gateway.upstreams["old"].pool.idle_count)


async def not_believed(node: Node, client: Taken) -> None:
    """It has a certificate of its own since it was told whom to believe."""
    assert node.ca is not None
    assert node.tls is not None
    node.tls.load_cert_chain(*Certificates(Path(node.ca).parent).issue("other"))
    client.sends(GET % b"old")
    await until(lambda: b" 502 " in client.received)


OVER_TCP = [(use, False) for use in (kept_alive, cut_off, refused, ended_by_the_service)]
OVER_TLS = [(use, True) for use in (kept_alive, cut_off, refused, ended_by_the_service, not_believed)]


@pytest.mark.parametrize(("use", "tls"), OVER_TCP + OVER_TLS)
@on_loop
async def test_a_connection_that_has_ended_leaves_nothing(
    use: Callable[[Node, Taken], Awaitable[None]], tls: bool, tmp_path: Path
) -> None:
    with garbage() as found:
        async with serving(Certificates(tmp_path) if tls else None) as node:
            client = await node.client()
            await use(node, client)
            client.transport.abort()
            await until(lambda node=node: not node.server.connections)
            # it holds for a while what has had a deadline
            node.worker_loop.wheel.advance(node.worker_loop.wheel.now + 3600)
        del client
        await asyncio.sleep(0)
    assert found == []
    assert not node.server.connections  # it is held until here: a gateway as a whole may be full of circles
