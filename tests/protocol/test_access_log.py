"""The access log: one line per request, with these fields, in these formats, without secrets."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, wait_until
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import block, continuation, get, headers, pseudo
from tests.support.lanes import Lane
from tests.support.origin import OK, Origin


def test_a_request_is_one_record(lane: Lane) -> None:
    """What happened, in snake case, times in seconds, sizes in bytes of the bodies."""
    client = lane.client()
    client.send(lane.post(b"hello", b"User-Agent: probe/1\r\nReferer: http://a.test/b\r\n", b"/one-record?x=1"))
    lane.accept().answer(b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\n\r\ncreated")
    assert client.read_response().status == 201
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/one-record")
    assert record["client"] == "127.0.0.1"
    assert record["listener"] == "main"
    assert record["route"] == record["upstream"] == lane.name
    assert record["target"] == lane.origin.authority
    assert (record["method"], record["query"], record["protocol"]) == ("POST", "x=1", "HTTP/1.1")
    assert (record["status"], record["fault"], record["retries"]) == (201, None, 0)
    assert (record["request_bytes"], record["response_bytes"]) == (5, 7)
    assert record["duration_s"] >= record["upstream_s"] >= 0
    assert (record["user_agent"], record["referer"]) == ("probe/1", "http://a.test/b")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", record["time"])


def test_pipelined_requests_are_logged_one_by_one(lane: Lane) -> None:
    """One line per request, also where several came in one segment and those of bodies on both sides are counted."""
    client = lane.client()
    client.send(b"".join(lane.get(b"/pipelined-%d" % number) for number in range(3)))
    upstream = lane.accept()
    for number in range(3):
        upstream.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number + b"x" * number)
        client.read_response()
    for number in range(3):
        record = lane.gateway.wait_for_record(host=lane.host.decode(), path=f"/pipelined-{number}")
        assert record["response_bytes"] == number


def test_chunked_bodies_are_counted_without_their_framing(lane: Lane) -> None:
    """`request_bytes` and `response_bytes` are what the bodies carried."""
    lane.forward(
        lane.get(b"/counted", b"Transfer-Encoding: chunked\r\n", b"POST") + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/counted")
    assert (record["request_bytes"], record["response_bytes"]) == (5, 3)


def test_a_refusal_is_logged_with_its_fault(lane: Lane) -> None:
    """The fault's name is the one that the client was told."""
    client = lane.client()
    client.send(b"GET /no-such-place HTTP/1.1\r\nHost: logged.test\r\n\r\n")
    assert client.read_response().status == 404
    record = lane.gateway.wait_for_record(host="logged.test", path="/no-such-place")
    assert (record["status"], record["fault"], record["route"]) == (404, "route_not_found", None)


def test_a_malformed_request_is_logged(lane: Lane) -> None:
    """A head that has no meaning still leaves a line with its fault."""
    before = sum(record["fault"] == "bad_request" for record in lane.gateway.records)
    client = lane.client()
    client.send(b"NONSENSE\r\n\r\n")
    client.read_to_end()
    lane.gateway.stdout.wait_for(
        lambda _: sum(record["fault"] == "bad_request" for record in lane.gateway.records) > before
    )


@pytest.mark.parametrize("name", ["token", "access_token", "password", "api_key", "code", "secret", "TOKEN", "to%6Ben"])
def test_secrets_in_a_query_are_always_masked(lane: Lane, name: str) -> None:
    """The values of these parameters never reach a log, however their name is spelled; the others do."""
    client = lane.client()
    client.send(lane.get(f"/masked-{name}?a=1&{name}=hunter2&b=2".encode()))
    lane.accept().answer()
    client.read_response()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path=f"/masked-{name}")
    assert record["query"] == f"a=1&{name}=***&b=2"
    assert "hunter2" not in json.dumps(record)


def test_a_line_is_bounded_and_stays_one_line(lane: Lane) -> None:
    """At most 4,096 bytes with the line end, and no byte of a client's ends a line or forges one."""
    client = lane.client()
    client.send(
        lane.get(b"/long-line", b"User-Agent: " + b'a"\\\xff\t' * 4_000 + b"\r\nReferer: " + b"r" * 9_000 + b"\r\n")
    )
    lane.accept().answer()
    client.read_response()
    line = lane.gateway.stdout.wait_for(lambda line: b"/long-line" in line)
    assert len(line) <= 4_096
    assert json.loads(line)["status"] == 200


# --- several sinks ---


@pytest.fixture
def logging(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that logs in every format, each to a file of its own, and JSON to stdout."""
    config: dict[str, Any] = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "access_logs": [
            {"sink": "stdout", "format": "json", "redact": ["visit"]},
            {"sink": str(tmp_path / "ecs.log"), "format": "ecs"},
            {"sink": str(tmp_path / "combined.log"), "format": "combined"},
        ],
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with Gateway(config, tmp_path) as gateway:
        yield gateway


def ask(gateway: Gateway, target: str) -> None:
    with gateway.connect() as client:
        fields = "User-Agent: probe/1\r\nReferer: http://r.test/\r\nConnection: close\r\n"
        assert client.exchange(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode()).body == b"here"
        client.assert_ended()


def test_each_sink_has_its_format_and_its_redactions(logging: Gateway, tmp_path: Path) -> None:
    """`json`, `ecs` and `combined` side by side; a stop writes what is still held."""
    ask(logging, "/a?visit=hunter2&x=1&token=hunter3")
    logging.stop()
    [record] = logging.records
    assert record["query"] == "visit=***&x=1&token=***"
    ecs = json.loads((tmp_path / "ecs.log").read_text())
    assert ecs["http.response.status_code"] == 200
    assert ecs["url.path"] == "/a"
    assert "hunter3" not in json.dumps(ecs)
    combined = (tmp_path / "combined.log").read_text()
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
        r'"GET /a\?visit=hunter2&x=1&token=\*\*\* HTTP/1\.1" 200 4 "http://r\.test/" "probe/1"\n',
        combined,
    )


def test_usr1_reopens_files(logging: Gateway, tmp_path: Path) -> None:
    """After a rename and USR1 lines go to a new file, and none is lost."""
    log, moved = tmp_path / "combined.log", tmp_path / "combined.log.1"
    ask(logging, "/before")
    wait_until(lambda: log.exists() and "/before" in log.read_text(), "the first line")
    log.rename(moved)
    ask(logging, "/between")
    logging.signal(signal.SIGUSR1)
    wait_until(log.exists, "a new file")
    ask(logging, "/last")
    logging.stop()
    lines = moved.read_text() + log.read_text()
    assert [lines.count(path) for path in ("/before", "/between", "/last")] == [1, 1, 1]
    assert "/last" in log.read_text()


def test_a_log_that_nobody_reads_does_not_stop_the_proxy(tmp_path: Path) -> None:
    """A pipe that is full costs records, never requests."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "access_logs": [{"sink": str(fifo), "format": "json"}],
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
        for _ in range(20):
            client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n" * 100)
            assert all(client.read_response().status == 200 for _ in range(100))
    os.close(reading)


def test_lines_of_several_workers_are_never_torn(tmp_path: Path) -> None:
    """One file for three workers: every line whole, one for every request."""
    log = tmp_path / "access.log"
    config = {
        "workers": 3,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "access_logs": [{"sink": str(log), "format": "json"}],
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with Gateway(config, tmp_path) as gateway:
        clients = [gateway.connect() for _ in range(12)]
        for client in clients:
            fields = b"User-Agent: " + b"u" * 1_000 + b"\r\n"
            client.send((b"GET /%d HTTP/1.1\r\nHost: a.test\r\n" % client.sock.fileno() + fields + b"\r\n") * 50)
        for client in clients:
            assert all(client.read_response().status == 200 for _ in range(50))
            client.close()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(records) == 600
    assert {record["user_agent"] for record in records} == {"u" * 1_000}


def test_no_access_log(tmp_path: Path) -> None:
    """`access_logs: []`: stdout stays empty."""
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "access_logs": [],
        "routes": [{"name": "here", "respond": {"body": "here"}}],
    }
    with Gateway(config, tmp_path) as gateway:
        ask(gateway, "/")
    assert gateway.stdout.lines == []


def test_a_retry_is_counted(lane: Lane) -> None:
    """`retries` is the number of attempts after the first."""
    client = lane.client()
    client.send(lane.get())
    first = lane.accept()
    first.answer()
    client.read_response()
    client.send(lane.get(b"/counted-retry"))
    first.read_request()
    first.close()
    lane.accept().answer(OK)
    client.read_response()
    assert lane.gateway.wait_for_record(host=lane.host.decode(), path="/counted-retry")["retries"] == 1


# --- heads that come in more than one read ---

SLOWLY = {
    "without filters": (b"GET /fast HTTP/1.1\r\nHo", b"st: slow\r\n\r\n", 200),
    "through filters": (b"GET /full HTTP/1.1\r\nHost: slow\r\n", b"\r\n", 200),
    "answered by the gateway": (b"G", b"ET /own HTTP/1.1\r\nHost: slow\r\n\r\n", 200),
    "malformed": (b"GET /own HTTP/1.1\r\nHost: slow\r\n", b"A B: c\r\n\r\n", 400),
    "too long": (b"GET /own HTTP/1.1\r\nHost: slow\r\n", b"A: " + b"a" * 100_000, 431),
}
"""Requests in two parts, and the status of the response."""


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Origin() as origin:
        origin.serve()
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": {"origin": {"targets": [origin.url]}},
            "routes": [
                {"name": "own", "paths": ["/own"], "respond": {"body": "here"}},
                {"name": "fast", "paths": ["/fast", "/within/*"], "upstream": "origin"},
                {
                    "name": "full",
                    "paths": ["/full"],
                    "upstream": "origin",
                    "filters": {"headers": {"response": {"set": {"X-Time": "{latency}"}}}},
                },
            ],
        }
        with Gateway(config, tmp_path_factory.mktemp("timed")) as gateway:
            yield gateway


def pass_time(gateway: Gateway, name: str) -> float:
    """Make requests on another connection, and return the seconds that they have taken."""
    numbers = range(20)
    with gateway.connect() as client:
        for number in numbers:
            path = f"/within/{name.replace(' ', '-')}/{number}"
            assert client.exchange(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()).status == 200
    gateway.wait_for_record(path=path)
    return sum(float(each["duration_s"]) for each in gateway.records if str(each["path"]).startswith(path[:-3]))


@pytest.mark.parametrize("name", SLOWLY)
def test_the_duration_begins_with_the_first_byte_of_the_head(timed: Gateway, name: str) -> None:
    first, second, status = SLOWLY[name]
    with timed.connect() as client:
        assert client.exchange(b"GET /within/first HTTP/1.1\r\nHost: a.test\r\n\r\n").status == 200
        before = len(timed.records)
        client.send(first)
        passed = pass_time(timed, name)
        client.send(second)
        response = client.read_response()
        assert response.status == status
    path = first.split()[1].decode() if b" " in first else "/own"
    record = wait_for_next(timed, before, path)
    assert record["status"] == status
    assert record["duration_s"] > passed
    if record["upstream"] is not None:
        assert record["duration_s"] >= record["upstream_s"] > passed
    if path == "/full":
        assert float(response.get(b"X-Time")) > passed


def wait_for_next(gateway: Gateway, before: int, path: str) -> dict[str, Any]:
    """Return the first record of the path after the first ones."""

    def found() -> list[dict[str, Any]]:
        return [record for record in gateway.records[before:] if record["path"] == path]

    gateway.stdout.wait_for(lambda _: bool(found()))
    return found()[0]


@pytest.mark.parametrize("path", ["/own", "/fast", "/full"])
def test_the_duration_begins_with_the_first_frame_of_the_head(timed: Gateway, path: str) -> None:
    fields = block(*pseudo(path=path.encode()))
    with Http2Client(timed.address()) as client:
        client.begin_plainly().send(get(path=b"/within/first"))
        assert client.wait_for(1).status == 200
        before = len(timed.records)
        client.send(headers(fields[:5], stream=3, whole=False))
        passed = pass_time(timed, f"frames {path[1:]}")
        client.send(continuation(fields[5:], stream=3))
        assert client.wait_for(3).status == 200
    assert wait_for_next(timed, before, path)["duration_s"] > passed
