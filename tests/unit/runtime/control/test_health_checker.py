"""Active health checks: one check against a service that does what the test says, and many of them in control."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from inspect import signature
from pathlib import Path
from ssl import SSLContext
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.runtime.control import health_checker
from fastgw.runtime.control.health_checker import AT_ONCE, Checks
from fastgw.runtime.process import lasting_tasks
from fastgw.shm.health_words import BreakerState, Ejection, HealthVerdict, HealthWords
from fastgw.shm.memory import Layout, SharedMemory
from fastgw.shm.slot_assignment import SlotNames, SlotTable, first
from fastgw.upstream.client.http_client import made_context
from fastgw.upstream.connections.connect import ConnectFailed
from fastgw.upstream.health import active_check as checks
from fastgw.upstream.health.active_check import CannotCheck, Check
from fastgw.upstream.targets.tls import ClientTls, Identity
from tests.support.certificates import Certificates, made_tls, server_tls
from tests.support.on_loop import on_loop, until
from tests.support.origin import Origin, close, read_rest, reset

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"


@asynccontextmanager
async def worker_loop() -> AsyncIterator[WorkerLoop]:
    made = WorkerLoop(asyncio.get_running_loop())
    made.start()
    yield made
    made.close()


async def checked(url: str, active: settings.ActiveHealth, tls: settings.UpstreamTls | None = None, **more: Any) -> str:
    target = settings.Target(url=parse_url(url))
    upstream = settings.Upstream(targets=(target,), tls=tls or settings.UpstreamTls(), **more)
    context = made_tls(upstream.tls) if target.url.tls else None
    check = Check(upstream, target, context, active)
    async with worker_loop() as on:
        try:
            return await check(on)
        finally:
            check.stop()


def active(**said: Any) -> settings.ActiveHealth:
    return settings.ActiveHealth(**{"timeout": 10.0, **said})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.mark.parametrize(
    ("answer", "said", "wrong"),
    [
        (OK, {}, ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", {}, ""),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", {}, ""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", {}, "status 404"),
        (OK, {"expected_statuses": (range(204, 205), range(300, 400))}, "status 200"),
        (OK, {"expected_body": "read"}, ""),
        (OK, {"expected_body": "steady"}, "unexpected body"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n",
            {"expected_body": "ready"},
            "",
        ),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, {}, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", {"method": "HEAD"}, ""),
        (b"what?\r\n\r\n", {}, "upstream_malformed"),
    ],
)
@on_loop
async def test_an_answer_is_judged(origin: Origin, answer: bytes, said: dict[str, Any], wrong: str) -> None:
    origin.answer(answer, close)
    origin.serve()
    assert (await checked(origin.url, active(**said))).partition(":")[0] == wrong


@on_loop
async def test_only_the_beginning_of_a_body_is_looked_through(origin: Origin) -> None:
    origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 100_000, read_rest)
    origin.serve()
    assert await checked(origin.url, active(expected_body="y")) == "unexpected body"


@on_loop
async def test_the_request_is_the_one_that_is_configured(origin: Origin) -> None:
    origin.serve()
    said = active(
        path="/up?deep=1", method="OPTIONS", host="users.test", headers={"X-Probe": "fastgw", "User-Agent": "me"}
    )
    assert await checked(origin.url + "/base", said) == ""
    (request,) = origin.requests
    assert request.head.raw == (
        b"OPTIONS /up?deep=1 HTTP/1.1\r\nHost: users.test\r\nX-Probe: fastgw\r\nUser-Agent: me\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host_header", "sent"), [("target", None), ("preserve", None), ("literal.test", b"literal.test")]
)
@on_loop
async def test_the_host_is_that_of_the_upstream_unless_said_otherwise(
    origin: Origin, host_header: str, sent: bytes | None
) -> None:
    origin.serve()
    assert await checked(origin.url, active(), host_header=host_header) == ""
    assert origin.requests[0].get(b"Host") == (sent or origin.authority.encode())


@on_loop
async def test_another_port_may_be_asked(origin: Origin) -> None:
    origin.serve()
    assert await checked("http://127.0.0.1:1", active(port=origin.port)) == ""


@pytest.mark.parametrize(
    ("step", "wrong", "timeout"),
    [(close, "connection_lost", 10.0), (reset, "connection_lost", 10.0), (read_rest, "upstream_timeout", 0.5)],
)
@on_loop
async def test_no_answer_is_none(origin: Origin, step: Any, wrong: str, timeout: float) -> None:
    origin.answer(step)
    origin.serve()
    assert (await checked(origin.url, active(timeout=timeout))).partition(":")[0] == wrong


@on_loop
async def test_a_connection_that_is_refused() -> None:
    with Origin() as origin:
        origin.refuse_connections()
        assert (await checked(origin.url, active())).startswith("connect_refused: ")
        assert (await checked(origin.url, active(type="tcp"))).startswith("connect_refused: ")


@on_loop
async def test_a_connection_is_enough_where_only_that_is_asked(origin: Origin) -> None:
    assert await checked(origin.url, active(type="tcp")) == ""
    connection = origin.accept()
    await asyncio.to_thread(connection.read_to_end)
    assert connection.received == b""
    connection.close()


@on_loop
async def test_a_unix_socket(tmp_path: Path) -> None:
    with Origin(str(tmp_path / "socket")) as origin:
        origin.serve()
        assert await checked(origin.url, active()) == ""
        assert origin.requests[0].get(b"Host") == b"localhost"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Origin, str, str]]:
    """One that speaks TLS; the certificate it can be verified by, and a stranger's."""
    (tmp_path / "other").mkdir()
    authority, stranger = Certificates(tmp_path), Certificates(tmp_path / "other")
    with Origin(tls=server_tls(authority.issue("127.0.0.1"))) as origin:
        yield origin, authority.ca, stranger.ca


@on_loop
async def test_a_check_of_a_connection_ends_it_over_tls_too(tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    with Origin(tls=server_tls(authority.issue("127.0.0.1"))) as origin:
        with ThreadPoolExecutor(1) as threads:
            connected = threads.submit(origin.accept)
            tls = settings.UpstreamTls(ca=authority.ca)
            assert await checked(origin.url, active(type="tcp"), tls) == ""
            connection = connected.result()
        await asyncio.to_thread(connection.read_to_end)
        connection.close()


@pytest.mark.parametrize("kind", ["http", "tcp"])
@on_loop
async def test_https_by_the_upstreams_own_tls(secure: tuple[Origin, str, str], kind: str) -> None:
    origin, ca, other = secure
    origin.answer(OK, close)
    origin.serve()
    assert await checked(origin.url, active(type=kind), settings.UpstreamTls(ca=ca)) == ""
    told = await checked(origin.url, active(type=kind), settings.UpstreamTls(ca=other))
    assert told.startswith("tls_failed: ")


@on_loop
async def test_a_limit_of_our_own_says_nothing_of_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: Any, **__: Any) -> None:
        raise ConnectFailed(Fault.CONNECTIONS_EXHAUSTED, "too many open files")

    monkeypatch.setattr(checks, "connect", connect)
    with pytest.raises(CannotCheck):
        await checked("http://127.0.0.1:1", active())


# --- in control ---


class Told:
    """What stands in for checks: what each target is found to be, and how many are asked at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong: dict[str, str] = {}
        self.begun: Callable[[], None] = lambda: None
        """Called at the beginning of each check."""
        self.asked: dict[str, int] = {}
        self.used: dict[str, settings.Upstream] = {}
        self.under_way = self.most = 0
        self.hold: asyncio.Event | None = None
        told = self

        class Stand:
            def __init__(self, upstream: Any, target: settings.Target, tls: Any, active: Any) -> None:
                self.name = target.url.host
                told.used[self.name] = upstream

            async def __call__(self, _: Any) -> str:
                told.begun()
                told.asked[self.name] = told.asked.get(self.name, 0) + 1
                told.under_way += 1
                told.most = max(told.most, told.under_way)
                try:
                    if told.hold is not None:
                        await told.hold.wait()
                    else:
                        await asyncio.sleep(0)
                finally:
                    told.under_way -= 1
                wrong = told.wrong.get(self.name, "")
                if wrong == "cannot":
                    raise CannotCheck("no descriptors")
                return wrong

            def stop(self) -> None: ...

        monkeypatch.setattr(health_checker, "Check", Stand)
        monkeypatch.setattr(health_checker, "FIRST_S", 0.01)


class Node:
    def __init__(self, on: WorkerLoop) -> None:
        layout = Layout()
        self.words = HealthWords(layout)
        self.shared = SharedMemory.create(layout, 1)
        self.on = on
        self.slot_table = SlotTable()
        self.checks = Checks(on, self.shared, self.words)

    def follow(self, upstreams: Mapping[str, settings.Upstream], generation: int = 1) -> None:
        labels = {name: [f"{each.url.host}:80" for each in upstream.targets] for name, upstream in upstreams.items()}
        names = SlotNames(upstreams=labels)
        self.slot_table = first(names) if generation == 1 else self.slot_table.following(names, generation, generation)
        self.checks.check_upstreams(upstreams, self.slot_table, {})

    def verdict(self, name: str) -> HealthVerdict:
        slot = self.slot_table.targets[f"users {name}:80"]
        return self.checks.verdict_of(slot)

    @property
    def changes(self) -> int:
        return int(self.shared.supervisor.words[self.words.changes])


def users(*hosts: str, **said: Any) -> dict[str, settings.Upstream]:
    targets = tuple(settings.Target(url=parse_url(f"http://{host}")) for host in hosts)
    health = settings.HealthChecks(active=active(**{"interval": 0.002, **said}))
    return {"users": settings.Upstream(targets=targets, health_checks=health)}


def in_control(test: Callable[..., Any]) -> Any:
    """Run it with a node and stand-ins for its checks."""

    async def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        told = Told(monkeypatch)
        async with worker_loop() as on:
            node = Node(on)
            try:
                given = {"caplog": caplog, "monkeypatch": monkeypatch}
                await test(node, told, **{name: given[name] for name in given.keys() & signature(test).parameters})
            finally:
                node.checks.stop()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return on_loop(run)


@in_control
async def test_thresholds_and_what_is_told(node: Node, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """The first good answer is enough for a new one; then it takes as many as are configured."""
    node.follow(users("a", "b", healthy_threshold=3, unhealthy_threshold=2))
    await until(lambda: node.verdict("a") is node.verdict("b") is HealthVerdict.HEALTHY)
    changes = node.changes
    told.wrong["a"] = "status 500"
    await until(lambda: node.verdict("a") is HealthVerdict.UNHEALTHY)
    assert node.changes == changes + 1
    assert node.checks.problems() == {"users a:80": "status 500"}
    told.wrong.clear()
    await until(lambda: node.verdict("a") is HealthVerdict.HEALTHY)
    assert node.checks.upstream_states()["users"].targets == {
        **dict.fromkeys(HealthVerdict, 0),
        HealthVerdict.HEALTHY: 2,
    }
    assert [each.message for each in caplog.records] == [
        "upstream users: a:80 is unhealthy: status 500",
        "upstream users: a:80 is healthy again",
    ]


class Clock:
    """Time of the health checker, which passes in its pauses and in `passes` alone. Random numbers are all `part` of
    the way from their least to their greatest value.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, part: float = 0.5) -> None:
        self.now = 1000.0
        uniform = SimpleNamespace(uniform=lambda least, most: least + part * (most - least))
        monkeypatch.setattr(health_checker, "monotonic", lambda: self.now)
        monkeypatch.setattr(health_checker, "random", uniform)
        monkeypatch.setattr(health_checker, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": self.sleep}))

    async def sleep(self, seconds: float) -> None:
        self.passes(seconds)
        await asyncio.sleep(0)

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("unhealthy", "healthy"), [(1, 1), (2, 3), (3, 2)])
def test_a_verdict_changes_with_the_check_that_reaches_its_threshold(
    unhealthy: int, healthy: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not with the one before it nor with the one after it, and only checks in a row count."""
    good, bad = HealthVerdict.HEALTHY, HealthVerdict.UNHEALTHY
    # Whether each check fails, and the verdict after it.
    script = [(False, good), *[(True, good)] * (unhealthy - 1), (False, good)]
    script += [*[(True, good)] * (unhealthy - 1), (True, bad)]
    script += [*[(False, bad)] * (healthy - 1), (True, bad), *[(False, bad)] * (healthy - 1), (False, good)]
    verdicts: list[HealthVerdict] = []

    @in_control
    async def test(node: Node, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        def begun() -> None:
            verdicts.append(node.verdict("a"))
            if len(verdicts) > len(script):
                told.hold = asyncio.Event()  # this check does not end
            else:
                told.wrong["a"] = "status 500" if script[len(verdicts) - 1][0] else ""

        Clock(monkeypatch)
        told.begun = begun
        node.follow(users("a", unhealthy_threshold=unhealthy, healthy_threshold=healthy))
        await until(lambda: told.hold is not None)

    test(monkeypatch, caplog)
    assert verdicts == [HealthVerdict.UNKNOWN, *[verdict for _, verdict in script]]


@in_control
async def test_a_new_target_is_unknown_until_as_many_checks_as_configured_have_failed(
    node: Node, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts: list[HealthVerdict] = []

    def begun() -> None:
        verdicts.append(node.verdict("a"))
        told.hold = asyncio.Event() if len(verdicts) == 4 else None

    Clock(monkeypatch)
    told.begun = begun
    told.wrong["a"] = "status 500"
    node.follow(users("a", unhealthy_threshold=3))
    await until(lambda: told.hold is not None)
    assert verdicts == [HealthVerdict.UNKNOWN] * 3 + [HealthVerdict.UNHEALTHY]


@pytest.mark.parametrize(
    ("interval", "part", "takes", "begun", "holds"),
    [
        (8.0, 0.5, 0.0, [0.5, 8.5, 16.5, 24.5], 3 * 8.0),
        (8.0, 0.0, 0.0, [0.0, 7.2, 14.4, 21.6], 3 * 8.0),
        (8.0, 1.0, 0.0, [1.0, 9.8, 18.6, 27.4], 3 * 8.8),  # the last round took longer than the interval
        (0.5, 1.0, 0.0, [0.5, 1.05, 1.6, 2.15], 3 * 0.55),  # the first one within the first interval
        (8.0, 0.5, 3.0, [0.5, 8.5, 16.5, 24.5], 3 * 8.0),  # the interval is that from beginning to beginning
        (8.0, 0.5, 9.0, [0.5, 9.5, 18.5, 27.5], 3 * 9.0),  # of one that takes longer, the next begins at once
    ],
    ids=["as configured", "earliest", "latest", "short interval", "takes a while", "takes longer"],
)
def test_checks_begin_once_an_interval_and_a_verdict_holds_for_three(
    interval: float,
    part: float,
    takes: float,
    begun: list[float],
    holds: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An interval is a tenth shorter or longer, at random. The first check comes within a second or an interval."""
    begun_at: list[float] = []

    @in_control
    async def test(node: Node, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        def check_begins() -> None:
            begun_at.append(clock.now - 1000.0)
            if len(begun_at) == len(begun):
                told.hold = asyncio.Event()
            else:
                clock.passes(takes)

        monkeypatch.setattr(health_checker, "FIRST_S", 1.0)
        clock = Clock(monkeypatch, part)
        told.begun = check_begins
        node.follow(users("a", interval=interval, timeout=10.0))
        await until(lambda: told.hold is not None)
        ended_at = 1000.0 + begun[-2] + takes
        slot = node.slot_table.targets["users a:80"]
        verdict, until_at = node.words.verdict_of(node.shared.supervisor, slot)
        assert verdict is HealthVerdict.HEALTHY
        assert until_at == pytest.approx(ended_at + holds + 10.0, abs=0.001)  # held in milliseconds

    test(monkeypatch, caplog)
    assert begun_at == pytest.approx(begun)


@in_control
async def test_a_target_is_checked_on_over_reloads_and_one_that_goes_is_forgotten(node: Node, told: Told) -> None:
    told.wrong["b"] = "status 500"
    node.follow(users("a", "b"))
    await until(lambda: node.verdict("b") is HealthVerdict.UNHEALTHY)
    slot = node.slot_table.targets["users b:80"]
    before = dict(node.checks._running)
    node.follow(users("a", "b", "c"), generation=2)
    await until(lambda: "c" in told.asked)
    assert node.checks._running["users b:80"] is before["users b:80"]
    changes = node.changes
    node.follow(users("a", "c"), generation=3)
    await until(lambda: node.words.verdict_of(node.shared.supervisor, slot) == (HealthVerdict.UNKNOWN, 0.0))
    assert node.changes > changes
    asked = told.asked["b"]
    await until(lambda: told.asked["c"] > 20)
    assert told.asked["b"] == asked


@in_control
async def test_another_interval_changes_nothing_of_what_is_known(node: Node, told: Told, caplog: Any) -> None:
    told.wrong["a"] = "status 500"
    node.follow(users("a"))
    await until(lambda: node.verdict("a") is HealthVerdict.UNHEALTHY)
    before = node.checks._running["users a:80"]
    node.follow(users("a", interval=0.003), generation=2)
    await until(lambda: node.checks._running.get("users a:80") not in (None, before))
    assert node.verdict("a") is HealthVerdict.UNHEALTHY
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "http2"},
        {"proxy_protocol": "v2"},
        {"host_header": "literal.test"},
        {"resolve": settings.Resolve(interval=7.0)},
        {"timeouts": settings.UpstreamTimeouts(connect=7.0)},
        {"tls": settings.UpstreamTls(server_name="users.test")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_of_the_upstream_that_a_check_uses_takes_effect_by_a_reload(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @in_control
    async def test(node: Node, told: Told) -> None:
        node.follow(users("a"))
        await until(lambda: node.verdict("a") is HealthVerdict.HEALTHY)
        before = told.used["a"]
        node.follow({"users": replace(users("a")["users"], **change)}, generation=2)
        await until(lambda: told.used["a"] is not before)
        assert {name: getattr(told.used["a"], name) for name in change} == change

    test(monkeypatch, caplog)


@in_control
async def test_a_setting_that_no_check_uses_lets_it_continue(node: Node, told: Told) -> None:
    node.follow(users("a"))
    await until(lambda: "users a:80" in node.checks._running)
    before = node.checks._running["users a:80"]
    node.follow({"users": replace(users("a")["users"], pool=settings.Pool(max_idle=7))}, generation=2)
    following = node.checks._following
    assert following is not None
    await following
    assert node.checks._running["users a:80"] is before


@in_control
async def test_what_cannot_be_checked_is_not_judged(node: Node, told: Told, caplog: Any) -> None:
    told.wrong["a"] = "cannot"
    node.follow(users("a"))
    await until(lambda: told.asked.get("a", 0) > 5)
    assert node.verdict("a") is HealthVerdict.UNKNOWN
    assert {each.message for each in caplog.records} == {"upstream users: a:80: cannot be checked: no descriptors"}


@in_control
async def test_thousands_of_targets_are_asked_a_few_at_a_time(node: Node, told: Told) -> None:
    told.hold = asyncio.Event()
    hosts = [f"t{number}" for number in range(2000)]
    node.follow(users(*hosts, interval=60.0, timeout=60.0))
    await until(lambda: told.under_way == AT_ONCE)
    told.hold.set()
    told.hold = None
    await until(lambda: len(told.asked) == 2000)
    assert told.most <= AT_ONCE


@in_control
async def test_a_control_process_goes_on_with_what_the_one_before_it_knew(node: Node, told: Told, caplog: Any) -> None:
    """A verdict that still holds is not told once more, and no good answer too few brings a target back."""
    told.wrong["a"] = "status 500"
    node.follow(users("a", interval=5.0, unhealthy_threshold=1))
    await until(lambda: node.verdict("a") is HealthVerdict.UNHEALTHY)
    node.checks.stop()
    told.wrong.clear()
    after = Checks(node.on, node.shared, node.words)
    after.check_upstreams(users("a", healthy_threshold=2), node.slot_table, {})
    asked = told.asked["a"]
    await until(lambda: told.asked["a"] == asked + 1)
    assert node.verdict("a") is HealthVerdict.UNHEALTHY
    await until(lambda: node.verdict("a") is HealthVerdict.HEALTHY)
    after.stop()
    assert [each.message for each in caplog.records] == [
        "upstream users: a:80 is unhealthy: status 500",
        "upstream users: a:80 is healthy again",
    ]


@pytest.mark.parametrize("lack", [MemoryError(), OSError(errno.EMFILE, "Too many open files")], ids=["memory", "fds"])
def test_a_context_that_could_not_be_made_is_made_later_and_holds_no_other_check_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lack: Exception
) -> None:
    """The first attempt of each of two contexts fails; one of them is that of two targets."""
    attempts: list[Identity] = []
    pauses: list[float] = []

    async def made(tls: ClientTls) -> SSLContext:
        attempts.append(tls.identity)
        if attempts.count(tls.identity) == 1:
            raise lack
        return await made_context(tls)

    real_sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await until(lambda: "plain" in told.asked)  # before the second attempt
        await real_sleep(0)

    @in_control
    async def test(node: Node, stand_ins: Told) -> None:
        nonlocal told
        told = stand_ins
        secure = ("https://a:80", "https://b:80"), ("https://c:80",)
        upstreams = {
            protocol: replace(
                users()["users"],
                targets=tuple(settings.Target(url=parse_url(url)) for url in urls),
                protocol=protocol,  # those of ALPN are a part of the context
            )
            for protocol, urls in zip(("http1", "http2"), secure, strict=True)
        }
        node.follow({**upstreams, **users("plain")})
        await until(lambda: {"a", "b", "c", "plain"} <= told.asked.keys())

    told: Told
    monkeypatch.setattr(health_checker, "made_context", made)
    monkeypatch.setattr(lasting_tasks, "asyncio", SimpleNamespace(sleep=pause))
    test(monkeypatch, caplog)
    assert pauses == [1.0]
    assert sorted(map(attempts.count, set(attempts))) == [2, 2]


# --- the log of ejections and breakers ---


@in_control
async def test_what_begins_again_between_two_readings_has_a_line_each_time(node: Node, told: Told, caplog: Any) -> None:
    """An ejected target is asked when its time is over, and is ejected again at once; a probe opens a breaker again."""
    passive = settings.HealthChecks(passive=settings.PassiveHealth())
    breaker = settings.CircuitBreaker()
    both = replace(users("a", "b")["users"], health_checks=passive, circuit_breaker=breaker)
    node.follow({"users": both})
    journal = node.checks._journal
    assert journal is not None
    column, words = node.shared.supervisor, node.words
    target, upstream = node.slot_table.targets["users a:80"], node.slot_table.upstreams["users"]
    words.eject(column, target, Ejection(until=101.0, level=1))
    words.set_breaker(column, upstream, BreakerState(round=1, until=101.5, is_open=True))
    assert journal.refresh_verdicts(100.0) == 101.0
    assert journal.refresh_verdicts(100.5) == 101.0
    words.eject(column, target, Ejection(until=103.0, level=2))
    words.set_breaker(column, upstream, BreakerState(round=3, until=103.5, is_open=True))
    assert journal.refresh_verdicts(101.75) == 103.0
    # Another worker that has ejected the same target at the same time extends the ejection, which is no other one.
    words.eject(column, target, Ejection(until=103.1, level=2))
    assert journal.refresh_verdicts(102.0) == 103.1
    assert journal.refresh_verdicts(104.0) == float("inf")
    assert [each.message for each in caplog.records] == [
        "upstream users: a:80 is ejected for 1.0 s: it keeps failing",
        "upstream users: its breaker is open: too many requests failed",
        "upstream users: a:80 is ejected for 1.2 s: it keeps failing",
        "upstream users: its breaker is open: too many requests failed",
        "upstream users: a:80 is no longer ejected",
        "upstream users: its breaker is half-open: some requests are let through",
    ]
