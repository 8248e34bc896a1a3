"""Analytics kept by a gateway that runs: requests counted are rows summed up, whatever was killed in between."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

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


def stored(path: Path) -> int:
    """The requests in the database of a gateway that has ended."""
    with closing(sqlite3.connect(path)) as database:
        text = "SELECT SUM(count) FROM counts JOIN series ON id = series WHERE kind = 'requests'"
        (count,) = database.execute(text).fetchone()
        return int(count)


def send(gateway: Reloadable, count: int) -> None:
    for _ in range(count):
        assert gateway.answer()[0] == 200


def test_requests_counted_are_rows_summed_up_after_kills_reloads_and_an_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "analytics.db"
    with Upgradable(tmp_path, workers=2, analytics={"path": str(path), "keep": "30d"}) as gateway:
        send(gateway, 7)
        wait_until(lambda: requests_in(gateway) == 7, "7 requests", LONG)
        assert path.stat().st_mode & 0o777 == 0o600

        send(gateway, 5)
        wait_until(lambda: requests_in(gateway) == 12, "12 requests", LONG)  # an answer may arrive before it is counted
        worker = gateway.worker_pids[0]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in gateway.worker_pids and len(gateway.worker_pids) == 2, "another worker", LONG)
        send(gateway, 3)

        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        send(gateway, 4)  # while there is none
        wait_until(lambda: control not in gateway.child_pids and gateway.asked() != {}, "another control process", LONG)
        wait_until(lambda: requests_in(gateway) == 19, "19 requests", LONG)

        gateway.change(routes=saying("v2"))
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
        send(gateway, 8)  # these are written at the end
    assert stored(path) == 35
