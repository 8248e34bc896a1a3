"""The admin API of a gateway that runs: what it tells is true, and what it is asked for is done on every worker."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_nothing_lost import enough, under_load
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying, saying
from tests.support.certificates import Certificates
from tests.support.client import connect
from tests.support.gateway import STOP_DEADLINE, wait_until
from tests.support.peer import DEADLINE

JSON = "application/json"
YAML = "application/yaml"
TOML = "application/toml"
PATIENCE = 6 * DEADLINE  # seconds for a change on a busy machine


class Told:
    """An answer of the admin API."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Calling(http.client.HTTPConnection):
    """To any address that a ready line names; over TLS if there is a context for it."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("localhost" if address.startswith("unix:") else address, timeout=PATIENCE)
        self._address, self._tls = address, tls

    def connect(self) -> None:
        self.sock = connect(self._address, PATIENCE)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname="127.0.0.1")


def tell(
    address: str,
    request: str,
    body: str | bytes | None = None,
    kind: str = "",
    token: str = "",
    tls: ssl.SSLContext | None = None,
) -> Told:
    """One request, such as `GET /status`, on a connection of its own."""
    method, path = request.split()
    fields = {"Content-Type": kind} if kind else {}
    fields |= {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.closing(Calling(address, tls)) as connection:
        connection.request(method, path, body, fields)
        return Told(connection.getresponse())


def admin(gateway: Reloadable, request: str, body: str | bytes | None = None, kind: str = "", **more: Any) -> Told:
    return tell(str(gateway.ready["admin"]), request, body, kind, **more)


def post(gateway: Reloadable, config: dict[str, Any] | str, kind: str = JSON, query: str = "") -> Told:
    text = config if isinstance(config, str) else json.dumps(config)
    return admin(gateway, f"POST /config{query}", text, kind)


def read(gateway: Reloadable, path: str) -> Any:
    told = admin(gateway, f"GET {path}")
    assert told.status == 200, told.body
    return told.json


def route_of(gateway: Reloadable, name: str) -> dict[str, Any]:
    (found,) = (route for route in read(gateway, "/routes")["routes"] if route["name"] == name)
    return dict(found)


# --- what it tells ---

MANY = {
    "listeners": {"main": {**ANYWHERE, "filters": {"request_id": {}}}, "other": ANYWHERE},
    "filters": {"outermost": {"type": "headers", "response": {"set": {"X-A": "1"}}}},
    "filter_sets": {"small": {"size": {"body": "1KiB"}}},
}


class Slow:
    """A service that answers when it is told to, and counts who is there."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(taken,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError):
            while received := taken.recv(65_536):
                if b"/slow" in received:
                    self.go_on.wait(STOP_DEADLINE)
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as slow:
        yield slow


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


def test_workers_and_connections_are_those_that_there_are(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, workers=3) as gateway:
        held = [gateway.connect() for _ in range(5)]
        wait_until(lambda: read(gateway, "/status")["connections"] == 5, "five connections")
        status = read(gateway, "/status")
        assert [worker["pid"] for worker in status["workers"]] == gateway.worker_pids
        assert [worker["slot"] for worker in status["workers"]] == [0, 1, 2]
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
        gateway.stderr.wait_for(lambda line: b"has not beaten" in line)
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
            assert (target["url"], target["weight"], target["health"]) == (f"http://{slow.address}", 3, "unknown")
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
            "elsewhere": ["outermost"],
        }


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


def test_the_history_of_reloads_outlives_control(tmp_path: Path) -> None:
    def history() -> list[tuple[int, bool, str]]:
        return [
            (each["generation"], each["ok"], each["source"]) for each in read(gateway, "/status")["reloads"]["last"]
        ]

    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(routes=saying("v2"))
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 2" in line)
        assert post(gateway, "{}").status == 422
        assert post(gateway, {**gateway.config, "routes": saying("v3")}).status == 200
        assert admin(gateway, "POST /rollback").status == 200
        expected = [(4, True, "rollback"), (3, True, "api"), (2, False, "api"), (2, True, "signal")]
        assert history() == expected
        before = gateway.control_pid
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: b"SIGKILL" in b"".join(gateway.stderr.lines), "control's death")
        wait_until(lambda: gateway.command("status").returncode == 0, "control")
        assert gateway.control_pid != before
        assert history() == expected
        reloads = read(gateway, "/status")["reloads"]
        assert (reloads["ok"], reloads["failed"], reloads["last_success"]) == (3, 1, True)
        assert admin(gateway, "POST /rollback", '{"generation": 2}', JSON).status == 200
        assert gateway.answer() == (200, b"v2")


def test_a_signal_is_not_lost_when_control_is_away(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        for number in range(2, 5):
            gateway.change(routes=saying(f"v{number}"))
            os.kill(gateway.control_pid, signal.SIGKILL)
            gateway.signal(signal.SIGHUP)
            told = f"reloaded: generation {number} ".encode()
            gateway.stderr.wait_for(lambda line, told=told: told in line, PATIENCE)
            assert gateway.answer() == (200, f"v{number}".encode())


def test_a_change_that_outlives_the_control_process_that_proposed_it(tmp_path: Path) -> None:
    """A stopped worker holds the change up until it is found to be silent; the next control begins before that."""
    with gateway_saying("v1", tmp_path) as gateway:
        stopped = gateway.worker_pids[0]
        os.kill(stopped, signal.SIGSTOP)
        gateway.change(routes=saying("v2"))
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: documents_of(gateway.pid) == 2, "the proposal")
        os.kill(gateway.control_pid, signal.SIGKILL)
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 " in line)
        os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: is_served(gateway) and read_generation(gateway) == 2, "a control that knows of it")
        gateway.change(routes=saying("v3"))
        assert gateway.reload().startswith("reloaded: generation 3 ")
        wait_until(lambda: {gateway.answer() for _ in range(20)} == {(200, b"v3")}, "all workers")


def documents_of(pid: int) -> int:
    """How many accepted configurations a process holds."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return sum("fastgw-accepted" in link for link in links)


# --- what it does ---

AS_YAML = """
version: 1
workers: 2
admin: {address: "127.0.0.1:0"}
status: {address: "127.0.0.1:0"}
access_logs: []
listeners: {main: {address: "127.0.0.1:0"}}
routes: [{name: said, respond: {body: %s}}]
"""
AS_TOML = """
version = 1
workers = 2
access_logs = []
[admin]
address = "127.0.0.1:0"
[status]
address = "127.0.0.1:0"
[listeners.main]
address = "127.0.0.1:0"
[[routes]]
name = "said"
respond.body = "%s"
"""


def test_a_configuration_can_be_posted_in_each_format_until_the_file_is_read_again(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        for text, kind in ((AS_YAML, YAML), (AS_TOML, TOML)):
            told = post(gateway, text % kind[-4:], kind)
            assert told.status == 200, told.body
            assert gateway.answer() == (200, kind[-4:].encode())
        assert post(gateway, {**gateway.config, "routes": saying("json")}).json["generation"] == 4
        assert gateway.answer() == (200, b"json")
        post(gateway, AS_TOML % "v5", TOML)
        assert read(gateway, "/status")["config_file"] == str(gateway.file)
        assert admin(gateway, "POST /reload").json["summary"] == "reloaded: generation 6 on 2/2 workers"
        assert gateway.answer() == (200, b"v1")


def test_a_dry_run_tells_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        routes = [*saying("v2"), {"name": "more", "paths": ["/more"], "respond": {}}]
        told = post(gateway, {**gateway.config, "routes": routes}, query="?dry_run=true")
        assert (told.status, told.json["ok"], told.json["generation"]) == (200, True, 1)
        for part in ("more", "said", "v1", "v2"):
            assert part in told.json["summary"]
        wrong = post(gateway, AS_YAML + "rutes: []\n", YAML, "?dry_run=true")
        assert (wrong.status, wrong.json["reason"]) == (422, "rejected")
        assert read(gateway, "/status")["reloads"]["last"] == []
        assert samples(gateway.ready["status"])['fastgw_reloads_total{result="failed"}'] == 0
        assert gateway.answer() == (200, b"v1")


def test_everything_that_is_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        text = AS_YAML % "x" + "rutes: []\nupstreams: {a: {targets: [{url: nonsense}]}}\n"
        told = post(gateway, text, YAML)
        assert told.status == 422
        found = [(each["line"], each["column"], each["path"]) for each in told.json["problems"]]
        assert found == [(9, 1, "rutes"), (10, 33, "upstreams.a.targets[0].url")]
        gateway.write('{"version": 1, "listeners": {}, "x": 1}')
        told = admin(gateway, "POST /reload")
        assert (told.status, told.json["generation"], len(told.json["problems"])) == (422, 1, 2)
        assert {each["file"] for each in told.json["problems"]} == {str(gateway.file)}
        assert read(gateway, "/status")["reloads"]["last"][0]["problems"] == told.json["problems"]
        assert gateway.answer() == (200, b"v1")


def test_what_is_posted_includes_relative_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "routes.yaml").write_text("routes: [{name: included, paths: [/included], respond: {body: yes it is}}]")
    with gateway_saying("v1", tmp_path) as gateway:
        told = post(gateway, {**gateway.config, "include": ["more/*.yaml"]})
        assert told.status == 200, told.body
        assert gateway.answer("/included") == (200, b"yes it is")


@pytest.mark.parametrize("length_told", [True, False])
def test_a_body_that_is_too_large_is_refused(tmp_path: Path, length_told: bool) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        body = b"#" * (8 * 1024 * 1024 + 1)
        with contextlib.closing(Calling(str(gateway.ready["admin"]))) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                pieces = body if length_told else iter([body])
                connection.request("POST", "/config", pieces, {"Content-Type": YAML})
            assert connection.getresponse().status == 413
        assert gateway.answer() == (200, b"v1")


def test_back_to_what_is_kept_and_each_time_one_further(tmp_path: Path) -> None:
    """What is the same is one step, however often it was read."""
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.reload()

        def back(body: str = "") -> tuple[int, bytes]:
            told = admin(gateway, "POST /rollback", body, JSON if body else "")
            return told.status, gateway.answer()[1]

        nothing = admin(gateway, "POST /rollback")
        assert (nothing.status, nothing.json["generation"]) == (422, 2)
        assert nothing.json["summary"] == "cannot roll back: no generation before this one is kept; kept are: 1"
        for number in (2, 3, 4):
            gateway.change(routes=saying(f"v{number}"))
            gateway.reload()
        assert [back(), back(), back()] == [(200, b"v3"), (200, b"v2"), (200, b"v1")]
        assert back() == (422, b"v1")
        assert back('{"generation": 5}') == (200, b"v4")
        assert back() == (200, b"v3")
        refused = admin(gateway, "POST /rollback", '{"generation": 1}', JSON)
        assert refused.status == 422
        kept = "cannot roll back: generation 1 is not kept; kept are: 5, 6, 7, 8, 9"
        assert refused.json["summary"] == kept
        assert gateway.reload().startswith("reloaded: generation 11 ")
        assert gateway.answer() == (200, b"v4")


def test_a_drain_turns_readiness_off_first_and_ends_well(tmp_path: Path, slow: Slow) -> None:
    config = {
        "timeouts": {"drain": {"delay": "1s"}},
        "routes": [{"name": "slow", "upstream": f"http://{slow.address}"}],
    }
    with Reloadable(config, tmp_path) as gateway, gateway.connect() as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: read(gateway, "/live")["connections"] == 1, "the request")
        told = admin(gateway, "POST /drain")
        assert (told.status, told.json) == (202, {"state": "draining"})
        wait_until(lambda: ask(gateway.ready["status"], "/readyz").status == 503, "readiness to go")
        assert gateway.answer("/fast") == (200, b"ok")  # new connections are served until those who ask have noticed
        assert read(gateway, "/status")["state"] == "draining"
        late = admin(gateway, "POST /reload")
        assert (late.status, late.json["reason"]) == (409, "busy")
        slow.go_on.set()
        assert client.read_response().body == b"ok"
        assert gateway.wait() == 0


# --- targets are data ---


def test_targets_are_put_without_a_reload(tmp_path: Path, slow: Slow) -> None:
    upstreams = {"users": {"targets": [{"url": "http://127.0.0.1:1"}], "retries": {"max": 0}}}
    config = {"upstreams": upstreams, "routes": [{"name": "users", "upstream": "users"}]}
    path = "/upstreams/users/targets"
    with Reloadable(config, tmp_path) as gateway:

        def targets() -> list[str]:
            return [each["url"] for each in read(gateway, "/upstreams")["upstreams"][0]["targets"]]

        before = read(gateway, "/status")["config_hash"]
        assert gateway.answer()[0] == 502
        told = admin(gateway, f"PUT {path}", json.dumps([{"url": f"http://{slow.address}"}]), JSON)
        assert (told.status, told.json["workers"]) == (200, {"committed": 2, "of": 2})
        assert {gateway.answer() for _ in range(20)} == {(200, b"ok")}
        assert targets() == [f"http://{slow.address}"]
        status = read(gateway, "/status")
        assert status["config_hash"] != before
        assert status["config_file"] == str(gateway.file)
        assert [(each["generation"], each["source"]) for each in status["reloads"]["last"]] == [(2, "api")]

        wrong = admin(gateway, f"PUT {path}", "- url: nonsense\n- {url: 'http://a', wait: 2}\n", YAML)
        assert wrong.status == 422
        assert [(each["file"], each["line"], each["column"]) for each in wrong.json["problems"]] == [
            ("upstreams.users.targets", 1, 8),
            ("upstreams.users.targets", 2, 21),
        ]
        for text in ("[]", '{"url": "http://a"}', "[", "[{}]"):
            assert admin(gateway, f"PUT {path}", text, JSON).status == 422
        assert admin(gateway, f"PUT {path}", "x = 1", TOML).status == 415
        unknown = admin(gateway, "PUT /upstreams/user/targets", '[{"url": "http://a"}]', JSON)
        assert unknown.status == 422
        assert 'did you mean "users"?' in unknown.json["problems"][0]["expected"]

        os.kill(gateway.control_pid, signal.SIGKILL)  # they are part of what is in force
        wait_until(lambda: b"SIGKILL" in b"".join(gateway.stderr.lines), "control's death")
        wait_until(lambda: gateway.command("status").returncode == 0, "control")
        assert targets() == [f"http://{slow.address}"]
        assert gateway.answer() == (200, b"ok")

        gateway.reload()
        assert targets() == ["http://127.0.0.1:1"]
        assert gateway.answer()[0] == 502
        assert admin(gateway, "POST /rollback").status == 200
        assert gateway.answer() == (200, b"ok")


def test_what_was_posted_and_put_outlives_an_upgrade(tmp_path: Path, slow: Slow) -> None:
    upstreams = {"users": {"targets": [{"url": "http://127.0.0.1:1"}], "retries": {"max": 0}}}
    routes = [{"name": "users", "upstream": "users"}]
    more = """
    [upstreams.users]
    targets = [{url = "http://127.0.0.1:2"}]
    [[routes]]
    name = "users"
    paths = ["/users"]
    upstream = "users"
    """
    with Reloadable({"upstreams": upstreams, "routes": routes}, tmp_path) as gateway:

        def new_workers() -> bool:
            found = read(gateway, "/status")["workers"] if is_served(gateway) else []
            return len(found) == 2 and not before & {worker["pid"] for worker in found}

        assert post(gateway, AS_TOML % "posted" + more, TOML).status == 200
        targets = json.dumps([{"url": f"http://{slow.address}"}])
        assert admin(gateway, "PUT /upstreams/users/targets", targets, JSON).status == 200
        said, before = read(gateway, "/status"), set(gateway.worker_pids)
        gateway.signal(signal.SIGUSR2)
        wait_until(new_workers, "the workers of the next program", PATIENCE)
        assert gateway.answer("/users") == (200, b"ok")
        assert gateway.answer("/") == (200, b"posted")
        status = read(gateway, "/status")
        for name in ("config_hash", "config_file", "generation"):
            assert status[name] == said[name]
        gateway.reload()
        assert gateway.answer("/")[0] == 502


def test_targets_come_and_go_under_load_and_nothing_is_lost(tmp_path: Path, slow: Slow) -> None:
    with Slow() as other:
        urls = [f"http://{slow.address}", f"http://{other.address}"]
        upstreams = {"both": {"targets": [{"url": urls[0]}]}}
        routes = [{"name": "both", "upstream": "both"}]
        with Reloadable({"upstreams": upstreams, "routes": routes}, tmp_path) as gateway:

            def put(*targets: str) -> None:
                body = json.dumps([{"url": each} for each in targets])
                assert admin(gateway, "PUT /upstreams/both/targets", body, JSON).status == 200

            async def events(tally: Any) -> None:
                for targets in (urls, urls[1:], urls[:1], urls):
                    await enough(tally, 100)
                    await asyncio.to_thread(put, *targets)
                await enough(tally, 100)

            tally = under_load(gateway.address(), events)
            assert not tally.lost
            assert set(tally.statuses) == {200}


# --- who is let in ---


def test_a_token_of_the_environment(tmp_path: Path) -> None:
    config = {"admin": {**ANYWHERE, "token": {"env": "ADMIN"}}, "routes": saying("v1")}
    with Reloadable(config, tmp_path, environment={"ADMIN": "sesame"}) as gateway:
        assert admin(gateway, "GET /status").status == 401
        assert admin(gateway, "GET /status", token="simsim").status == 401
        assert admin(gateway, "GET /status", token="sesame").status == 200


def test_a_token_in_a_file_is_the_new_one_as_soon_as_the_file_is(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    config = {"admin": {**ANYWHERE, "token": {"file": str(token)}}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        for name in ("first", "second", "third"):
            token.with_suffix(".new").write_text(f"{name}\n")
            os.replace(token.with_suffix(".new"), token)
            for other in ("first", "second", "third"):
                assert admin(gateway, "GET /status", token=other).status == (200 if other == name else 401)
        token.unlink()
        assert admin(gateway, "GET /status", token="third").status == 503
        token.write_text("fourth")
        assert admin(gateway, "GET /status", token="fourth").status == 200
        assert read_generation(gateway, token="fourth") == 1


def read_generation(gateway: Reloadable, **more: Any) -> int:
    return int(admin(gateway, "GET /status", **more).json["generation"])


@pytest.mark.parametrize("bound", ["unix", "[::1]:0", "localhost:0"])
def test_other_addresses_of_this_machine(tmp_path: Path, bound: str) -> None:
    address = f"unix:{tmp_path}/admin.sock" if bound == "unix" else bound
    with gateway_saying("v1", tmp_path, admin={"address": address}) as gateway:
        assert gateway.status()["generation"] == 1
        if bound == "unix":
            assert not (tmp_path / "admin.sock").stat().st_mode & 0o007
        gateway.change(routes=saying("v2"))
        gateway.reload()
        assert gateway.answer() == (200, b"v2")


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Certificates(folder)


def trusting(authority: Certificates, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.ca)
    if shown is not None:
        made.load_cert_chain(*shown)
    return made


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_client_certificates(tmp_path: Path, authority: Certificates, mode: str) -> None:
    certificate, key = authority.issue("127.0.0.1")
    client_auth = {"mode": mode, "ca": authority.ca}
    tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": client_auth}
    config = {"admin": {**ANYWHERE, "tls": tls, "token": "sesame"}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        shown = trusting(authority, authority.issue("operator.example"))
        assert admin(gateway, "GET /status", tls=shown).status == 200
        if mode == "required":
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                admin(gateway, "GET /status", tls=trusting(authority))
        else:
            assert admin(gateway, "GET /status", tls=trusting(authority)).status == 401
            assert admin(gateway, "GET /status", tls=trusting(authority), token="sesame").status == 200


def test_certificates_that_are_replaced_on_disk_are_shown_without_a_reload(
    tmp_path: Path, authority: Certificates
) -> None:
    """The key first, then the certificate, as renewal tools do."""
    issued = authority.issue("127.0.0.1")
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"

    def install(pair: tuple[str, str]) -> None:
        for source, place in zip(reversed(pair), (key, certificate), strict=True):
            place.with_suffix(".new").write_bytes(Path(source).read_bytes())
            os.replace(place.with_suffix(".new"), place)

    def serial() -> str:
        with connect(str(gateway.ready["admin"])) as plain, tls.wrap_socket(plain, server_hostname="127.0.0.1") as made:
            return str((made.getpeercert() or {})["serialNumber"])

    install(issued)
    tls = trusting(authority)
    admin_tls = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    config = {"admin": {**ANYWHERE, "tls": admin_tls}, "routes": saying("v1")}
    with Reloadable(config, tmp_path) as gateway:
        before, control = serial(), gateway.control_pid
        with contextlib.closing(Calling(str(gateway.ready["admin"]), tls)) as kept:
            kept.request("GET", "/status")
            assert Told(kept.getresponse()).status == 200
            install(authority.issue("127.0.0.1"))
            wait_until(lambda: serial() != before, "the new certificate", 3 * DEADLINE)
        status = admin(gateway, "GET /status", tls=tls).json
        assert status["reloads"]["last"][0]["source"] == "file"
        assert gateway.control_pid == control
        after, generation = serial(), status["generation"]
        os.utime(certificate)  # touched, but the same
        gateway.change(routes=saying("v2"))
        assert admin(gateway, "POST /reload", tls=tls).json["generation"] == generation + 1
        assert admin(gateway, "POST /rollback", f'{{"generation": {1}}}', JSON, tls=tls).status == 200
        assert gateway.answer() == (200, b"v1")
        assert serial() == after  # the one of the first generation may have expired by now


# --- its own settings change ---


def test_the_call_that_moves_the_admin_listener_is_answered_by_it(tmp_path: Path) -> None:
    moved, token = tmp_path / "admin.sock", tmp_path / "token"
    token.write_text("sesame")
    with gateway_saying("v1", tmp_path) as gateway:
        first = str(gateway.ready["admin"])
        gateway.change(admin={"address": f"unix:{moved}"}, routes=saying("v2"))
        told = admin(gateway, "POST /reload")
        assert (told.status, told.json["summary"]) == (200, "reloaded: generation 2 on 2/2 workers")
        gateway.ready["admin"] = f"unix:{moved}"
        wait_until(lambda: is_served(gateway), "the new address")
        with pytest.raises(OSError, match="refused"):
            tell(first, "GET /status")

        gateway.change(admin={"address": f"unix:{moved}", "token": {"file": str(token)}})
        assert admin(gateway, "POST /reload").status == 200
        wait_until(lambda: status_of(gateway) == 401, "the token to be asked for")
        assert admin(gateway, "GET /status", token="sesame").json["generation"] == 3

        gateway.change(admin=None, routes=saying("v3"))
        assert admin(gateway, "POST /reload", token="sesame").status == 200
        wait_until(lambda: not moved.exists(), "the listener to go")
        assert gateway.answer() == (200, b"v3")
        gateway.change(admin={"address": f"unix:{moved}"})
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: moved.exists() and status_of(gateway) == 200, "the listener to come", PATIENCE)
        assert read_generation(gateway) == 5


def status_of(gateway: Reloadable) -> int:
    """0: nobody answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return admin(gateway, "GET /status").status
    return 0


def is_served(gateway: Reloadable) -> bool:
    return status_of(gateway) == 200


def test_the_status_listener_moves_goes_and_comes(tmp_path: Path) -> None:
    place = tmp_path / "status.sock"

    def alive() -> bool:
        with contextlib.suppress(OSError):
            return ask(f"unix:{place}", "/livez").status == 200
        return False

    with gateway_saying("v1", tmp_path) as gateway:
        gateway.change(status={"address": f"unix:{place}"})
        gateway.reload()
        wait_until(alive, "the new address")
        assert samples(f"unix:{place}")['fastgw_reloads_total{result="ok"}'] == 1
        wait_until(lambda: is_served(gateway), "control")
        gateway.change(status=None)
        gateway.reload()
        wait_until(lambda: not place.exists(), "the listener to go")
        wait_until(lambda: is_served(gateway), "control")
        gateway.change(status={"address": f"unix:{place}"})
        gateway.reload()
        wait_until(alive, "the listener to come")


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
