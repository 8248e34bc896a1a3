"""quota as a process: exact over workers, and known again after all that may happen to a gateway."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fastgw.shm.quota_store import Claim
from tests.support.client import Client
from tests.support.gateway import OFF, START_DEADLINE, Gateway, GatewayFailed, wait_until

LIMIT = 100
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def settings(tmp_path: Path, limit: int = LIMIT, **more: Any) -> dict[str, Any]:
    quota = {"limit": limit, "period": "month", "key": "route"}
    return {
        "workers": 3,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "quotas": {"file": str(tmp_path / "kept" / "quotas.sqlite3")},
        "routes": [{"name": "all", "respond": {"body": "ok"}, "filters": {"quota": quota}}],
        **more,
    }


def admitted(gateway: Gateway, connections: int = 30, each: int = 8) -> int:
    """How many of so many requests are admitted, sent at once on so many connections."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(connections)]
        for client in clients:
            client.send(GET * each)
        statuses = [client.read_response().status for client in clients for _ in range(each)]
    assert {*statuses} <= {200, 429}
    return statuses.count(200)


def kept(tmp_path: Path) -> int:
    """What the file says."""
    file = tmp_path / "kept" / "quotas.sqlite3"
    if not file.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT coalesce(sum(used), 0) FROM quota").fetchone()[0]
        except sqlite3.OperationalError:  # it is being made
            return 0


def test_exactly_the_limit_whatever_happens(tmp_path):
    """A file that cannot be written yet, workers that race, a worker that is killed, a reload, a stop and a start, a
    whole gateway that is killed."""
    with Gateway(settings(tmp_path, admin={"address": "127.0.0.1:0"}), tmp_path) as gateway:
        line = gateway.stderr.wait_for(lambda line: b"quotas: " in line)  # before anything is counted
        assert b"quotas.sqlite3 cannot be read: No such file or directory; the counters are kept in memory" in line
        wait_until(lambda: "No such file" in told(gateway)["problem"], "the control process to try as well")
        assert admitted(gateway) == LIMIT
        (tmp_path / "kept").mkdir()
        gateway.stderr.wait_for(lambda line: b"is written again" in line, START_DEADLINE)
        assert kept(tmp_path) == LIMIT
        assert told(gateway)["problem"] == ""
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"killed by SIGKILL" in line)
        assert admitted(gateway, 5) == 0
        file = tmp_path / "gateway.json"
        file.write_text(file.read_text().replace(f'"limit": {LIMIT}', f'"limit": {LIMIT + 10}'))
        reloaded(gateway)
        assert admitted(gateway) == 10
    assert kept(tmp_path) == LIMIT + 10
    gateway = Gateway(settings(tmp_path, LIMIT + 15), tmp_path)
    try:
        assert admitted(gateway) == 5
        wait_until(lambda: kept(tmp_path) == LIMIT + 15, "the file to say so")
    finally:
        gateway.kill()
    with Gateway(settings(tmp_path, LIMIT + 18), tmp_path) as gateway:
        assert admitted(gateway) == 3


def reloaded(gateway: Gateway, generation: int = 2) -> None:
    gateway.signal(signal.SIGHUP)
    gateway.stderr.wait_for(lambda line: b"generation %d" % generation in line, START_DEADLINE)


def second(tmp_path: Path) -> str:
    """What another gateway with the same file says, which does not start."""
    with pytest.raises(GatewayFailed) as failed:
        Gateway(settings(tmp_path), tmp_path / "other").kill()
    assert str(failed.value).startswith("ended with 3 ")
    return str(failed.value)


def test_a_file_is_one_gateways_as_long_as_it_runs(tmp_path):
    """Through a death of control and an upgrade: another gateway neither starts with it nor reloads to it. Once the
    file is free, a gateway that reloads to it counts on from what it says."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "other").mkdir()
    with Gateway(settings(tmp_path, workers=1), tmp_path) as gateway:
        os.kill(gateway.control_pid, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: line.startswith(b"control ") and b"killed by SIGKILL" in line)
        gateway.signal(signal.SIGUSR2)
        gateway.stderr.wait_for(lambda line: b"takes over from the previous version" in line, 2 * START_DEADLINE)
        assert "quotas.sqlite3 is used by another gateway; each needs its own file" in second(tmp_path)
        assert admitted(gateway) == LIMIT
    assert kept(tmp_path) == LIMIT
    with (
        Gateway(settings(tmp_path, quotas={}), tmp_path / "other") as other,
        contextlib.closing(Claim(str(tmp_path / "kept" / "quotas.sqlite3"), b"another")) as claim,
    ):
        assert admitted(other, 2) == 16
        claim.acquire()
        (tmp_path / "other" / "gateway.json").write_text(json.dumps({"version": 1, **OFF, **settings(tmp_path)}))
        reloaded(other)
        line = other.stderr.wait_for(lambda line: b"quotas: " in line)
        assert b"is used by another gateway; each needs its own file; the counters are kept in memory" in line
        assert admitted(other, 1) == 8
        assert kept(tmp_path) == LIMIT
        claim.close()
        wait_until(lambda: admitted(other, 1, 1) == 0, "what was counted before", START_DEADLINE)


def shown(gateway: Gateway) -> str:
    return f"Authorization: Bearer {gateway.token}"


def told(gateway: Gateway) -> dict[str, Any]:
    with Client(gateway.ready["admin"]) as client:
        head = f"GET /status HTTP/1.1\r\nHost: localhost\r\n{shown(gateway)}\r\n\r\n"
        return json.loads(client.exchange(head.encode()).body)["quota_file"]


@pytest.mark.landing
def test_the_admin_api_tells_what_is_used_and_resets_it(tmp_path):
    (tmp_path / "kept").mkdir()
    filters = {
        "key_auth": {"key_names": ["apikey"]},
        "plan": {"type": "quota", "limit": 3, "period": "day", "groups": {"gold": {"limit": 5}}},
        "address": {"type": "quota", "limit": 1000, "period": "1h", "key": "ip"},
        "both": {"type": "quota", "limit": 900, "period": "1h", "key": ["header:x-tenant", "consumer", "ip"]},
    }
    routes = [{"name": "all", "respond": {"body": "ok"}, "filters": filters}]
    consumers = [{"name": "alice", "groups": ["gold"], "key_auth": [{"key": "key-of-alice-1"}]}]
    config = settings(tmp_path, routes=routes, consumers=consumers, admin={"address": "127.0.0.1:0"})
    fields = b"apikey: key-of-alice-1\r\nX-Tenant: acme\r\nConnection: close\r\n"
    as_alice = b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"

    def asked() -> list[int]:
        statuses = []
        for _ in range(7):
            with gateway.connect() as client:
                statuses.append(client.exchange(as_alice).status)
        return statuses

    with Gateway(config, tmp_path) as gateway:
        assert asked() == [200] * 5 + [429] * 2
        _, (plan, address, both) = admin(gateway, "GET /quotas?consumer=alice")
        assert (plan["filter"], plan["level"]) == ("plan", "route all")
        assert (plan["limit"], plan["used"], plan["left"]) == (5, 5, 0)
        assert (address["used"], both["used"]) == (None, None)
        assert [each["used"] for each in admin(gateway, "GET /quotas?key=127.0.0.1")[1]] == [None, 5, None]
        of_several = "GET /quotas?consumer=alice&key=acme&key=127.0.0.1"
        assert [each["used"] for each in admin(gateway, of_several)[1]] == [5, None, 5]
        whose = {"filter": "both", "key": ["acme", "127.0.0.1"]}
        assert admin(gateway, "POST /quotas/reset", whose)[0] == 404
        assert admin(gateway, "POST /quotas/reset", {**whose, "consumer": "alice"}) == (200, {"reset": 1})
        assert [each["used"] for each in admin(gateway, of_several)[1]] == [5, None, 0]
        assert admin(gateway, "POST /quotas/reset", {"filter": "plan", "consumer": "alice"}) == (200, {"reset": 1})
        assert admin(gateway, "GET /quotas?consumer=alice")[1][0]["used"] == 0
        assert asked() == [200] * 5 + [429] * 2
        assert admin(gateway, "POST /quotas/reset", {"filter": "plan", "key": "alice"})[0] == 404
        assert admin(gateway, "POST /quotas/reset", {"filter": "plan"})[0] == 400
        assert admin(gateway, "POST /quotas/reset", {"filter": "plan", "consumer": "alice"})[0] == 200
        wait_until(lambda: kept(tmp_path) == 15, "the file to know of the reset")


@pytest.mark.landing
def test_the_admin_api_tells_how_much_of_the_limits_is_in_use(tmp_path):
    """What control can see without asking a worker; the rest is null."""
    filters = {
        "key_auth": {"key_names": ["apikey"]},
        "plan": {"type": "quota", "limit": 3, "period": "month", "groups": {"gold": {"limit": 5}}},
        "by_route": {"type": "quota", "limit": 9, "period": "month", "key": "route"},
        "by_address": {"type": "quota", "limit": 90, "period": "month", "key": "ip"},
        "pace": {"type": "rate_limit", "limit": 4, "window": "1h", "key": "consumer"},
        "crowd": {"type": "concurrency", "limit": 10},
        "crowd_each": {"type": "concurrency", "limit": 10, "key": "consumer"},
    }
    consumers = [
        {"name": name, "groups": groups, "key_auth": [{"key": f"key-of-{name}-1"}]}
        for name, groups in (("alice", ["gold"]), ("bob", []), ("carol", []))
    ]
    routes = [{"name": "all", "respond": {"body": "ok"}, "filters": filters}]
    config = settings(tmp_path, routes=routes, consumers=consumers, admin={"address": "127.0.0.1:0"})

    def ask(who: str) -> int:
        head = f"GET / HTTP/1.1\r\nHost: a\r\napikey: key-of-{who}-1\r\nConnection: close\r\n\r\n"
        with gateway.connect() as client:
            return client.exchange(head.encode()).status

    def limits() -> dict[str, Any]:
        status, told = admin(gateway, "GET /limits")
        assert status == 200
        return {each["filter"]: each for each in told["limits"]} | {each["table"]: each for each in told["tables"]}

    (tmp_path / "kept").mkdir()
    with Gateway(config, tmp_path) as gateway:
        assert [ask("alice") for _ in range(5)] == [200] * 4 + [429]  # `pace`
        assert [ask("bob") for _ in range(4)] == [200] * 3 + [429]  # `plan`
        wait_until(lambda: limits()["plan"]["refused"] == 1, "what was counted")
        told = limits()
        whose = [told["plan"][each] for each in ("keys", "most_used", "most_used_of", "most_used_by")]
        assert whose == [2, 3, 3, "bob"]  # alice has used more, of more
        assert (told["plan"]["type"], told["plan"]["level"], told["plan"]["per"]) == ("quota", "route all", "month")
        assert (told["by_route"]["keys"], told["by_route"]["most_used_by"]) == (1, "all")
        assert (told["by_address"]["keys"], told["by_address"]["most_used"]) == (None, None)
        assert (told["pace"]["refused"], told["pace"]["keys"], told["pace"]["per"]) == (1, None, "1h")
        assert (told["crowd"]["in_flight"], told["crowd"]["refused"], told["crowd"]["limit"]) == (0, 0, 10)
        assert (told["crowd_each"]["in_flight"], told["crowd_each"]["key"]) == (None, "consumer")
        assert (told["quota"]["used"], told["quota"]["shared"], told["quota"]["overflowed"]) == (4, 0, 0)
        assert (told["rate_limit"]["used"], told["rate_limit"]["size"]) == (2, 2**21)
        assert told["connections"]["size"] == 20_000


def admin(gateway: Gateway, line: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    fields = ("Host: localhost", shown(gateway), "Content-Type: application/json", f"Content-Length: {len(payload)}")
    head = "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""])
    with Client(gateway.ready["admin"]) as client:
        answer = client.exchange(head.encode() + payload)
    told = json.loads(answer.body)
    return answer.status, told.get("quotas", told)
