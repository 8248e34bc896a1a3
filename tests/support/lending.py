"""The surroundings of a pool: connections, borrowers, and a fake for opening connections."""

import asyncio
import socket
from typing import Any

from fastgw.config.base.value_types import parse_url
from fastgw.config.settings import gateway as settings
from fastgw.config.settings.gateway import Upstream, UpstreamTimeouts
from fastgw.errors import Fault
from fastgw.upstream.connections.connect import ConnectFailed
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.pooled_connection import PooledConnection
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target, build_targets
from tests.support.memory import MemoryLoop
from tests.support.on_loop import until


class Connection(PooledConnection):
    """Upstream connection that carries nothing."""

    def __init__(self, pool: Pool, target: Target) -> None:
        PooledConnection.__init__(self, target, 0.0)
        self.pool = pool
        self.transport: Any = None
        self.worker_loop = MemoryLoop()
        self.buffer = self.worker_loop.reads.read_buffer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def buffer_updated(self, nbytes: int) -> None: ...

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.pool.forget(self)

    def close(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


class Borrower:
    """Records the calls it receives."""

    def __init__(self) -> None:
        self.told: list[Connection | Fault] = []
        self.has_left_queue = False

    def queue_left(self) -> None:
        self.has_left_queue = True

    def lent(self, connection: Connection) -> None:
        self.told.append(connection)

    def failed(self, fault: Fault, why: str = "") -> None:
        self.told.append(fault)

    async def answer(self) -> Connection | Fault:
        await until(lambda: bool(self.told))
        (told,) = self.told
        return told


class Dialer:
    """Replaces `connect`: the test completes each one."""

    def __init__(self) -> None:
        self.openings: list[tuple[Target, asyncio.Future[TargetAddress]]] = []

    async def connect(
        self, target: Target, protocol: asyncio.BaseProtocol, timeout: float, handshake: float | None = None
    ) -> tuple[asyncio.BaseProtocol, TargetAddress]:
        done: asyncio.Future[TargetAddress] = asyncio.get_running_loop().create_future()
        self.openings.append((target, done))
        return protocol, await done

    async def begun(self, count: int = 1) -> None:
        await until(lambda: len(self.openings) >= count)

    def succeed(self, index: int = 0, address: TargetAddress | None = None) -> None:
        target, done = self.openings.pop(index)
        done.set_result(address or TargetAddress(socket.AF_INET, (target.host, target.port)))

    def fail(self, index: int = 0, fault: Fault = Fault.CONNECT_REFUSED) -> None:
        self.openings.pop(index)[1].set_exception(ConnectFailed(fault, "said the test"))


def upstream(*urls: str, connect: float = 10.0, **pool: Any) -> Upstream:
    return Upstream(
        targets=tuple(settings.Target(url=parse_url(url)) for url in urls or ("http://192.0.2.1:80",)),
        timeouts=UpstreamTimeouts(connect=connect),
        pool=settings.Pool(**pool),
    )


def make(configured: Upstream, **more: Any) -> Pool:
    return Pool(build_targets(configured), configured, Connection, **more)


async def opened(
    pool: Pool, dialer: Dialer, target: Target | None = None, address: TargetAddress | None = None
) -> Connection:
    """Return a connection that was opened and lent."""
    borrower = Borrower()
    assert pool.lend(target or pool.targets[0], borrower) is None
    await dialer.begun()
    dialer.succeed(address=address)
    connection = await borrower.answer()
    assert isinstance(connection, Connection)
    return connection
