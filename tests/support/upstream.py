"""Targets to connect to, with a greeting that proves the connection."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_url
from fastgw.eventloop.socket_transport import StreamProtocol
from fastgw.upstream.connections.connect import ConnectFailed, connect
from fastgw.upstream.targets import dns
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target
from tests.support.memory import MemoryLoop

LONG = 10.0
"""Timeout in seconds that is not reached."""
SHORT = 0.05
"""Timeout in seconds that is reached."""


class Peer(StreamProtocol):
    """The test's end of a connection."""

    def __init__(self) -> None:
        self.worker_loop = MemoryLoop()
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.received = b""
        self.buffer = memoryview(bytearray(65_536))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    async def end(self) -> None:
        assert self.transport is not None
        self.transport.abort()
        await self.lost


class Greeting:
    """A server that sends `hello` and the SNI that it received."""

    def __init__(self, server: asyncio.Server, names: list[str | None]) -> None:
        self.server = server
        self.port = server.sockets[0].getsockname()[1] if server.sockets[0].family != socket.AF_UNIX else 0
        self.names = names

    @classmethod
    async def start(cls, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> "Greeting":
        names: list[str | None] = []
        if tls is not None:
            tls.sni_callback = lambda _, name, __: names.append(name)
        return cls(await asyncio.get_running_loop().create_server(Greeter, host, 0, ssl=tls), names)

    @classmethod
    async def start_unix(cls, path: Path) -> "Greeting":
        return cls(await asyncio.get_running_loop().create_unix_server(Greeter, path), [])

    async def __aenter__(self) -> "Greeting":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")


async def greeted(target: Target, timeout: float = LONG) -> TargetAddress:
    """Connect, read the greeting, close. Returns the address connected to."""
    peer = Peer()
    _, address = await connect(target, peer, timeout)
    while peer.received != b"hello":
        assert not peer.lost.done(), peer.lost
        await asyncio.sleep(0)
    await peer.end()
    return address


async def failure(target: Target, timeout: float = LONG) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as raised:
        await connect(target, Peer(), timeout)
    return raised.value


def named(monkeypatch: pytest.MonkeyPatch, *addresses: TargetAddress) -> Target:
    """Return a target whose name has these addresses."""

    async def look_up(host: str, port: int) -> list[TargetAddress]:
        return list(addresses)

    monkeypatch.setattr(dns, "look_up", look_up)
    return Target(parse_url("http://users:80"), resolve_interval=3600.0)


def address_of(origin: Greeting) -> TargetAddress:
    listener = origin.server.sockets[0]
    return TargetAddress(listener.family, listener.getsockname())
