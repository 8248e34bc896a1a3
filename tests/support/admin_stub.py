"""An admin API without a gateway behind it: the documents of `fastgw/admin/node.py`, with numbers that a test sets.

Time goes on by one second with each answer of /live, whenever it is asked: what a page makes of the differences does
not depend on how busy the machine is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from fastgw.admin import dashboard

STARTED_DATE = 1_790_000_000.0
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Figures:
    """What the documents say. Tests change the attributes; what they set is per second of this node's time."""

    def __init__(self) -> None:
        self.per_second = 100
        self.server_errors = 2
        self.client_errors = 5
        self.latency_s = 0.004
        """Most requests take this long; one in fifty, ten times as long."""
        self.loop_lag_s = 0.0004
        self.connections = 340
        self.state = "serving"
        self.generation = 3
        self.workers = 4
        self.route_list = [route(name) for name in ("user", "files", "orders")]
        self.upstream_list = [upstream("users", 3), upstream("orders", 2)]
        self.reload_list = [reloaded(3), refused(2), reloaded(2), reloaded(1, "start", "started: generation 1")]
        self.configuration: dict[str, Any] = {"version": 1, "workers": 4, "admin": {"token": "***"}}
        self.restart()

    def restart(self) -> None:
        """All counters at zero, as in a new gateway."""
        self.uptime_s = 86_400.5
        self.requests = self.began = 0
        self.responses = dict.fromkeys(("2xx", "3xx", "4xx", "5xx", "499"), 0)
        self.faults = {"connect_refused": 0, "upstream_timeout": 0, "route_not_found": 0}
        self.counts = [0] * (len(BOUNDS_S) + 1)

    def pass_second(self) -> None:
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
        self.pass_second()
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
        }

    def routes(self) -> dict[str, Any]:
        return {"routes": self.route_list}

    def upstreams(self) -> dict[str, Any]:
        return {"upstreams": self.upstream_list}

    def config(self) -> dict[str, Any]:
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
            }
            for number in range(targets)
        ],
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


def refused(generation: int) -> dict[str, Any]:
    """A file with an error, while `generation` went on being served."""
    problem = {
        "file": "/etc/fastgw/gateway.yaml",
        "line": 12,
        "column": 5,
        "path": "routes[2].upstream",
        "wrong": "there is no upstream `oders`",
        "expected": "one of `orders`, `users`",
    }
    told = {"date": STARTED_DATE + generation * 600 + 300, "ok": False, "source": "api", "problems": [problem]}
    return {**reloaded(generation), **told, "summary": "rejected: 1 problem"}


class AdminStub:
    """The server, for as long as a `with` lasts."""

    def __init__(self, figures: Figures | None = None) -> None:
        self.figures = figures or Figures()
        self.token = ""
        """What has to be shown; "" = nothing."""
        self.is_away = False
        """Whether connections end without an answer, as those of a control process that dies."""
        self.failing: dict[str, int] = {}
        """Path -> the status that it answers."""
        self.asked: list[str] = []
        """Paths, in the order in which they came."""
        figures = self.figures
        self._documents: dict[str, Callable[[], dict[str, Any]]] = {
            "/live": figures.live,
            "/status": figures.status,
            "/routes": figures.routes,
            "/upstreams": figures.upstreams,
            "/config": figures.config,
        }
        self._lock = threading.Lock()
        stub = self

        class Asked(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        if self.is_away:
            request.close_connection = True
        elif request.path == "/":
            fields = {"Content-Security-Policy": dashboard.csp(), "X-Content-Type-Options": "nosniff"}
            _send(request, 200, "text/html; charset=utf-8", dashboard.page(), fields)
        elif self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            _send_json(request, 401, {"title": "Unauthorized", "status": 401, "detail": "A token is needed."})
        elif request.path in self.failing:
            status = self.failing[request.path]
            _send_json(request, status, {"title": "Refused", "status": status, "detail": "As the test wants."})
        else:
            with self._lock:
                told = self._documents[request.path]()
            _send_json(request, 200, told)


def _send_json(request: BaseHTTPRequestHandler, status: int, told: dict[str, Any]) -> None:
    kind = "application/json" if status == 200 else "application/problem+json"
    _send(request, status, kind, json.dumps(told).encode(), {})


def _send(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes, fields: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **fields}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
