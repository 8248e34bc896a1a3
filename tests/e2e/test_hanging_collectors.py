"""Servers of logs, traces and metrics that never answer: requests, and the end of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_reload import Reloadable, saying
from tests.support.gateway import STOP_DEADLINE, wait_until

REQUESTS = 40
NEVER = "1h"
"""Timeouts that do not expire in these tests: what ends a delivery is not the patience of the sink."""


class Hanging:
    """Server that reads, and never answers. `asked`: first lines of requests."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._read, args=(self._listening.accept()[0],), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.asked.append(connection.recv(65536).partition(b" HTTP")[0])
            while connection.recv(65536):
                pass


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.stop()


def observed(address: str, directory: Path) -> dict[str, Any]:
    """Settings whose servers all hang."""
    waits = {"timeout": NEVER}
    kinds: dict[str, dict[str, Any]] = {
        "http": {"http": {"url": f"http://{address}/in", "batch": 1}},
        "loki": {"loki": {"url": f"http://{address}/loki/api/v1/push"}},
        "elasticsearch": {"elasticsearch": {"url": f"http://{address}/_bulk", "index": "web"}},
        "otlp": {"otlp": {"url": f"http://{address}"}},
        "grpc": {"otlp": {"url": f"http://{address}", "protocol": "grpc"}},
        "kafka": {"kafka": {"brokers": [address], "topic": "access"}},
    }
    logs: list[dict[str, Any]] = [{"sink": str(directory / "access.log")}]
    for name, sink in kinds.items():
        (settings,) = sink.values()
        settings |= waits | {"spool": {"path": str(directory / f"spool-{name}"), "size": "10MiB"}}
        logs.append({"sink": sink})
    return {
        "access_logs": logs,
        "telemetry": {
            "traces": {"otlp": {"url": f"http://{address}"} | waits, "sampling": {"ratio": 1.0}},
            "metrics": {"otlp": {"url": f"http://{address}", "interval": "1s"} | waits},
        },
        "analytics": {"path": str(directory / "analytics.db")},
    }


def lines_of(spool: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [line for each in spool.glob("*.lines") for line in each.read_text().splitlines()]
    return []


def counted(database: Path) -> int:
    with closing(sqlite3.connect(database)) as opened:
        text = "SELECT sum(count) FROM counts JOIN series ON id = series WHERE kind = 'requests'"
        found: int | None = opened.execute(text).fetchone()[0]
        return found or 0


def send(gateway: Reloadable, count: int) -> None:
    with gateway.connect() as client:
        for _ in range(count):
            assert client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200


def test_a_gateway_that_ends_while_its_servers_hang_keeps_all_lines_and_counts(
    hanging: Hanging, tmp_path: Path
) -> None:
    """Lines are in the spools, and usage is in the database: no process has to be killed for it."""
    told = observed(hanging.address, tmp_path)
    spools = sorted(Path(log["sink"][kind]["spool"]["path"]) for log in told["access_logs"][1:] for kind in log["sink"])
    with Reloadable({"routes": saying("v1"), **told}, tmp_path) as gateway:
        send(gateway, REQUESTS)
        wait_until(lambda: b"POST /v1/metrics" in hanging.asked, "a push of metrics")
        wait_until(lambda: b"POST /v1/traces" in hanging.asked, "an export of spans")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        text = gateway.stderr.text()
    assert "process_killed" not in text
    assert "SIGKILL" not in text
    assert "Traceback" not in text
    assert len((tmp_path / "access.log").read_text().splitlines()) == REQUESTS
    assert {spool.name: len(lines_of(spool)) for spool in spools} == {spool.name: REQUESTS for spool in spools}
    assert counted(tmp_path / "analytics.db") == REQUESTS


def test_a_drain_that_is_cut_while_its_servers_hang_keeps_all_lines_and_counts(
    hanging: Hanging, tmp_path: Path
) -> None:
    """A worker has time for spans and logs after the end of the drain, and the control process after that."""
    told = observed(hanging.address, tmp_path) | {"timeouts": {"drain": {"requests": "0.5s", "tunnels": "0.5s"}}}
    routes = [{"name": "slow", "paths": ["/slow"], "upstream": f"http://{hanging.address}"}, *saying("v1")]
    with Reloadable({"routes": routes, **told}, tmp_path) as gateway, gateway.connect() as slow:
        send(gateway, REQUESTS)
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: b"GET /slow" in hanging.asked, "the slow request")
        wait_until(lambda: b"POST /v1/traces" in hanging.asked, "an export of spans")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(2 * STOP_DEADLINE) == 0
        text = gateway.stderr.text()
    assert "process_killed" not in text
    assert "SIGKILL" not in text
    assert len(lines_of(tmp_path / "spool-http")) == REQUESTS + 1
    assert counted(tmp_path / "analytics.db") == REQUESTS + 1


def test_a_worker_that_is_killed_while_its_servers_hang_loses_a_batch_at_most(hanging: Hanging, tmp_path: Path) -> None:
    told = observed(hanging.address, tmp_path)
    spool = tmp_path / "spool-http"
    with Reloadable({"routes": saying("v1"), **told}, tmp_path) as gateway:
        send(gateway, REQUESTS)
        wait_until(lambda: len(lines_of(spool)) == REQUESTS, "the lines in the spool")
        worker = gateway.worker_pids[0]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in gateway.worker_pids and len(gateway.worker_pids) == 1, "another worker")
        send(gateway, REQUESTS)
        wait_until(lambda: len(lines_of(spool)) == 2 * REQUESTS, "all lines in the spool")
        assert "Traceback" not in gateway.stderr.text()
