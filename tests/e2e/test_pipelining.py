"""Clients that send requests far ahead of their answers: what is held of them is bounded, and nobody else waits.

100 MiB of requests on 40 connections, whose answers are read at once, or only when no more is taken; what they are
answered with shows that none is lost, doubled or out of its order.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from tests.e2e.programs import Nginx
from tests.support.certificates import Certificates, client_tls
from tests.support.gateway import Gateway
from tests.support.resident import Memory

MIB = 1 << 20
CONNECTIONS = 40
SIZE = 8192
"""Bytes of a request."""
REQUESTS = 100 * MIB // CONNECTIONS // SIZE
"""On each connection."""
GROWTH = 16 * MIB
DEADLINE = 120.0
"""Seconds for all of it; it takes 5 to 10 on a machine that has nothing else to do."""
SERVED_MEANWHILE = 20
HELD_BACK_S = 1.0
"""Nobody has sent anything for so long: more is not taken."""
SHORT, LONG = 100, 30_000
"""Bytes of an answer. On the loopback interface a socket takes 2.6 MB that nobody reads, and at most `tcp_wmem`."""


def request(connection: int, number: int) -> bytes:
    head = b"GET /%d/%d HTTP/1.1\r\nHost: a\r\nX-A: " % (connection, number)
    return head + b"a" * (SIZE - len(head) - 4) + b"\r\n\r\n"


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The path of the request that it is for."""
    fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    assert fields[0] == "HTTP/1.1 200 OK"
    values = dict(field.split(": ", 1) for field in fields[1:-2])
    body = await reader.readexactly(int(values["Content-Length"]))
    assert body.strip(b"x") == b""
    return values["X-Path"].encode()


class Flood:
    """All requests of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.sent = 0
        self._reader, self._writer = reader, writer

    @classmethod
    async def begin(cls, number: int, address: str, tls: ssl.SSLContext | None) -> Flood:
        host, _, port = address.rpartition(":")
        sock = socket.socket()
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # small, so that the kernel does not hold it all
            sock.setsockopt(socket.SOL_SOCKET, buffer, 65_536)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        name = "a.test" if tls is not None else None
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name, limit=32_768)
        writer.transport.set_write_buffer_limits(high=SIZE)
        return cls(number, reader, writer)

    async def send(self) -> None:
        for number in range(REQUESTS):
            self._writer.write(request(self.number, number))
            await self._writer.drain()
            self.sent += 1

    async def read(self) -> None:
        for number in range(REQUESTS):
            assert await answer(self._reader) == b"/%d/%d" % (self.number, number)

    async def end(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def held_back(floods: list[Flood]) -> None:
    """Wait until nobody can send any more."""
    sent = -1
    while sent != (sent := sum(flood.sent for flood in floods)):
        await asyncio.sleep(HELD_BACK_S)


async def ask_on(address: str, tls: ssl.SSLContext | None, ended: asyncio.Event) -> int:
    """One request after the other, until the others have ended. How many were answered?"""
    host, _, port = address.rpartition(":")
    name = "a.test" if tls is not None else None
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)
    served = 0
    while not ended.is_set():
        writer.write(b"GET /other/%d HTTP/1.1\r\nHost: a\r\n\r\n" % served)
        assert await answer(reader) == b"/other/%d" % served
        served += 1
    writer.close()
    await writer.wait_closed()
    return served


async def flood(address: str, tls: ssl.SSLContext | None, at_once: bool) -> int:
    """How many requests of another client were answered meanwhile?"""
    floods = [await Flood.begin(number, address, tls) for number in range(CONNECTIONS)]
    ended = asyncio.Event()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        other = tasks.create_task(ask_on(address, tls, ended))
        sending = [tasks.create_task(flood.send()) for flood in floods]
        if not at_once:
            await held_back(floods)
            assert sum(flood.sent for flood in floods) < CONNECTIONS * REQUESTS
        async with asyncio.TaskGroup() as readers:
            for each in floods:
                readers.create_task(each.read())
        await asyncio.wait(sending)
        ended.set()
    for each in floods:
        await each.end()
    return other.result()


# Memory and others' share of the time: tests/protocol/test_streaming.py measures neither
@pytest.mark.parametrize(
    ("way", "at_once"),
    [("plain", True), ("plain", False), ("secured", True)],
    ids=["read at once", "read later", "over TLS, read at once"],
)
def test_what_is_pipelined_without_end_is_not_held(tmp_path: Path, way: str, at_once: bool) -> None:
    """100 MiB of requests cost a worker 16 MiB at most, all are answered in order, and another client is served."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    listener = {"address": "127.0.0.1:0", **({"tls": tls} if way == "secured" else {})}
    www = tmp_path / "www"
    www.mkdir()
    (www / "answer").write_bytes(b"x" * (SHORT if at_once else LONG))
    server = f"location / {{ root {www}; add_header X-Path $request_uri; try_files /answer =404; }}"
    with Nginx(tmp_path / "nginx", server) as nginx:
        routes = [{"name": "all", "upstream": nginx.url}]
        config = {"workers": 1, "listeners": {"main": listener}, "routes": routes, "access_logs": []}
        with Gateway(config, tmp_path) as gateway, Memory(gateway) as memory:
            secured = client_tls(authority) if way == "secured" else None
            assert asyncio.run(flood(gateway.address(), secured, at_once)) >= SERVED_MEANWHILE
    assert max(memory.growth.values()) < GROWTH, memory.growth
