"""What dies or stands still, and when: a process of each kind, under load, in a reload, again and again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.runtime.reload.rollback_history import KEPT
from tests.e2e.clients import LoadCounts
from tests.e2e.test_hangs import HUNG_DEADLINE, freeze
from tests.e2e.test_nothing_lost import CALLERS, client_ports, enough, under_load
from tests.e2e.test_processes import GET, GET_AND_CLOSE, ask, ends_of, samples, wait_for_ends
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying, pids, saying
from tests.support.client import Client
from tests.support.gateway import Gateway, GatewayFailed, wait_until
from tests.support.peer import DEADLINE

HELD_BACK = [sys.executable, str(Path(__file__).parents[1] / "support" / "held_back.py"), "600"]
"""The next child of a slot comes 600 s after the death of the one before, and no worker is taken for silent."""
KEPT_ALIVE: dict[str, Any] = {"body": "v1"}
EACH_ANEW: dict[str, Any] = {"body": "v1", "headers": {"Connection": "close"}}
LOADS = pytest.mark.parametrize("respond", [KEPT_ALIVE, EACH_ANEW], ids=["kept alive", "new connections"])


def answering(respond: dict[str, Any]) -> dict[str, Any]:
    return {"routes": [{"name": "all", "respond": respond}]}


def death_of(pid: int) -> Callable[[bytes], bool]:
    """The line that tells of it."""
    return lambda line: b"(pid %d) ended: killed by SIGKILL" % pid in line


def documents_of(pid: int) -> int:
    """How many accepted configurations a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += "fastgw-accepted" in os.readlink(descriptor)
    return found


def all_serve(gateway: Reloadable, generation: int, workers: int = 2) -> None:
    """Wait until all workers serve this generation, and see that another reload works."""
    wanted = [generation] * workers
    wait_until(lambda: len(pids(gateway)) == workers and gateway.generations() == wanted, f"{wanted}", 4 * DEADLINE)
    gateway.change(routes=saying("after"))
    assert gateway.reload() == f"reloaded: generation {generation + 1} on {workers}/{workers} workers"
    assert {gateway.answer() for _ in range(20)} == {(200, b"after")}


# --- somebody is killed ---


@pytest.mark.landing
def test_what_waits_at_a_killed_worker_is_answered_by_a_neighbour(tmp_path: Path) -> None:
    """Nobody takes its place meanwhile, and its death is all that tells the neighbour to accept for it."""
    with Reloadable({"routes": saying("v1")}, tmp_path, launcher=HELD_BACK) as gateway, contextlib.ExitStack() as stack:
        victim, survivor = gateway.worker_pids
        kept = next(
            client for client in some_clients(gateway, stack) if client.sock.getsockname()[1] in client_ports(survivor)
        )
        os.kill(victim, signal.SIGSTOP)
        clients = [stack.enter_context(gateway.connect()) for _ in range(40)]
        for client in clients:
            client.send(GET_AND_CLOSE)
        os.kill(victim, signal.SIGKILL)
        assert [client.read_response().status for client in clients] == [200] * 40
        told = gateway.stderr.wait_for(death_of(victim))
        (delay,) = re.findall(rb"the next starts in ([0-9.]+) s", told)
        assert 0 < float(delay) <= 600
        assert kept.exchange(GET).status == 200
        assert gateway.worker_pids == [survivor]
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}


def some_clients(gateway: Gateway, stack: contextlib.ExitStack) -> Iterator[Client]:
    """Connections that have been answered once, one after another."""
    for _ in range(100):
        client = stack.enter_context(gateway.connect())
        client.exchange(GET)
        yield client


@pytest.mark.landing
@LOADS
def test_a_worker_is_killed_under_load(tmp_path: Path, respond: dict[str, Any]) -> None:
    """Lost is at most what it had under way: one request of each client."""
    with Reloadable(answering(respond), tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            for victim in gateway.worker_pids:
                await enough(counters, 300)
                os.kill(victim, signal.SIGKILL)
                await asyncio.to_thread(gateway.stderr.wait_for, death_of(victim))
            await enough(counters, 300)

        counters = under_load(gateway.address(), events, undeterred=True)
        assert len(counters.lost) <= 2 * CALLERS
        assert set(counters.statuses) == {200}
        all_serve(gateway, 1)


@pytest.mark.landing
@LOADS
def test_control_is_killed_under_load(tmp_path: Path, respond: dict[str, Any]) -> None:
    with Reloadable(answering(respond), tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 300)
            victim = gateway.control_pid
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(gateway.stderr.wait_for, death_of(victim))
            await enough(counters, 300)

        counters = under_load(gateway.address(), events)
        assert (counters.lost, set(counters.statuses)) == ([], {200})
        all_serve(gateway, 1)


@LOADS
@pytest.mark.parametrize("frozen", [False, True], ids=["", "a worker stands still"])
def test_the_supervisor_is_killed_under_load(tmp_path: Path, respond: dict[str, Any], frozen: bool) -> None:
    """Its children go with it; where they listened the next gateway can start at once."""
    with held_addresses(3) as (main, status, admin):
        listeners = {"main": {"address": main}, "local": {"address": f"unix:{tmp_path / 'gw.sock'}"}}
        own = {"status": {"address": status}, "admin": {"address": admin}}
        config = {"listeners": listeners, **own, **answering(respond)}
        gateway = Reloadable(config, tmp_path)

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 300)
            with ends_of(gateway.child_pids) as ends:
                if frozen:
                    os.kill(gateway.worker_pids[0], signal.SIGSTOP)
                gateway.signal(signal.SIGKILL)
                await asyncio.to_thread(wait_for_ends, ends)

        counters = under_load(gateway.address(), events)
        assert set(counters.statuses) == {200}
        assert len(counters.lost) <= CALLERS
        gateway.wait()
        with Reloadable(config, tmp_path) as following:
            assert following.answer() == following.answer(listener="local") == (200, b"v1")
            all_serve(following, 1)


@contextlib.contextmanager
def held_addresses(count: int) -> Iterator[list[str]]:
    """Addresses that stay these over a restart: a socket that is bound, but does not listen, keeps others away."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for _ in range(count):
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            addresses.append(f"127.0.0.1:{held.getsockname()[1]}")
        yield addresses


# --- somebody is killed in the midst of a reload ---


@contextlib.contextmanager
def in_a_reload(directory: Path, **changes: Any) -> Iterator[tuple[Reloadable, list[int]]]:
    """A gateway in the midst of a reload: the first worker stands still, the others are prepared, nobody may commit.

    That lasts for 2 s, or until the first goes on; in the end it does.
    """
    with gateway_saying("v1", directory, workers=3) as gateway, contextlib.ExitStack() as stack:
        first, *others = gateway.worker_pids
        clients = {pid: client_of(pid, gateway, stack) for pid in others}
        os.kill(first, signal.SIGSTOP)
        gateway.change(routes=saying("v2"), **changes)
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: documents_of(gateway.pid) == 2, "the proposal")
        for client in clients.values():
            for _ in range(50):  # the loop goes round; tables of one route are built in a turn or two
                assert client.exchange(GET).status == 200
        try:
            yield gateway, [first, *others]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGCONT)


def client_of(pid: int, gateway: Gateway, stack: contextlib.ExitStack) -> Client:
    """A client whose connection this worker has."""
    return next(client for client in some_clients(gateway, stack) if client.sock.getsockname()[1] in client_ports(pid))


def is_reloaded(gateway: Reloadable, workers: int) -> None:
    gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 on " in line, 4 * DEADLINE)
    all_serve(gateway, 2, workers)


@pytest.mark.landing
def test_a_worker_is_killed_while_it_prepares(tmp_path: Path) -> None:
    with in_a_reload(tmp_path) as (gateway, (first, *_)):
        os.kill(first, signal.SIGKILL)
        is_reloaded(gateway, 3)


def test_a_worker_is_killed_when_it_is_prepared(tmp_path: Path) -> None:
    with in_a_reload(tmp_path) as (gateway, (first, second, _)):
        os.kill(second, signal.SIGKILL)
        gateway.stderr.wait_for(death_of(second))
        os.kill(first, signal.SIGCONT)
        is_reloaded(gateway, 3)


def test_a_worker_that_stands_still_in_a_reload_is_not_waited_for(tmp_path: Path) -> None:
    """The others commit after 2 s, and it is killed before: it would go on with what was in force."""
    with in_a_reload(tmp_path) as (gateway, (first, *_)):
        told = gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 on " in line)
        assert b"on 2/3 workers" in told
        assert {gateway.answer() for _ in range(30)} == {(200, b"v2")}
        gateway.stderr.wait_for(death_of(first))
        is_reloaded(gateway, 3)
        assert first not in gateway.worker_pids


def test_control_is_killed_before_it_proposes(tmp_path: Path) -> None:
    """The next one does what was asked for."""
    with gateway_saying("v1", tmp_path) as gateway:
        control = gateway.control_pid
        os.kill(control, signal.SIGSTOP)
        gateway.change(routes=saying("v2"))
        gateway.signal(signal.SIGHUP)
        os.kill(control, signal.SIGKILL)
        is_reloaded(gateway, 2)


def test_control_is_killed_when_it_has_proposed(tmp_path: Path) -> None:
    """What it has proposed takes place, and whoever follows it knows."""
    with in_a_reload(tmp_path) as (gateway, (first, *_)):
        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        gateway.stderr.wait_for(death_of(control))
        wait_until(lambda: "fastgw control" in names(gateway), "control")
        os.kill(first, signal.SIGCONT)
        is_reloaded(gateway, 3)


def names(gateway: Gateway) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in gateway.child_pids]


@pytest.mark.landing
def test_the_supervisor_is_killed_in_the_midst_of_a_reload(tmp_path: Path) -> None:
    """One of its workers stands still, but goes with it all the same."""
    with pytest.raises(GatewayFailed, match="ended with -9"):
        kill_the_supervisor_in_a_reload(tmp_path)


def kill_the_supervisor_in_a_reload(directory: Path) -> None:
    with in_a_reload(directory) as (gateway, _), ends_of(gateway.child_pids) as ends:
        gateway.signal(signal.SIGKILL)
        wait_for_ends(ends)


# --- somebody stands still ---


def test_a_worker_that_goes_on_serves_what_was_reloaded_meanwhile(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        frozen, *_ = gateway.worker_pids
        freeze(frozen, gateway)
        gateway.change(routes=saying("v2"))
        assert gateway.reload() == "reloaded: generation 2 on 1/2 workers, 1 does not answer"
        assert {gateway.answer() for _ in range(50)} == {(200, b"v2")}
        gateway.stderr.wait_for(death_of(frozen))
        assert f"(pid {frozen}) hangs, and would keep serving the old configuration" in gateway.stderr.text()
        all_serve(gateway, 2)
        assert frozen not in gateway.worker_pids


def test_a_worker_that_stands_still_for_long_is_replaced(tmp_path: Path) -> None:
    """Two reloads later: who takes its place begins with the first, and follows to the last."""
    with gateway_saying("v1", tmp_path) as gateway:
        frozen, *_ = gateway.worker_pids
        freeze(frozen, gateway)
        for version in ("v2", "v3"):
            gateway.change(routes=saying(version))
            gateway.reload()
        gateway.stderr.wait_for(death_of(frozen), HUNG_DEADLINE)
        all_serve(gateway, 3)


def test_control_stands_still(tmp_path: Path) -> None:
    """Nobody is hurt; what is asked for meanwhile takes place when it goes on."""
    with gateway_saying("v1", tmp_path) as gateway:
        control = gateway.control_pid
        os.kill(control, signal.SIGSTOP)
        gateway.change(routes=saying("v2"))
        gateway.signal(signal.SIGHUP)
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids) == 2, "another worker")
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}
        os.kill(control, signal.SIGCONT)
        is_reloaded(gateway, 2)
        assert gateway.control_pid == control


def test_the_supervisor_stands_still(tmp_path: Path) -> None:
    """Workers serve on; afterwards nobody is held to have hung."""
    with gateway_saying("v1", tmp_path) as gateway:
        before = gateway.worker_pids

        async def events(counters: LoadCounts) -> None:
            gateway.signal(signal.SIGSTOP)
            await enough(counters, 3000)
            gateway.signal(signal.SIGCONT)
            await enough(counters, 300)

        counters = under_load(gateway.address(), events)
        assert (counters.lost, set(counters.statuses)) == ([], {200})
        all_serve(gateway, 1)
        assert gateway.worker_pids == before
        assert "no heartbeat" not in gateway.stderr.text()


# --- control is away ---


def test_while_control_is_away_a_worker_answers_the_probes(tmp_path: Path) -> None:
    with Reloadable({"routes": saying("v1")}, tmp_path, launcher=HELD_BACK) as gateway:
        status = gateway.ready["status"]
        os.kill(gateway.control_pid, signal.SIGKILL)
        for _ in range(3):
            assert (ask(status, "/livez").status, ask(status, "/readyz").status) == (200, 200)
        assert ask(status, "/metrics").status == 200
        os.kill(gateway.worker_pids[0], signal.SIGKILL)  # perhaps the one that answers
        assert (ask(status, "/livez").status, ask(status, "/readyz").status) == (200, 200)
        assert gateway.answer() == (200, b"v1")


def test_control_comes_back_and_has_missed_nothing_but_time(tmp_path: Path) -> None:
    served = 'fastgw_requests_total{listener="main",method="GET",route="said",status="200"}'
    with gateway_saying("v1", tmp_path) as gateway:
        status = gateway.ready["status"]
        for version in ("v2", "v3"):
            gateway.change(routes=saying(version))
            gateway.reload()
        gateway.answer()
        control = gateway.control_pid
        wait_until(lambda: samples(status).get(served) == 1, "the count")
        os.kill(control, signal.SIGKILL)
        gateway.stderr.wait_for(death_of(control))
        gateway.answer()
        wait_until(lambda: ask(status, "/metrics").status == 200, "control")
        wait_until(lambda: samples(status).get(served) == 2, "the count")
        wait_until(lambda: gateway.command("status").returncode == 0, "the admin listener")
        told = gateway.status()
        assert told["generation"] == 3
        assert [each["generation"] for each in told["reloads"]["last"]] == [3, 2]
        assert len(gateway.child_pids) == 3


def test_the_status_address_is_changed_by_a_reload(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        old, new = gateway.ready["status"], f"unix:{tmp_path / 'status.sock'}"
        gateway.change(status={"address": new})
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"
        assert ask(new, "/readyz").status == 200
        wait_until(lambda: ask(new, "/metrics").status == 200, "control")
        with pytest.raises(ConnectionRefusedError):
            ask(old, "/livez")
        gateway.change(status=None)
        wait_until(lambda: gateway.command("reload").returncode == 0, "the admin listener")
        assert not (tmp_path / "status.sock").exists()
        wait_until(lambda: gateway.command("status").returncode == 0, "the admin listener")
        all_serve(gateway, 3)


# --- again and again ---


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_loop_leaves_nobody_hanging(tmp_path: Path, workers: int) -> None:
    """Whoever is born in the first slot is killed at once: all clients are answered, and the loop is told."""
    with gateway_saying("v1", tmp_path, workers=workers) as gateway:

        async def events(counters: LoadCounts) -> None:
            for _ in range(5):
                victim = await asyncio.to_thread(worker_of, gateway, 1)
                os.kill(victim, signal.SIGKILL)
                await asyncio.to_thread(gateway.stderr.wait_for, death_of(victim))
                await enough(counters, 100)

        counters = under_load(gateway.address(), events, undeterred=True)
        assert set(counters.statuses) == {200}
        assert len(counters.lost) <= 5 * CALLERS
        gateway.stderr.wait_for(lambda line: b"worker 1 died 5 times" in line)
        all_serve(gateway, 1, workers)


def worker_of(gateway: Gateway, number: int) -> int:
    """The process in this slot, when there is one."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [
            pid
            for pid, name in zip(gateway.child_pids, names(gateway), strict=False)
            if name == f"fastgw worker {number}"
        ]
        return bool(found)

    wait_until(is_there, f"worker {number}", 4 * DEADLINE)
    return found[0]


def test_a_control_process_that_stands_still_is_not_waited_for_when_another_is_due(tmp_path: Path) -> None:
    """It shall listen elsewhere from now on, and does not hear of it."""
    with in_a_reload(tmp_path, status=None) as (gateway, (first, *_)):
        control = gateway.control_pid
        os.kill(control, signal.SIGSTOP)
        os.kill(first, signal.SIGCONT)
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 2" in line)
        gateway.stderr.wait_for(death_of(control), 4 * DEADLINE)
        all_serve(gateway, 2, 3)


# --- anything, at any time ---


class Trouble:
    """Kills, stops and changes at random, by a seed."""

    def __init__(self, gateway: Reloadable, seed: int) -> None:
        self._gateway = gateway
        self._random = random.Random(seed)
        self._stopped: list[int] = []
        self._versions = 0

    def happens(self) -> None:
        """One thing of many. Who was stopped may go on."""
        gateway, choose = self._gateway, self._random.choice
        things: list[Callable[[], None]] = [
            lambda: self._change(routes=saying(f"v{self._versions}")),
            lambda: self._change(workers=self._random.randint(1, 4)),
            lambda: self._change(listeners=choose([{"main": ANYWHERE}, {"main": ANYWHERE, "more": ANYWHERE}])),
            lambda: gateway.signal(signal.SIGUSR2),
            lambda: os.kill(choose(gateway.worker_pids), signal.SIGKILL),
            lambda: os.kill(gateway.control_pid, signal.SIGKILL),
            lambda: self._stop(choose(gateway.worker_pids)),
            lambda: self._stop(gateway.control_pid),
            self.all_go_on,
            self.all_go_on,
        ]
        with contextlib.suppress(IndexError, ValueError, ProcessLookupError, FileNotFoundError):  # it is just away
            choose(things)()

    def _change(self, **changes: Any) -> None:
        self._versions += 1
        self._gateway.change(**changes)
        self._gateway.signal(signal.SIGHUP)

    def _stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)

    def all_go_on(self) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_in_the_end_all_serve_the_same(tmp_path: Path, seed: int) -> None:
    """Clients may lose what a killed worker had; nobody is left hanging, and nobody is answered anything but 200."""
    respond = [{"name": "said", "respond": EACH_ANEW}]
    with Reloadable({"routes": respond, "workers": 3}, tmp_path) as gateway:
        trouble = Trouble(gateway, seed)

        async def events(counters: LoadCounts) -> None:
            for _ in range(40):
                trouble.happens()
                await asyncio.sleep(0.05)
            trouble.all_go_on()

        counters = under_load(gateway.address(), events, undeterred=True)
        assert set(counters.statuses) == {200}
        assert not [lost for lost in counters.lost if "Timeout" in lost]
        wait_until(lambda: gateway.command("status").returncode == 0, "control", 4 * DEADLINE)
        gateway.change(routes=saying("at last"), workers=3, listeners={"main": ANYWHERE})
        wait_until(lambda: gateway.command("reload").returncode == 0, "a reload", 4 * DEADLINE)
        wait_until(lambda: len(pids(gateway)) == len(gateway.worker_pids) == 3, "three workers", 6 * DEADLINE)
        assert len(set(gateway.generations())) == 1
        assert {gateway.answer() for _ in range(30)} == {(200, b"at last")}
        # Who was retired, or stood still, may take until now to be gone.
        wait_until(lambda: len(gateway.child_pids) == 4, "nobody but those who serve", 6 * DEADLINE)
        assert documents_of(gateway.pid) <= 1 + KEPT
