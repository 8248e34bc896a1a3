"""Real clients read what the filter compress sends: curl and Chromium, with and without padding."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import program
from tests.support.browser import Browser
from tests.support.gateway import Gateway
from tests.support.origin import Origin

LINES = [f"line {number} of a page" for number in range(3000)]
PAGE = "\n".join(LINES).encode()
EVENTS = 20
ENCODINGS = ("zstd", "br", "gzip")
DEADLINE = 60.0

FETCH = """(async path => {
    const answer = await fetch(path);
    return [answer.headers.get('content-encoding'), await answer.text()];
})"""
LISTEN = """(path => new Promise(resolve => {
    const got = [], source = new EventSource(path);
    source.onmessage = event => { got.push(event.data); if (got.length === %d) { source.close(); resolve(got); } };
}))"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Origin() as origin:
        page = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        half = len(PAGE) // 2
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (PAGE[:half], PAGE[half:])]
        origin.answer(page + chunks[0], chunks[1] + b"0\r\n\r\n", path=b"/page")
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(PAGE)
        origin.answer(whole + PAGE, path=b"/whole")
        events = b"".join(b"data: %d\n\n" % number for number in range(EVENTS))
        stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(events)
        origin.answer(stream + events, path=b"/events")
        origin.serve()
        routes = [
            {
                "name": f"{encoding}{'-padded' if padded else ''}",
                "paths": [f"/{encoding}{'/padded' if padded else ''}/{{page}}"],
                "upstream": "u",
                "strip_prefix": f"/{encoding}{'/padded' if padded else ''}",
                "filters": {"compress": {"encodings": [encoding], "random_padding": padded}},
            }
            for encoding in ENCODINGS
            for padded in (False, True)
        ]
        page_itself = {"body": "<p>page</p>", "headers": {"Content-Type": "text/html"}}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": {"targets": [{"url": origin.url}]}},
            "routes": [*routes, {"name": "start", "paths": ["/"], "respond": page_itself}],
        }
        with Gateway(config, tmp_path_factory.mktemp("gateway")) as running:
            yield running


PATHS = [f"/{encoding}{padded}/{page}" for encoding in ENCODINGS for padded in ("", "/padded")
         for page in ("page", "whole")]  # fmt: skip


@pytest.mark.landing
def test_curl_reads_every_encoding(gateway: Gateway) -> None:
    for path in PATHS:
        command = [program("curl"), "--silent", "--show-error", "--compressed", "--include", gateway.url() + path]
        ran = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True)
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        assert (path, body == PAGE) == (path, True)
        assert f"content-encoding: {path.split('/')[1]}" in head.decode().lower()


def test_chromium_reads_every_encoding_and_events(gateway: Gateway, tmp_path: Path) -> None:
    with Browser(program("chromium"), tmp_path) as browser, browser.page() as page:
        page.go(gateway.url() + "/")
        for path in PATHS:
            encoding, text = page.run(f"{FETCH}({json.dumps(path)})")
            assert (path, encoding, text == PAGE.decode()) == (path, path.split("/")[1], True)
        for encoding in ("zstd", "gzip", "zstd/padded", "gzip/padded"):
            got = page.run(f"{LISTEN % EVENTS}({json.dumps(f'/{encoding}/events')})")
            assert got == [str(number) for number in range(EVENTS)]
