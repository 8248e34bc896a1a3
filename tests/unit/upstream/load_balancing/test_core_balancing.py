"""What is under way is counted up and down once, whatever becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.shm.slot_assignment import target_name
from tests.support.on_loop import on_loop, until
from tests.unit.downstream.test_retiring import ASKING, GET, OK, SWITCHED, Node, serving

BALANCING = [
    {"algorithm": "least_connections"},
    {"algorithm": "latency"},
    {"algorithm": "consistent_hash"},
    {"algorithm": "least_connections", "sticky": {"cookie": "lb"}},
]
POST = b"POST /old HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"


def under_way(node: Node) -> tuple[int, int]:
    """At the target, and at the upstream, as all processes of the node see it."""
    words, slot_table = node.gateway._words, node.gateway.slot_table
    (target,) = node.gateway.upstreams["old"].targets
    slot = slot_table.targets[target_name("old", target.label)]
    return node.shared.total(words.under_way + slot), node.shared.total(
        words.under_way_all + slot_table.upstreams["old"]
    )


async def asked(node: Node, request: bytes = GET % b"old") -> Any:
    client = await node.client()
    before = sum(taken.received.count(b" /old ") for taken in node.taken)
    client.sends(request)
    await until(lambda: sum(taken.received.count(b" /old ") for taken in node.taken) > before)
    return client


@pytest.mark.parametrize("balancing", BALANCING)
@pytest.mark.parametrize("request_", [GET % b"old", POST])
@on_loop
async def test_an_answer_ends_it(balancing: dict[str, Any], request_: bytes) -> None:
    async with serving(load_balancing=balancing) as node:
        client = await asked(node, request_)
        for count in (1, 2, 3):  # the first opens a connection, the others go straight where they may
            assert under_way(node) == (1, 1)
            node.taken[0].sends(OK)
            await until(lambda count=count: client.received.count(b"200 OK") == count)  # type: ignore[misc]
            assert under_way(node) == (0, 0)
            if count < 3:
                client.sends(request_)
                await until(lambda count=count: node.taken[0].received.count(b" /old ") == count + 1)  # type: ignore[misc]
        client.transport.abort()


@pytest.mark.parametrize("balancing", BALANCING)
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("who", ["client", "target"])
@on_loop
async def test_who_leaves_ends_it(balancing: dict[str, Any], warm: bool, who: str) -> None:
    async with serving(load_balancing=balancing, retries={"max": 0}) as node:
        client = await asked(node)
        if warm:
            node.taken[0].sends(OK)
            await until(lambda: b"200 OK" in client.received)
            client.sends(GET % b"old")
            await until(lambda: node.taken[0].received.count(b" /old ") == 2)
        assert under_way(node) == (1, 1)
        (client if who == "client" else node.taken[0]).transport.abort()
        await until(lambda: under_way(node) == (0, 0))
        client.transport.abort()


@pytest.mark.parametrize("balancing", BALANCING)
@on_loop
async def test_a_tunnel_counts_as_long_as_it_lasts(balancing: dict[str, Any]) -> None:
    async with serving(load_balancing=balancing) as node:
        client = await asked(node, ASKING)
        node.taken[0].sends(SWITCHED)
        await until(lambda: client.received.startswith(b"HTTP/1.1 101"))
        assert under_way(node) == (1, 1)
        assert (b"Set-Cookie: lb=" in client.received) is ("sticky" in balancing)
        client.transport.abort()
        await until(lambda: under_way(node) == (0, 0))


@pytest.mark.parametrize("balancing", BALANCING)
@on_loop
async def test_a_reload_meanwhile_changes_nothing(balancing: dict[str, Any]) -> None:
    async with serving(load_balancing=balancing) as node:
        client = await asked(node)
        heavier = [{"url": f"http://localhost:{node.port}", "weight": 7}]
        node.adopt(node.configured("old", load_balancing=balancing, targets=heavier))
        assert under_way(node) == (1, 1)
        node.taken[0].sends(OK)
        await until(lambda: b"200 OK" in client.received)
        assert under_way(node) == (0, 0)
        client.sends(GET % b"old")
        await until(lambda: node.taken[0].received.count(b" /old ") == 2)
        assert (len(node.taken), under_way(node)) == (1, (1, 1)), "on the connection that was there"
        node.taken[0].sends(OK)
        await until(lambda: client.received.count(b"200 OK") == 2)
        client.transport.abort()


@on_loop
async def test_where_nobody_goes_by_it_nothing_is_counted():
    async with serving() as node:
        client = await asked(node)
        assert under_way(node) == (0, 0)
        client.transport.abort()


@on_loop
async def test_a_target_that_goes_closes_its_connections_and_those_of_others_stay():
    async with serving() as node:
        client = await asked(node)
        node.taken[0].sends(OK)
        await until(lambda: b"200 OK" in client.received)
        here = {"url": f"http://localhost:{node.port}"}
        other = {"url": str(parse_url("http://192.0.2.1:9"))}
        for targets in ([here, {**other, "weight": 0}], [here]):
            node.adopt(node.configured("old", targets=targets))
            assert not node.taken[0].closed
        node.adopt(node.configured("old", targets=[other]))
        await until(lambda: node.taken[0].closed)
        client.transport.abort()
