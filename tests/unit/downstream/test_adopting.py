"""A configuration replaces another while clients are connected: who takes the new one, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.downstream.http1.connection import LAST_REQUEST_S
from fastgw.downstream.http1.states import ClientPhase
from fastgw.downstream.server import NOTIFIED_AT_ONCE
from fastgw.exchange import Exchange, Reply
from fastgw.filters.api import Phase as FilterPhase
from fastgw.gateway.compiler import building, compile
from fastgw.routing.table import at_once
from tests.support.generations import load_document, plan_after
from tests.support.memory import SERVICE, Counter, Plane, Wire, probe
from tests.support.on_loop import on_loop, until

HOST = b"Host: a.test\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\n"
ASKING = b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def own(body: str) -> dict[str, Any]:
    return {"routes": [{"name": body, "respond": {"body": body}}]}


def marking(value: str) -> dict[str, Any]:
    """An upstream behind a route that marks its answers."""
    mark = {"headers": {"response": {"set": {"X-Mark": value}}}}
    return {"routes": [{"name": value, "upstream": "u", "filters": mark}]}


def listening(*names: str, **settings: Any) -> dict[str, Any]:
    """Listeners of these names, with these settings."""
    return {"listeners": {name: {"address": f"127.0.0.1:{len(name)}", **settings} for name in names}}


def bodies(client: Wire) -> list[bytes]:
    """Of the answers that came, each as short as these are."""
    answers = client.received.split(b"HTTP/1.1 ")[1:]
    return [answer.partition(b"\r\n\r\n")[2] for answer in answers]


def test_the_next_request_of_a_connection_takes_the_new_table() -> None:
    plane = Plane(own("one"))
    client = plane.client()
    client.sends(GET)
    plane.adopts(own("two"))
    client.sends(GET)
    assert bodies(client) == [b"one", b"two"]
    assert [record.route for record in plane.records] == ["one", "two"]
    plane.assert_quiet()


def test_a_head_that_is_half_read_takes_the_new_table() -> None:
    plane = Plane(own("one"))
    client = plane.client()
    client.sends(GET[:30])
    plane.adopts(own("two"))
    client.sends(GET[30:])
    assert bodies(client) == [b"two"]


@pytest.mark.parametrize("marked", [True, False])
def test_what_is_under_way_ends_as_it_began_and_what_is_behind_it_takes_the_new_table(marked: bool) -> None:
    """With a filter that meets the answer, and without; a second request waits in the pipeline meanwhile."""
    plane = Plane(marking("old") if marked else {})
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    client.sends(GET)
    client.sends(GET)
    plane.adopts(marking("new"))
    before = len(client.received)
    upstream.sends(OK)
    assert (b"X-Mark: old" in client.received[before:]) is marked
    assert b"X-Mark: new" not in client.received
    upstream.sends(OK)
    assert client.received.endswith(b"X-Mark: new\r\nVia: 1.1 fastgw\r\n\r\nok") or b"X-Mark: new" in client.received
    assert [record.route for record in plane.records] == (["old", "old", "new"] if marked else ["all", "all", "new"])
    plane.assert_quiet()


def test_a_passage_that_has_to_turn_ends_as_it_began() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    client.sends(GET)
    plane.adopts(own("two"))
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    upstream.sends(b"k")
    assert bodies(client) == [b"ok", b"ok"]
    assert plane.records[-1].route == "all"


def test_between_two_requests_a_connection_holds_no_route() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    client.sends(GET)
    upstream.sends(OK)
    assert client.protocol.exchange is None


class Gate:
    """An early filter that waits until it is told."""

    def __init__(self) -> None:
        self.waits: list[asyncio.Future[Reply | None]] = []
        self.type = probe("gate", FilterPhase.ADMIT, request=self._wait, response=self._mark)

    def _wait(self, exchange: Exchange) -> asyncio.Future[Reply | None]:
        self.waits.append(asyncio.get_running_loop().create_future())
        return self.waits[-1]

    def _mark(self, exchange: Exchange) -> None:
        exchange.add_response_fields(b"X-Gate: yes\r\n")


@on_loop
async def test_a_request_that_waits_before_routing_asks_the_table_it_came_to() -> None:
    gate = Gate()
    plane = Plane(own("one"), probes=[gate.type])
    old, client = plane.gateway, plane.client()
    client.sends(GET)
    plane.adopts(own("two"))
    assert old.in_use
    gate.waits[0].set_result(None)
    await until(lambda: not old.in_use)
    assert bodies(client) == [b"one"]
    assert b"X-Gate: yes" in client.received
    client.sends(GET)
    await asyncio.sleep(0)
    gate.waits[1].set_result(None)
    await until(lambda: bodies(client) == [b"one", b"two"])


@on_loop
async def test_tables_are_in_use_no_more_when_the_one_who_waited_has_left() -> None:
    gate = Gate()
    plane = Plane(own("one"), probes=[gate.type])
    client = plane.client()
    client.sends(GET)
    await until(lambda: bool(gate.waits))
    assert plane.gateway.in_use
    client.resets()
    await until(lambda: not plane.gateway.in_use)
    assert gate.waits[0].cancelled()


# --- what the server itself goes by


def test_limits_hold_from_the_next_request_on() -> None:
    plane = Plane({**own("one"), "limits": {"header_count": 1}})
    client = plane.client()
    client.sends(GET)
    plane.adopts({**own("two"), "limits": {"header_count": 2, "body_bytes": 3}})
    client.sends(b"GET /a HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n\r\n")
    assert bodies(client) == [b"one", b"two"]
    client.sends(POST)
    assert b"HTTP/1.1 413 " in client.received


def test_a_body_that_is_being_read_keeps_its_limit() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
    upstream = plane.connects()
    plane.adopts({"limits": {"body_bytes": 5}})
    client.sends(b"4\r\nefgh\r\n0\r\n\r\n")
    upstream.sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_timeouts_hold_for_connections_that_are_there() -> None:
    plane = Plane({**own("one"), "timeouts": {"keepalive": "50s"}})
    client = plane.client()
    client.sends(GET)
    plane.adopts({**own("two"), "timeouts": {"keepalive": "2s", "response_idle": "3s"}})
    client.sends(GET)
    assert client.protocol._write_timeout() == 3.0
    plane.passes(3)
    assert client.ended


@pytest.mark.parametrize(("before", "after"), [([], ["127.0.0.0/8"]), (["127.0.0.0/8"], [])])
def test_trust_is_judged_anew_with_the_next_request(before: list[str], after: list[str]) -> None:
    """What is under way was told by a peer that was trusted, or not, when it began."""
    asking = b"GET /a HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 10.1.1.1\r\n\r\n"
    plane = Plane(listening("main", trusted_proxies=before))
    client = plane.client()
    client.sends(asking)
    plane.adopts(listening("main", trusted_proxies=after))
    upstream = plane.connects()
    upstream.sends(OK)
    told = b"X-Forwarded-For: 10.1.1.1, 127.0.0.1\r\n"
    assert (told in upstream.received) is bool(before)
    for count in (1, 2):
        client.sends(asking)
        upstream.sends(OK)
        assert upstream.received.count(told) == (count if after else 1)
    clients = ["127.0.0.1", "10.1.1.1"]
    assert [record.client for record in plane.records] == [clients[bool(before)], *[clients[bool(after)]] * 2]


def test_the_scheme_of_clients_is_judged_anew_with_the_next_request() -> None:
    plane = Plane(listening("main"))
    client = plane.client()
    client.sends(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
    upstream = plane.connects()
    upstream.sends(OK)
    for scheme in (None, "https", None):
        plane.adopts(listening("main", scheme=scheme))
        client.sends(b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n")
        sent = upstream.received.rpartition(b"GET /a")[2]
        assert b"\r\nX-Forwarded-Proto: %b\r\n" % (b"https" if scheme else b"http") in sent
        upstream.sends(OK)


def test_what_an_address_took_is_given_back_to_the_limit_that_counted_it() -> None:
    plane = Plane()
    counted = Counter(10)
    uncounted = plane.client()
    plane.server.adopt(plane.gateway, plane.limit, counted)  # type: ignore[arg-type]
    client = plane.client()
    assert counted.taken == 1
    uncounted.resets()
    assert counted.taken == 1
    plane.server.adopt(plane.gateway, plane.limit, None)  # type: ignore[arg-type]
    client.resets()
    assert (counted.taken, plane.limit.taken) == (0, 0)


# --- listeners that come and go


def two(settings: Mapping[str, Any] | None = None) -> Plane:
    return Plane({**listening("main", "other"), **(own("one") if settings is None else settings)})


def test_a_listener_that_comes_serves() -> None:
    plane = Plane({**listening("main"), **own("one")})
    plane.adopts({**listening("main", "other"), **own("two")})
    plane.listener = plane.gateway.listeners[1]
    client = plane.client()
    client.sends(GET)
    assert bodies(client) == [b"two"]


def test_idle_connections_of_a_listener_that_goes_close_and_the_others_stay() -> None:
    plane = two()
    gone = plane.client()
    plane.listener = plane.gateway.listeners[1]
    stays = plane.client()
    for client in (gone, stays):
        client.sends(GET)
    plane.adopts({**listening("other"), **own("two")})
    plane.passes(LAST_REQUEST_S + 0.2)
    assert gone.ended
    assert not stays.ended
    stays.sends(GET)
    assert bodies(stays) == [b"one", b"two"]
    assert b"Connection: close" not in stays.received


def test_a_request_that_was_on_its_way_to_a_listener_that_goes_is_answered_by_what_it_served() -> None:
    plane = two()
    fresh, used, half = plane.client(), plane.client(), plane.client()
    used.sends(GET)
    half.sends(GET[:20])
    plane.adopts({**listening("other"), **own("two")})
    half.sends(GET[20:])
    for client in (fresh, used):
        client.sends(GET)
    for client in (fresh, used, half):
        assert bodies(client)[-1] == b"one"
        assert client.received.count(b"Connection: close\r\n") == 1
        assert client.ended


@pytest.mark.parametrize("straight", [True, False])
def test_what_is_under_way_at_a_listener_that_goes_is_answered_and_its_connection_closed(straight: bool) -> None:
    plane = two({} if straight else marking("old"))
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    client.sends(GET)
    plane.adopts(listening("other"))
    upstream.sends(OK)
    assert bodies(client) == [b"ok", b"ok"]
    assert client.received.count(b"Connection: close\r\n") == 1
    assert client.ended
    plane.assert_quiet()


def test_an_answer_that_has_begun_is_ended_and_then_its_connection_is_idle() -> None:
    plane = two(marking("old"))
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK[:-1])
    plane.adopts(listening("other"))
    upstream.sends(OK[-1:])
    assert bodies(client) == [b"ok"]
    assert not client.ended
    plane.passes(LAST_REQUEST_S + 0.2)
    assert client.ended


def test_a_tunnel_of_a_listener_that_goes_lives_until_it_ends() -> None:
    plane = two({})
    client = plane.client()
    client.sends(ASKING)
    upstream = plane.connects()
    upstream.sends(SWITCHED)
    client.ends()
    plane.adopts(listening("other"))
    plane.passes(2 * LAST_REQUEST_S)
    assert client.protocol.phase is ClientPhase.TUNNEL
    upstream.sends(b"more")
    assert client.received.endswith(b"more")
    upstream.ends()
    assert client.ended
    plane.assert_quiet()


def test_many_connections_are_told_in_several_turns() -> None:
    plane = two()
    clients = [plane.client() for _ in range(2 * NOTIFIED_AT_ONCE + 1)]

    def told() -> int:
        soon = plane.worker_loop.wheel.now + LAST_REQUEST_S
        return sum(client.protocol.deadline <= soon for client in clients)

    plane.adopts({**listening("other"), **own("two")})
    for turn in (1, 2):
        assert told() == turn * NOTIFIED_AT_ONCE
        plane.soon.pop(0)()
    assert told() == len(clients)
    plane.passes(LAST_REQUEST_S + 0.2)
    assert all(client.ended for client in clients)


def test_a_listener_that_comes_back_serves_what_it_is_given_and_the_old_connections_still_go() -> None:
    plane = two()
    client = plane.client()
    before = plane.listener
    plane.adopts({**listening("other"), **own("two")})
    plane.adopts({**listening("main", "other"), **own("three")})
    plane.listener = plane.gateway.listeners[0]
    assert plane.listener is not before
    newer = plane.client()
    newer.sends(GET)
    client.sends(GET)
    assert (bodies(newer), bodies(client)) == ([b"three"], [b"one"])
    assert client.ended
    assert not newer.ended


def test_a_configuration_that_comes_during_a_drain_keeps_nobody() -> None:
    plane = two()
    client = plane.client()
    plane.server.begin_drain()
    plane.adopts({**listening("main", "third"), **own("two")})
    client.sends(GET)
    assert bodies(client) == [b"two"]
    assert client.ended
    plane.listener = plane.gateway.listeners[1]
    late = plane.client()
    late.sends(GET)
    assert late.ended


def test_tables_that_nobody_adopts_are_seen_by_no_request() -> None:
    plane = Plane(own("one"))
    client = plane.client()
    document = load_document({**SERVICE, **own("two")})
    at_once(building(plan_after(plane.config, document), 1, plane.gateway))
    client.sends(GET)
    assert bodies(client) == [b"one"]
    assert compile(document, 1).listeners[0] is not plane.gateway.listeners[0]
