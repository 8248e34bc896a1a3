"""Bodies in access logs: bounded, without secrets, and only where a log shows them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.origin import Origin


def response(body: bytes, *lines: str) -> bytes:
    fields = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


ANSWERS = {
    b"/json": response(b'{"user":"ann","access_token":"s3cret","ssn":"123"}', "Content-Type: application/json"),
    b"/gzip": response(gzip.compress(b"password=s3cret&a=1"), "Content-Type: text/plain", "Content-Encoding: gzip"),
    b"/image": response(b"\x89PNG s3cret", "Content-Type: image/png"),
    b"/long": response(b'{"a":"' + b"x" * 9_000 + b'","token":"s3cret"}', "Content-Type: application/json"),
    b"/none": response(b""),
    b"/other": response(b"other", "Content-Type: text/plain"),
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The lines of the log with bodies by path, after requests to all paths."""
    folder = tmp_path_factory.mktemp("bodies")
    origin = Origin()
    for path, answer in ANSWERS.items():
        origin.answer(answer, path=path)
    origin.serve()
    fields = ["path", "status", "response_body", "request_body", "both={request_body}|{response_body}"]
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "access_logs": [
            {"sink": "bodies.log", "fields": fields, "only": {"route": ["shown", "down"]}, "redact": ["ssn"]},
            {"sink": "plain.log"},
            {"sink": "gelf.log", "format": "gelf"},
        ],
        "upstreams": {"users": {"targets": [origin.url]}, "closed": {"targets": ["http://127.0.0.1:1"]}},
        "routes": [
            {"name": "other", "paths": ["/other"], "upstream": "users"},
            {"name": "down", "paths": ["/down"], "upstream": "closed"},
            {"name": "here", "paths": ["/here"], "respond": {"body": "here"}},
            {"name": "shown", "paths": ["/*"], "upstream": "users"},
        ],
    }
    running = Gateway(config, folder)
    try:
        client = running.connect()
        for path in (*ANSWERS, b"/here", b"/down"):
            body = b'{"password":"s3cret","n":1}'
            head = b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            client.send(head % (path, len(body)) + body)
            answered = client.read_response(b"POST")
            expected = ANSWERS.get(path)
            assert expected is None or answered.raw_body == expected.partition(b"\r\n\r\n")[2]
        client.close()
    finally:
        running.stop()
        origin.stop()
    for name in ("plain.log", "gelf.log"):
        assert b"_body" not in (folder / name).read_bytes()
    return lines_of(folder / "bodies.log")


def lines_of(file: Path) -> dict[str, dict[str, Any]]:
    content = file.read_bytes()
    assert b"s3cret" not in content
    assert all(len(line) < 4096 for line in content.splitlines())
    return {line["path"]: line for line in map(json.loads, content.splitlines())}


def test_bodies_are_shown_without_secrets(logged):
    line = logged["/json"]
    assert line["request_body"] == '{"password":"***","n":1}'
    assert line["response_body"] == '{"user":"ann","access_token":"***","ssn":"***"}'
    assert line["both"] == f"{line['request_body']}|{line['response_body']}"


def test_a_compressed_body_is_shown_as_text(logged):
    assert logged["/gzip"]["response_body"] == "password=***&a=1"


def test_what_cannot_be_searched_for_secrets_is_left_out(logged):
    assert logged["/image"]["response_body"] == "(type image/png is not shown)"


def test_a_long_body_is_cut(logged):
    shown = logged["/long"]["response_body"]
    assert shown.startswith('{"a":"xxx')
    assert shown.endswith("x...")
    assert 500 < len(shown) <= 1024 + 3


def test_an_empty_body_is_null_and_that_of_a_fault_is_shown(logged):
    assert logged["/none"]["response_body"] is None
    assert logged["/down"]["status"] == 502
    assert '"type"' in logged["/down"]["response_body"]


def test_requests_that_the_log_does_not_have_stay_unobserved(logged):
    assert set(logged) == {"/json", "/gzip", "/image", "/long", "/none", "/down"}
