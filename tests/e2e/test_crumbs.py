"""Bodies in chunks of one byte, on many connections at once: all arrive whole, and nobody else waits for their end."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, client_tls, server_tls
from tests.support.gateway import Gateway

CLIENTS = 12
BYTES = 8_000
"""Of each body: a turn of the loop reads some 400 of them."""
SERVED_MEANWHILE = 5
DEADLINE = 120.0
"""Seconds for all of it; it takes 5 on a machine that has nothing else to do."""
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def payload(number: int) -> bytes:
    """Of a client: no two are the same."""
    return random.Random(number).randbytes(BYTES)


def crumbs(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


async def unchunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return bytes(body)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A target that answers a body with the same one, in crumbs, and a request without one with "ok"."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"Transfer-Encoding" in head:
                writer.write(b"HTTP/1.1 200 OK\r\n" + CHUNKED + crumbs(await unchunked(reader)))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):  # the gateway is done with the connection
        writer.close()


async def connect(address: str, tls: ssl.SSLContext | None) -> Streams:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), ssl=tls, server_hostname="a.test" if tls else None)


async def upload(number: int, streams: Streams, small_records: bool) -> None:
    """Two requests on one connection; `small_records`: over TLS a record for each chunk of the first."""
    reader, writer = streams
    body = payload(number)
    head = b"POST /%d HTTP/1.1\r\nHost: a\r\n" % number + CHUNKED
    for message in (head + crumbs(body), head + crumbs(body[::-1])):
        for at in range(0, len(message), 6 if small_records else 5_000):
            writer.write(message[at : at + (6 if small_records else 5_000)])
            if not at % 3_000:
                await writer.drain()
        small_records = False
    for expected in (body, body[::-1]):
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await unchunked(reader) == expected
    writer.close()
    await writer.wait_closed()


async def ask_on(streams: Streams, ended: asyncio.Event) -> int:
    """One request after the other, until the others have ended. How many were answered?"""
    reader, writer = streams
    served = 0
    while not ended.is_set():
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(2) == b"ok"
        served += 1
    writer.close()
    await writer.wait_closed()
    return served


async def live(tmp_path: Path, secured: bool) -> int:
    authority = Certificates(tmp_path)
    issued = authority.issue("a.test")
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_tls(issued) if secured else None)
    port = server.sockets[0].getsockname()[1]
    url = f"https://127.0.0.1:{port}" if secured else f"http://127.0.0.1:{port}"
    listener: dict[str, object] = {"address": "127.0.0.1:0"}
    upstream: dict[str, object] = {"targets": [{"url": url}]}
    if secured:
        listener["tls"] = {"certificates": [{"certificate": issued[0], "key": issued[1]}]}
        upstream["tls"] = {"ca": authority.ca, "server_name": "a.test"}
    config = {
        "workers": 1,
        "listeners": {"main": listener},
        "upstreams": {"u": upstream},
        "routes": [{"name": "all", "upstream": "u"}],
        "access_logs": [],
    }
    gateway = await asyncio.to_thread(Gateway, config, tmp_path)
    try:
        tls = client_tls(authority) if secured else None
        address = gateway.address()
        ended = asyncio.Event()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            other = tasks.create_task(ask_on(await connect(address, tls), ended))
            async with asyncio.TaskGroup() as uploads:
                for number in range(CLIENTS):
                    uploads.create_task(upload(number, await connect(address, tls), secured))
            ended.set()
        return other.result()
    finally:
        await asyncio.to_thread(gateway.stop)
        server.close()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS on both sides"])
def test_bodies_in_crumbs_arrive_whole_in_both_directions(tmp_path: Path, secured: bool) -> None:
    assert asyncio.run(live(tmp_path, secured)) >= SERVED_MEANWHILE
