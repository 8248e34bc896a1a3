"""Chosen fields and chosen requests of access logs, through a gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin

FIELDS = [
    "path",
    "status",
    "header.X-Tenant",
    "header.Authorization",
    "response_header.X-Kind",
    "both={method} {status}",
]
ANSWER = b"HTTP/1.1 200 OK\r\nX-Kind: plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REQUEST = b"GET %b HTTP/1.1\r\nHost: a.test\r\nX-Tenant: acme\r\nAuthorization: Bearer planted\r\n\r\n"
CONFIG = """
version: 1
workers: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams: {origin: {targets: ["http://AUTHORITY"]}}
routes:
  - {name: ready, paths: ["/ready"], respond: {body: x, headers: {X-Kind: ready}}}
  - {name: fails, paths: ["/fails"], respond: {status: 503, headers: {X-Kind: fails}}}
  - name: edited
    paths: ["/edited"]
    upstream: origin
    filters: {headers: {request: {set: {X-Tenant: changed}}, response: {set: {X-Kind: edited}}}}
  - {name: plain, paths: ["/plain", "/left"], upstream: origin}
access_logs:
  - {sink: FOLDER/fields.log, fields: FIELDS}
  - {sink: FOLDER/errors.log, fields: [path], only: {status: [5xx, 429]}}
  - {sink: FOLDER/none.log, fields: [path], sample: 0.0, always: {route: plain}}
  - {sink: FOLDER/w3c.log, format: w3c, fields: [status, path]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of five requests, of bytes that are no request, and of a client that left."""
    folder = tmp_path_factory.mktemp("logs")
    with Origin() as origin:
        text = CONFIG.replace("AUTHORITY", origin.authority).replace("FOLDER", str(folder))
        with Gateway(text.replace("FIELDS", json.dumps(FIELDS)), folder) as gateway:
            for path in (b"/ready", b"/fails", b"/plain", b"/edited", b"/none"):
                with gateway.connect() as client:
                    client.send(REQUEST % path)
                    if path in (b"/plain", b"/edited"):
                        origin.accept().answer(ANSWER)
                    client.read_response()
            with gateway.connect() as client:
                client.send(b"NONSENSE\r\n\r\n")
                client.read_to_end()
            with gateway.connect() as client:
                client.send(REQUEST % b"/left")
                left = origin.accept()
                left.read_request()
            for name, wanted in (("fields", 7), ("errors", 1), ("none", 2), ("w3c", 10)):
                file = folder / f"{name}.log"
                wait_until(lambda file=file, wanted=wanted: written(file) >= wanted, f"lines of {name}")
    return folder


def written(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_headers_of_each_kind_of_response(folder: Path) -> None:
    """A ready answer, an upstream's as it is, one that filters have changed, and an error of the gateway."""
    shown = {line["path"]: line for line in lines(folder / "fields.log")}
    assert {path: line["response_header.X-Kind"] for path, line in shown.items()} == {
        "/ready": "ready",
        "/fails": "fails",
        "/plain": "plain",
        "/edited": "edited",
        "/none": None,
        "/left": None,
        None: None,
    }
    assert shown.pop(None)["both"] == " 400"
    for path, line in shown.items():
        assert [*line] == [
            "path",
            "status",
            "header.X-Tenant",
            "header.Authorization",
            "response_header.X-Kind",
            "both",
        ]
        assert (line["header.X-Tenant"], line["header.Authorization"]) == ("acme", "***"), path
        assert line["both"] == f"GET {line['status']}"


def test_conditions_choose_requests(folder: Path) -> None:
    assert lines(folder / "errors.log") == [{"path": "/fails"}]
    assert lines(folder / "none.log") == [{"path": "/plain"}, {"path": "/left"}]


def test_a_file_of_w3c_begins_with_its_directives(folder: Path) -> None:
    held = (folder / "w3c.log").read_text().splitlines()
    assert held[:3] == ["#Version: 1.0", "#Software: fastgw", "#Fields: sc-status cs-uri-stem"]
    assert sorted(held[3:]) == [
        *("200 /edited", "200 /plain", "200 /ready", "400 -", "404 /none", "499 /left", "503 /fails")
    ]


COMPRESSED = """
version: 1
workers: 1
listeners: {main: {address: "127.0.0.1:0"}}
upstreams: {origin: {targets: ["http://AUTHORITY"]}}
routes:
  - {name: plain, paths: ["/plain/*"], upstream: origin}
  - {name: fast, paths: ["/fast/*"], upstream: origin, filters: {compress: {}}}
  - {name: full, paths: ["/full/*"], upstream: origin, filters: {compress: {}, headers: {response: {set: {X-A: a}}}}}
access_logs: [{sink: FOLDER/sent.log, fields: [path, response_header.Content-Encoding, response_header.Content-Length]}]
"""


def test_the_length_of_a_response_is_the_one_that_its_client_gets(tmp_path: Path) -> None:
    """A filter changes the body: as a whole, or piece by piece, so that the length of the result is not known."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    got = {}
    with Origin() as origin:
        text = COMPRESSED.replace("AUTHORITY", origin.authority).replace("FOLDER", str(tmp_path))
        with Gateway(text, tmp_path) as gateway:
            for path in ("/plain/whole", "/fast/whole", "/full/whole", "/fast/pieces", "/full/pieces"):
                with gateway.connect() as client:
                    client.send(b"GET %b HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n" % path.encode())
                    length = 1_000_000 if path.endswith("pieces") else 4000  # the former is more than one read
                    origin.accept().answer(head % length + b"a" * length)
                    response = client.read_response()
                    got[path] = response.get(b"Content-Encoding"), response.get(b"Content-Length")
            wait_until(lambda: written(tmp_path / "sent.log") >= len(got), "the lines")
    assert [length for _, length in got.values()].count(None) == 2
    assert [coding for coding, _ in got.values()] == [None, *[b"gzip"] * 4]
    for path, *sent in (line.values() for line in lines(tmp_path / "sent.log")):
        assert [None if value is None else str(value).encode() for value in sent] == [*got[str(path)]], path
