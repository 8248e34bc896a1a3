"""Rate limits among real workers: exact for the node, whichever worker a connection is on, and whoever dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_upgrade import upgradable
from tests.support.client import connect
from tests.support.gateway import Gateway, wait_until
from tests.support.tcp_table import tcp_rows

WORKERS = 4
CONNECTIONS = 240
LIMIT = 500
WINDOW = 1  # seconds
YEAR = "8760h"  # so that nothing comes back during a test
ALGORITHMS = ("token_bucket", "fixed_window", "sliding_window", "leaky_bucket")
SHARES = {"even": (1, 1, 1, 1), "97 : 1 : 1 : 1": (97, 1, 1, 1)}


def limited(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "paths": [f"/{name}"], "respond": {"body": "ok"}, "filters": {"rate_limit": settings}}


def routes() -> list[dict[str, Any]]:
    """For each algorithm and share one of its own. A queue without waiting places has one turn."""
    made = []
    for algorithm in ALGORITHMS:
        for share in range(len(SHARES)):
            terms = {"limit": 1, "burst": 0} if algorithm == "leaky_bucket" else {"limit": LIMIT}
            made.append(limited(f"{algorithm}{share}", window=YEAR, algorithm=algorithm, key="host", **terms))
    many = [limited(f"many{number}", limit=LIMIT, window=YEAR, key="header:X-Key", headers="none") for number in (0, 1)]
    return [
        *made,
        *many,
        limited("second", limit=50, window=f"{WINDOW}s", algorithm="fixed_window", key="header:x-key"),
    ]


def config(**more: Any) -> dict[str, Any]:
    return {
        "workers": WORKERS,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": routes(),
        "access_logs": [],
        **more,
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(config(), tmp_path_factory.mktemp("limits")) as gateway:
        yield gateway


@contextlib.contextmanager
def connections(gateway: Gateway, number: int = CONNECTIONS) -> Iterator[list[list[socket.socket]]]:
    """Open ones, by the worker that has accepted them; the best filled first."""
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(contextlib.closing(connect(gateway.address()))) for _ in range(number)]
        by_worker: dict[int, list[socket.socket]] = {pid: [] for pid in gateway.worker_pids}

        def all_accepted() -> bool:
            for held in by_worker.values():
                held.clear()
            owners = _owners(gateway)
            for client in clients:
                if (owner := owners.get(client.getsockname()[1])) is not None:
                    by_worker[owner].append(client)
            return sum(map(len, by_worker.values())) == number

        wait_until(all_accepted, "all connections to be accepted")
        yield sorted(by_worker.values(), key=len, reverse=True)


def _owners(gateway: Gateway) -> Mapping[int, int]:
    """The worker that has accepted a connection, by the port that this is from."""
    ours = f":{gateway.port():04X}"
    rows = tcp_rows()
    ports = {row[9]: int(row[2].partition(":")[2], 16) for row in rows if row[1].endswith(ours) and row[3] == "01"}
    owners = {}
    for pid in gateway.worker_pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
                if found is not None and found[1] in ports:
                    owners[ports[found[1]]] = pid
    return owners


def request(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET /{path} HTTP/1.1", "Host: a.test", *fields, "", ""]).encode()


def ask(load: Iterable[tuple[socket.socket, int]], path: str, *fields: str) -> Counter[int]:
    """Have all ask at once, each so many times, and count the statuses."""
    asking = [(client, times) for client, times in load if times]
    for client, times in asking:
        client.sendall(request(path, *fields) * times)
    statuses: Counter[int] = Counter()
    for client, times in asking:
        received = b""
        while len(found := re.findall(rb"HTTP/1\.1 (\d{3})", received)) < times or not _is_whole(received):
            chunk = client.recv(1 << 16)
            assert chunk, "it was closed"
            received += chunk
        statuses.update(map(int, found))
    return statuses


def _is_whole(received: bytes) -> bool:
    """Whether the last answer there has come to its end."""
    head, _, body = received[received.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return length is not None and len(body) == int(length[1])


def divided(by_worker: list[list[socket.socket]], shares: tuple[int, ...], requests: int) -> list[tuple[Any, int]]:
    """So many requests, in these shares by worker, over all of its connections."""
    load: Counter[socket.socket] = Counter()
    for clients, share in zip(by_worker, shares, strict=True):
        for number in range(requests * share // sum(shares)):
            load[clients[number % len(clients)]] += 1
    return list(load.items())


@pytest.mark.landing
@pytest.mark.parametrize("share", range(len(SHARES)), ids=SHARES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exactly_the_limit_passes_however_the_load_is_divided(gateway: Gateway, algorithm: str, share: int) -> None:
    shares, requests = list(SHARES.values())[share], 4 * LIMIT
    with connections(gateway) as by_worker:
        assert len([clients for clients in by_worker if clients]) == WORKERS
        load = divided(by_worker, shares, requests)
        assert sum(times for _, times in load) >= requests - WORKERS
        statuses = ask(load, f"{algorithm}{share}")
    assert set(statuses) == {200, 429}
    assert statuses[200] == (1 if algorithm == "leaky_bucket" else LIMIT)


def test_each_of_two_windows_admits_its_limit(gateway: Gateway) -> None:
    """By the clock that the gateway goes by; where a window ends in the middle of a flood, another key tries again."""
    with connections(gateway, 40) as by_worker:
        load = divided(by_worker, (1,) * WORKERS, 400)

        def window() -> int:
            return time.monotonic_ns() // (WINDOW * 10**9)

        def flood(key: str) -> Counter[int] | None:
            begun = window()
            statuses = ask(load, "second", f"X-Key: {key}")
            return statuses if window() == begun else None

        for number in count():
            first, begun = flood(str(number)), window()
            wait_until(lambda begun=begun: window() > begun, "the next window")
            second = flood(str(number))
            if first is not None and second is not None:
                break
        assert first == second == {200: 50, 429: 350}


@pytest.mark.landing
def test_a_worker_that_is_killed_changes_no_count(gateway: Gateway) -> None:
    key = "X-Key: killed"
    with connections(gateway) as by_worker:
        assert ask(divided(by_worker, (1, 1, 1, 1), 200), "many0", key) == {200: 200}
        owners: set[int | None] = set()

        def are_known() -> bool:
            """The system's table is not read in one moment: who is there may be missing."""
            now = _owners(gateway)
            owners.clear()
            owners.update(now.get(client.getsockname()[1]) for client in by_worker[0])
            return None not in owners

        wait_until(are_known, "the worker of these connections")
        (victim,) = owners
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        others = by_worker[1:]
        assert ask([(client, 1) for clients in others for client in clients][:100], "many0", key) == {200: 100}
    wait_until(lambda: victim not in gateway.worker_pids and all_serve(gateway), "another worker")
    with connections(gateway) as by_worker:
        assert ask(divided(by_worker, (1, 1, 1, 1), 1000), "many0", key) == {200: LIMIT - 300, 429: 800}


def all_serve(gateway: Gateway) -> bool:
    """Whether every worker accepts connections."""
    with connections(gateway, 40) as by_worker:
        return len(by_worker) == WORKERS and all(by_worker)


@pytest.mark.landing
def test_thousands_of_keys_each_have_their_limit(gateway: Gateway) -> None:
    """Of each key that is looked at as much passes as if there were no others."""
    with connections(gateway, 40) as by_worker:
        clients = [client for clients in by_worker for client in clients]
        for number, client in enumerate(clients):
            client.sendall(b"".join(request("many1", f"X-Key: {number}-{each}") for each in range(50)))
            statuses = re.findall(rb"HTTP/1\.1 (\d{3})", _read(client, 50))
            assert statuses == [b"200"] * 50
        assert ask(divided(by_worker, (1,) * WORKERS, 2 * LIMIT), "many1", "X-Key: 7-7") == {
            200: LIMIT - 1,
            429: LIMIT + 1,
        }


def _read(client: socket.socket, answers: int) -> bytes:
    received = b""
    while received.count(b"HTTP/1.1 ") < answers or not _is_whole(received):
        received += client.recv(1 << 16)
    return received


def test_an_upgrade_and_a_reload_keep_what_was_spent(tmp_path: Path) -> None:
    def route(limit: int) -> list[dict[str, Any]]:
        return [limited("kept", limit=limit, window=YEAR, algorithm="fixed_window", key="host")]

    with upgradable(tmp_path, routes=route(6)) as gateway:
        assert one_by_one(gateway, 4) == {200: 4}
        gateway.upgrade()
        assert one_by_one(gateway, 1) == {200: 1}
        gateway.change(routes=route(8))
        gateway.reload()
        assert one_by_one(gateway, 5) == {200: 3, 429: 2}


def one_by_one(gateway: Gateway, times: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for _ in range(times):
        with contextlib.closing(connect(gateway.address())) as client:
            statuses += ask([(client, 1)], "kept")
    return statuses
