"""USR2: the installed version takes over in place, or, when it cannot, nothing has changed. No request is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from fastgw.runtime.ipc.channel import PROTOCOL
from fastgw.shm.quota_store import Claim
from tests.e2e import admin_calls
from tests.e2e.clients import LoadCounts, call
from tests.e2e.programs import started
from tests.e2e.test_nothing_lost import PAUSE, client_ports, enough
from tests.e2e.test_processes import GET, GET_AND_CLOSE, ask, samples
from tests.e2e.test_reload import ANYWHERE, Reloadable
from tests.support.certificates import Certificates
from tests.support.client import Client
from tests.support.gateway import Lines, name_of, wait_until
from tests.support.installed import Change, Installed
from tests.support.origin import OK, Origin
from tests.support.peer import Unexpected
from tests.support.tcp import connected, read_exactly, tcp_target
from tests.support.tcp_table import tcp_rows

CALLERS = 4  # of each kind
LONG = 90.0  # seconds; an upgrade takes about one, but the machine may be busy
ALL_NEW = re.compile(r"^(?:all \d+ workers are|the only worker is) new$", re.MULTILINE)
CLOSING = "/new"
"""The path whose answer ends its connection."""


SLOWLY = {"fault": {"delay": {"time": "20ms"}}}
"""Requests are in flight at every moment, and their number does not depend on how fast the machine is."""


def answering(text: str) -> list[dict[str, Any]]:
    closing = {"body": text, "headers": {"Connection": "close"}}
    return [
        {"name": "new", "paths": [CLOSING], "filters": SLOWLY, "respond": closing},
        {"name": "all", "filters": SLOWLY, "respond": {"body": text}},
    ]


class Upgradable(Reloadable):
    """A gateway whose installed version can be changed."""

    def __init__(self, directory: Path, changes: Mapping[str, Change] | None = None, **config: Any) -> None:
        launcher = config.pop("launcher", ())
        self.installed = Installed(directory, changes)
        config = {"routes": answering("v1"), **config}
        super().__init__(config, directory, environment=self.installed.environment, launcher=launcher)

    def asked(self) -> dict[str, Any]:
        """What the admin listener says of the node, as soon as there is somebody to say it."""
        told: dict[str, Any] = {}

        def answers() -> bool:
            try:
                told.update(admin(self, b"GET /status"))
            except (OSError, Unexpected):
                return False  # control was being replaced
            return True

        wait_until(answers, "the admin listener", LONG)
        return told

    def serving(self) -> set[int]:
        """The pids of the workers that accept."""
        return {worker["pid"] for worker in self.asked()["workers"] if worker["state"] == "ready"}

    def wait_for_workers(self, count: int, other_than: set[int]) -> None:
        def are_there() -> bool:
            serving = self.serving()
            return len(serving) == count and not serving & other_than

        wait_until(are_there, f"{count} other workers", LONG)

    def told(self, text: str, count: int = 1) -> list[str]:
        """The lines that say so, once there are so many."""

        def lines() -> list[str]:
            return [line.rstrip() for line in self.stderr.text().splitlines() if text in line]

        wait_until(lambda: len(lines()) >= count, f"{count} times {text!r} in\n{self.stderr.text()}", LONG)
        return lines()

    def reload(self) -> str:
        return str(admin(self, b"POST /reload")["summary"])

    def wait_for_the_end(self, upgrades: int) -> None:
        """Wait until so many upgrades are over, by the messages: to ask control over and over meanwhile cost it as much
        processor time as the new program takes to start."""
        wait_until(lambda: len(ALL_NEW.findall(self.stderr.text())) >= upgrades, f"{upgrades} upgrades", LONG)

    def upgrade(self, workers: int = 2) -> None:
        """Upgrade, which must succeed, and wait until all workers are new."""
        before = self.serving()
        earlier = len(ALL_NEW.findall(self.stderr.text()))
        self.signal(signal.SIGUSR2)
        self.wait_for_the_end(earlier + 1)
        self.wait_for_workers(workers, before)


ALL = [{"name": "all", "upstream": "origin"}]


def patient(origin: Origin) -> dict[str, Any]:
    """Return an upstream that is given all the time that upgrades take while it has not answered."""
    return {"origin": {"targets": [origin.url], "timeouts": {"response_headers": "10m"}}}


@contextmanager
def upgradable(directory: Path, changes: Mapping[str, Change] | None = None, **config: Any) -> Iterator[Upgradable]:
    with Upgradable(directory, changes, **config) as gateway:
        yield gateway
        if gateway.process.returncode is None:
            with ExitStack() as opened:
                ends = [opened.enter_context(open_end(pid)) for pid in gateway.child_pids]
                gateway.stop()
                assert re.search(r"^drained \d+ requests in .* s, 0 cut$", gateway.stderr.text(), re.M)
                assert all(has_ended(end) for end in ends), "a child goes on"


@contextmanager
def open_end(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def has_ended(end: int) -> bool:
    return bool(wait([end], 0))


def under_load(gateway: Upgradable, events: Callable[[LoadCounts], Awaitable[None]]) -> LoadCounts:
    """What became of the requests of clients that keep their connections and of clients that always open new ones.

    Nobody asks twice; who is refused a connection counts as lost.
    """
    counters = LoadCounts()

    async def all_of_them() -> None:
        going_on = True

        async def one(path: str) -> None:
            while going_on:
                await call(gateway.address(), lambda: going_on, counters, path=path, pause=2 * PAUSE)
                if going_on:
                    counters.lost.append(f"{path}: was refused a connection, or lost it")

        async with asyncio.TaskGroup() as tasks:
            for path in ("/", CLOSING):
                for _ in range(CALLERS):
                    tasks.create_task(one(path))
            try:
                await enough(counters, 100)
                await events(counters)
                await enough(counters, 100)
            finally:
                going_on = False

    asyncio.run(all_of_them())
    return counters


def assert_nothing_lost(
    counters: LoadCounts, gateway: Upgradable, record_property: Callable[[str, object], None]
) -> None:
    record_property("requests", counters.statuses.total())
    record_property("lost", len(counters.lost))
    assert not counters.lost, gateway.stderr.text()
    assert set(counters.statuses) == {200}


# --- a version that cannot serve ---

FAILS: Mapping[str, tuple[Mapping[str, Change], str]] = {
    "cannot be imported": (
        {"routing/table.py": ("", "\nraise ImportError('nothing is called tomorrow')\n")},
        "exit status 70: fastgw: internal error: ImportError: nothing is called tomorrow",
    ),
    "crashes at start": (
        {"runtime/supervisor/take_over.py": ("", "\nimport os\n\n\ndef preflight(*_):\n    os.abort()\n")},
        "SIGABRT",
    ),
    "raises at start": (
        {"runtime/supervisor/take_over.py": ("", "\n\ndef preflight(*_):\n    raise ValueError('what is this?')\n")},
        "exit status 70: fastgw: internal error: ValueError: what is this?",
    ),
    "has a worker that cannot begin": (
        {
            "runtime/node/heartbeat.py": (
                "",
                "\n\ndef start(self):\n    raise OSError('no clock')\n\n\nWorkerHeartbeat.start = start\n",
            )
        },
        "exit status 70: fastgw: internal error: OSError: no clock",
    ),
    "cannot import its admin API": (
        {"admin/api.py": ("", "\n\nraise ImportError('no such name')\n")},
        "exit status 70: fastgw: internal error: ImportError: no such name",
    ),
    "hangs": (
        {"runtime/supervisor/take_over.py": ("", "\nimport time\n\n\ndef preflight(*_):\n    time.sleep(1000)\n")},
        "did not serve within 60 s",
    ),
    "rejects the configuration": (
        {"config/settings/gateway.py": ("version: Literal[1]", "version: Literal[2]")},
        "gateway.json:2:",
    ),
    "speaks otherwise": (
        {"runtime/ipc/channel.py": (f"PROTOCOL: Final = {PROTOCOL}", f"PROTOCOL: Final = {PROTOCOL + 1}")},
        f"exit status 3: fastgw: its workers speak version {PROTOCOL} of the messages between processes, and not "
        f"{PROTOCOL + 1}: this upgrade needs a restart",
    ),
}


def ends_preflights_soon(file: Path) -> Mapping[str, Change]:
    """Changes of a version that waits for a preflight for a second, not for a minute, while there is this file."""
    limit = "time.monotonic() + PREFLIGHT_S"
    shorter = f"time.monotonic() + (1.0 if os.path.exists({str(file)!r}) else PREFLIGHT_S)"
    return {"runtime/supervisor/upgrade.py": (limit, shorter)}


@pytest.mark.parametrize("fault", FAILS)
def test_a_version_that_cannot_serve_changes_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None], fault: str
) -> None:
    """The log says why in one line; a reload and a better version are possible afterwards."""
    changes, why = FAILS[fault]
    impatient = tmp_path / "impatient"
    with upgradable(tmp_path, ends_preflights_soon(impatient) if fault == "hangs" else None) as gateway:
        impatient.touch()
        before = gateway.serving()
        gateway.installed.put(changes)

        async def events(counters: LoadCounts) -> None:
            gateway.signal(signal.SIGUSR2)
            (line,) = await asyncio.to_thread(gateway.told, "not upgraded")
            assert why in line
            assert gateway.serving() == before
            assert "Traceback" not in gateway.stderr.text()
            gateway.change(routes=answering("v2"))
            assert await asyncio.to_thread(gateway.reload) == "reloaded: generation 2 on 2/2 workers"
            assert gateway.answer() == (200, b"v2")
            impatient.unlink()
            gateway.installed.put()
            await asyncio.to_thread(gateway.upgrade)
            assert gateway.asked()["generation"] == 2
            assert gateway.answer() == (200, b"v2")

        assert_nothing_lost(under_load(gateway, events), gateway, record_property)


def test_an_exec_that_fails_changes_nothing(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The interpreter goes away between the trial and the exec."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), tmp_path / "venv")
    (tmp_path / "venv" / "lib").symlink_to(Path(sys.prefix, "lib"))
    vanish = "\nimport os\n\n\ndef preflight(*_):\n    os.rename(sys.executable, sys.executable + ' ')\n"
    with upgradable(tmp_path, launcher=[str(python)]) as gateway:
        before = gateway.serving()
        gateway.installed.put({"runtime/supervisor/take_over.py": ("", vanish.replace("import os", "import os, sys"))})

        async def events(counters: LoadCounts) -> None:
            gateway.signal(signal.SIGUSR2)
            (line,) = await asyncio.to_thread(gateway.told, "not upgraded")
            assert line == f"not upgraded, nothing has changed: {python}: No such file or directory"
            assert gateway.serving() == before
            gateway.change(routes=answering("v2"))
            await asyncio.to_thread(gateway.reload)
            os.rename(f"{python} ", python)
            gateway.installed.put()
            await asyncio.to_thread(gateway.upgrade)
            assert gateway.answer() == (200, b"v2")

        assert_nothing_lost(under_load(gateway, events), gateway, record_property)


def test_workers_that_die_only_after_the_exec_replace_nobody(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The old ones go on, reloads reach them, and a better version takes over."""
    with upgradable(tmp_path) as gateway:
        before = gateway.serving()
        gateway.installed.put({"runtime/supervisor/children.py": ("            if slot.work is not None:", DIES)})

        async def events(counters: LoadCounts) -> None:
            gateway.signal(signal.SIGUSR2)
            await asyncio.to_thread(gateway.told, "goes on, and the next to follow it starts in")
            gateway.change(routes=answering("v2"))
            assert await asyncio.to_thread(gateway.reload) == "reloaded: generation 2 on 2/2 workers"
            assert gateway.serving() == before
            gateway.installed.put()
            await asyncio.to_thread(gateway.upgrade)
            assert gateway.answer() == (200, b"v2")

        assert_nothing_lost(under_load(gateway, events), gateway, record_property)


DIES = """            if slot.index is not None:
                raise OSError("no such luck")
            if slot.work is not None:"""


def test_a_better_version_ends_a_crash_loop(tmp_path: Path) -> None:
    with upgradable(tmp_path) as gateway:
        for number in range(1, 5):
            (dying,) = (pid for pid in gateway.worker_pids if name_of(pid) == "fastgw worker 1")
            os.kill(dying, signal.SIGKILL)
            gateway.told("worker 1 (pid", number)
            wait_until(lambda number=number: number == 4 or len(gateway.worker_pids) == 2, "the next to die", LONG)
        gateway.upgrade()


def test_one_that_runs_without_a_file_is_upgraded_too(tmp_path: Path) -> None:
    """Its flags are read again; the address that the system chose stays."""
    installed = Installed(tmp_path)
    environment = {**os.environ, **installed.environment}
    with Origin() as origin:
        command = ["run", "--listen", "127.0.0.1:0", "--to", origin.url, "--workers", "1"]
        with started(*command, env=environment, stderr=subprocess.PIPE) as (process, ready):
            lines = Lines(process.stderr)
            process.send_signal(signal.SIGUSR2)
            lines.wait_for(lambda line: b"takes over from" in line, LONG)
            with Client(ready["listeners"]["main"][0], LONG) as client:
                client.send(GET)
                origin.accept().answer()
                assert client.read_response().status == 200
        lines.finish()
        assert "drained" in lines.text()


def test_a_filter_with_helper_processes_does_not_hinder_an_upgrade(tmp_path: Path) -> None:
    """The new worker is ready once they are; the preflight stops them with it."""
    check = {"validate": {"body": {"inline": {"type": "object"}, "max_bytes": "1MiB"}}}
    routes = [{"name": "all", "filters": check, "respond": {"body": "v1"}}]
    with upgradable(tmp_path, workers=2, routes=routes) as gateway:
        gateway.upgrade()
        body = b'{"a":"%b"}' % (b"x" * 200_000)
        with gateway.connect() as client:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            client.send(head % len(body) + body)
            assert client.read_response().body == b"v1"


# --- what is kept ---


@pytest.mark.landing
def test_an_upgrade_keeps_the_process_and_loses_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Pid, sockets and counts go on; the version is another."""
    with upgradable(tmp_path, listeners={"main": ANYWHERE, "unix": {"address": f"unix:{tmp_path}/gw.sock"}}) as gateway:
        gateway.installed.put({"__init__.py": ("", "\nVERSION = '9.9.9'\n")})
        sockets = listening(gateway.pid)
        file = os.stat(tmp_path / "gw.sock")

        async def events(counters: LoadCounts) -> None:
            await asyncio.to_thread(gateway.upgrade)
            await asyncio.to_thread(gateway.told, "all 2 workers are new")

        counters = under_load(gateway, events)
        assert_nothing_lost(counters, gateway, record_property)
        assert (gateway.asked()["pid"], gateway.asked()["version"]) == (gateway.pid, "9.9.9")
        assert name_of(gateway.pid) == "fastgw"
        assert listening(gateway.pid) == sockets
        assert os.stat(tmp_path / "gw.sock").st_ino == file.st_ino
        assert ask(f"unix:{tmp_path}/gw.sock", "/").body == b"v1"
        wait_until(
            lambda: requests(gateway)["all"] + requests(gateway)["new"] == counters.statuses.total() + 1, "counts"
        )
        gateway.change(routes=answering("v2"))
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"
        assert gateway.answer() == (200, b"v2")
    assert not (tmp_path / "gw.sock").exists()


def listening(pid: int) -> set[str]:
    """The inodes of the sockets that accept connections, of a process."""
    rows = tcp_rows()
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[3] == "0A"} | {row[6] for row in unix if row[3] == "00010000"}
    return {f"socket:[{inode}]" for inode in inodes} & set(descriptors(pid))


def descriptors(pid: int) -> list[str]:
    """What is open there."""
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]


def requests(gateway: Upgradable) -> Counter[str]:
    """How many each route has answered."""
    counted: Counter[str] = Counter()
    for name, value in samples(gateway.ready["status"]).items():
        if found := re.match(r'fastgw_requests_total\{.*route="(\w+)"', name):
            counted[found[1]] += int(value)
    return counted


@pytest.mark.landing
def test_what_has_begun_ends_with_the_old_worker(tmp_path: Path) -> None:
    """A slow response and a tunnel live on over two upgrades, and with them the workers that they began with."""
    with Origin() as origin, ExitStack() as opened:
        routes = [
            {"name": "slow", "paths": ["/slow"], "upstream": "origin"},
            {"name": "tunnel", "paths": ["/ws"], "upstream": "origin"},
            *answering("v1"),
        ]
        gateway = opened.enter_context(upgradable(tmp_path, routes=routes, upstreams=patient(origin)))
        slow = opened.enter_context(gateway.connect(deadline=LONG))
        slow.send(GET.replace(b" / ", b" /slow "))
        answers = origin.accept()
        answers.read_request()
        gateway.upgrade()
        between = gateway.serving()
        websocket = opened.enter_context(gateway.connect(deadline=LONG))
        websocket.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        far = origin.accept_next()
        far.read_request_head()
        far.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert websocket.read_response().status == 101
        gateway.upgrade()
        assert not gateway.serving() & between
        far.send(b"there")
        assert websocket.read_exactly(5) == b"there"
        websocket.send(b"back")
        assert far.read_exactly(4) == b"back"
        answers.send(OK)
        assert slow.read_response().status == 200
        websocket.close()
        wait_until(lambda: len(gateway.worker_pids) == 2, "the old workers to go")


def test_five_upgrades_leave_nothing_behind(tmp_path: Path) -> None:
    """No descriptor, no process, no variable of the environment."""
    with upgradable(tmp_path) as gateway:
        gateway.upgrade()
        settled(gateway)
        before = Counter(kinds(gateway.pid))
        for _ in range(4):
            gateway.upgrade()
            settled(gateway)
        assert Counter(kinds(gateway.pid)) <= before
        assert len(gateway.child_pids) == 3


def settled(gateway: Upgradable) -> None:
    wait_until(lambda: len(gateway.child_pids) == 3 and bool(gateway.asked()), "the old workers to go", LONG)


def kinds(pid: int) -> list[str]:
    return [re.sub(r"\[\d+\]", "", each) for each in descriptors(pid)]


def test_an_entry_that_was_removed_with_its_directory_is_there_again(tmp_path: Path) -> None:
    """After the upgrade; it is the owner's alone."""
    runtime = Path(os.environ["XDG_RUNTIME_DIR"]) / "fastgw"

    def entries() -> list[Path]:
        return [*runtime.glob(f"{gateway.process.pid}-*.json")]

    with upgradable(tmp_path) as gateway:
        (before,) = entries()
        before.unlink()
        gateway.upgrade()
        (now,) = entries()
        assert now != before
        assert stat.S_IMODE(now.stat().st_mode) == 0o600
        assert gateway.answer() == (200, b"v1")
    assert entries() == []


def test_quotas_in_the_file_of_another_gateway_end_no_upgrade(tmp_path: Path) -> None:
    """Control goes on to say so; the counts are kept in memory."""
    taken = tmp_path / "taken.sqlite3"
    claim = Claim(str(taken), b"another gateway")
    claim.acquire()
    try:
        with upgradable(tmp_path, quotas={"file": str(tmp_path / "own.sqlite3")}) as gateway:
            gateway.change(quotas={"file": str(taken)})
            gateway.reload()
            gateway.told("is used by another gateway")
            gateway.upgrade()
            gateway.told("is used by another gateway", 2)
            assert gateway.answer() == (200, b"v1")
    finally:
        claim.close()


def test_no_variable_is_handed_on(tmp_path: Path) -> None:
    """Neither to workers nor to the version after."""
    said = "\n\ndef start(self):\n    told = [each for each in os.environ if each[:7] == 'FASTGW_']\n"
    said += "    notice(OperatorEvent.DEMO, f'variables: {told}')\n"
    imports = "from fastgw.operator_events import OperatorEvent\nfrom fastgw.operator_log import notice\n"
    tell = f"\nimport os\n\n{imports}{said}    begin(self)\n\n\n"
    changes = {
        "runtime/node/heartbeat.py": ("", f"{tell}begin, WorkerHeartbeat.start = WorkerHeartbeat.start, start\n")
    }
    with upgradable(tmp_path, changes) as gateway:
        gateway.told("variables: []", 2)
        gateway.upgrade()
        gateway.upgrade()
        assert set(gateway.told("variables: ", 6)) == {"variables: []"}


def test_one_can_go_back_to_generations_before_the_upgrade(tmp_path: Path) -> None:
    with upgradable(tmp_path) as gateway:
        for number in (2, 3):
            gateway.change(routes=answering(f"v{number}"))
            gateway.reload()
        gateway.upgrade()
        assert [each["generation"] for each in gateway.asked()["reloads"]["last"]] == [3, 2]
        assert rollback(gateway, None)["generation"] == 4
        assert gateway.answer() == (200, b"v2")
        gateway.upgrade()
        assert rollback(gateway, None)["generation"] == 5
        assert gateway.answer() == (200, b"v1")
        assert rollback(gateway, 3)["generation"] == 6
        assert gateway.answer() == (200, b"v3")


def admin(gateway: Upgradable, request_line: bytes, body: bytes = b"") -> dict[str, Any]:
    """What the admin listener answers."""
    with Client(gateway.ready["admin"], LONG) as client:
        fields = b"Host: localhost\r\nAuthorization: Bearer %b\r\n" % gateway.token.encode()
        fields += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        response = client.exchange(request_line + b" HTTP/1.1\r\n" + fields + body)
    assert response.status == 200, response.body
    answer: dict[str, Any] = json.loads(response.body)
    return answer


def rollback(gateway: Upgradable, generation: int | None) -> dict[str, Any]:
    return admin(gateway, b"POST /rollback", json.dumps({"generation": generation}).encode())


@pytest.mark.parametrize("workers", [1, 3])
def test_another_number_of_workers_is_kept(tmp_path: Path, workers: int) -> None:
    with upgradable(tmp_path) as gateway:
        gateway.change(workers=workers)
        gateway.reload()
        wait_until(lambda: len(gateway.serving()) == workers, f"{workers} workers", LONG)
        gateway.upgrade(workers)
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_the_processors_have_changed_meanwhile(tmp_path: Path, before: int, after: int) -> None:
    """`workers: auto` is counted anew."""
    with upgradable(tmp_path, workers="auto", launcher=["taskset", "-c", cpus(before)]) as gateway:
        assert len(gateway.serving()) == before
        os.sched_setaffinity(gateway.pid, set(map(int, cpus(after).split(","))))
        gateway.upgrade(after)
        assert {gateway.answer() for _ in range(50)} == {(200, b"v1")}


def cpus(count: int) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))


def test_memory_that_is_laid_out_otherwise_is_made_anew(tmp_path: Path) -> None:
    """Counts begin anew, and old workers may take their time."""
    with Origin() as origin, upgradable(tmp_path, routes=ALL, upstreams=patient(origin)) as gateway:
        gateway.installed.put({"shm/memory.py": ("VERSION: Final = ", "VERSION: Final = 1")})  # 5 becomes 15
        with gateway.connect(deadline=LONG) as slow:
            slow.send(GET)
            answers = origin.accept()
            answers.read_request()
            before = gateway.serving()
            gateway.signal(signal.SIGUSR2)
            gateway.told("they start at zero")
            gateway.wait_for_the_end(1)
            gateway.wait_for_workers(2, before)
            answers.send(OK)
            assert slow.read_response().status == 200
        assert "beaten" not in gateway.stderr.text()


# --- at the wrong moment ---


def test_a_second_signal_is_refused(tmp_path: Path) -> None:
    with upgradable(tmp_path) as gateway:
        before = gateway.serving()
        gateway.signal(signal.SIGUSR2)
        gateway.told("trying the installed version")
        gateway.signal(signal.SIGUSR2)
        assert gateway.told("not possible now") == ["SIGUSR2: not possible now: an upgrade is in progress"]
        gateway.wait_for_the_end(1)
        gateway.wait_for_workers(2, before)
        gateway.upgrade()


def test_a_reload_during_an_upgrade_is_done(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with upgradable(tmp_path) as gateway:
        before = gateway.serving()

        async def events(counters: LoadCounts) -> None:
            gateway.signal(signal.SIGUSR2)
            await asyncio.to_thread(gateway.told, "trying the installed version")
            gateway.change(routes=answering("v2"))
            gateway.signal(signal.SIGHUP)
            await asyncio.to_thread(gateway.wait_for_the_end, 1)
            await asyncio.to_thread(gateway.wait_for_workers, 2, before)
            await asyncio.to_thread(gateway.told, "reloaded: generation 2 on 2/2 workers")

        assert_nothing_lost(under_load(gateway, events), gateway, record_property)
        assert gateway.answer() == (200, b"v2")
        assert {worker["generation"] for worker in gateway.asked()["workers"] if worker["state"] == "ready"} == {2}


def test_an_upgrade_during_a_reload(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Both come to pass, or the upgrade says that it does not."""
    with upgradable(tmp_path) as gateway:

        async def events(counters: LoadCounts) -> None:
            for number in range(2, 7):
                gateway.change(routes=answering(f"v{number}"))
                gateway.signal(signal.SIGHUP)
                gateway.signal(signal.SIGUSR2)
                await asyncio.to_thread(
                    wait_until, lambda number=number: gateway.answer() == (200, b"v%d" % number), "the reload", LONG
                )
            await asyncio.to_thread(settled_somehow)
            await asyncio.to_thread(gateway.upgrade)

        def settled_somehow() -> None:
            def is_over() -> bool:
                text = gateway.stderr.text()
                return text.rfind("trying the installed version") < text.rfind("takes over from")

            wait_until(is_over, "the last upgrade", LONG)
            settled(gateway)

        assert_nothing_lost(under_load(gateway, events), gateway, record_property)
        assert gateway.answer() == (200, b"v6")


class Gate:
    """Preflights stop here until they are let through, one by one."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "gate"
        os.mkfifo(self._path)
        begin = "    def stop_once_ready() -> None:"
        wait = f"    open({str(self._path)!r}, 'rb').read()\n\n"
        self.changes: Mapping[str, Change] = {"runtime/supervisor/take_over.py": (begin, wait + begin)}

    def let_through(self) -> None:
        self._path.write_bytes(b"")  # once the preflight reads it


def begin_second_preflight(gateway: Upgradable, gate: Gate) -> None:
    """Reload to generation 2 during the first one."""
    gateway.installed.put(gate.changes)
    gateway.signal(signal.SIGUSR2)
    gateway.told("trying the installed version")
    gateway.change(routes=answering("v2"))
    assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"
    gate.let_through()
    gateway.told("the configuration has changed meanwhile: trying the installed version")


def test_reloads_do_not_hold_back_an_upgrade(tmp_path: Path) -> None:
    """A reload repeats the preflight, and those during the second one are left to the new version."""
    gate = Gate(tmp_path)
    with upgradable(tmp_path) as gateway:
        begin_second_preflight(gateway, gate)
        gateway.change(routes=answering("v3"))
        refused = admin_calls.admin(gateway, "POST /reload").body
        assert b"generation 2 stays: an upgrade is in progress; it is tried again in 1 s" in refused
        gate.let_through()
        gateway.wait_for_the_end(1)
        gateway.told("reloaded: generation 3 on 2/2 workers")
        assert gateway.answer() == (200, b"v3")
        assert len(gateway.told("trying the installed version")) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_during_the_second_preflight_is_not_lost(tmp_path: Path, fails: bool) -> None:
    """Neither if another change is refused meanwhile, nor if the new version fails."""
    gate, authority = Gate(tmp_path), Certificates(tmp_path)
    certificate, key = authority.issue("client")
    upstream = {"targets": [{"url": "https://127.0.0.1:9"}], "tls": {"certificate": certificate, "key": key}}
    with upgradable(tmp_path, upstreams={"u": upstream}) as gateway:
        begin_second_preflight(gateway, gate)
        gateway.change(routes=answering("v3"))
        gateway.signal(signal.SIGHUP)
        authority.issue("client")
        gateway.told("not reloaded, generation 2 stays: an upgrade is in progress")
        if fails:
            os.kill(
                int(re.findall(r"pid (\d+)", gateway.told("trying the installed version", 2)[1])[0]), signal.SIGKILL
            )
            gateway.told("not upgraded, nothing has changed: the installed version ended: killed by SIGKILL")
        else:
            gate.let_through()
            gateway.wait_for_the_end(1)
        wait_until(lambda: gateway.answer() == (200, b"v3"), "the reload", LONG)


def test_an_upgrade_ends_although_reloads_follow_each_other(tmp_path: Path) -> None:
    with upgradable(tmp_path) as gateway:
        gateway.signal(signal.SIGUSR2)
        for number in count(2):
            gateway.change(routes=answering(f"v{number}"))
            gateway.signal(signal.SIGHUP)
            wait_until(lambda number=number: gateway.answer() == (200, b"v%d" % number), "the reload", LONG)
            if ALL_NEW.search(gateway.stderr.text()):
                break
        assert len(gateway.told("trying the installed version")) == 2


@pytest.mark.parametrize("hangs", [False, True])
def test_an_end_during_an_upgrade_is_an_end(tmp_path: Path, hangs: bool) -> None:
    """TERM while the new version is tried: it is given up, what is under way is served, and nobody is left."""
    with Origin() as origin, upgradable(tmp_path, routes=ALL, upstreams=patient(origin)) as gateway:
        if hangs:
            gateway.installed.put(FAILS["hangs"][0])
        with gateway.connect(deadline=LONG) as slow:
            slow.send(GET_AND_CLOSE)
            answers = origin.accept()
            answers.read_request()
            gateway.signal(signal.SIGUSR2)
            tried = int(re.findall(r"pid (\d+)", gateway.told("trying the installed version")[0])[0])
            with open_end(tried) as end:
                gateway.signal(signal.SIGTERM)
                wait_until(lambda: has_ended(end), "the new version to be given up", LONG)
            answers.send(OK)
            assert slow.read_response().status == 200
        assert gateway.wait() == 0
        # None, where its answer was out before the worker was told of the end.
        assert re.search(r"drained [01] requests in .* s, 0 cut", gateway.stderr.text())
        assert "takes over" not in gateway.stderr.text()


def test_an_end_right_after_the_exec(tmp_path: Path) -> None:
    """The signal waits for the new program, which then ends what the old one has begun."""
    with Origin() as origin, upgradable(tmp_path, routes=ALL, upstreams=patient(origin)) as gateway:
        with gateway.connect(deadline=LONG) as slow:
            slow.send(GET_AND_CLOSE)
            answers = origin.accept()
            answers.read_request()
            gateway.signal(signal.SIGUSR2)
            gateway.told("the installed version takes over")
            gateway.signal(signal.SIGTERM)
            wait_until(
                lambda: not name_of(gateway.pid) or "draining" in str(gateway.asked()["state"]), "the drain", LONG
            )
            answers.send(OK)
            assert slow.read_response().status == 200
        assert gateway.wait() == 0
        assert re.search(r"^drained [01] requests in .* s, 0 cut$", gateway.stderr.text(), re.M)


def test_workers_that_drain_for_long_outlive_further_upgrades(tmp_path: Path) -> None:
    """Three upgrades, each with a slow response that began just before: all are answered, and all workers go.

    An old worker accepts until it is told of the new ones: it may have the response that began after its upgrade, too.
    """
    with Origin() as origin, ExitStack() as opened:
        config = {"routes": ALL, "upstreams": patient(origin), "timeouts": {"drain": {"requests": "300s"}}}
        gateway = opened.enter_context(upgradable(tmp_path, **config))
        slow = []
        for _ in range(3):
            client = opened.enter_context(gateway.connect(deadline=LONG))
            client.send(GET)
            answers = origin.accept_next() if slow else origin.accept()
            answers.read_request()
            slow.append((client, answers))
            gateway.upgrade()
        serving = gateway.serving()
        ports = {client.sock.getsockname()[1] for client, _ in slow}
        draining = set[int]()
        found = set[int]()

        def are_all_found() -> bool:
            """The kernel's table is read in pieces: a row may be missed while others come and go."""
            for pid in gateway.worker_pids:
                held = client_ports(pid) & ports
                if held:
                    draining.add(pid)
                    found.update(held)
            return found == ports

        wait_until(are_all_found, "each slow response to be with a worker", LONG)
        assert not draining & serving
        wait_until(lambda: {*gateway.worker_pids} == draining | serving, "those without a response to go", LONG)
        for client, answers in slow:
            answers.send(OK)
            assert client.read_response().status == 200
        wait_until(lambda: len(gateway.worker_pids) == 2, "the old workers to go", LONG)


def test_the_last_event_of_the_end_counts_what_replaced_workers_have_served(tmp_path: Path) -> None:
    with Origin() as origin, ExitStack() as opened:
        config = {"routes": ALL, "upstreams": patient(origin), "timeouts": {"drain": {"requests": "300s"}}}
        gateway = opened.enter_context(upgradable(tmp_path, **config))
        client = opened.enter_context(gateway.connect(deadline=LONG))
        client.send(GET_AND_CLOSE)
        answers = origin.accept()
        answers.read_request()
        gateway.upgrade()
        gateway.signal(signal.SIGTERM)
        gateway.told("asked by SIGTERM")
        answers.send(OK)
        assert client.read_response().status == 200
        assert gateway.wait() == 0
        assert re.search(r"^drained 1 requests in .* s, 0 cut$", gateway.stderr.text(), re.M)


def test_a_worker_that_hangs_is_not_relied_on_after_an_upgrade(tmp_path: Path) -> None:
    with upgradable(tmp_path) as gateway:
        frozen, *_ = gateway.worker_pids
        os.kill(frozen, signal.SIGSTOP)
        gateway.told("has sent no heartbeat")
        before = gateway.serving() | {frozen}
        gateway.signal(signal.SIGUSR2)
        gateway.told("takes over from")
        for _ in range(10):
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
        gateway.wait_for_the_end(1)
        gateway.wait_for_workers(2, before)
        assert "sends heartbeats again" not in gateway.stderr.text()
        with suppress(ProcessLookupError):  # it has been killed by now
            os.kill(frozen, signal.SIGCONT)
        wait_until(lambda: len(gateway.worker_pids) == 2, "the old workers to go", LONG)


def test_connections_of_tcp_and_udp_live_on_over_an_upgrade(tmp_path: Path) -> None:
    """Open connections stay with the old worker, new ones come to the new one; datagrams are lost by nobody."""
    with tcp_target() as target, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(LONG)
        listeners = {
            "main": ANYWHERE,
            "tcp": {**ANYWHERE, "protocol": "tcp", "upstream": "service"},
            "udp": {**ANYWHERE, "protocol": "udp", "upstream": "datagrams"},
        }
        upstreams = {
            "service": {"targets": [target.url]},
            "datagrams": {"targets": [f"udp://127.0.0.1:{datagrams.getsockname()[1]}"]},
        }
        with upgradable(tmp_path, listeners=listeners, upstreams=upstreams, workers=1) as gateway:
            with connected(gateway.port("tcp")) as client, target.accept() as service:
                client.sendall(b"1")
                assert service.recv(1) == b"1"
                gateway.upgrade(workers=1)
                with connected(gateway.port("tcp")) as later, target.accept() as served:
                    served.sendall(b"new")
                    assert read_exactly(later, 3) == b"new"
                client.sendall(b"2")
                assert service.recv(1) == b"2"
                service.sendall(b"3")
                assert client.recv(1) == b"3"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(LONG)
                asking.connect(("127.0.0.1", gateway.port("udp")))
                asking.send(b"question")
                payload, session = datagrams.recvfrom(100)
                datagrams.sendto(payload.upper(), session)
                assert asking.recv(100) == b"QUESTION"
