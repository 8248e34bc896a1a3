"""A body that no helper process has processed goes with its exchange. A circle would hold it, and its copy for the
process, until the collector runs: outside every budget of buffered bytes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from fastgw.config.settings.gateway import Config
from fastgw.helper_processes import pool as pools
from fastgw.helper_processes.program import FAILED, READY, RESULT
from tests.support.collector import garbage
from tests.support.generations import load_document
from tests.support.memory import SERVICE
from tests.support.on_loop import on_loop, until
from tests.unit.downstream.test_retiring import Node

BODY = b'{"a":"%b"}' % (b"x" * 200_000)
JSON = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
POST = b"POST /old HTTP/1.1\r\nHost: a.test\r\n" + JSON
GET = b"GET /old HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + JSON

CHANGE = {"json": {"deny": ["b"]}, "max_bytes": "1MiB", "deadline": "30ms"}
PASSING = CHANGE | {"on_timeout": "pass"}
BODY_SCHEMA = {"inline": {"type": "object"}, "max_bytes": "1MiB", "deadline": "30ms"}
CRS = {"processes": 1, "deadline": "30ms", "on_timeout": "refuse"}
FILTERS: dict[str, tuple[dict[str, Any], bytes]] = {
    "transform requests": ({"transform": {"request": CHANGE}}, POST),
    "transform responses": ({"transform": {"response": CHANGE}}, GET),
    "transform responses or pass": ({"transform": {"response": PASSING}}, GET),
    "validate": ({"validate": {"body": BODY_SCHEMA}}, POST),
    "waf": ({"waf": {"rules": "none", "crs": CRS}}, POST),
}

PROCESS = """
import socket, sys
connection = socket.socket(fileno=0)
def message():
    left = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    while left:
        left -= len(connection.recv(left))
def send(*message):
    connection.sendall(len(message).to_bytes(4, "big") + bytes(message))
message()
send(READY)
message()
PROCESSES
message()
"""
PROCESSES = {
    "does not answer": "",
    "ends": "sys.exit()",
    "raises an exception": f"send({FAILED}, 65)",
    "refuses the body": f"send({RESULT}, 1, 0x92, 0xA1, 65, 0xA1, 66)",
}
"""What a process does with its first request."""


class FilteredNode(Node):
    """A node whose route has filters."""

    def __init__(self, filters: dict[str, Any]) -> None:
        super().__init__()
        self.filters = filters

    def configured(self, *paths: str, **upstream: Any) -> Config:
        upstreams = {path: {"targets": [f"http://127.0.0.1:{self.port}"]} for path in paths}
        routes = [{"name": path, "paths": [f"/{path}"], "upstream": path, "filters": self.filters} for path in paths]
        return load_document({**SERVICE, "routes": routes, "upstreams": upstreams, "access_logs": []})


async def answered(node: Node, request: bytes) -> bytes:
    """Return the status of the response to a request; the service answers with a body for a helper process."""
    client = await node.client()
    client.sends(request)
    if request is GET:
        await until(lambda: any(taken.received.endswith(b"\r\n\r\n") for taken in node.taken))
        node.taken[0].sends(OK)
    await until(lambda: b"\r\n\r\n" in client.received)
    client.transport.abort()
    await until(lambda: not node.server.connections)
    node.worker_loop.wheel.advance(node.worker_loop.wheel.now + 3600)
    return client.received.split()[1]


STATUSES = {
    "transform requests": (504, 504, 500, 400),
    "transform responses": (504, 504, 500, 502),
    "transform responses or pass": (200, 200, 200, 502),
    "validate": (504, 504, 500),
    "waf": (403, 403, 403),
}
CASES = [
    (name, process, b"%d" % status)
    for name, statuses in STATUSES.items()
    for process, status in zip(PROCESSES, statuses, strict=False)  # only transformations refuse bodies in this way
]


@pytest.mark.parametrize(("name", "process", "status"), CASES, ids=[f"{case[0]}: {case[1]}" for case in CASES])
def test_a_body_that_no_process_has_processed_leaves_nothing(
    name: str, process: str, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = PROCESS.replace("PROCESSES", PROCESSES[process]).replace("READY", str(READY))
    monkeypatch.setattr(pools, "COMMAND", (sys.executable, "-S", "-E", "-c", program))
    filters, request = FILTERS[name]
    if process != "does not answer":
        filters = json.loads(json.dumps(filters).replace('"30ms"', '"30s"'))  # it is heard, however busy the machine is

    @on_loop
    async def test() -> None:
        node = FilteredNode(filters)
        await node.begin()
        try:
            with garbage() as found:
                assert await answered(node, request) == status
            assert found == []
        finally:
            await node.end()

    test()
