"""Attacks that should cost a gateway memory only: idle connections, and request heads that never end.

Connections that the gateway closes are reopened a second later, as an attacker would.
"""

import asyncio
import ipaddress
import resource
import signal
import socket
from urllib.parse import urlsplit

import uvloop

AT_ONCE = 256  # connections being opened concurrently: fewer than any listen backlog
SPARE_FILES = 64
CONNECT_SECONDS = 5.0
TELL_EVERY = 2.0  # seconds
SLOW_HEAD = b"GET / HTTP/1.1\r\nHost: slow.example\r\nX-Slow: "


class CannotHold(Exception):
    """The target or this machine's limits forbid it, or nothing listens there."""


class Crowd:
    """Connections of one kind: how many are wanted and open, and how many the gateway has closed or refused."""

    def __init__(self, name: str, wanted: int) -> None:
        self.name = name
        self.wanted = wanted
        self.closed = 0
        self.refused = 0
        self.live: set[asyncio.Transport] = set()

    def __str__(self) -> str:
        live = f"{self.name}: {len(self.live)} of {self.wanted} live"
        return f"{live}, {self.closed} closed by the gateway, {self.refused} refused"


class Held(asyncio.Protocol):
    """One connection of a crowd. Responses are discarded; it ends when the gateway closes it."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self.transport = transport
        self.crowd.live.add(transport)

    def connection_lost(self, cause: Exception | None) -> None:
        self.crowd.live.discard(self.transport)
        self.crowd.closed += 1


def hold(url: str, connections: int, slow_heads: int, pause: float, seconds: float | None) -> None:
    """Hold connections until Ctrl-C, SIGTERM or for `seconds`. Raises `CannotHold`."""
    address = _loopback_address(url)
    _raise_file_limit(connections + slow_heads + SPARE_FILES)
    _try_once(url, address)
    crowds = Crowd("idle", connections), Crowd("slow heads", slow_heads)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_hold(address, *crowds, pause, seconds))


async def _hold(address: tuple[str, int], idle: Crowd, slow: Crowd, pause: float, seconds: float | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(_keep_full(idle, address)),
                tasks.create_task(_keep_full(slow, address)),
                tasks.create_task(_dribble(slow, pause)),
                tasks.create_task(_tell(idle, slow)),
            ]
            await stopped.wait()
            for task in running:
                task.cancel()
    except TimeoutError:
        pass
    print(f"at the end: {idle}; {slow}", flush=True)
    for transport in [*idle.live, *slow.live]:
        transport.abort()


async def _keep_full(crowd: Crowd, address: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    permits = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> None:
        async with permits:
            try:
                await loop.create_connection(lambda: Held(crowd), *address)
            except OSError:
                crowd.refused += 1

    while True:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(crowd.wanted - len(crowd.live)):
                tasks.create_task(open_one())
        await asyncio.sleep(1.0)


async def _dribble(crowd: Crowd, pause: float) -> None:
    """Send one byte of the request head on every connection each `pause` seconds; after the last name, a header value
    without end.
    """
    sent: dict[asyncio.Transport, int] = {}
    while True:
        sent = {transport: sent.get(transport, 0) for transport in crowd.live}
        for transport, offset in sent.items():
            transport.write(SLOW_HEAD[offset : offset + 1] or b"a")
            sent[transport] = offset + 1
        await asyncio.sleep(pause)


async def _tell(*crowds: Crowd) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY)
        print("; ".join(map(str, crowds)), flush=True)


def _loopback_address(url: str) -> tuple[str, int]:
    """Return the address to connect to. Only this machine may be attacked."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise CannotHold(f"{url}: expected a URL such as http://127.0.0.1:8080")
    try:
        address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)[0][4]
    except OSError as error:
        raise CannotHold(f"{parts.hostname}: {error}") from error
    if not ipaddress.ip_address(address[0]).is_loopback:
        raise CannotHold(f"{parts.hostname} is not this machine; expected a loopback address")
    return str(address[0]), int(address[1])


def _try_once(url: str, address: tuple[str, int]) -> None:
    """Open one connection first: an error of the first one would affect all of them."""
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise CannotHold(f"{url}: no connection can be opened: {error.strerror or error}") from error


def _raise_file_limit(needed: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > most:
        raise CannotHold(f"{needed} open files are needed and the hard limit is {most}; see `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
