"""The admin API on a real socket, served by a thread, with a fake node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from fastgw.admin.api import create_app
from fastgw.admin.authorization import Access
from fastgw.admin.explanation import Explanation
from fastgw.admin.node_interface import (
    CachedObject,
    CacheInfo,
    CacheStoreInfo,
    Committed,
    ConsumerInfo,
    Effective,
    Explained,
    History,
    Latency,
    Limits,
    LimitUse,
    Live,
    Outcome,
    QuotaInfo,
    Reload,
    Reloads,
    RequestToExplain,
    Revocations,
    RevokedEverywhere,
    RouteInfo,
    Status,
    TableUse,
    TargetInfo,
    UpstreamInfo,
    Worker,
)
from fastgw.analytics.queries import AnalyticsRow, Usage, UsageQuery
from fastgw.config import Problem
from fastgw.config.base.value_types import Address
from fastgw.config.settings.secrets import Secret
from fastgw.runtime.control.admin_listener import serve
from fastgw.runtime.sockets.listening_sockets import BACKLOG
from fastgw.sync.revocations import LENGTH, MOST_ENDED_SESSIONS, RevocationEvent, RevocationList
from tests.support.peer import DEADLINE

PROBLEM = Problem("gw.yaml", 2, 20, "routes[0].upstrem", "unknown key", 'did you mean "upstream"?')
RELOADED = Outcome(True, 2, Committed(4, 4), summary="reloaded: generation 2 on 4/4 workers")
REJECTED = Outcome(
    False, 1, Committed(0, 4), summary="rejected: nothing has changed", problems=(PROBLEM,), reason="rejected"
)
BUSY = Outcome(False, 1, Committed(0, 4), summary="another change is in progress", reason="busy")
FAILED = Outcome(False, 1, Committed(0, 4), summary="worker 2 refused: no memory", reason="failed")
WORKER = Worker(0, 4321, 1, "ready", 93784.5, 17, 1_234_567, 36_000_000, 12.5, 0.0012)

EXPLAINED = Explained(1, Explanation(listener="main", route="user"), "listener  main\nroute     user")
CONSUMER = ConsumerInfo("alice", ["admin"], keys=2, passwords=1, subjects=0, certificates=0, signing_keys=0)
EFFECTIVE = Effective(1, "ab" * 32, {"version": 1, "admin": {"token": "***"}})


class FakeNode:
    """A node with constant responses, which records the operations called."""

    def __init__(self) -> None:
        self.asked = 0
        """Number of changes requested; those in `told` are complete."""
        self.told: list[object] = []
        self.recorded: list[tuple[str, str, str, dict[str, str]]] = []
        """Entries for the audit log."""
        self.outcome = RELOADED
        self.upstreams_known = [
            UpstreamInfo("users", "round_robin", 1, [TargetInfo("http://u1:9001", 3, "healthy", 2, 5, 0)])
        ]
        self.broken: Exception | None = None
        self.ended_sessions = RevocationList(MOST_ENDED_SESSIONS)
        self.hold: Future[None] | None = None
        """Changes of the configuration wait for this event."""

    async def record(self, actor: str, action: str, result: str, detail: Mapping[str, str]) -> None:
        self.recorded.append((actor, action, result, dict(detail)))

    def status(self) -> Status:
        if self.broken is not None:
            raise self.broken
        reload = Reload(1, 1_700_000_000.0, True, "start", "started: generation 1 on 1/1 workers")
        reloads = Reloads(1, 0, True, [reload])
        return Status(
            "0.1.0",
            4320,
            93785.0,
            1_700_000_000.0,
            1,
            "ab" * 32,
            "/etc/gw.yaml",
            "serving",
            [WORKER],
            17,
            1_234_567,
            reloads,
        )

    def live(self) -> Live:
        latency = Latency([0.001, 0.01], [5, 3, 1])
        return Live(1_700_000_100.0, 100.0, 1, "serving", 17, 9, {"2xx": 8, "5xx": 1}, {}, latency, 0.0, [WORKER])

    def history(self) -> History:
        return History(10.0, [0.001, 0.01], [])

    async def analytics(self, query: UsageQuery) -> Usage | None:
        self.told.append(query)
        if self.broken is not None:
            raise self.broken
        if query.by == "consumer":
            return None
        return Usage([AnalyticsRow(3, route="users", errors=1)], 2)

    def routes(self) -> list[RouteInfo]:
        return [
            RouteInfo("user", [], ["a.example"], ["/users/{id}"], ["GET"], "users", ["request_id"], 9, 1, 0.002, None)
        ]

    def upstreams(self) -> list[UpstreamInfo]:
        return self.upstreams_known

    async def consumers(self) -> list[ConsumerInfo]:
        return [CONSUMER]

    async def config(self) -> Effective:
        return EFFECTIVE

    def metrics(self, accept: bytes) -> tuple[bytes, bytes]:
        return b"text/plain; version=0.0.4; charset=utf-8", b"# asked for " + accept + b"\n"

    async def reload(self) -> Outcome:
        return await self._change("reload")

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> Outcome:
        return await self._change((text, suffix, dry_run))

    async def put_targets(self, upstream: str, text: bytes, suffix: str) -> Outcome:
        return await self._change((upstream, text, suffix))

    def drain_target(self, upstream: str, target: str, drained: bool) -> None:
        """No target exists."""

    async def rollback(self, generation: int | None) -> Outcome:
        return await self._change(("rollback", generation))

    async def explain(self, request: RequestToExplain) -> Explained:
        self.told.append(request)
        if self.broken is not None:
            raise self.broken
        return EXPLAINED

    def revocations(self) -> Revocations:
        return Revocations(1, 100_000, "shared", [RevocationEvent("jti", 1.0, 2.0, "https://idp.example", jti="1")])

    def has_session_ended(self, mark: bytes) -> bool:
        return self.ended_sessions.covers([(mark, 0.0)], time.time())

    def end_session(self, record: bytes, most: int) -> bool:
        has_room = self.ended_sessions.has_room(most, time.time())
        return has_room and bool(self.ended_sessions.add(record, time.time()))

    def revoke(self, records: bytes, about: RevocationEvent) -> RevokedEverywhere:
        self.told.append(("revoke", len(records) // LENGTH, about.kind, about.issuer, about.subject, about.jti))
        return "away"

    def quotas(self, consumer: str | None, keys: Sequence[str]) -> list[QuotaInfo]:
        used = 3 if consumer == "alice" else None
        return [QuotaInfo("quota", "route user", "consumer", "month", 1.8e9, 10, used, None if used is None else 7)]

    async def cache(self, most: int) -> CacheInfo:
        store = CacheStoreInfo("main", 2**26, 5000, 2, 0)
        return CacheInfo([store], [CachedObject("main", "http://a.test/x", 7, 1000)][:most])

    async def limits(self) -> Limits:
        tables = [TableUse("rate_limit", 3, 2**21, 0, 0, 0)]
        return Limits(1.7e9, tables, [LimitUse("rate_limit", "rate_limit", "gateway", "ip", 10, "1s", 4)])

    def reset_quota(self, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
        self.told.append(("reset", instance, consumer, *keys))
        return 1 if instance == "quota" else None

    def drain(self) -> None:
        self.told.append("drain")

    async def _change(self, what: object) -> Outcome:
        self.asked += 1
        if self.hold is not None:
            await asyncio.wrap_future(self.hold)
        self.told.append(what)
        return self.outcome


MADE = "made-for-tests"
"""Generated token of an API without a configured one."""


@dataclass
class Served:
    """A running admin API."""

    address: Address
    node: FakeNode = field(default_factory=FakeNode)

    token: str = ""
    """Token that `ask` sends by default; "" = none."""

    @property
    def authority(self) -> str:
        return str(self.address)

    def connect(self) -> socket.socket:
        if self.address.path:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(DEADLINE)
            made.connect(self.address.path)
            return made
        return socket.create_connection((self.address.host, self.address.port), DEADLINE)

    def ask(self, request: str, *fields: str, body: bytes = b"") -> tuple[int, str, bytes]:
        """Send one request on a new connection; return status, head and body of the response."""
        lines = [f"{request} HTTP/1.1", *fields, "Connection: close"]
        if not any(each.lower().startswith("host:") for each in fields):
            lines.append(f"Host: {'localhost' if self.address.path else self.authority}")
        if self.token and not any(each.lower().startswith(("authorization:", "cookie:")) for each in fields):
            lines.append(f"Authorization: Bearer {self.token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        with self.connect() as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            return taken(connection)


def taken(connection: socket.socket) -> tuple[int, str, bytes]:
    """Read a response until the connection closes."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]) if head else 0, head.decode("latin-1"), body


@contextlib.contextmanager
def served(
    token: Secret | None = None,
    *,
    path: Path | None = None,
    bound: str = "127.0.0.1",
    named: str | None = None,
    tls: ssl.SSLContext | None = None,
    read_only: Secret | None = None,
) -> Iterator[Served]:
    """Serve the admin API. `named`: the configured host, if it differs from the bound address.

    `token`: as configured; None = a generated one, which `ask` sends. Then a unix socket is private to its owner.
    """
    listening = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    with listening:
        listening.bind((bound, 0) if path is None else str(path))
        listening.listen(BACKLOG)
        address = Address(path=str(path)) if path else Address(host=bound, port=listening.getsockname()[1])
        configured = Address(host=named, port=address.port) if named else address
        if path is not None and token is None:
            path.chmod(0o600)
        here = Served(address, token=MADE if token is None and path is None else "")
        proof = token or Secret(text=MADE)
        run_key = os.urandom(32)
        access = Access(configured, proof, tls is not None, token is None, read_only=read_only, run_key=run_key)
        app = create_app(here.node, access)
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

        async def run() -> None:
            task = asyncio.create_task(serve(app, listening, tls))
            started.set_result((asyncio.get_running_loop(), task))
            with contextlib.suppress(asyncio.CancelledError):
                await task

        thread = threading.Thread(target=lambda: uvloop.run(run()))
        thread.start()
        loop, task = started.result(DEADLINE)
        try:
            yield here
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(DEADLINE)
            assert not thread.is_alive()
