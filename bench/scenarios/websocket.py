"""websocket: cost of a message echoed through the gateway's tunnel."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench.load import frames
from bench.load.websocket import Messages
from bench.origin import echo
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx, Peer, Place, Running
from bench.peers.peer import HOST, routes
from bench.prove import NotTheSameWork, expect
from bench.scenarios.scenario import (
    CORE_USED,
    P50,
    P90,
    P99,
    P999,
    Figure,
    Kind,
    Picture,
    Scenario,
    Table,
    decimals,
    ratio_to,
)

LOAD = Messages()
CPU_US = Figure("CPU us/message", lambda s: s.cpu_us)
USER_US = Figure("user", lambda s: s.user_s / s.requests * 1e6)
SYSTEM_US = Figure("system", lambda s: s.system_s / s.requests * 1e6)
RATE = Figure("messages/s", lambda s: s.rate, decimals(0))
PROOF_SIZES = (0, 1, 125, 126, 65_535, 65_536, 300_000)  # all forms of a frame's length, and more than a buffer holds
PROOF_SECONDS = 5.0
PROOF_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


@dataclass(frozen=True)
class Tunnels:
    """Peer with tunnels. Its log has a line for each tunnel, so its lines are not compared with messages."""

    peer: Peer

    @property
    def name(self) -> str:
        return self.peer.name

    @property
    def workers(self) -> int:
        return self.peer.workers

    def version(self) -> str | None:
        return self.peer.version()

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        with self.peer.running(place) as running:
            yield replace(running, access_log=None)


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless messages of all lengths are echoed, and only known routes have a tunnel."""
    try:
        with _opened(running, "/elsewhere") as (_, status):
            expect("status of an unknown path", status, 404)
        for number in (0, 99):
            with _opened(running, f"/svc{number}/socket") as (client, status):
                expect("status of the opening handshake", status, 101)
                for size in PROOF_SIZES:
                    message = random.Random(size).randbytes(size)
                    client.sendall(frames.from_client(frames.BINARY, message, b"\x01\xfe\x80\x7f"))
                    expected = frames.from_server(frames.BINARY, message)
                    expect(f"echo of {size} bytes", _read(client, len(expected)) == expected, True)
                client.sendall(frames.from_client(frames.CLOSE, b"\x03\xe8", b"\x01\xfe\x80\x7f"))
                farewell = frames.from_server(frames.CLOSE, b"\x03\xe8")
                expect("what follows a close", _read(client, len(farewell) + 1), farewell)
    except (OSError, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


@contextmanager
def _opened(running: Running, path: str) -> Iterator[tuple[socket.socket, int]]:
    """Open a connection and its handshake; return it with the response status."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=PROOF_SECONDS) as client:
        client.sendall(frames.opening(HOST, path, PROOF_KEY))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            octet = client.recv(1)
            if not octet:
                raise ValueError(f"closed in the opening handshake: {head!r}")
            head += octet
        status = int(head.split(b" ", 2)[1])
        if status == 101:
            expect("Sec-WebSocket-Accept", frames.accept_of(PROOF_KEY) in head, True)
        yield client, status


def _read(client: socket.socket, size: int) -> bytes:
    """Read this many bytes, or all until the end."""
    received = b""
    while len(received) < size and (more := client.recv(size - len(received))):
        received += more
    return received


NGINX = {
    "http": 'map $http_upgrade $connection_upgrade { default upgrade; "" ""; }',
    "server": "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;",
}
ROUTES = [
    {"name": route, "paths": [f"/{route}/*"], "upstream": "origin", "upgrade": ["websocket"]} for route in routes(100)
]

SCENARIO = Scenario(
    name="websocket",
    title="CPU per message echoed through a tunnel",
    about=(
        f"{LOAD.connections} connections to as many routes, on each of which {LOAD.in_flight} messages of 16 to 1,024 "
        "bytes are always under way; each passes through the gateway to an echo server and back."
    ),
    peers=(
        Tunnels(Fastgw(config={"routes": ROUTES})),
        Tunnels(Nginx(fill=NGINX)),
        Tunnels(Haproxy(fill={"defaults": "timeout tunnel 1h"})),
        Tunnels(Envoy(fill={"connection": "                upgrade_configs: [{upgrade_type: websocket}]"})),
        Tunnels(Caddy()),
    ),
    loads=(LOAD,),
    tables=(
        Table(
            LOAD.name,
            (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx", CPU_US), RATE, CORE_USED, P50, P90, P99, P999),
        ),
    ),
    prove=prove,
    origin=echo.serving,
    pictures=(Picture(Kind.BARS, LOAD.name, "CPU per message echoed through a tunnel", CPU_US),),
)
