"""What the admin API tells of a gateway that runs is true, and told at once whatever the gateway is doing."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import (
    admin,
    read,
    read_generation,
)
from tests.e2e.slow import Slow
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying, saying
from tests.support.client import connect
from tests.support.gateway import wait_until
from tests.support.peer import DEADLINE

MANY = {
    "listeners": {"main": {**ANYWHERE, "filters": {"request_id": {}}}, "other": ANYWHERE},
    "filters": {"outermost": {"type": "headers", "response": {"set": {"X-A": "1"}}}},
    "filter_sets": {"small": {"size": {"body": "1KiB"}}},
}


def route_of(gateway: Reloadable, name: str) -> dict[str, Any]:
    (found,) = (route for route in read(gateway, "/routes")["routes"] if route["name"] == name)
    return dict(found)


@pytest.mark.landing
def test_counts_are_what_was_sent(tmp_path: Path, slow: Slow) -> None:
    routes = [
        {"name": "fine", "paths": ["/fine"], "respond": {"body": "x"}},
        {"name": "failing", "paths": ["/failing"], "respond": {"status": 503}},
        {"name": "missing", "paths": ["/missing"], "respond": {"status": 404}},
        {"name": "forwarded", "paths": ["/forwarded"], "upstream": f"http://{slow.address}"},
        {"name": "gone", "paths": ["/gone"], "upstream": "http://127.0.0.1:1"},
        {"name": "unused", "paths": ["/unused"], "respond": {}},
    ]
    sent = {"fine": 40, "failing": 7, "missing": 5, "forwarded": 11, "gone": 3, "unused": 0}
    errors = {"failing": 7, "gone": 3}
    with Reloadable({"routes": routes}, tmp_path) as gateway:
        for name, count in sent.items():
            for _ in range(count):
                ask(gateway.address(), f"/{name}")
        ask(gateway.address(), "/nowhere")
        wait_until(lambda: read(gateway, "/live")["requests"] == sum(sent.values()) + 1, "all to be counted")
        for name, count in sent.items():
            told = route_of(gateway, name)
            assert (told["requests"], told["errors"]) == (count, errors.get(name, 0)), name
            assert (told["p50_s"] is None) == (not count)
            if count:
                assert 0 < told["p50_s"] <= told["p99_s"] < DEADLINE
        live = read(gateway, "/live")
        assert live["responses"] == {"2xx": 51, "3xx": 0, "4xx": 6, "5xx": 10, "499": 0}
        assert live["faults"] == {"connect_refused": 3, "route_not_found": 1}
        assert sum(live["latency"]["counts"]) == sum(sent.values()) + 1
        status = read(gateway, "/status")
        assert status["requests"] == sum(worker["requests"] for worker in status["workers"]) == live["requests"]
        seen = samples(gateway.ready["status"])
        assert seen['fastgw_requests_total{listener="main",method="GET",route="fine",status="200"}'] == 40
        assert admin(gateway, "GET /metrics").body.count(b"fastgw_requests_total{") == 6  # five routes, and none


@pytest.mark.landing
def test_workers_and_connections_are_those_that_there_are(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, workers=3) as gateway:
        held = [gateway.connect() for _ in range(5)]
        wait_until(lambda: read(gateway, "/status")["connections"] == 5, "five connections")
        status = read(gateway, "/status")
        assert [worker["pid"] for worker in status["workers"]] == gateway.worker_pids
        assert [worker["slot"] for worker in status["workers"]] == [1, 2, 3]
        assert sum(worker["connections"] for worker in status["workers"]) == 5
        assert status["pid"] == gateway.pid
        assert status["config_file"] == str(gateway.file)
        for worker in status["workers"]:
            resident = Path(f"/proc/{worker['pid']}/statm").read_text().split()[1]
            assert abs(worker["memory_bytes"] / (int(resident) * os.sysconf("SC_PAGE_SIZE")) - 1) < 0.2
            assert 0 <= worker["cpu_s"] < worker["uptime_s"] + 1
            assert 0 <= worker["loop_lag_s"] < DEADLINE
        for each in held:
            each.close()
        wait_until(lambda: read(gateway, "/status")["connections"] == 0, "no connection")


def test_a_loop_that_is_held_up_is_told(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, workers=1) as gateway:
        (pid,) = gateway.worker_pids
        os.kill(pid, signal.SIGSTOP)
        gateway.stderr.wait_for(lambda line: b"has sent no heartbeat" in line)
        assert read(gateway, "/status")["workers"][0]["state"] == "silent"
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: read(gateway, "/status")["workers"][0]["loop_lag_s"] > 1, "the lag to be told")


def test_targets_show_how_busy_they_are(tmp_path: Path, slow: Slow) -> None:
    upstreams = {"slow": {"targets": [{"url": f"http://{slow.address}", "weight": 3}], "pool": {"max_connections": 2}}}
    routes = [{"name": "slow", "upstream": "slow"}]
    with Reloadable({"workers": 1, "upstreams": upstreams, "routes": routes}, tmp_path) as gateway:

        def busy() -> list[int]:
            (upstream,) = read(gateway, "/upstreams")["upstreams"]
            (target,) = upstream["targets"]
            assert (target["url"], target["weight"]) == (f"http://{slow.address}", 3)
            assert target["health"] in ("unknown", "healthy")  # it is, once it has answered
            return [target["in_use"], target["idle"], target["waiting"]]

        clients = [gateway.connect() for _ in range(5)]
        for each in clients:
            each.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: busy() == [2, 0, 3], "two lent, three waiting", 2 * DEADLINE)
        slow.go_on.set()
        for each in clients:
            assert each.read_response().status == 200
            each.close()
        wait_until(lambda: busy() == [0, 2, 0], "two idle", 2 * DEADLINE)


def test_a_url_is_an_upstream_too(tmp_path: Path, slow: Slow) -> None:
    routes = [{"name": f"r{number}", "paths": [f"/{number}"], "upstream": f"http://{slow.address}"} for number in "12"]
    with Reloadable({"routes": routes}, tmp_path) as gateway:
        assert [each["name"] for each in read(gateway, "/upstreams")["upstreams"]] == [f"http://{slow.address}"]


def test_a_route_names_all_filters_that_run_for_it_in_running_order(tmp_path: Path, slow: Slow) -> None:
    inner = {"type": "headers", "request": {"set": {"X-B": "2"}}}
    upstreams = {"slow": {"targets": [{"url": f"http://{slow.address}"}], "filters": {"of_upstream": inner}}}
    routes: list[dict[str, Any]] = [
        {"name": "all", "paths": ["/a"], "upstream": "slow", "use": ["small"], "filters": {"own": inner}},
        {"name": "less", "paths": ["/b"], "respond": {}, "filters": {"outermost": None}},
        {"name": "elsewhere", "paths": ["/c"], "respond": {}, "listeners": ["other"]},
    ]
    with Reloadable({**MANY, "upstreams": upstreams, "routes": routes}, tmp_path) as gateway:
        found = {route["name"]: route["filters"] for route in read(gateway, "/routes")["routes"]}
        assert found == {
            "all": ["request_id", "size", "outermost", "of_upstream", "own"],
            "less": ["request_id"],
            "elsewhere": ["request_id", "outermost"],  # which is there by default
        }


@pytest.mark.landing
def test_the_configuration_is_told_without_its_secrets(tmp_path: Path) -> None:
    more = {"admin": {**ANYWHERE, "token": "open sesame"}}
    with gateway_saying("v1", tmp_path, **more) as gateway:
        assert admin(gateway, "GET /config").status == 401
        told = admin(gateway, "GET /config", token="open sesame")
        assert told.json["config"]["admin"]["token"] == "***"
        assert told.json["config"]["workers"] == 2
        assert b"open sesame" not in told.body
        assert admin(gateway, "GET /").body.startswith(b"<!doctype html>")  # the page asks for the token
        paths = admin(gateway, "GET /openapi.json", token="open sesame").json["paths"]
        assert {"/status", "/upstreams/{name}/targets"} < paths.keys()


def test_the_hash_changes_exactly_when_the_bytes_do(tmp_path: Path) -> None:
    def hash_of() -> str:
        return str(read(gateway, "/status")["config_hash"])

    more = tmp_path / "more.json"
    more.write_text(json.dumps({"routes": saying("more", "/more")}).replace("said", "more"))
    with gateway_saying("v1", tmp_path, include=["*re.json"]) as gateway:
        hashes = [hash_of()]
        gateway.reload()
        assert hash_of() == hashes[0]
        more.rename(tmp_path / "before.json")
        gateway.reload()
        assert hash_of() == hashes[0]
        gateway.write(gateway.file.read_text() + " ")
        gateway.reload()
        assert hash_of() != hashes[0]
        told = read(gateway, "/config")
        assert (told["hash"], told["generation"]) == (hash_of(), 4)


# --- slow and hostile ---


def test_connections_that_do_nothing_keep_nobody_out(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        idle = [connect(str(gateway.ready[name])) for name in ("admin", "status") for _ in range(64)]
        assert read_generation(gateway) == 1
        assert ask(gateway.ready["status"], "/livez").status == 200
        gateway.change(routes=saying("v2"))
        gateway.reload()
        for each in idle:
            each.close()


def test_probes_and_scrapes_are_answered_while_a_large_configuration_is_checked(tmp_path: Path) -> None:
    def routes(text: str) -> list[dict[str, Any]]:
        return [
            {"name": f"r{number}", "paths": [f"/{number}/{{id}}"], "respond": {"body": text}} for number in range(3000)
        ]

    answered: dict[str, int] = {"/livez": 0, "/readyz": 0, "/metrics": 0}
    with Reloadable({"routes": routes("v1")}, tmp_path) as gateway:
        gateway.change(routes=routes("v2"))
        over = threading.Event()

        def change() -> None:
            admin(gateway, "POST /reload")
            over.set()

        thread = threading.Thread(target=change)
        thread.start()
        while not over.is_set():
            for path in answered:
                assert ask(gateway.ready["status"], path).status == 200
                answered[path] += not over.is_set()
        thread.join()
        assert min(answered.values()) >= 5
        assert gateway.answer("/7/x") == (200, b"v2")


@pytest.mark.landing
def test_a_request_is_explained_by_what_is_served(tmp_path: Path) -> None:
    """After a reload by the new configuration, also by a control process that has compiled neither."""

    def explained() -> dict[str, Any]:
        asked = {"method": "GET", "url": "http://a.test/old?token=s3cr3t", "headers": ["Authorization: s3cr3t"]}
        told = admin(gateway, "POST /explain", json.dumps(asked), "application/json")
        assert told.status == 200, told.body
        assert b"s3cr3t" not in told.body
        return dict(told.json)

    routes = [{"name": name, "paths": [f"/{name}"], "respond": {"body": name}} for name in ("old", "new")]
    with Reloadable({"routes": routes[:1]}, tmp_path) as gateway:
        first = explained()
        assert (first["generation"], first["explanation"]["route"]) == (1, "old")
        assert "route     old   any host, path /old" in first["text"]
        for wrong in ({"method": "GET / HTTP/1.1\r\nA: b"}, {"url": "http://a/\r\nA: b"}, {"headers": ["A: b\nC: d"]}):
            asked = {"method": "GET", "url": "http://a.test/old", **wrong}
            told = admin(gateway, "POST /explain", json.dumps(asked), "application/json")
            assert told.status == 400
            assert "contains a line break; expected it in one line" in told.json["detail"]
        gateway.change(routes=[routes[1], {**routes[0], "name": "again"}])
        assert admin(gateway, "POST /reload").status == 200
        assert (explained()["generation"], explained()["explanation"]["route"]) == (2, "again")
        os.kill(gateway.control_pid, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"control" in line and b"SIGKILL" in line)
        wait_until(lambda: gateway.command("status", "--format", "json").returncode == 0, "control")
        assert (explained()["generation"], explained()["explanation"]["route"]) == (2, "again")
