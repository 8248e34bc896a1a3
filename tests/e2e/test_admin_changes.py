"""What the admin API is asked for is done on every worker, and what was done is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import (
    AS_TOML,
    AS_YAML,
    JSON,
    TIMEOUT,
    TOML,
    YAML,
    Calling,
    admin,
    is_served,
    post,
    read,
    read_generation,
)
from tests.e2e.slow import Slow
from tests.e2e.test_nothing_lost import enough, under_load
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import Reloadable, gateway_saying, saying
from tests.support.gateway import wait_until


@pytest.mark.landing
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


@pytest.mark.landing
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


@pytest.mark.landing
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
                connection.request("POST", "/config", pieces, {"Content-Type": YAML, **gateway.shown})
            assert connection.getresponse().status == 413
        assert gateway.answer() == (200, b"v1")


@pytest.mark.landing
def test_back_to_what_is_kept_and_each_time_one_further(tmp_path: Path) -> None:
    """What is the same is one step, however often it was read."""
    with gateway_saying("v1", tmp_path) as gateway:
        gateway.reload()

        def back(body: str = "") -> tuple[int, bytes]:
            told = admin(gateway, "POST /rollback", body, JSON if body else "")
            return told.status, gateway.answer()[1]

        nothing = admin(gateway, "POST /rollback")
        assert (nothing.status, nothing.json["generation"]) == (422, 2)
        assert nothing.json["summary"] == "cannot roll back: no other configuration is kept"
        for number in (2, 3, 4):
            gateway.change(routes=saying(f"v{number}"))
            gateway.reload()
        assert [back(), back(), back()] == [(200, b"v3"), (200, b"v2"), (200, b"v1")]
        assert back() == (422, b"v1")
        assert back('{"generation": 5}') == (200, b"v4")
        assert back() == (200, b"v3")
        refused = admin(gateway, "POST /rollback", '{"generation": 1}', JSON)
        assert refused.status == 422
        assert refused.json["summary"] == "cannot roll back to 1: kept are 2, 3, 5"
        assert refused.json["kept"] == [2, 3, 5]
        assert gateway.reload().startswith("reloaded: generation 11 ")
        assert gateway.answer() == (200, b"v4")


@pytest.mark.landing
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


@pytest.mark.landing
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
        assert 'did you mean "users"?' in unknown.json["problems"][0]["hint"]

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
        gateway.stderr.wait_for(lambda line: b"all 2 workers are new" in line, TIMEOUT)
        wait_until(new_workers, "the workers of the next program", TIMEOUT)
        assert gateway.answer("/users") == (200, b"ok")
        assert gateway.answer("/") == (200, b"posted")
        status = read(gateway, "/status")
        for name in ("config_hash", "config_file", "generation"):
            assert status[name] == said[name]
        gateway.reload()
        assert gateway.answer("/")[0] == 502


@pytest.mark.landing
def test_targets_come_and_go_under_load_and_nothing_is_lost(tmp_path: Path, slow: Slow) -> None:
    with Slow() as other:
        urls = [f"http://{slow.address}", f"http://{other.address}"]
        upstreams = {"both": {"targets": [{"url": urls[0]}]}}
        routes = [{"name": "both", "upstream": "both"}]
        with Reloadable({"upstreams": upstreams, "routes": routes}, tmp_path) as gateway:

            def put(*targets: str) -> None:
                body = json.dumps([{"url": each} for each in targets])
                assert admin(gateway, "PUT /upstreams/both/targets", body, JSON).status == 200

            async def events(counters: Any) -> None:
                for targets in (urls, urls[1:], urls[:1], urls):
                    await enough(counters, 100)
                    await asyncio.to_thread(put, *targets)
                await enough(counters, 100)

            counters = under_load(gateway.address(), events)
            assert not counters.lost
            assert set(counters.statuses) == {200}


# --- what control knows ---


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
            gateway.stderr.wait_for(lambda line, told=told: told in line, TIMEOUT)
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
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 " in line)  # and so it was killed
        wait_until(lambda: is_served(gateway) and read_generation(gateway) == 2, "a control that knows of it")
        gateway.change(routes=saying("v3"))
        assert gateway.reload().startswith("reloaded: generation 3 ")
        wait_until(lambda: {gateway.answer() for _ in range(20)} == {(200, b"v3")}, "all workers")


def documents_of(pid: int) -> int:
    """How many accepted configurations a process holds."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return sum("fastgw-accepted" in link for link in links)


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_no_answer_tells_what_is_in_a_file_that_a_document_names(tmp_path: Path, query: str) -> None:
    """Whatever the gateway may read: its environment has a secret here."""
    config = {"routes": saying("v1")}
    with Reloadable(config, tmp_path, environment={"PLANTED": "pl4nted"}) as gateway:
        environ = "/proc/self/environ"
        for name, settings in (
            ("basic_auth", {"htpasswd": environ}),
            ("jwt", {"jwks_file": environ, "algorithms": ["RS256"]}),
            ("credentials", {"bearer": {"file": environ}}),
        ):
            route = {**saying("v2")[0], "filters": {name: settings}}
            told = post(gateway, {**gateway.config, "routes": [route]}, query=query)
            assert (told.status, b"pl4nted" in told.body) == (422, False)
        assert "pl4nted" not in gateway.stderr.text()
        assert gateway.answer() == (200, b"v1")
