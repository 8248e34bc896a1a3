"""The admin API without a gateway: documents of `fastgw/admin/node_interface.py`, with numbers set by tests.

The time advances by one second with each response of /live, so that rates computed by a page do not depend on the
machine's load.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from fastgw.admin.api import create_app
from fastgw.admin.authorization import Access
from fastgw.admin.explanation import Explanation
from fastgw.admin.node_interface import (
    Committed,
    ConfigChanges,
    ConfigHistory,
    ConsumerInfo,
    DebugTokenMade,
    Explained,
    KeptConfiguration,
    Node,
    Outcome,
    QuotaInfo,
    RequestToExplain,
)
from fastgw.admin.responses import refused
from fastgw.analytics.queries import STEPS, AnalyticsRow, Usage, UsageQuery
from fastgw.capture.captured_exchange import CapturedExchange, CaptureOrder
from fastgw.capture.redaction import Redaction
from fastgw.capture.story_record import Story, StoryAttempt, StoryFilter
from fastgw.config.base.value_types import Address
from fastgw.config.settings.secrets import Secret
from fastgw.runtime.control.admin_listener import serve
from tests.support.peer import DEADLINE

STARTED_DATE = 1_790_000_000.0
RUN_KEY = b"run"
NAMES_OF = {"route": ["user", "order"], "consumer": ["alice", "bob", "carol"], "plan": ["gold", ""]}
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Tapped:
    """Two requests, and then none."""

    dropped = 0

    def __init__(self) -> None:
        self._left = [self.exchange(200, b"/users/7"), self.exchange(502, b"/orders")]

    async def next(self, seconds: float) -> CapturedExchange | None:
        if self._left:
            return self._left.pop(0)
        await asyncio.sleep(min(seconds, 0.05))
        return None

    @staticmethod
    def exchange(status: int, path: bytes) -> CapturedExchange:
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer t" % path
        return CapturedExchange(
            date=STARTED_DATE,
            duration_s=0.012,
            listener="public",
            route="user",
            client_ip="192.0.2.7",
            scheme=b"https",
            method=b"POST",
            host=b"a",
            path=path,
            query=b"token=t",
            version=11,
            request_head=head,
            request_body=b'{"password":"geheim"}',
            request_bytes=21,
            request_complete=True,
            status=status,
            response_fields=[(b"Content-Type", b"text/plain")],
            response_body=b"done",
            response_bytes=4,
            response_complete=True,
            upstream="users",
            target="users-0.internal:9001",
        )


DIFF = "--- before\n+++ now\n@@ -1,3 +1,3 @@\n routes:\n-- name: user\n+- name: new"


class Figures:
    """A fake node. Its documents are plain dictionaries, so that they may contain impossible values.

    Tests change the attributes; rates are per second of this node's time.
    """

    def __init__(self) -> None:
        self.per_second = 100
        self.server_errors = 2
        self.client_errors = 5
        self.latency_s = 0.004
        """Duration of most requests; one in fifty takes ten times as long."""
        self.loop_lag_s = 0.0004
        self.connections = 340
        self.state = "serving"
        self.stale: dict[str, Any] | None = None
        self.shared_state: dict[str, Any] | None = None
        self.kept_files: list[dict[str, Any]] = []
        self.generation = 3
        self.workers = 4
        self.route_list = [route(name) for name in ("user", "files", "orders")]
        self.upstream_list = [upstream("users", 3), upstream("orders", 2)]
        self.reload_list = [reloaded(3), rejected(2), reloaded(2), reloaded(1, "start", "started: generation 1")]
        self.minutes_kept = 60
        self.table_list = [table_use("connections", 340, 20_000), table_use("rate_limit", 1_900_000, 2_097_152)]
        self.limit_list = [limit_use("plan", "quota"), limit_use("crowd", "concurrency")]
        disk = {"path": "/var/cache/fastgw", "most_bytes": 2**30, "bytes": 2**20, "objects": 40, "hits": 7}
        disk |= {"written": 41, "dropped": 0, "evicted": 1, "damaged": 0, "errors": 0, "is_up": True}
        self.store_list = [
            {"name": "main", "most_bytes": 2**26, "bytes": 2**20, "objects": 1234, "evicted": 5, "disk": None}
            | {"redis": None},
            {"name": "big", "most_bytes": 2**26, "bytes": 0, "objects": 0, "evicted": 0, "disk": disk, "redis": None},
        ]
        self.object_list = [{"store": "main", "url": "http://a.test/x?token=***", "found": 4321, "bytes": 2048}]
        self.certificate_list: list[dict[str, Any]] = []
        self.ocsp_list: list[dict[str, Any]] = []
        self.explanation = Explanation(route="user", target="http://127.0.0.1:9001")
        self.explanation_text = "listener  public   client 127.0.0.1\nroute     user   any host, path /users/{id}"
        self.explained: list[RequestToExplain] = []
        self.not_explained = ""
        """Reason why requests cannot be explained."""
        self.asked_to: list[str] = []
        self.keeps_analytics = True
        self.queries: list[UsageQuery] = []
        self.captures: list[CaptureOrder] = []
        self.captures_ended = 0
        self._lock = threading.Lock()  # the test and the server are in different threads
        self.configuration: dict[str, Any] = {"version": 1, "workers": 4, "admin": {"token": "***"}}
        self.restart()

    def restart(self) -> None:
        """Reset all counters, as in a new gateway."""
        with self._lock:
            self.uptime_s = 86_400.5
            self.requests = 0
            self.responses = dict.fromkeys(("2xx", "3xx", "4xx", "5xx", "499"), 0)
            self.faults = {"connect_refused": 0, "upstream_timeout": 0, "route_not_found": 0}
            self.counts = [0] * (len(BOUNDS_S) + 1)

    def _pass_second(self) -> None:
        self.uptime_s += 1
        self.requests += self.per_second
        self.responses["5xx"] += self.server_errors
        self.responses["4xx"] += self.client_errors
        self.responses["2xx"] += self.per_second - self.server_errors - self.client_errors
        self.faults["connect_refused"] += self.server_errors
        self.faults["route_not_found"] += self.client_errors
        slow = self.per_second // 50
        self.counts[place_of(self.latency_s)] += self.per_second - slow
        self.counts[place_of(self.latency_s * 10)] += slow

    def live(self) -> dict[str, Any]:
        with self._lock:
            self._pass_second()
        return {
            "date": STARTED_DATE + self.uptime_s,
            "uptime_s": self.uptime_s,
            "generation": self.generation,
            "state": self.state,
            "connections": self.connections,
            "requests": self.requests,
            "responses": self.responses,
            "faults": self.faults,
            "latency": {"bounds_s": BOUNDS_S, "counts": self.counts},
            "loop_lag_s": self.loop_lag_s,
            "workers": self.worker_list(),
            "cache": {},
        }

    def worker_list(self) -> list[dict[str, Any]]:
        return [
            {
                "slot": slot,
                "pid": 4100 + slot,
                "generation": self.generation,
                "state": "ready",
                "uptime_s": self.uptime_s,
                "connections": self.connections // self.workers,
                "requests": self.requests // self.workers,
                "memory_bytes": 61_000_000 + slot * 500_000,
                "cpu_s": self.uptime_s * 0.25,
                "loop_lag_s": self.loop_lag_s,
            }
            for slot in range(self.workers)
        ]

    def status(self) -> dict[str, Any]:
        refusals = sum(not each["ok"] for each in self.reload_list)
        return {
            "version": "0.1.0",
            "pid": 4099,
            "uptime_s": self.uptime_s,
            "started_date": STARTED_DATE,
            "generation": self.generation,
            "config_hash": "5f2a90c1",
            "config_file": "/etc/fastgw/gateway.yaml",
            "stale": self.stale,
            "kept_files": self.kept_files,
            "state": self.state,
            "workers": self.worker_list(),
            "connections": self.connections,
            "requests": self.requests,
            "reloads": {
                "ok": len(self.reload_list) - refusals,
                "failed": refusals,
                "last_success": self.reload_list[0]["ok"],
                "last": self.reload_list,
            },
            "rates": None,
            "certificates": self.certificate_list,
            "acme": [],
            "ocsp": self.ocsp_list,
            "on_demand": None,
            "verifiers": [],
            "feeds": [],
            "quota_file": None,
            "analytics": None,
            "caches": [],
            "shared_state": self.shared_state,
        }

    async def new_debug_token(self, route: str, seconds: float) -> DebugTokenMade:
        return (
            None if route == "nowhere" else DebugTokenMade("fgd1.1767225600.00.YQ.c2ln", STARTED_DATE + seconds, route)
        )

    def stories(self) -> list[Story]:
        """As a node has them, as the API selects rows from them: one with two attempts."""
        attempts = [
            StoryAttempt("users", f"users-{n}.internal:9001", kind, n, n > 0, status, fault, *times)
            for n, (kind, status, fault, times) in enumerate(
                [
                    ("first", None, "connection_lost", (0.01, 0.015, 0.02, 0.04, 0.05, None, 0.2)),
                    ("retry", 503, None, (0.21, None, None, None, 0.22, 0.6, 0.7)),
                ]
            )
        ]
        return [
            Story(
                date=STARTED_DATE,
                duration_s=0.7,
                reason="error",
                listener="public",
                client="192.0.2.7",
                consumer="alice",
                method="GET",
                scheme="https",
                host="api.example.com",
                path="/users/7",
                query=None,
                protocol=20,
                status=503,
                route="user",
                fault=None,
                fault_detail=None,
                upstream="users",
                target="users-1.internal:9001",
                upstream_s=0.6,
                retries=1,
                cache=None,
                grpc_status=None,
                shadow=None,
                subrequests=None,
                request_bytes=0,
                response_bytes=12,
                request_id="made-up-1",
                trace_id=None,
                number=1,
                filters=[StoryFilter("request_id", "request_id", "passed")],
                attempts=attempts,
            )
        ]

    async def consumers(self) -> list[ConsumerInfo]:
        return [ConsumerInfo(f"team-{n}", ("gold",) if n else (), n, 0, 1, 0, 0) for n in range(3)]

    def quotas(self, consumer: str | None, keys: Any) -> list[QuotaInfo]:
        used = 950 if consumer == "team-1" else 0
        return [QuotaInfo("quota", "gateway", "consumer", "day", STARTED_DATE + 86400, 1000, used, 1000 - used)]

    async def analytics(self, query: UsageQuery) -> Usage | None:
        if not self.keeps_analytics:
            return None
        self.queries.append(query)
        step = STEPS[query.step] if query.step else 0
        dates = range(int(query.since_date) // step * step, int(query.until_date), step) if step else [None]
        chosen = getattr(query, query.by)
        names = [chosen] if chosen is not None else NAMES_OF[query.by]
        figures = {"requests": 3600, "errors": 36, "request_bytes": 1, "response_bytes": 2048}
        figures |= {"p50_s": 0.01, "p95_s": 0.02, "p99_s": 0.03}
        rows = [
            AnalyticsRow(**{query.by: each, **figures, **({} if date is None else {"date": float(date)})})
            for date in dates
            for each in names
        ]
        return Usage(rows, len(rows))

    def config_history(self) -> ConfigHistory:
        kept = [KeptConfiguration(self.generation - n, "ab" * 32, STARTED_DATE - n, "signal") for n in (1, 2)]
        return ConfigHistory(self.generation, kept)

    async def config_changes(self, generation: int) -> ConfigChanges | None:
        return ConfigChanges(generation, self.generation, "route user: removed\nroute new: added", DIFF)

    def redaction(self) -> Redaction:
        return Redaction()

    @asynccontextmanager
    async def capturing(self, order: CaptureOrder) -> AsyncIterator[Any]:
        self.captures.append(order)
        yield Tapped()
        self.captures_ended += 1

    def stories_dropped(self) -> int:
        return 0

    def history(self) -> dict[str, Any]:
        points = [self._point(age * 10) for age in reversed(range(self.minutes_kept * 6))]
        return {"every_s": 10.0, "bounds_s": BOUNDS_S, "points": points}

    def _point(self, age_s: float) -> dict[str, Any]:
        counts = [0] * (len(BOUNDS_S) + 1)
        counts[place_of(self.latency_s)] = self.per_second * 10
        return {
            "date": STARTED_DATE + self.uptime_s - age_s,
            "seconds": 10.0,
            "connections": self.connections,
            "requests": self.per_second * 10,
            "responses": {"2xx": self.per_second * 10, "5xx": 0},
            "faults": {},
            "latency": counts,
            "loop_lag_s": self.loop_lag_s,
        }

    async def cache(self, most: int) -> dict[str, Any]:
        return {"stores": self.store_list, "objects": self.object_list[:most]}

    async def limits(self) -> dict[str, Any]:
        return {"date": STARTED_DATE + self.uptime_s, "tables": self.table_list, "limits": self.limit_list}

    async def reload(self) -> dict[str, Any]:
        return self._changed("reload")

    async def rollback(self, generation: int | None) -> dict[str, Any]:
        return self._changed("rollback" if generation is None else f"rollback to {generation}")

    def has_session_ended(self, mark: bytes) -> bool:
        return False

    def end_session(self, record: bytes, most: int) -> bool:
        return True

    async def record(self, *_: object) -> None:
        """This node has no audit log."""

    def drain(self) -> None:
        self._changed("drain")

    def _changed(self, what: str) -> Any:
        self.asked_to.append(what)
        return Outcome(True, self.generation, Committed(4, 4), summary=f"{what}: done")

    async def explain(self, request: RequestToExplain) -> Explained:
        self.explained.append(request)
        if self.not_explained:
            raise ValueError(self.not_explained)
        return Explained(self.generation, self.explanation, self.explanation_text)

    def routes(self) -> list[dict[str, Any]]:
        return self.route_list

    def upstreams(self) -> list[dict[str, Any]]:
        return self.upstream_list

    async def config(self) -> dict[str, Any]:
        return {"generation": self.generation, "hash": "5f2a90c1", "config": self.configuration}


def place_of(duration_s: float) -> int:
    return next((place for place, bound in enumerate(BOUNDS_S) if duration_s <= bound), len(BOUNDS_S))


def route(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "listeners": ["public"],
        "hosts": ["api.example.com"],
        "paths": [f"/{name}/{{id}}"],
        "methods": ["GET", "POST"],
        "to": name,
        "filters": ["request_id", "set_headers"],
        "requests": 1200,
        "errors": 0,
        "p50_s": 0.0031,
        "p99_s": 0.042,
        "rate": 20.0,
        "faults": {},
        "recent_faults": {},
        "last_error": None,
        "cache": {},
        **fields,
    }


def table_use(table: str, used: int, size: int, **fields: Any) -> dict[str, Any]:
    return {"table": table, "used": used, "size": size, "shared": None, "overflowed": None, "refused": None, **fields}


def limit_use(name: str, type_: str, **fields: Any) -> dict[str, Any]:
    is_quota = type_ == "quota"
    return {
        "filter": name,
        "type": type_,
        "level": "route user",
        "key": "consumer" if is_quota else "",
        "limit": 1000,
        "per": "month" if is_quota else "",
        "refused": 12,
        "resets_date": STARTED_DATE if is_quota else None,
        "in_flight": None if is_quota else 17,
        "keys": 3 if is_quota else None,
        "most_used": 950 if is_quota else None,
        "most_used_of": 1000 if is_quota else None,
        "most_used_by": "alice" if is_quota else None,
        **fields,
    }


def upstream(name: str, targets: int, **fields: Any) -> dict[str, Any]:
    healths = ["healthy", "healthy", "unhealthy"]
    return {
        "name": name,
        "algorithm": "round_robin",
        "retries": 12,
        "targets": [
            {
                "url": f"http://{name}-{number}.internal:9001",
                "weight": 1,
                "health": healths[number % len(healths)],
                "in_use": 8,
                "idle": 3,
                "waiting": 0,
                "priority": 0,
                "drained": False,
                "problem": "status 500" if healths[number % len(healths)] == "unhealthy" else "",
                "label": f"{name}-{number}.internal:9001",
                "requests": 400,
                "errors": {},
                "rate": 6.5,
                "recent_errors": {},
                "p50_s": 0.003,
                "p99_s": 0.04,
                "last_error": None,
            }
            for number in range(targets)
        ],
        "breaker": "closed",
        "ejections": 0,
        "breaker_openings": 0,
        **fields,
    }


def reloaded(generation: int, source: str = "signal", summary: str = "") -> dict[str, Any]:
    return {
        "generation": generation,
        "date": STARTED_DATE + generation * 600,
        "ok": True,
        "source": source,
        "summary": summary or f"reloaded: generation {generation} on 4/4 workers",
        "problems": [],
    }


def rejected(generation: int) -> dict[str, Any]:
    """Result for a file with an error, while `generation` stays active."""
    problem = {
        "file": "/etc/fastgw/gateway.yaml",
        "line": 12,
        "column": 5,
        "path": "routes[2].upstream",
        "wrong": "unknown upstream `oders`",
        "expected": "one of `orders`, `users`",
        "hint": "",
    }
    told = {"date": STARTED_DATE + generation * 600 + 300, "ok": False, "source": "api", "problems": [problem]}
    return {**reloaded(generation), **told, "summary": "rejected: 1 problem"}


class Open(Access):
    """Accepts browsers without credentials, as a private socket accepts other clients."""

    @property
    def anonymous(self) -> bool:
        return True


class AdminStub:
    """The real admin API with fake figures, within a `with`."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.token = ""
        """Required token; "" = none."""
        self.read_only_token = ""
        """Token of clients that may only look; "" = none."""
        self.failing: dict[str, int] = {}
        """Status to answer, by path."""
        self.asked: list[str] = []
        """Requested paths, in order."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._address = Address(host="127.0.0.1", port=self._listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._serving: asyncio.Task[None] | None = None
        self.url = f"http://{self._address}/"

    def __enter__(self) -> Self:
        self._thread.start()
        self.come()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listening.close()

    def come(self) -> None:
        asyncio.run_coroutine_threadsafe(self._come(), self._loop).result(DEADLINE)

    def leave(self) -> None:
        """Stop answering, as control does when it dies: the socket stays open, and connections wait in it."""
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(DEADLINE)

    async def _come(self) -> None:
        self._serving = asyncio.create_task(serve(self._answer, self._listening))

    async def _leave(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.asked.append(path)
        if path in self.failing:
            await refused(self.failing[path], "As the test wants.")(scope, receive, send)
        else:
            await self._app(self.token)(scope, receive, send)

    def _app(self, token: str) -> ASGIApp:
        if not token:
            return create_app(cast(Node, self.figures), Open(self._address, Secret(text="made"), run_key=RUN_KEY))
        reader = Secret(text=self.read_only_token) if self.read_only_token else None
        return create_app(
            cast(Node, self.figures), Access(self._address, Secret(text=token), read_only=reader, run_key=RUN_KEY)
        )
