"""A request with a debug token is answered with its story; a wrong token is as none, and none reaches an upstream."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.capture.debug_token import DebugToken, sign, verify
from tests.e2e.admin_calls import JSON, TIMEOUT, admin, is_served, read
from tests.e2e.programs import program
from tests.e2e.test_audit import entries
from tests.e2e.test_reload import ANYWHERE, Reloadable
from tests.support.gateway import wait_until
from tests.support.origin import Origin

HEADER = "X-Fastgw-Debug"
STORY = "X-Fastgw-Debug-Story"
TOO_EXACT = re.compile(r"\.[0-9]{7}|e-(0[7-9]|[1-9])")  # times are told to the microsecond


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as started:
        started.serve()
        yield started


@pytest.fixture(scope="module")
def gateway(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    directory = tmp_path_factory.mktemp("debug")
    config: dict[str, Any] = {
        "audit": {"path": str(directory / "audit.log")},
        "listeners": {
            "main": {**ANYWHERE, "protocols": ["http1", "http2"]},
            "trusting": {**ANYWHERE, "trusted_proxies": ["127.0.0.0/8"]},
        },
        "upstreams": {"users": {"targets": [origin.url]}, "gone": {"targets": ["http://127.0.0.1:1"]}},
        "routes": [
            {"name": "users", "paths": ["/users"], "upstream": "users"},
            {"name": "gone", "paths": ["/gone"], "upstream": "gone", "filters": {"size": {"body": "1KiB"}}},
            {"name": "said", "paths": ["/said"], "respond": {"body": "ok"}},
        ],
    }
    with Reloadable(config, directory) as started:
        yield started


def token(gateway: Reloadable, **wanted: Any) -> str:
    made = admin(gateway, "POST /debug", json.dumps(wanted), JSON)
    assert made.status == 200, made.body
    return str(made.json["token"])


def ask(gateway: Reloadable, path: str, fields: Mapping[str, str], listener: str = "main") -> http.client.HTTPResponse:
    with contextlib.closing(http.client.HTTPConnection(gateway.address(listener), timeout=TIMEOUT)) as connection:
        connection.request("GET", path, headers=dict(fields))
        response = connection.getresponse()
        response.read()
        return response


def story_of(gateway: Reloadable, response: http.client.HTTPResponse) -> dict[str, Any]:
    number = response.headers[STORY]
    assert number, dict(response.headers)
    wait_until(lambda: admin(gateway, f"GET /stories/{number}").status == 200, "the story")
    story: dict[str, Any] = read(gateway, f"/stories/{number}")
    assert (story["debug_id"], story["reason"]) == (number, "debug")
    return story


@pytest.mark.landing
def test_a_request_with_a_token_is_answered_with_its_story_by_all_workers(gateway: Reloadable, origin: Origin) -> None:
    shown = {HEADER: token(gateway)}
    for _ in range(8):  # two workers; connections are new
        response = ask(gateway, "/users?token=t", shown)
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
        begun = json.loads(response.headers[HEADER])
        assert (begun["route"], begun["upstream"]) == ("users", "users")
        assert {"name": "request_id", "type": "request_id", "decision": "passed"}.items() <= begun["filters"][0].items()
        story = story_of(gateway, response)
        assert (story["route"], story["status"], story["query"]) == ("users", 200, "token=***")
        assert TOO_EXACT.search(response.headers[HEADER] + json.dumps(story)) is None
        assert [(each["kind"], each["status"]) for each in story["attempts"]] == [("first", 200)]
    assert all(HEADER.lower().encode() not in request.raw.lower() for request in origin.requests)


def test_a_request_by_http2_has_its_story(gateway: Reloadable, origin: Origin) -> None:
    url = f"http://{gateway.address()}/users"
    command = [program("curl"), "-s", "-o", "/dev/null", "-D", "-", "--http2-prior-knowledge", url]
    for shown in (token(gateway), "wrong"):
        sent = [*command, "-H", f"{HEADER}: {shown}"]
        told = subprocess.run(sent, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout.lower()
        assert told.startswith("http/2 200")
        assert (f"{STORY.lower()}: " in told) is (shown != "wrong")
    assert all(HEADER.lower().encode() not in request.raw.lower() for request in origin.requests)


@pytest.mark.landing
def test_failed_unrouted_and_own_responses_have_their_stories(gateway: Reloadable) -> None:
    shown = {HEADER: token(gateway)}
    failed = ask(gateway, "/gone", shown)
    assert (failed.status, json.loads(failed.headers[HEADER])["fault"]) == (502, "connect_refused")
    assert story_of(gateway, failed)["attempts"][0]["fault"] == "connect_refused"
    assert story_of(gateway, ask(gateway, "/nowhere", shown))["fault"] == "route_not_found"
    assert story_of(gateway, ask(gateway, "/said", shown))["attempts"] == []


def test_a_token_of_a_route_is_for_this_route_alone(gateway: Reloadable) -> None:
    shown = {HEADER: token(gateway, route="users")}
    assert ask(gateway, "/users", shown).headers[STORY]
    for path in ("/said", "/gone", "/nowhere"):
        assert ask(gateway, path, shown).headers[STORY] is None
    assert admin(gateway, "POST /debug", '{"route": "nothing"}', JSON).status == 404


@pytest.mark.landing
@pytest.mark.parametrize("listener", ["main", "trusting"])
def test_a_wrong_token_is_as_none_and_reaches_no_upstream(gateway: Reloadable, origin: Origin, listener: str) -> None:
    good = token(gateway)
    signed, _, signature = good.rpartition(".")
    version, expires, *rest = signed.split(".")
    wrong = [
        "",
        "x",
        "fgd1....",
        good[:-1],
        f"{good}.",
        f"{signed}.{signature[::-1]}",
        ".".join((version, str(int(expires) + 1), *rest, signature)),
        sign(b"k" * 32, DebugToken(int(time.time()) + 60, "")),
        "a" * 4000,
    ]
    plain = {name.lower() for name in ask(gateway, "/users", {}, listener).headers}
    for each in wrong:
        response = ask(gateway, "/users", {HEADER: each, "X_Fastgw_Debug": each}, listener)
        assert (response.status, {name.lower() for name in response.headers}) == (200, plain)
    assert ask(gateway, "/users", {HEADER: good}, listener).headers[STORY]
    assert not any(re.search(rb"(?i)fastgw.debug", request.raw) for request in origin.requests)


def test_an_expired_token_is_invalid() -> None:
    key, soon = b"k" * 32, DebugToken(1000, "a.b/ü")
    assert verify(key, sign(key, soon).encode(), 999.9) == soon
    assert verify(key, sign(key, soon).encode(), 1000.0) is None


def test_tokens_are_valid_over_reloads_and_a_new_control_process(gateway: Reloadable) -> None:
    shown = {HEADER: token(gateway)}
    gateway.change(routes=[*gateway.config["routes"], {"name": "new", "paths": ["/new"], "respond": {"body": "ok"}}])
    gateway.reload()
    assert story_of(gateway, ask(gateway, "/new", shown))["route"] == "new"
    control = gateway.control_pid
    os.kill(control, signal.SIGKILL)
    wait_until(lambda: control not in gateway.child_pids and is_served(gateway), "another control process")

    def is_kept() -> bool:
        """Whether a story has reached this control process; those of the first requests may be lost with the other."""
        ask(gateway, "/users", shown)
        return admin(gateway, "GET /stories").status == 200

    wait_until(is_kept, "a story")


def test_the_command_sends_what_http_has_to_encode(gateway: Reloadable) -> None:
    shown = gateway.command("debug", f"{gateway.url()}/said/ü b", "-H", "X: ☃", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["path"] == "/said/%C3%BC%20b"


def test_the_command_makes_a_token_or_shows_the_story_of_a_request(gateway: Reloadable) -> None:
    made = gateway.command("debug", "--for", "1m")
    assert made.returncode == 0, made.stderr
    name, _, value = made.stdout.strip().partition(": ")
    assert (name, made.stderr.startswith("valid until 20")) == (HEADER, True)
    assert ask(gateway, "/said", {name: value}).headers[STORY]
    shown = gateway.command("debug", f"http://{gateway.address()}/gone", "-H", "X-A: b")
    assert "connect_refused" in shown.stdout, shown.stderr
    assert "  size: passed" in shown.stdout
    elsewhere = gateway.command("debug", f"http://{gateway.address()}/said", "--route", "users")
    assert (elsewhere.returncode, "has no story" in elsewhere.stderr) == (1, True)
    assert gateway.command("debug", "--for", "2h").returncode == 2
    assert admin(gateway, "POST /debug", json.dumps({"seconds": 7200}), JSON).status == 400
    assert gateway.command("debug", "localhost").returncode == 2
    logged = [each for each in entries(Path(gateway.config["audit"]["path"])) if each["action"] == "POST /debug"]
    assert {each["result"][:3] for each in logged} >= {"200", "400", "404"}
    assert all(value not in json.dumps(each) for each in logged)
    assert admin(gateway, "POST /debug", json.dumps({"secs": 1}), JSON).status == 400
