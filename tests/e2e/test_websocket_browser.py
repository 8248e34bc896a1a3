"""WebSockets of a real browser through the filter, over HTTP/1.1 and HTTP/2: messages, and the close codes it sees."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from tests.e2e.programs import program
from tests.support.browser import Browser, Page
from tests.support.certificates import Certificates
from tests.support.gateway import Gateway

OPEN = """(path => new Promise(resolve => {
    window.got = []; window.ended = null;
    const socket = window.socket = new WebSocket(location.origin.replace('http', 'ws') + path);
    socket.onmessage = event => window.got.push(event.data);
    socket.onclose = event => { window.ended = event.code; resolve('closed'); };
    socket.onopen = () => resolve('open');
}))"""


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.fixture
def echoing() -> Iterator[Server]:
    with serve(echo, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("listener", "method"), [("plain", "GET"), ("secured", "CONNECT")])
def test_a_browser_talks_and_sees_why_it_ended(echoing: Server, tmp_path: Path, listener: str, method: str) -> None:
    """1009 for a message too big, the upstream's own close, and 1001 at a drain."""
    folders = tmp_path / "chromium", tmp_path / "gateway"
    for folder in folders:
        folder.mkdir()
    certificate, key = Certificates(tmp_path).issue("127.0.0.1")
    anywhere = {"address": "127.0.0.1:0"}
    limits = {"message_bytes": 1000, "ping": "200ms"}
    page_itself = {"body": "<p>page</p>", "headers": {"Content-Type": "text/html"}}
    config = {
        "workers": 1,
        "listeners": {
            "plain": anywhere,
            "secured": {**anywhere, "tls": {"certificates": [{"certificate": certificate, "key": key}]}},
        },
        "routes": [
            {"name": "page", "paths": ["/"], "respond": page_itself},
            {
                "name": "socket",
                "paths": ["/socket/*"],
                "upstream": f"http://127.0.0.1:{echoing.socket.getsockname()[1]}",
                "filters": {"websocket": limits},
            },
        ],
    }
    with (
        Browser(program("chromium"), folders[0]) as browser,
        Gateway(config, folders[1]) as gateway,
        browser.page() as page,
    ):
        page.command("Security.setIgnoreCertificateErrors", ignore=True)
        scheme = "https" if listener == "secured" else "http"
        page.go(f"{scheme}://{gateway.address(listener)}/")
        talk(page, "/socket/big")
        page.run("socket.send('x'.repeat(1001))")
        page.until("ended !== null")
        assert page.run("ended") == 1009
        assert gateway.wait_for_record(path="/socket/big")["method"] == method
        talk(page, "/socket/own")
        page.run("socket.close(3456, 'bye')")
        page.until("ended !== null")
        assert page.run("ended") == 3456
        talk(page, "/socket/drain")
        gateway.signal(signal.SIGTERM)
        page.until("ended !== null")
        assert page.run("ended") == 1001
        assert gateway.wait() == 0


def talk(page: Page, path: str) -> None:
    """Open a WebSocket and have a message of each kind echoed."""
    assert page.run(f"{OPEN}('{path}')") == "open"
    page.run("socket.send('grüße')")
    page.run("socket.send(new Uint8Array([0, 255, 7]))")
    page.until("got.length === 2")
    assert page.run("got[0]") == "grüße"
    assert page.run("got[1].arrayBuffer().then(made => Array.from(new Uint8Array(made)))") == [0, 255, 7]
