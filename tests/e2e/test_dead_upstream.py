"""An upstream that is away, as an operator meets it: in log, metrics and status. Nothing was configured for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import is_served, read
from tests.e2e.test_reload import Reloadable
from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.moody import Moody


class _NoTls(socketserver.BaseRequestHandler):
    """Answers whatever comes with a line of HTTP."""

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Scene:
    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self.origin = stack.enter_context(Moody(b"alive"))
        held = stack.enter_context(socket.socket())  # bound and not listening: it refuses, and nobody else gets it
        held.bind(("127.0.0.1", 0))
        self.dead = f"127.0.0.1:{held.getsockname()[1]}"
        plain = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _NoTls))
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        stack.callback(plain.shutdown)
        alive = self.origin.address
        upstreams: dict[str, Any] = {
            "pair": {"targets": [{"url": f"http://{alive}"}, {"url": f"http://{self.dead}"}]},
            "dead": {"targets": [{"url": f"http://{self.dead}"}]},
            "nameless": {"targets": [{"url": "http://nowhere.invalid:80"}]},
            "unsafe": {"targets": [{"url": f"https://127.0.0.1:{plain.server_address[1]}"}]},
            "off": {
                "targets": [{"url": f"http://{self.dead}"}, {"url": f"http://{self.dead}/x"}],
                "health_checks": {"passive": None},
            },
        }
        routes = [{"name": f"to-{name}", "paths": [f"/{name}/*"], "upstream": name} for name in upstreams]
        config = {"access_logs": [{"sink": "stdout"}], "upstreams": upstreams, "routes": routes}
        self.gateway = stack.enter_context(Reloadable(config, directory))

    def get(self, path: str) -> tuple[int, bytes]:
        with Client(self.gateway.address()) as client:
            response = client.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return response.status, response.body

    def target(self, upstream: str, label: str) -> dict[str, Any]:
        (found,) = (each for each in read(self.gateway, "/upstreams")["upstreams"] if each["name"] == upstream)
        (mine,) = (each for each in found["targets"] if each["label"] == label)
        return dict(mine)

    def metrics(self) -> str:
        with Client(str(self.gateway.ready["status"])) as client:
            return client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body.decode()


class Moods:
    """Targets that a test may have fail: one alone, and one of two."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self.alone, self.good, self.other = (stack.enter_context(Moody(name)) for name in (b"1", b"2", b"3"))
        common = {"retries": {"max": 1}, "timeouts": {"response_headers": "300ms", "idle": "300ms"}}
        passive = {"passive": {"failures": 2, "eject": "300ms"}}
        upstreams: dict[str, Any] = {
            "alone": {**common, "targets": [{"url": self.alone.url}]},
            "pair": {
                **common,
                "targets": [{"url": self.good.url}, {"url": self.other.url}],
                "health_checks": passive,
            },
        }
        routes = [{"name": name, "paths": [f"/{name}"], "upstream": name} for name in upstreams]
        config = {"workers": 3, "upstreams": upstreams, "routes": routes}
        self.gateway = stack.enter_context(Reloadable(config, directory))

    def ask(self, upstream: str) -> int:
        """Over a connection of its own, which any of the workers may take."""
        with Client(self.gateway.address()) as client:
            client.send(f"GET /{upstream} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            try:
                return client.read_response().status
            except (EOFError, OSError, AssertionError):
                return 0  # it breaks off

    def health(self, upstream: str, target: int = 0) -> str:
        (found,) = (each for each in read(self.gateway, "/upstreams")["upstreams"] if each["name"] == upstream)
        return str(found["targets"][target]["health"])


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[Moods]:
    with contextlib.ExitStack() as stack:
        yield Moods(stack, tmp_path)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path_factory.mktemp("dead"))


@pytest.mark.landing
@pytest.mark.parametrize(
    ("name", "fault", "detail"),
    [
        ("dead", "connect_refused", "ECONNREFUSED"),
        ("nameless", "dns_failed", "DNS: "),
        ("unsafe", "tls_failed", "TLS: "),
    ],
)
def test_why_an_upstream_is_away_is_told_to_the_operator_alone(
    scene: Scene, name: str, fault: str, detail: str
) -> None:
    """Log, metrics, target and route name the fault and the reason; the client sees neither reason nor address."""
    status, body = scene.get(f"/{name}/why")
    assert status == 502
    assert scene.dead.encode() not in body
    assert detail.encode() not in body
    assert json.loads(body)["type"] == f"urn:fastgw:fault:{fault}"
    record = scene.gateway.wait_for_record(path=f"/{name}/why")
    assert record["fault"] == fault
    assert record["fault_detail"].startswith(detail)
    assert f'fastgw_faults_total{{fault="{fault}",route="to-{name}",upstream="{name}"}}' in scene.metrics()
    (target,) = next(each for each in read(scene.gateway, "/upstreams")["upstreams"] if each["name"] == name)["targets"]
    assert target["health"] == "failing"  # the only one of its upstream is never ejected
    assert target["errors"][fault] >= 1
    assert target["rate"] > 0
    assert target["last_error"]["fault"] == fault
    assert target["last_error"]["reason"].startswith(detail)
    (route,) = (each for each in read(scene.gateway, "/routes")["routes"] if each["name"] == f"to-{name}")
    assert route["faults"] == {fault: target["errors"][fault] // 2}  # each was tried twice
    assert detail in route["last_error"]["reason"]


@pytest.mark.landing
def test_a_target_that_cannot_be_connected_to_is_ejected_without_a_word_in_the_file(scene: Scene) -> None:
    """Its neighbour takes over, and no client notices."""
    assert {scene.get("/pair/x")[0] for _ in range(8)} == {200}
    wait_until(lambda: scene.target("pair", scene.dead)["health"] == "ejected", "an ejected target")
    alive = scene.target("pair", scene.origin.address)
    assert (alive["health"], alive["errors"], alive["last_error"]) == ("healthy", {}, None)
    assert alive["requests"] >= 8
    assert alive["p50_s"] is not None
    assert (
        f'fastgw_target_errors_total{{fault="connect_refused",target="{scene.dead}",upstream="pair"}}'
        in scene.metrics()
    )


@pytest.mark.landing
def test_passive_null_ejects_nothing(scene: Scene) -> None:
    assert {scene.get("/off/x")[0] for _ in range(4)} == {502}
    assert scene.target("off", scene.dead)["health"] == "failing"


@pytest.mark.parametrize("mood", ["refuses", "resets", "hangs", "hangs_within", "breaks_off"])
def test_a_target_is_failing_from_its_first_error_to_its_next_answer(moody: Moods, mood: str) -> None:
    """No matter which of the workers saw what, and how many answers came before."""
    assert moody.health("alone") == "unknown"
    for _ in range(15):
        assert moody.ask("alone") == 200
    wait_until(lambda: moody.health("alone") == "healthy", "the answers to be told")
    moody.alone.be(mood)
    assert moody.ask("alone") != 200
    wait_until(lambda: moody.health("alone") == "failing", "the error to be told")
    moody.alone.be("ok")
    assert moody.ask("alone") == 200
    wait_until(lambda: moody.health("alone") == "healthy", "the answer to be told")


def test_a_target_that_only_answers_with_errors_is_failing(moody: Moods) -> None:
    moody.alone.be("503")
    for _ in range(5):
        assert moody.ask("alone") == 503
    wait_until(lambda: moody.health("alone") == "failing", "the errors to be told")


def test_a_target_that_was_ejected_and_has_not_answered_since_is_failing(moody: Moods) -> None:
    """It may be asked again, and nobody has."""
    moody.other.be("refuses")
    for _ in range(8):
        assert moody.ask("pair") == 200
    seen: list[str] = []

    def is_over() -> bool:
        seen.append(moody.health("pair", 1))
        return "ejected" in seen and seen[-1] != "ejected"

    wait_until(is_over, "the ejection to begin and to end")
    assert seen[-1] == "failing"
    assert moody.health("pair", 0) == "healthy"


def test_another_control_process_knows_it_as_well(moody: Moods) -> None:
    moody.alone.be("refuses")
    assert moody.ask("alone") == 502
    wait_until(lambda: moody.health("alone") == "failing", "the error to be told")
    before = moody.gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in moody.gateway.child_pids, "the end of control")
    wait_until(lambda: is_served(moody.gateway), "another one to answer")
    assert moody.health("alone") == "failing"


def test_the_command_tells_it_as_text_and_as_json(scene: Scene) -> None:
    scene.get("/dead/told")
    shown = scene.gateway.command("status")
    assert "connect_refused" in shown.stdout
    assert "(ECONNREFUSED)" in shown.stdout
    told = json.loads(scene.gateway.command("status", "--format", "json").stdout)
    assert told["generation"] == 1
    assert {each["name"] for each in told["routes"]} >= {"to-dead", "to-pair"}
    assert any(target["last_error"] for upstream in told["upstreams"] for target in upstream["targets"])
