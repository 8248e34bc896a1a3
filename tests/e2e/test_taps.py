"""Requests of a running gateway are shown with their bodies while somebody looks, and cost nothing afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import JSON, TIMEOUT, Calling, admin
from tests.e2e.test_audit import entries
from tests.e2e.test_reload import Reloadable
from tests.support.forked import FASTGW, start
from tests.support.gateway import wait_until

CONFIG: dict[str, Any] = {
    "filters": {"key_auth": {"key_names": ["x-ticket"]}},
    "consumers": [{"name": "ada", "key_auth": [{"key": "k1"}]}],
    "routes": [
        {"name": "users", "paths": ["/users/*"], "respond": {"body": '{"password":"geheim","id":7}'}},
        {"name": "gone", "paths": ["/gone"], "upstream": "gone"},
    ],
    "upstreams": {"gone": {"targets": ["http://127.0.0.1:1"]}},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    directory = tmp_path_factory.mktemp("tap")
    with Reloadable({**CONFIG, "audit": {"path": str(directory / "audit.log")}}, directory) as started:
        yield started


@contextlib.contextmanager
def tapping(gateway: Reloadable, **wanted: Any) -> Iterator[Any]:
    """Begin a tap, and return its lines."""
    with contextlib.closing(Calling(str(gateway.ready["admin"]))) as connection:
        fields = {"Content-Type": JSON, "Authorization": f"Bearer {gateway.token}"}
        connection.request("POST", "/tap", json.dumps(wanted), fields)
        response = connection.getresponse()
        assert (response.status, response.readline()) == (200, b"\n")
        yield (json.loads(line) for line in response if line.strip())


class InOnePiece(http.client.HTTPConnection):
    """Sends a head and its body at once: with the head alone the gateway would answer, and have no body to show."""

    _held = b""

    def send(self, data: Any) -> None:
        self._held += data

    def getresponse(self) -> http.client.HTTPResponse:
        self._held, held = b"", self._held
        super().send(held)
        return super().getresponse()


def ask(gateway: Reloadable, method: str, path: str, body: str | None = None, **fields: str) -> int:
    with contextlib.closing(InOnePiece(gateway.address(), timeout=TIMEOUT)) as connection:
        connection.request(method, path, body, {"X-Ticket": "k1", **fields})
        response = connection.getresponse()
        response.read()
        return response.status


def shown_of(lines: Iterator[Any], request: Callable[[], object]) -> Any:
    """Return the first line. The request is repeated, because a worker may not know of the tap yet."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            request()

    repeating = threading.Thread(target=repeat)
    repeating.start()
    try:
        return next(lines)
    finally:
        over.set()
        repeating.join()


@pytest.mark.landing
def test_a_tap_shows_the_selected_requests_without_secrets(gateway: Reloadable, tmp_path: Path) -> None:
    with tapping(gateway, routes=["users"], methods=["POST"]) as lines:
        assert ask(gateway, "GET", "/users/1") == 200
        form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "a=b"}
        shown = shown_of(lines, lambda: ask(gateway, "POST", "/users/7?token=t&x=1", "password=p&name=n", **form))
        assert (shown["route"], shown["method"], shown["path"], shown["query"]) == (
            *("users", "POST", "/users/7"),
            "token=***&x=1",
        )
        assert (shown["status"], shown["consumer"], shown["dropped"]) == (200, "ada", 0)
        request, response = shown["request"], shown["response"]
        sent = {name.lower(): value for name, value in request["headers"]}
        assert (sent["x-ticket"], sent["cookie"]) == ("***", "a=***")
        assert (request["body"], request["body_bytes"], request["body_truncated"]) == ("password=***&name=n", 17, False)
        assert (response["body"], response["body_bytes"]) == ('{"password":"***","id":7}', 28)
        assert "geheim" not in json.dumps(shown)


@pytest.mark.landing
def test_faults_are_shown_with_their_reason_and_bodies_are_cut(gateway: Reloadable) -> None:
    with tapping(gateway, statuses=["5xx"], body_bytes=10, consumers=["ada"]) as lines:
        assert ask(gateway, "POST", "/users/7", "not selected") == 200
        text = {"Content-Type": "text/plain"}
        shown = shown_of(lines, lambda: ask(gateway, "POST", "/gone", "0123456789abcdef", **text))
        assert (shown["status"], shown["fault"], shown["upstream"]) == (502, "connect_refused", "gone")
        request, response = shown["request"], shown["response"]
        assert (request["body"], request["body_bytes"], request["body_truncated"]) == ("0123456789", 16, True)
        assert response["body"] == '{"type":"u'


def test_a_tap_ends_with_its_client_and_is_in_the_audit_log(gateway: Reloadable, tmp_path: Path) -> None:
    path = Path(gateway.config["audit"]["path"])
    with tapping(gateway, ratio=0.5):
        pass
    wait_until(lambda: entries(path)[-1]["action"] == "tap", "the end of the tap")
    begun, ended = [each for each in entries(path) if "tap" in each["action"]][-2:]
    assert (begun["action"], begun["result"], begun["detail"]["ratio"]) == ("POST /tap", "200", "0.5")
    assert (ended["result"], ended["detail"]["dropped"]) == ("ended", "0")


def test_the_command_shows_requests_for_people(gateway: Reloadable) -> None:
    command = [FASTGW, "tap", "--admin", str(gateway.ready["admin"]), "--route", "users", "--requests", "1"]
    token = {**os.environ, "FASTGW_ADMIN_TOKEN": gateway.token}
    with start(command, env=token, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            ask(gateway, "POST", "/users/7?token=t", '{"token":"t"}', **{"Content-Type": JSON})
        assert process.stdout is not None
        text = process.stdout.read()
    assert "> POST /users/7?token=*** HTTP/1.1\n" in text
    assert '\n{"token":"***"}\n< 200\n' in text


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"statuses": ["9"]}, '"9" is not a status'),
        ({"statuses": ["600"]}, '"600" is not a status'),
        ({"ratio": 2}, "`ratio` is not"),
        ({"route": "users"}, "unknown field"),
        ({"body_bytes": 1 << 30}, "`body_bytes` is not"),
        ({"seconds": 1e9}, "`rate` and `seconds`"),
    ],
)
def test_an_invalid_tap_is_refused(gateway: Reloadable, wanted: dict[str, Any], why: str) -> None:
    told = admin(gateway, "POST /tap", json.dumps(wanted), JSON)
    assert (told.status, why in told.json["detail"]) == (400, True), told.json


def test_there_is_a_limit_of_taps(gateway: Reloadable) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(tapping(gateway))
        assert admin(gateway, "POST /tap", "{}", JSON).status == 429
    wait_until(lambda: _begins(gateway), "an end of the taps")


def _begins(gateway: Reloadable) -> bool:
    try:
        with tapping(gateway):
            return True
    except AssertionError:
        return False


def test_requests_go_on_over_a_reload_during_a_tap(gateway: Reloadable, tmp_path: Path) -> None:
    with tapping(gateway, routes=["late"]) as lines:
        gateway.change(routes=[*CONFIG["routes"], {"name": "late", "paths": ["/late"], "respond": {"body": "ok"}}])
        gateway.reload()
        assert shown_of(lines, lambda: ask(gateway, "GET", "/late"))["route"] == "late"


@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGUSR2], ids=["death", "upgrade"])
def test_the_end_of_control_ends_the_command_with_a_message(gateway: Reloadable, order: int) -> None:
    command = [FASTGW, "tap", "--admin", str(gateway.ready["admin"])]
    token = {**os.environ, "FASTGW_ADMIN_TOKEN": gateway.token}
    with start(command, env=token, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = process.stdout
        over = threading.Event()

        def repeat() -> None:
            while not over.is_set():
                ask(gateway, "GET", "/users/7")

        repeating = threading.Thread(target=repeat)
        repeating.start()
        try:
            assert shown.readline().startswith("* ")
        finally:
            over.set()
            repeating.join()
        control = gateway.control_pid
        os.kill(control if order == signal.SIGKILL else gateway.pid, order)
        _, told = process.communicate(timeout=TIMEOUT)
    assert told.startswith("fastgw: the tap has ended early: the gateway at ")
    assert process.returncode == 1
    wait_until(lambda: control not in gateway.child_pids and gateway.status() != {}, "another control process")
