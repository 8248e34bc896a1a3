"""What is under way while the configuration changes: bodies, tunnels, queues, pools; and files that cannot be read."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_memory import DEADLINE, MIB, Flow, head_from
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import Reloadable, saying
from tests.support.gateway import wait_until
from tests.support.origin import OK, Origin
from tests.support.resident import held_by

LARGE = 1024 * MIB
"""Of a body that several reloads happen to; it takes some seconds."""
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ASKING = b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
KEPT_OPEN_S = 600.0
RELOADS = 150
EARLY = 40
ARENA = 1 << 20
"""What Python asks the system for at once: a process may have one more or less than it fills."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    """It keeps connections open however long reloads take."""
    with Origin(deadline=KEPT_OPEN_S) as origin:
        yield origin


def before(origin: Origin, **upstream: Any) -> dict[str, Any]:
    """A configuration with everything going to one service."""
    targets = [{"url": origin.url}]
    return {
        "workers": 1,
        "upstreams": {"service": {"targets": targets, **upstream}},
        "routes": [{"name": "all", "upstream": "service"}],
    }


def reload(gateway: Reloadable, number: int, **changes: Any) -> None:
    """Another configuration, quickly: by the admin API. Its answer to `/version` is this number."""
    routes = [*saying(f"v{number}", "/version"), {"name": "all", "upstream": "service"}]
    gateway.change(routes=routes, **changes)
    response = httpx.post(f"http://{gateway.ready['admin']}/reload", headers=gateway.shown, timeout=DEADLINE)
    assert response.status_code == 200, response.text


@contextlib.contextmanager
def connected(gateway: Reloadable) -> Iterator[socket.socket]:
    host, _, port = gateway.address().rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
        yield client


# --- nothing that is under way is cut, changed or delayed for good ---


def test_bodies_and_a_tunnel_go_on_while_their_upstream_is_replaced_again_and_again(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        service.settimeout(DEADLINE)
        target = [{"url": f"http://127.0.0.1:{service.getsockname()[1]}"}]
        routes = [{"name": "all", "upstream": "service"}]
        config = {
            "workers": 1,
            "limits": {"body_bytes": 2 * LARGE},
            "upstreams": {"service": {"targets": target}},
            "routes": routes,
        }
        gateway = stack.enter_context(Reloadable(config, tmp_path))
        pool = stack.enter_context(ThreadPoolExecutor())

        def begin(head: bytes) -> tuple[socket.socket, socket.socket]:
            """Both ends of a request that has reached the service."""
            client = stack.enter_context(connected(gateway))
            client.sendall(head)
            taken = stack.enter_context(service.accept()[0])
            taken.settimeout(DEADLINE)
            assert head_from(taken) == b""
            return client, taken

        client, taken = begin(b"GET /down HTTP/1.1\r\nHost: a\r\n\r\n")
        taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        assert head_from(client) == b""
        down = Flow(LARGE, client)
        uploader, taking = begin(b"PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
        up = Flow(LARGE, taking)
        talker, other = begin(ASKING)
        other.sendall(SWITCHED)
        assert head_from(talker) == b""
        half = LARGE // 2
        flowing = [pool.submit(flow.send, source) for flow, source in ((down, taken), (up, uploader))]
        for flow, sent in zip((down, up), flowing, strict=True):
            sent.add_done_callback(lambda done, flow=flow: flow.sending.set_result(done.result()))
        received = [pool.submit(flow.receive, half) for flow in (down, up)]
        number = 0
        while number < 3 or not all(each.done() for each in received):
            number += 1
            reload(gateway, number, upstreams={"service": {"targets": target, "pool": {"max_idle": number}}})
            for one, another in ((talker, other), (other, talker)):
                one.sendall(b"tick %d" % number)
                assert another.recv(100) == b"tick %d" % number
        for each in received:
            each.result()
        received = [pool.submit(flow.receive) for flow in (down, up)]
        reload(gateway, number + 1)
        for each in received:
            each.result()
        taking.sendall(OK)
        assert head_from(uploader) == b"ok"
        assert gateway.answer("/version") == (200, b"v%d" % (number + 1))


@pytest.mark.landing
def test_requests_that_wait_for_a_connection_or_for_an_answer_are_served(tmp_path: Path, origin: Origin) -> None:
    """One connection to the service, which is slow: the others queue, and their upstream is configured away."""
    answered = threading.Event()
    origin.answer(answered, OK)
    origin.serve()
    with (
        Reloadable(before(origin, pool={"max_connections": 1}), tmp_path) as gateway,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(ask, gateway.address(), f"/{number}") for number in range(8)]
        origin.wait_for_requests(1)
        wait_until(lambda: queued(gateway) == 7, "seven in the queue")
        reload(gateway, 1)  # the same upstream
        reload(gateway, 2, upstreams={"service": {"targets": [{"url": origin.url}], "pool": {"max_connections": 2}}})
        answered.set()
        assert [each.result().body for each in asked] == [b"ok"] * 8
        assert ask(gateway.address(), "/after").body == b"ok"


def test_requests_that_wait_get_the_connections_that_a_reload_adds(tmp_path: Path, origin: Origin) -> None:
    """At both workers, while the connection that they waited for is still in use."""
    answered = threading.Event()
    origin.answer(answered, OK)
    origin.serve()
    config = {**before(origin, pool={"max_connections": 1}), "workers": 2}
    with Reloadable(config, tmp_path) as gateway, ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, gateway.address(), f"/{number}") for number in range(24)]
        origin.wait_for_requests(1)
        wait_until(lambda: queued(gateway) == 23, "all others in the queue")
        more = {"max_connections": 24}
        reload(gateway, 1, upstreams={"service": {"targets": [{"url": origin.url}], "pool": more}})
        origin.wait_for_requests(24)
        answered.set()
        assert [each.result().body for each in asked] == [b"ok"] * 24


def queued(gateway: Reloadable) -> int:
    upstreams = httpx.get(f"http://{gateway.ready['admin']}/upstreams", headers=gateway.shown, timeout=DEADLINE).json()[
        "upstreams"
    ]
    return sum(target["waiting"] for upstream in upstreams for target in upstream["targets"])


# --- pools ---


@pytest.mark.landing
def test_an_upstream_that_stays_as_it_is_keeps_its_connections(tmp_path: Path, origin: Origin) -> None:
    origin.serve()
    kept = {"max_idle": 1, "idle_timeout": f"{KEPT_OPEN_S:.0f}s"}  # else it is closed where the load needs none
    with Reloadable(before(origin, pool=kept), tmp_path) as gateway:
        for number in range(5):
            assert ask(gateway.address(), "/").body == b"ok"
            reload(gateway, number, timeouts={"keepalive": f"{60 + number}s"})
            assert gateway.answer("/version") == (200, b"v%d" % number)
        assert len(origin.connections) == 1


def test_the_connections_of_an_upstream_that_changes_are_closed(tmp_path: Path, origin: Origin) -> None:
    origin.serve()
    with Reloadable(before(origin), tmp_path) as gateway:
        assert ask(gateway.address(), "/").body == b"ok"
        reload(gateway, 1, upstreams={"service": {"targets": [{"url": origin.url}], "pool": {"max_idle": 7}}})
        wait_until(lambda: origin.connections[0].ended, "the old connection to close")
        assert ask(gateway.address(), "/").body == b"ok"
        assert len(origin.connections) == 2


# --- files that cannot be taken ---


def nothing(file: Path) -> None:
    file.unlink()


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    link_to(file, "/dev/zero")


def circle(file: Path) -> None:
    link_to(file, file.name)


def large(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(100 * MIB)


def not_ours(file: Path) -> None:
    link_to(file, "/proc/self/mem")  # root may read a file of any mode; of this nobody reads a first byte


def empty_include(file: Path) -> None:
    """An include that it names is gone."""
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "include": ["gone.json"]}))


def link_to(file: Path, target: str) -> None:
    file.unlink()
    file.symlink_to(target)


BAD = [nothing, folder, pipe, device, circle, large, not_ours, empty_include]


def test_a_file_that_cannot_be_read_changes_nothing_and_the_next_one_is_taken(tmp_path: Path) -> None:
    with Reloadable({"routes": saying("v0"), "workers": 1}, tmp_path) as gateway:
        for number, spoil in enumerate(BAD, 1):
            spoil(gateway.file)
            ended = gateway.command("reload")
            assert ended.returncode == 1, f"{spoil.__name__}: {ended.stdout}"
            assert "gateway.json" in ended.stderr or "gone.json" in ended.stderr, f"{spoil.__name__}: {ended.stderr}"
            assert gateway.answer() == (200, b"v%d" % (number - 1)), spoil.__name__
            if gateway.file.is_dir():
                gateway.file.rmdir()
            gateway.change(routes=saying(f"v{number}"))
            gateway.reload()
            assert gateway.answer() == (200, b"v%d" % number), spoil.__name__
        assert samples(gateway.ready["status"])['fastgw_reloads_total{result="failed"}'] == len(BAD)


# --- nothing piles up ---


class Reloads:
    """Reloads by which names of routes and upstreams come and go, of which some are used."""

    def __init__(self, gateway: Reloadable, origin: Origin) -> None:
        self.processes = {
            "supervisor": gateway.pid,
            "worker": gateway.worker_pids[0],
            "control": gateway.control_pid,
        }
        self._gateway, self._origin = gateway, origin

    def change(self, first: int, last: int) -> None:
        gateway, targets = self._gateway, [{"url": self._origin.url}]
        for number in range(first, last):
            upstreams = {f"u{number}-{each}": {"targets": targets} for each in range(5)}
            routes = [{"name": f"r-{name}", "paths": [f"/{name}"], "upstream": name} for name in upstreams]
            gateway.change(upstreams=upstreams, routes=routes)
            response = httpx.post(f"http://{gateway.ready['admin']}/reload", headers=gateway.shown, timeout=DEADLINE)
            assert response.status_code == 200, response.text
            if number % 10 == 5:  # not the last one
                assert ask(gateway.address(), f"/u{number}-0").body == b"ok"
        wait_until(lambda: not open_connections(self._origin), "old pools to close")


def test_many_reloads_leave_no_descriptor_behind(tmp_path: Path, origin: Origin) -> None:
    origin.serve()
    with Reloadable(before(origin), tmp_path) as gateway:
        reloads = Reloads(gateway, origin)
        reloads.change(1, 10)
        early = {name: descriptors(pid) for name, pid in reloads.processes.items()}
        reloads.change(10, 40)
        for name, pid in reloads.processes.items():
            # The connection of the last reload may just be closing.
            wait_until(
                lambda pid=pid, most=early[name]: descriptors(pid) <= most, f"{name} to have no more descriptors"
            )


def test_many_reloads_leave_no_memory_behind(tmp_path: Path, origin: Origin) -> None:
    origin.serve()
    with Reloadable(before(origin), tmp_path) as gateway:
        reloads = Reloads(gateway, origin)
        reloads.change(1, EARLY)
        early = {name: held_by(pid) for name, pid in reloads.processes.items()}
        reloads.change(EARLY, RELOADS + 1)
        for name, pid in reloads.processes.items():
            then, now = early[name], held_by(pid)
            assert now <= 1.02 * then + ARENA, f"{name}: {then} -> {now} bytes"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_connections(origin: Origin) -> int:
    return sum(not each.ended and each.sock.fileno() >= 0 for each in origin.connections)
