"""gRPC from pages of another origin: Chromium with the clients of gRPC-Web and Connect, and a server of grpcio."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.programs import program
from tests.support.browser import Browser, Page
from tests.support.certificates import Certificates
from tests.support.gateway import Gateway

DEADLINE = 60.0
CLIENTS = Path(__file__).parent.parent / "support" / "rpc_clients"


class Greeter(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Messages are bytes as they are. A stream goes on when the page has called `Echo` for each of its messages."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.may_go_on = threading.Semaphore(1)

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        self.seen.append((name, dict(details.invocation_metadata)))
        if name == "Count":
            return grpc.unary_stream_rpc_method_handler(self._count)
        return grpc.unary_unary_rpc_method_handler({"Echo": self._echo, "Fail": self._fail, "Wait": self._wait}[name])

    def _echo(self, request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("x-initial", "i"),))
        context.set_trailing_metadata((("x-cost", "237"),))
        self.may_go_on.release()
        return request

    def _count(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            assert self.may_go_on.acquire(timeout=DEADLINE)
            yield request
        context.set_trailing_metadata((("x-cost", "3"),))

    def _fail(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-cost", "1"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu viele: 100 % ä")
        raise AssertionError

    def _wait(self, request: bytes, context: Any) -> bytes:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(DEADLINE)
        return b""


class Site:
    """Files of the page, from an origin that is not the gateway's."""

    def __init__(self) -> None:
        if not (CLIENTS / "node_modules").is_dir():
            pytest.fail(f"the clients are not installed: (cd {CLIENTS} && npm ci)")
        handler = partial(_Files, directory=str(CLIENTS))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None: ...


class World:
    def __init__(self, greeter: Greeter, gateway: Gateway, page: Page) -> None:
        self.greeter, self.gateway, self.page = greeter, gateway, page

    def base(self, listener: str) -> str:
        return f"http{'s' if listener == 'secure' else ''}://localhost:{self.gateway.port(listener)}"

    def call(self, function: str, listener: str, *given: Any) -> Any:
        arguments = ", ".join(map(json.dumps, (self.base(listener), *given)))
        return self.page.run(f"{function}({arguments})")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rpc")
    certificate, key = Certificates(folder).issue("localhost")
    greeter = Greeter()
    server = grpc.server(futures.ThreadPoolExecutor(10))
    server.add_generic_rpc_handlers((greeter,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (folder / "chromium").mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: server.stop(0).wait())
        site = stack.enter_context(Site())
        tls = {"certificates": [{"certificate": certificate, "key": key}]}
        config = {
            "workers": 2,
            "listeners": {"plain": {"address": "127.0.0.1:0"}, "secure": {"address": "127.0.0.1:0", "tls": tls}},
            "upstreams": {"greeter": {"targets": [{"url": f"http://127.0.0.1:{port}"}], "protocol": "grpc"}},
            "filters": {
                "cors": {
                    "origins": [site.origin],
                    "headers": [
                        *("Content-Type", "X-Grpc-Web", "X-User-Agent", "Grpc-Timeout", "X-Text"),
                        *("Connect-Protocol-Version", "Connect-Timeout-Ms"),
                    ],
                    "expose": ["X-Initial", "Trailer-X-Cost"],
                }
            },
            "routes": [
                {
                    "name": "greeter",
                    "paths": ["/test.Greeter/*"],
                    "methods": ["GET", "POST"],
                    "upstream": "greeter",
                    "filters": {"grpc_web": {}, "connect_rpc": {"get": ["Echo"]}},
                }
            ],
        }
        gateway = stack.enter_context(Gateway(config, folder))
        browser = stack.enter_context(Browser(program("chromium"), folder / "chromium"))
        page = stack.enter_context(browser.page())
        page.command("Security.setIgnoreCertificateErrors", ignore=True)
        page.go(f"{site.origin}/page.html")
        page.until("window.ready")
        yield World(greeter, gateway, page)


@pytest.fixture
def world(opened: World) -> World:
    opened.greeter.seen.clear()
    opened.greeter.may_go_on = threading.Semaphore(1)
    return opened


both = pytest.mark.parametrize("listener", ["plain", "secure"])


@both
@pytest.mark.parametrize("protocol", ["connect", "grpc-web"])
def test_calls_by_connect_web(world: World, listener: str, protocol: str) -> None:
    got = world.call("byConnect", listener, protocol, "echo", "hellö")
    assert (got["messages"], got["error"]) == (["hellö"], None)
    assert (got["header"]["x-initial"], got["trailer"]["x-cost"]) == ("i", "237")
    ((name, metadata),) = world.greeter.seen
    assert (name, metadata["x-text"]) == ("Echo", "of a page")
    failed = world.call("byConnect", listener, protocol, "fail", "x")
    assert (failed["error"]["code"], failed["error"]["message"]) == ("ResourceExhausted", "zu viele: 100 % ä")
    assert failed["error"]["trailer"]["x-cost"] == "1"


@both
@pytest.mark.parametrize("protocol", ["connect", "grpc-web"])
def test_messages_of_a_stream_arrive_one_by_one_with_connect_web(world: World, listener: str, protocol: str) -> None:
    """The server sends the next one when the page has told it of the one before."""
    got = world.call("byConnect", listener, protocol, "count", "again")
    assert (got["messages"], got["error"], got["trailer"]["x-cost"]) == (["again"] * 3, None, "3")


@both
@pytest.mark.parametrize("protocol", ["connect", "grpc-web"])
def test_deadlines_of_connect_web(world: World, listener: str, protocol: str) -> None:
    got = world.call("byConnect", listener, protocol, "wait", "x", {"timeoutMs": 300})
    assert got["error"]["code"] == "DeadlineExceeded"


@both
def test_a_method_without_side_effects_is_called_by_get(world: World, listener: str) -> None:
    got = world.call("byConnect", listener, "connect", "echo", "by get", {"get": True})
    assert (got["messages"], got["error"]) == (["by get"], None)
    assert world.gateway.wait_for_record(path="/test.Greeter/Echo", method="GET")["status"] == 200


@both
@pytest.mark.parametrize("format", ["text", "binary"])
def test_calls_by_grpc_web(world: World, listener: str, format: str) -> None:
    got = world.call("byGrpcWeb", listener, format, "Echo", "hellö")
    assert (got["messages"], got["error"]) == (["hellö"], None)
    failed = world.call("byGrpcWeb", listener, format, "Fail", "x")
    assert failed["error"] == {"code": 8, "message": "zu viele: 100 % ä"}


@both
def test_messages_of_a_stream_arrive_one_by_one_with_grpc_web(world: World, listener: str) -> None:
    """This client streams in the text form alone."""
    got = world.call("byGrpcWeb", listener, "text", "Count", "again")
    assert (got["messages"], got["error"]) == (["again"] * 3, None)


def test_both_versions_were_spoken(world: World) -> None:
    for listener, protocol in (("plain", "HTTP/1.1"), ("secure", "HTTP/2")):
        world.call("byGrpcWeb", listener, "text", "Echo", "x")
        record = world.gateway.wait_for_record(listener=listener, path="/test.Greeter/Echo", method="POST")
        assert record["protocol"] == protocol
