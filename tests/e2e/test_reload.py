"""The configuration is changed while requests are under way: none is lost, and what was changed is seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.admin.client import AdminClient, parse_admin_address
from tests.e2e.clients import Caller, LoadCounts
from tests.e2e.programs import Nginx
from tests.e2e.test_nothing_lost import enough, under_load
from tests.e2e.test_processes import ask, samples
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until
from tests.support.peer import DEADLINE

ANYWHERE = {"address": "127.0.0.1:0"}


class Reloadable(Gateway):
    """A gateway whose file can be written anew, and which is asked over its admin listener."""

    def __init__(self, config: Mapping[str, Any], directory: Path, **more: Any) -> None:
        self.file = directory / "gateway.json"
        self.config = {
            "version": 1,
            "workers": 2,
            "admin": ANYWHERE,
            "status": ANYWHERE,
            "access_logs": [],
            "listeners": {"main": ANYWHERE},
            **config,
        }
        self.write(self.config)
        super().__init__(self.file, directory, **more)

    def write(self, config: Mapping[str, Any] | str) -> None:
        """As editors do: the new file takes the place of the old."""
        written = self.file.with_suffix(".new")
        written.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
        os.replace(written, self.file)

    def change(self, **changes: Any) -> None:
        self.config |= changes
        self.write(self.config)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command for the running gateway."""
        command = [FASTGW, *arguments, "--admin", str(self.ready["admin"])]
        return ran(command)

    def reload(self) -> str:
        """Reload by the command, which must succeed."""
        ended = self.command("reload")
        assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}\n{self.stderr.text()}"
        return ended.stdout.strip()

    def status(self) -> dict[str, Any]:
        """What `fastgw status --format json` prints, without the start of a process."""
        client = AdminClient(parse_admin_address(str(self.ready["admin"])), self.token)
        status: dict[str, Any] = json.loads(client.get("/status"))
        return status

    def generations(self) -> list[int]:
        return [worker["generation"] for worker in self.status()["workers"]]

    def answer(self, path: str = "/", listener: str = "main") -> tuple[int, bytes]:
        """To a client that comes anew."""
        response = ask(self.address(listener), path)
        return response.status, response.body


def saying(text: str, path: str = "/*") -> list[dict[str, Any]]:
    return [{"name": "said", "paths": [path], "respond": {"body": text}}]


@contextlib.contextmanager
def gateway_saying(text: str, directory: Path, **config: Any) -> Iterator[Reloadable]:
    with Reloadable({"routes": saying(text), **config}, directory) as gateway:
        yield gateway


# --- what a reload does ---


@pytest.mark.landing
def test_a_reload_is_over_when_every_worker_serves_the_new_generation(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, workers=3) as gateway:
        assert gateway.answer() == (200, b"v1")
        gateway.change(routes=saying("v2"))
        assert gateway.reload() == "reloaded: generation 2 on 3/3 workers"
        assert {gateway.answer() for _ in range(50)} == {(200, b"v2")}
        assert gateway.generations() == [2, 2, 2]
        seen = samples(gateway.ready["status"])
        assert [seen[f'fastgw_config_generation{{worker="{number}"}}'] for number in (1, 2, 3)] == [2, 2, 2]
        assert seen["fastgw_config_last_reload_success"] == 1
        assert seen['fastgw_reloads_total{result="ok"}'] == 1


def test_what_check_notes_is_told_at_the_start_and_where_a_reload_brings_it(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, filters={"key_auth": {}}) as gateway:
        noted = [line for line in gateway.stderr.raw if b" config_note: " in line]
        assert len(noted) == 1
        assert b"filters.key_auth: no consumer has a `key_auth`: every request is refused" in noted[0]
        gateway.change(filters={"key_auth": {}, "basic_auth": {}})
        note, summary = gateway.reload().splitlines()
        assert note.startswith(f"note: {gateway.file}:")
        assert note.endswith("filters.basic_auth: no consumer has a `basic_auth`: every request is refused")
        assert summary == "reloaded: generation 2 on 2/2 workers"
        gateway.stderr.wait_for(lambda line: note.removeprefix("note: ").encode() in line)
        assert gateway.reload() == "reloaded: generation 3 on 2/2 workers"


@pytest.mark.landing
def test_a_connection_that_is_kept_open_meets_the_new_configuration_with_its_next_request(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway, gateway.connect() as client:
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert client.exchange(request).body == b"v1"
        gateway.change(routes=saying("v2"))
        gateway.reload()
        assert client.exchange(request).body == b"v2"


@pytest.mark.landing
def test_a_signal_reloads_too(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(routes=saying("v2"))
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 on 2/2 workers" in line)
        assert gateway.answer() == (200, b"v2")


@pytest.mark.landing
def test_a_worker_that_dies_after_a_reload_comes_back_with_the_new_configuration(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(routes=saying("v2"))
        gateway.reload()
        dead = gateway.status()["workers"][0]["pid"]
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: len(ready := pids(gateway)) == 2 and dead not in ready, "another worker")
        assert gateway.generations() == [2, 2]
        assert {gateway.answer() for _ in range(50)} == {(200, b"v2")}


def pids(gateway: Reloadable) -> list[int]:
    return [worker["pid"] for worker in gateway.status()["workers"] if worker["state"] == "ready"]


@pytest.mark.landing
def test_control_comes_back_with_what_is_in_force_and_reloads_from_there(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(routes=saying("v2"))
        gateway.reload()
        os.kill(gateway.control_pid, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"control" in line and b"SIGKILL" in line)
        wait_until(lambda: gateway.command("status", "--format", "json").returncode == 0, "control")
        assert gateway.status()["generation"] == 2
        assert [each["generation"] for each in gateway.status()["reloads"]["last"]] == [2]
        gateway.change(routes=saying("v3"))
        assert gateway.reload() == "reloaded: generation 3 on 2/2 workers"
        assert gateway.answer() == (200, b"v3")


# --- what is wrong changes nothing ---

WRONG: Mapping[str, str | Callable[[Path], str]] = {
    "no JSON": '{"version": 1, ',
    "an unknown key": '{"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "rutes": []}',
    "an upstream that is not there": json.dumps(
        {"version": 1, "listeners": {"main": ANYWHERE}, "routes": [{"name": "a", "upstream": "nobody"}]}
    ),
    "a log that cannot be written": json.dumps(
        {"version": 1, "listeners": {"main": ANYWHERE}, "access_logs": [{"sink": "/nowhere/to/access.log"}]}
    ),
    "empty": "",
    "not UTF-8": "\ufffd",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_configuration_that_is_wrong_changes_nothing_and_says_why(tmp_path: Path, wrong: str) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.write(str(WRONG[wrong]))
        ended = gateway.command("reload")
        assert ended.returncode == 1
        assert "gateway.json" in ended.stderr
        assert gateway.answer() == (200, b"v1")
        assert gateway.generations() == [1, 1]
        seen = samples(gateway.ready["status"])
        assert seen["fastgw_config_last_reload_success"] == 0
        assert seen['fastgw_reloads_total{result="failed"}'] == 1
        told = gateway.stderr.wait_for(lambda line: b"not reloaded" in line)
        assert told == b"not reloaded, generation 1 stays: see the errors above\n"
        gateway.change(routes=saying("v2"))
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"
        assert samples(gateway.ready["status"])["fastgw_config_last_reload_success"] == 1


@pytest.mark.landing
def test_an_address_that_is_taken_changes_nothing(tmp_path: Path, origin: Nginx) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(routes=saying("v2"), listeners={"main": ANYWHERE, "more": {"address": origin.address}})
        ended = gateway.command("reload")
        assert ended.returncode == 1
        assert f"cannot listen on {origin.address}" in ended.stderr
        assert gateway.answer() == (200, b"v1")


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path / "origin", "location / { return 200 'fine'; }") as origin:
        yield origin


# --- nothing is lost ---


@pytest.mark.parametrize("undeterred", [False, True], ids=["kept alive", "new connections"])
def test_fifty_reloads_under_load_lose_nothing_and_each_is_seen(tmp_path: Path, undeterred: bool) -> None:
    """Every reload changes an answer that is observed; no client ever asks twice."""

    def version(number: int) -> list[dict[str, Any]]:
        respond = {"body": f"v{number}", **({"headers": {"Connection": "close"}} if undeterred else {})}
        return [{"name": f"route {number}", "respond": respond}]

    with Reloadable({"routes": version(0)}, tmp_path) as gateway:
        seen = []

        async def events(counters: LoadCounts) -> None:
            for number in range(1, 51):
                await enough(counters, 40)
                gateway.change(routes=version(number))
                gateway.signal(signal.SIGHUP)
                told = f"reloaded: generation {number + 1} ".encode()
                await asyncio.to_thread(gateway.stderr.wait_for, lambda line, told=told: told in line)
                caller = Caller(gateway.address())
                await caller.open()
                seen.append((await caller.ask())[1])
                caller.close()

        counters = under_load(gateway.address(), events)
        assert not counters.lost
        assert set(counters.statuses) == {200}
        assert seen == [f"v{number}".encode() for number in range(1, 51)]


@pytest.mark.landing
def test_a_storm_of_reloads_settles_on_the_last(tmp_path: Path) -> None:
    with gateway_saying("v0", tmp_path) as gateway:
        for number in range(1, 101):
            gateway.change(routes=saying(f"v{number}"))
            gateway.signal(signal.SIGHUP)
        wait_until(lambda: gateway.answer() == (200, b"v100"), "the last configuration")
        wait_until(lambda: len(set(gateway.generations())) == 1, "the other workers")
        assert {gateway.answer() for _ in range(50)} == {(200, b"v100")}


# --- listeners and workers ---


@pytest.mark.landing
def test_a_listener_is_added_and_removed_without_a_new_process(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        before = pids(gateway)
        path = tmp_path / "more.sock"
        gateway.change(listeners={"main": ANYWHERE, "more": {"address": f"unix:{path}"}})
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers, 1 listener added, 0 workers restarted"
        assert ask(f"unix:{path}", "/").body == b"v1"
        gateway.change(listeners={"main": ANYWHERE})
        assert gateway.reload() == "reloaded: generation 3 on 2/2 workers, 1 listener removed, 0 workers restarted"
        assert not path.exists()
        assert gateway.answer() == (200, b"v1")
        gateway.change(listeners={"main": {"address": f"unix:{path}"}})
        assert gateway.reload() == "reloaded: generation 4 on 2/2 workers, 1 listener moved, 0 workers restarted"
        assert pids(gateway) == before


@pytest.mark.landing
@pytest.mark.parametrize("workers", [1, 4])
def test_another_number_of_workers_loses_nothing(tmp_path: Path, workers: int) -> None:
    with gateway_saying("v1", tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            await enough(counters, 200)
            gateway.change(workers=workers)
            told = await asyncio.to_thread(gateway.reload)
            assert told == f"reloaded: generation 2 on 2/2 workers, workers 2 -> {workers}"
            await asyncio.to_thread(
                wait_until, lambda: len(pids(gateway)) == workers, f"{workers} workers", 4 * DEADLINE
            )
            await enough(counters, 200)

        counters = under_load(gateway.address(), events, undeterred=True)
        assert not counters.lost
        assert set(counters.statuses) == {200}
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}


def eventfds(pid: int) -> set[bytes]:
    """The eventfds that a process has open, also those of the same processes under other numbers."""
    found = set()
    for each in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= {line for line in each.read_bytes().splitlines() if line.startswith(b"eventfd-id:")}
    return found


def test_workers_that_a_reload_adds_are_woken_like_the_others(tmp_path: Path) -> None:
    """Each process can wake each other one, by an eventfd that all of them have."""
    with gateway_saying("v1", tmp_path, workers=1) as gateway:
        gateway.change(workers=6)
        gateway.reload()
        wait_until(lambda: len(pids(gateway)) == 6, "6 workers", 4 * DEADLINE)
        assert gateway.generations() == [2] * 6
        processes = [*pids(gateway), gateway.control_pid]
        wait_until(lambda: len(set.intersection(*map(eventfds, processes))) >= len(processes), "wakers of all")


SIGNALLING = """
import os, signal
from pathlib import Path
from fastgw.filters.api import Filter, Hooks, Phase

once = Path(__file__).with_name("sent")
if not once.exists():
    once.touch()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)


class Signalling(Filter, name="signalling", phase=Phase.TRANSFORM):
    'Do nothing.'

    def build(self, env):
        return Hooks()
"""


def test_signals_of_tools_do_not_end_a_gateway_that_is_starting(tmp_path: Path) -> None:
    """A hook that renews a certificate or rotates a log may hit a start: the file is read again once it serves."""
    (tmp_path / "signalling.py").write_text(SIGNALLING)
    config = {
        "extensions": ["signalling"],
        "listeners": {"main": ANYWHERE},
        "routes": [
            {"name": "all", "respond": {"body": "ok"}, "filters": {"nothing": {"type": "signalling:Signalling"}}}
        ],
    }
    with Gateway(config, tmp_path, ["--extension-dir", str(tmp_path)]) as gateway:
        assert (tmp_path / "sent").exists()
        gateway.stderr.wait_for(lambda line: line.startswith(b"reloaded: generation 2 "))
        with gateway.connect() as client:
            assert client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"
