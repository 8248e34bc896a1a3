"""An upstream that is away, as an operator meets it: in log, metrics and status. Nothing was configured for it."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import read
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


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path_factory.mktemp("dead"))


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


def test_passive_null_ejects_nothing(scene: Scene) -> None:
    assert {scene.get("/off/x")[0] for _ in range(4)} == {502}
    assert scene.target("off", scene.dead)["health"] == "failing"


def test_the_command_tells_it_as_text_and_as_json(scene: Scene) -> None:
    scene.get("/dead/told")
    shown = scene.gateway.command("status")
    assert "connect_refused" in shown.stdout
    assert "(ECONNREFUSED)" in shown.stdout
    told = json.loads(scene.gateway.command("status", "--format", "json").stdout)
    assert told["generation"] == 1
    assert {each["name"] for each in told["routes"]} >= {"to-dead", "to-pair"}
    assert any(target["last_error"] for upstream in told["upstreams"] for target in upstream["targets"])
