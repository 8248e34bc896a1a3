"""An operator finds the cause of a slow route in three commands: which route, which requests, what they wait for."""

from __future__ import annotations

import http.client
import http.server
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.admin_calls import admin
from tests.e2e.test_reload import Reloadable
from tests.support.gateway import wait_until

SLOW_S = 0.4
"""Duration of each answer of the authorization service."""


class Service(http.server.BaseHTTPRequestHandler):
    """Answers at once, and below `/check` slowly."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/check"):
            threading.Event().wait(SLOW_S)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.landing
def test_the_cause_of_a_slow_route_is_found_in_three_commands(service: str, tmp_path: Path) -> None:
    config = {
        "stories": {"slower_than": f"{int(SLOW_S * 500)}ms"},
        "upstreams": {"shop": {"targets": [service]}},
        "routes": [
            {"name": "articles", "paths": ["/articles/*"], "upstream": "shop"},
            {
                "name": "orders",
                "paths": ["/orders/*"],
                "upstream": "shop",
                "filters": {"forward_auth": {"url": f"{service}/check"}, "size": {"body": "1KiB"}},
            },
        ],
    }
    with Reloadable(config, tmp_path) as gateway:

        def ask(path: str) -> int:
            with closing(http.client.HTTPConnection(gateway.address())) as connection:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                return response.status

        # Workers keep stories as soon as they know that they should.
        wait_until(lambda: ask("/orders/0") == 200 and "/orders/0" in gateway.command("stories").stdout, "a story")
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                for path in ("/articles/1", "/articles/2", "/articles/3", "/orders/7"):
                    assert ask(path) == 200

        customers = threading.Thread(target=load)
        customers.start()
        try:
            top = gateway.command("top", "--once").stdout
        finally:
            over.set()
            customers.join()
        p99 = {cells[0]: cells for line in top.splitlines() if (cells := line.replace("│", " ").split())}
        assert ("articles" in p99, "orders" in p99) == (True, True), top
        slowest = max(("articles", "orders"), key=lambda name: seconds_of(p99[name]))
        assert slowest == "orders", top

        listed = gateway.command("stories", "--route", slowest, "--limit", "3").stdout
        number, *rest = listed.splitlines()[1].split()
        assert (rest[3:6], rest[6]) == (["200", "GET", "/orders/7"], "orders"), listed

        story = gateway.command("stories", number).stdout
        waits = [line for line in story.splitlines() if "waited" in line]
        assert [line.strip().partition(":")[0] for line in waits] == ["forward_auth"], story
        assert "of shop: 200" in story
        shown = admin(gateway, f"GET /stories/{number}").json
        (attempt,) = shown["attempts"]
        (waited,) = (each["waited_s"] for each in shown["filters"] if each["waited_s"] is not None)
        assert waited <= attempt["begun_s"] <= attempt["sent_s"] <= attempt["first_byte_s"]


def seconds_of(cells: list[str]) -> float:
    """Return the largest time in a row of `top`."""
    units = {"ms": 1e-3, "s": 1.0, "us": 1e-6}
    pairs = itertools.pairwise(cells)
    return max((float(number) * units[unit] for number, unit in pairs if unit in units), default=0.0)
