"""Analytics kept by a gateway that runs: requests counted are rows summed up, whatever was killed in between."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin
from tests.e2e.test_reload import Reloadable, saying
from tests.e2e.test_upgrade import LONG, Upgradable
from tests.support.gateway import wait_until


def rows(gateway: Reloadable, query: str = "") -> list[dict[str, Any]]:
    told = admin(gateway, f"GET /analytics{query}")
    assert told.status == 200, told.body
    found: list[dict[str, Any]] = json.loads(told.body)["rows"]
    return found


def requests_in(gateway: Reloadable, query: str = "") -> int:
    return sum(row["requests"] for row in rows(gateway, query))


def stored(path: Path, kind: str) -> Counter[tuple[str, str]]:
    """The counts in the database of a gateway that has ended, by name and detail."""
    with closing(sqlite3.connect(path)) as database:
        text = "SELECT name, detail, count FROM counts JOIN series ON id = series WHERE kind = ?"
        found = Counter[tuple[str, str]]()
        for name, detail, count in database.execute(text, (kind,)):
            found[name, detail] += count
        return found


def consumers(plan: str) -> list[dict[str, Any]]:
    """Alice with her plan, and bob without one."""
    keys: dict[str, dict[str, Any]] = {
        name: {"name": name, "key_auth": [{"key": f"key-of-{name}"}]} for name in ("alice", "bob")
    }
    return [keys["alice"] | {"groups": [plan]}, keys["bob"]]


def send(gateway: Reloadable, count: int) -> None:
    """Send requests; each third one is bob's."""
    for number in range(count):
        key = "key-of-bob" if number % 3 == 2 else "key-of-alice"
        with gateway.connect() as client:
            assert client.exchange(f"GET / HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\n\r\n".encode()).status == 200


def by_consumer(gateway: Reloadable) -> dict[str, int]:
    return {str(row["consumer"]): row["requests"] for row in rows(gateway, "?by=consumer")}


def by_plan(gateway: Reloadable) -> dict[str, int]:
    return {str(row["plan"]): row["requests"] for row in rows(gateway, "?by=plan")}


@pytest.mark.landing
def test_requests_counted_are_rows_summed_up_after_kills_reloads_and_an_upgrade(tmp_path: Path) -> None:
    """By route, consumer and plan: nothing is lost and nothing is counted twice, so it may be billed."""
    path = tmp_path / "analytics.db"
    identified = {"consumers": consumers("gold"), "filters": {"key_auth": {"key_names": ["x-key"]}}}
    with Upgradable(tmp_path, workers=2, analytics={"path": str(path), "keep": "30d"}, **identified) as gateway:
        send(gateway, 7)
        wait_until(lambda: requests_in(gateway) == 7, "7 requests", LONG)
        assert path.stat().st_mode & 0o777 == 0o600

        send(gateway, 5)
        wait_until(lambda: requests_in(gateway) == 12, "12 requests", LONG)  # an answer may arrive before it is counted
        assert by_consumer(gateway) == {"alice": 9, "bob": 3}
        worker = gateway.worker_pids[0]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in gateway.worker_pids and len(gateway.worker_pids) == 2, "another worker", LONG)
        send(gateway, 3)

        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        send(gateway, 4)  # while there is none
        wait_until(lambda: control not in gateway.child_pids and gateway.asked() != {}, "another control process", LONG)
        wait_until(lambda: requests_in(gateway) == 19, "19 requests", LONG)
        assert by_consumer(gateway) == {"alice": 14, "bob": 5}

        gateway.change(routes=saying("v2"), consumers=consumers("silver"))
        gateway.reload()
        send(gateway, 2)
        wait_until(lambda: requests_in(gateway) == 21, "21 requests", LONG)

        gateway.upgrade()
        send(gateway, 6)
        wait_until(lambda: requests_in(gateway) == 27, "27 requests", LONG)
        names = {row["route"]: row for row in rows(gateway)}
        assert sum(row["requests"] for row in names.values()) == 27
        assert all(row["errors"] == 0 for row in names.values())
        assert {row["status"] for row in rows(gateway, "?by=status")} == {200}
        assert by_consumer(gateway) == {"alice": 20, "bob": 7}
        assert by_plan(gateway) == {"gold": 14, "silver": 6, "": 7}
        send(gateway, 8)  # these are written at the end
    assert stored(path, "requests").total() == 35
    assert stored(path, "consumers") == {("alice", "gold"): 14, ("alice", "silver"): 12, ("bob", ""): 9}
