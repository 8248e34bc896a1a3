"""Targets of an upstream are picked over all workers, and change while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import JSON, admin, read
from tests.e2e.clients import LoadCounts
from tests.e2e.programs import run
from tests.e2e.test_nothing_lost import enough, under_load
from tests.e2e.test_processes import ask
from tests.e2e.test_reload import Reloadable
from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.origin import Origin, Step

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n%b\r\n"


def named(name: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode())


@contextlib.contextmanager
def targets(count: int) -> Iterator[dict[str, Origin]]:
    """They answer with their names: a, b, c."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name in "abcdef"[:count]:
            made[name] = stack.enter_context(Origin())
            made[name].answer(named(name))
            made[name].serve()
        yield made


def listed(origins: dict[str, Origin], **weights: int) -> list[dict[str, Any]]:
    return [{"url": each.url, "weight": weights.get(name, 1)} for name, each in origins.items()]


def balanced(directory: Path, origins: dict[str, Origin], workers: int = 2, **balancing: Any) -> Reloadable:
    upstream = {"targets": listed(origins), "load_balancing": balancing}
    routes = [{"name": "all", "upstream": "service"}]
    return Reloadable({"workers": workers, "upstreams": {"service": upstream}, "routes": routes}, directory)


def put(gateway: Reloadable, listed_targets: Sequence[dict[str, Any]]) -> None:
    told = admin(gateway, "PUT /upstreams/service/targets", json.dumps(listed_targets), JSON)
    assert told.status == 200, told.body


def reload(gateway: Reloadable) -> None:
    told = admin(gateway, "POST /reload")
    assert told.status == 200, told.body


def answers(gateway: Reloadable, count: int, fields: bytes = b"") -> Counter[str]:
    """Who answers clients that come anew, each with one request."""
    found: Counter[str] = Counter()
    for _ in range(count):
        with gateway.connect() as client:
            found[client.exchange(GET % fields).body.decode()] += 1
    return found


def asked(origin: Origin) -> int:
    return len(origin.requests)


# --- weights and targets that change ---


@pytest.mark.landing
def test_other_weights_hold_with_the_next_request_and_no_connection_is_opened_anew(tmp_path: Path) -> None:
    with targets(2) as origins, balanced(tmp_path, origins, workers=1) as gateway, gateway.connect() as client:

        def round_of(count: int) -> Counter[bytes]:
            return Counter(client.exchange(GET % b"").body for _ in range(count))

        assert round_of(8) == {b"a": 4, b"b": 4}
        put(gateway, listed(origins, a=3))
        assert round_of(8) == {b"a": 6, b"b": 2}
        reload(gateway)
        assert round_of(8) == {b"a": 4, b"b": 4}
        put(gateway, listed(origins, b=0))
        assert round_of(8) == {b"a": 8}
        assert [each["drained"] for each in read(gateway, "/upstreams")["upstreams"][0]["targets"]] == [False, True]
        assert [len(each.connections) for each in origins.values()] == [1, 1]


def test_targets_and_weights_change_under_load_with_no_error(tmp_path: Path) -> None:
    with targets(3) as origins, balanced(tmp_path, origins) as gateway:

        async def events(counters: LoadCounts) -> None:
            for weights in ({"a": 5}, {"a": 0, "b": 7}, {"c": 2}):
                await enough(counters, 200)
                await asyncio.to_thread(put, gateway, listed(origins, **weights))
                await enough(counters, 200)
                await asyncio.to_thread(put, gateway, listed(origins)[:2])

        counters = under_load(gateway.address(), events)
        assert not counters.lost
        assert set(counters.statuses) == {200}
        assert all(map(asked, origins.values()))


def test_targets_in_a_file_are_followed_under_load_and_a_wrong_list_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "targets.yaml"
    with targets(2) as origins:
        a, b = (listed({name: origins[name]}) for name in "ab")
        file.write_text(json.dumps(a))
        upstreams = {"service": {"targets": {"file": "targets.yaml"}}}
        config = {"workers": 2, "upstreams": upstreams, "routes": [{"name": "all", "upstream": "service"}]}
        with Reloadable(config, tmp_path) as gateway:

            async def events(counters: LoadCounts) -> None:
                for text, name in ((b, "b"), (a, "a"), (b, "b")):
                    await enough(counters, 100)
                    file.write_text(json.dumps(text))
                    await asyncio.to_thread(wait_until, partial(is_alone, gateway, name), f"{name} alone", 10)

            counters = under_load(gateway.address(), events)
            assert not counters.lost
            assert set(counters.statuses) == {200}
            file.write_text('[{"url": "nowhere"}]')
            gateway.stderr.wait_for(lambda line: b"targets.yaml:1:10: [0].url: not a valid value" in line)
            assert is_alone(gateway, "b")


def is_alone(gateway: Reloadable, name: str) -> bool:
    """Whether every worker has only this target. Connections come to either of them."""
    return answers(gateway, 20) == {name: 20}


# --- drain ---


def drain(gateway: Reloadable, origin: Origin, method: str = "POST") -> bool:
    told = admin(gateway, f"{method} /upstreams/service/targets/{origin.authority}/drain")
    assert told.status == 200, told.body
    return bool(told.json["drained"])


def are_drained(gateway: Reloadable) -> list[bool]:
    return [each["drained"] for each in read(gateway, "/upstreams")["upstreams"][0]["targets"]]


@pytest.mark.landing
def test_a_drained_target_gets_nothing_from_any_worker_whatever_dies(tmp_path: Path) -> None:
    """Under load with no error; not after a reload, nor from a worker or control process that is new."""
    with targets(2) as origins, balanced(tmp_path, origins) as gateway:
        a = origins["a"]

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 200)
            assert await asyncio.to_thread(drain, gateway, a)
            await enough(counters, 100)
            await asyncio.to_thread(wait_until, lambda: in_use(gateway)[0] == 0, "the end of what is under way")
            count = asked(a)
            assert count
            gateway.change(limits={"connections": 1000})
            await asyncio.to_thread(reload, gateway)
            await enough(counters, 300)
            assert asked(a) == count

        counters = under_load(gateway.address(), events)
        assert not counters.lost
        assert set(counters.statuses) == {200}
        killed = {*gateway.child_pids}
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len({*gateway.child_pids} - killed) == len(killed), "other processes")
        wait_until(lambda: admin_answers(gateway), "the admin API")
        wait_until(lambda: all(each["state"] == "ready" for each in workers(gateway)), "both workers")
        assert answers(gateway, 20) == {"b": 20}
        assert are_drained(gateway) == [True, False]
        asked_for = json.dumps({"method": "GET", "url": "http://a.test/x", "headers": []})
        told = [admin(gateway, "POST /explain", asked_for, "application/json").json for _ in range(4)]
        assert {each["explanation"]["target"] for each in told} == {f"http://{origins['b'].authority}"}
        assert not drain(gateway, a, "DELETE")
        wait_until(lambda: answers(gateway, 1) == {"a": 1}, "requests at the target that is back")
        assert are_drained(gateway) == [False, False]
        assert admin(gateway, "POST /upstreams/service/targets/nowhere:1/drain").status == 404
        assert admin(gateway, f"POST /upstreams/other/targets/{a.authority}/drain").status == 404
        assert drain(gateway, a)
        put(gateway, listed(origins)[1:])
        put(gateway, listed(origins))
        assert are_drained(gateway) == [False, False], "what has gone is not drained when it comes back"


def in_use(gateway: Reloadable) -> list[int]:
    return [each["in_use"] for each in read(gateway, "/upstreams")["upstreams"][0]["targets"]]


def workers(gateway: Reloadable) -> list[dict[str, Any]]:
    found = read(gateway, "/status")["workers"]
    return found if len(found) == 2 else [{"state": "missing"}]


def admin_answers(gateway: Reloadable) -> bool:
    with contextlib.suppress(OSError):
        return admin(gateway, "GET /status").status == 200
    return False


# --- by load, latency and hash ---


def holding(origin: Origin, *steps: Step) -> Origin:
    """It answers after these steps."""
    origin._rules.clear()
    origin.answer(*steps, named("slow"))
    return origin


def test_what_is_under_way_at_a_target_counts_for_all_workers_and_ends_with_its_worker(tmp_path: Path) -> None:
    """One target holds every request: the first that it gets keeps all others from it, on both workers."""
    released = threading.Event()
    with targets(2) as origins, balanced(tmp_path, origins, algorithm="least_connections") as gateway:
        slow = holding(origins["a"], released)
        with contextlib.ExitStack() as stack:
            held: list[Client] = []

            def come(count: int) -> None:
                """So many clients, one after another: whom the fast target does not answer waits at the slow one."""
                for _ in range(count):
                    client = stack.enter_context(gateway.connect())
                    seen, fast = asked(slow), asked(origins["b"])
                    client.send(GET % b"")
                    wait_until(lambda s=seen, f=fast: asked(slow) > s or asked(origins["b"]) > f, "the request")
                    if asked(slow) > seen:
                        held.append(client)
                    else:
                        assert client.read_response().body == b"b"

            come(40)
            assert asked(slow) == 1
            served = [each["requests"] for each in read(gateway, "/status")["workers"]]
            assert all(served), "both workers have served"
            for pid in gateway.worker_pids:  # one of them holds it
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: sum(each["state"] == "ready" for each in workers(gateway)) == 2, "both workers")
            come(20)
            assert asked(slow) == 2
            released.set()
            assert held[1].read_response().body == b"slow"


# On a busy machine each target is slow; with a clock: tests/unit/upstream/load_balancing
def test_a_slow_target_is_noticed_with_its_first_answer(tmp_path: Path) -> None:
    with targets(2) as origins, balanced(tmp_path, origins, workers=1, algorithm="latency") as gateway:
        slow = holding(origins["a"], lambda connection: time.sleep(0.5))
        found = answers(gateway, 40)
        assert found["b"] == 40 - asked(slow)
        assert asked(slow) <= 3


@pytest.mark.landing
def test_all_workers_send_a_key_to_the_same_target(tmp_path: Path) -> None:
    with targets(3) as origins, balanced(
        tmp_path, origins, algorithm="consistent_hash", hash_on="header:X-User"
    ) as gateway:  # fmt: skip
        owners = {user: answers(gateway, 6, b"X-User: %d\r\n" % user) for user in range(12)}
        assert all(len(found) == 1 for found in owners.values())
        assert len({*map(str, owners.values())}) > 1
        assert set(answers(gateway, 12)) == {"a", "b", "c"}


# --- sticky ---


def upgrade(gateway: Reloadable) -> None:
    """To the same version: all processes but the supervisor are new."""
    before = {*gateway.child_pids}
    gateway.signal(signal.SIGUSR2)
    wait_until(lambda: not before & {*gateway.child_pids} and admin_answers(gateway), "other processes", 30.0)


def curl(gateway: Reloadable, jar: Path) -> str:
    return run("curl", "-s", "-b", jar, "-c", jar, gateway.url())


def test_clients_stay_with_their_target_by_a_cookie_that_nobody_can_make(tmp_path: Path) -> None:
    with targets(3) as origins, balanced(tmp_path, origins, sticky={"cookie": "lb", "ttl": "1h"}) as gateway:
        jars = [tmp_path / f"jar{number}" for number in range(4)]
        first = [curl(gateway, jar) for jar in jars]
        spare = next(name for name in "abc" if name not in first[:2])
        assert drain(gateway, origins[spare])
        cookies = [jar.read_text() for jar in jars]
        assert [[curl(gateway, jar) for _ in range(3)] for jar in jars] == [[each] * 3 for each in first]
        assert [jar.read_text() for jar in jars] == cookies, "it is set once"
        upgrade(gateway)
        assert [name == spare for name in "abc"] == are_drained(gateway)
        drain(gateway, origins[spare], "DELETE")
        assert [curl(gateway, jar) for jar in jars for _ in range(2)] == [each for each in first for _ in range(2)]

        gone = first[0]
        put(gateway, [target for name, target in zip("abc", listed(origins), strict=True) if name != gone])
        moved = [curl(gateway, jar) for jar in jars]
        for was, now, cookie, jar in zip(first, moved, cookies, jars, strict=True):
            assert now != gone
            assert (now == was and jar.read_text() == cookie) if was != gone else jar.read_text() != cookie
        assert [curl(gateway, jar) for jar in jars] == moved

        (draining, other) = (name for name in "abc" if name != gone)
        assert drain(gateway, origins[draining])
        wait_until(lambda: answers(gateway, 4) == {other: 4}, "clients that come anew go to the other")
        assert [curl(gateway, jar) for jar in jars] == moved, "clients may stay while it drains"


@pytest.mark.landing
def test_what_a_sticky_cookie_says(tmp_path: Path) -> None:
    with targets(2) as origins, balanced(tmp_path, origins, sticky={"cookie": "lb", "path": "/"}) as gateway:
        fresh = ask(gateway.address(), "/")
        line = (fresh.head.get(b"set-cookie") or b"").decode()
        found = re.fullmatch(r"lb=([A-Za-z0-9_-]{40}); Path=/; HttpOnly; SameSite=Lax", line)
        assert found is not None, line
        for origin in origins.values():
            assert str(origin.port) not in line
        value = found[1]
        with gateway.connect() as client:
            kept = client.exchange(GET % f"Cookie: x=y; lb={value}\r\n".encode())
            assert (kept.body, kept.head.get_all(b"set-cookie")) == (fresh.body, [])
            for forged in (value[:-1] + ("A" if value[-1] != "A" else "B"), "A" * 40, value + "A", "", "%00"):
                response = client.exchange(GET % f"Cookie: lb={forged}\r\n".encode())
                assert response.status == 200
                assert len(response.head.get_all(b"set-cookie")) == 1, forged
            posted = client.exchange(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nCookie: lb=%b\r\n\r\nx" % value.encode()
            )
            assert (posted.body, posted.head.get_all(b"set-cookie")) == (fresh.body, [])


@pytest.mark.landing
def test_a_full_pool_serves_the_clients_of_all_workers(tmp_path: Path) -> None:
    """Each client asks again as soon as it is answered, until all of them have been answered."""
    clients, enough_each = 24, 3  # of which each worker has some: that one has none happens once in 5,000 runs
    statuses: list[list[int]] = [[] for _ in range(clients)]
    with targets(1) as origins:
        pool = {"max_connections": 2, "pending_timeout": "5s"}
        upstreams = {"service": {"targets": listed(origins), "pool": pool}}
        config = {"workers": 3, "upstreams": upstreams, "routes": [{"name": "all", "upstream": "service"}]}
        with Reloadable(config, tmp_path) as gateway:

            def ask_again(own: list[int]) -> None:
                with gateway.connect() as client:
                    while min(len(each) for each in statuses) < enough_each:
                        own.append(client.exchange(GET % b"").status)

            asking = [threading.Thread(target=ask_again, args=(own,)) for own in statuses]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
            assert all(each["requests"] for each in read(gateway, "/status")["workers"]), "all workers have served"
    assert Counter(status for own in statuses for status in own).keys() == {200}


def test_idle_connections_of_other_workers_are_closed_for_requests_that_wait(tmp_path: Path) -> None:
    """Every worker keeps some; then one client after another holds a connection, and each one gets it."""
    released = threading.Event()
    with targets(1) as origins:
        pool = {"max_connections": 4, "pending_timeout": "5s"}
        upstreams = {"service": {"targets": listed(origins), "pool": pool}}
        config = {"workers": 2, "upstreams": upstreams, "routes": [{"name": "all", "upstream": "service"}]}
        with Reloadable(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
            origin = origins["a"]
            kept = [stack.enter_context(gateway.connect()) for _ in range(24)]
            of_worker: list[list[Client]] = [[], []]
            for client in kept:
                before = [each["requests"] for each in read(gateway, "/status")["workers"]]
                assert client.exchange(GET % b"").status == 200
                after = [each["requests"] for each in read(gateway, "/status")["workers"]]
                of_worker[after[1] > before[1]].append(client)
            busy = max(of_worker, key=len)[:4]
            holding(origin, released)
            count = asked(origin)
            for client in busy:
                client.send(GET % b"")
            wait_until(lambda: asked(origin) == count + 4, "all four at the target")
            released.set()
            assert [client.read_response().status for client in busy] == [200] * 4
