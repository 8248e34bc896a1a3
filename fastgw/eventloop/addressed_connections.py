"""Connections of a worker that other processes can reach by an id, such as WebSockets that back ends send messages to.

The id of a connection names its worker: the socket on which the worker takes orders, in the abstract namespace (see
unix(7)). So nothing is shared, and a worker that drains, or of the version before an upgrade, is reached as well. Only
processes of the same user can send orders.
"""

import asyncio
import os
import re
import socket
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Generator, Mapping
from enum import IntEnum
from functools import partial
from typing import Any, Final, Protocol, cast, final

import msgspec

from fastgw.eventloop.socket_server import serve_on

ID_LENGTH: Final = 24
"""Characters of an id: 8 bytes for the worker, 10 random ones that cannot be guessed, in base64url."""
MOST_PAYLOAD: Final = 1024**2
"""Maximum bytes of a message."""
TIMEOUT_S: Final = 5.0
"""Seconds within which a worker has to answer an order."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{24}")
_WORKER_BYTES, _RANDOM_BYTES = 8, 10
_MOST_FRAME: Final = MOST_PAYLOAD + 1024
_BACKLOG: Final = 512
_PEER: Final = struct.Struct("3i")  # process, user, group


class Verb(IntEnum):
    """Operation on a connection."""

    LOOK = 0
    SEND_TEXT = 1
    SEND_BINARY = 2
    CLOSE = 3


class Result(IntEnum):
    """Result of an order."""

    DONE = 0
    GONE = 1
    """No connection has this id, or it is closing."""
    BUSY = 2
    """The client does not read what was sent to it."""
    INVALID = 3
    """The message is longer than the connection allows, or text that is not UTF-8."""


class ConnectionOrder(msgspec.Struct, array_like=True, frozen=True):
    """Order for one connection."""

    id: str
    verb: Verb
    payload: bytes = b""


class ConnectionStatus(msgspec.Struct, frozen=True):
    """Status of a connection."""

    connection_id: str
    route: str
    client: str
    """Address of the client."""
    consumer: str
    """Name of the consumer; "" if there is none."""
    connected_date: float
    """Seconds since the epoch."""
    last_active_date: float
    """When the last message was sent or received: seconds since the epoch."""


class OrderAnswer(msgspec.Struct, array_like=True, frozen=True):
    """Answer to an order. `status`: of `LOOK`."""

    result: Result
    status: ConnectionStatus | None = None


class AddressedConnection(Protocol):
    """Connection that takes orders."""

    route_name: str
    """Name of its route; empty if it has none."""

    def take_order(self, order: ConnectionOrder) -> OrderAnswer:
        """Carry out an order."""

    def follow_reload(self) -> None:
        """Follow the configuration that is in use from now on."""


_encode: Final = msgspec.msgpack.Encoder().encode
_read_order: Final = msgspec.msgpack.Decoder(ConnectionOrder).decode
_read_answer: Final = msgspec.msgpack.Decoder(OrderAnswer).decode


@final
class AddressedConnections:
    """Connections of this worker by their ids. It listens from the first connection on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._worker = os.urandom(_WORKER_BYTES)
        self._connections: dict[str, AddressedConnection] = {}
        self._by_route: Counter[str] = Counter()
        self._starting: asyncio.Task[asyncio.Server] | None = None
        self._unfinished: set[AddressedConnection] = set()
        self._finished: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def are_unfinished(self) -> bool:
        """Whether one of them has work left that a worker does before it ends, although its client may be gone."""
        return bool(self._unfinished)

    def note_unfinished(self, connection: AddressedConnection) -> None:
        """Let a drain wait for a connection, which bounds that time itself, by `note_finished`."""
        self._unfinished.add(connection)

    def note_finished(self, connection: AddressedConnection) -> None:
        self._unfinished.discard(connection)
        if not self._unfinished and self._finished is not None:
            finished, self._finished = self._finished, None
            if not finished.done():  # otherwise the drain waits no more
                finished.set_result(None)

    async def wait_for_finish(self) -> None:
        """Wait until none of them is unfinished. For one caller at a time."""
        if self._unfinished:
            self._finished = asyncio.get_running_loop().create_future()
            await self._finished

    def following_reload(self) -> Generator[None, None, None]:
        """Notify all connections that a new configuration is in use, one in each step."""
        for connection in tuple(self._connections.values()):
            connection.follow_reload()
            yield

    @property
    def by_route(self) -> Mapping[str, int]:
        """Number of connections by route, of those that have some."""
        return self._by_route

    def new_id(self) -> str:
        """Return an id for a connection of this worker."""
        return urlsafe_b64encode(self._worker + os.urandom(_RANDOM_BYTES)).decode()

    def add(self, connection_id: str, connection: AddressedConnection) -> None:
        """Let a connection be reached. Raises `OSError` if the worker cannot listen."""
        if self._starting is None:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                listening.bind(_address(self._worker))
                listening.listen(_BACKLOG)
            except OSError:
                listening.close()
                raise
            serving = serve_on(listening, partial(_OrderReader, self._connections), backlog=_BACKLOG)
            self._starting = self._loop.create_task(serving)
        self._connections[connection_id] = connection
        self._by_route[connection.route_name] += 1

    def remove(self, connection_id: str) -> None:
        connection = self._connections.pop(connection_id, None)
        if connection is not None:
            self._by_route[connection.route_name] -= 1
            if not self._by_route[connection.route_name]:
                del self._by_route[connection.route_name]

    def close(self) -> None:
        """Listen no more."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        if starting.done() and not starting.cancelled() and starting.exception() is None:
            starting.result().close()
        else:
            starting.cancel()


@final
class _OrderReader(asyncio.Protocol):
    """Reader of the orders of one peer, each with its length in front."""

    def __init__(self, connections: dict[str, AddressedConnection]) -> None:
        self._connections = connections
        self._received = bytearray()
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if not _is_ours(transport.get_extra_info("socket")):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 4 and not self._transport.is_closing():
            length = int.from_bytes(received[:4], "big")
            if length > _MOST_FRAME:
                self._transport.abort()
                return
            if len(received) < 4 + length:
                return
            try:
                order = _read_order(bytes(received[4 : 4 + length]))
            except msgspec.MsgspecError:
                self._transport.abort()
                return
            del received[: 4 + length]
            connection = self._connections.get(order.id)
            answer = OrderAnswer(Result.GONE) if connection is None else connection.take_order(order)
            self._transport.write(_framed(answer))


async def send_order(order: ConnectionOrder) -> OrderAnswer:
    """Send an order to the worker that has the connection, from any process of the node.

    Raises `OSError` (`TimeoutError`) if the worker does not answer.
    """
    if _ID.fullmatch(order.id) is None:
        return OrderAnswer(Result.GONE)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(_address(urlsafe_b64decode(order.id)[:_WORKER_BYTES]))  # at once, or not at all
    except (ConnectionRefusedError, FileNotFoundError):
        sock.close()
        return OrderAnswer(Result.GONE)  # the worker has ended, and its connections with it
    except OSError:
        sock.close()
        raise
    if not _is_ours(sock):
        sock.close()
        return OrderAnswer(Result.GONE)
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            writer.write(_framed(order))
            length = int.from_bytes(await reader.readexactly(4), "big")
            return _read_answer(await reader.readexactly(min(length, _MOST_FRAME)))
    except (EOFError, ConnectionError, msgspec.MsgspecError):
        return OrderAnswer(Result.GONE)  # the worker has ended meanwhile
    finally:
        writer.close()


def _address(worker: bytes) -> str:
    return f"\0fastgw-connections-{worker.hex()}"


def _is_ours(sock: Any) -> bool:
    """Whether the peer has the same user as this process (unix(7))."""
    _, user, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())


def _framed(message: ConnectionOrder | OrderAnswer) -> bytes:
    encoded = _encode(message)
    return len(encoded).to_bytes(4, "big") + encoded
