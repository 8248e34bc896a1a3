"""tcp: cost of a proxied TCP connection, and of a GiB on one."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load.stream import Direction
from bench.load.tcp import Connections, TcpStream, download, upload
from bench.origin import tcp
from bench.peers import Envoy, Fastgw, Haproxy, Nginx
from bench.peers.peer import HERE, Running
from bench.prove import NotTheSameWork, expect
from bench.scenarios.bodies import PER_GIB
from bench.scenarios.scenario import P50, P99, Figure, Kind, Picture, Scenario, Table, decimals, ratio_to

PROOF_BYTES = 3_000_000
PROOF_SECONDS = 5.0
CPU_US = Figure("CPU us/connection", lambda s: s.cpu_us)
USER_US = Figure("user", lambda s: s.user_s / s.requests * 1e6)
SYSTEM_US = Figure("system", lambda s: s.system_s / s.requests * 1e6)
RATE = Figure("connections/s", lambda s: s.rate, decimals(0))
LOG_FORMAT = (
    'log-format \'{"time":"%Ts.%ms","client":"%ci","bytes":%B,"received":%U,"duration_ms":%Tt,"upstream":"%si:%sp",'
    '"upstream_ms":%Tc}\''
)


@dataclass(frozen=True)
class FastgwTcp(Fastgw):
    """fastgw with a TCP listener."""

    def _configuration(self, origin_port: int, access_log: Path) -> dict[str, Any]:
        return {
            "version": 1,
            "workers": self.workers,
            "listeners": {"public": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "origin"}},
            "access_logs": [{"sink": str(access_log), "format": "json"}],
            "upstreams": {"origin": {"targets": [{"url": f"tcp://127.0.0.1:{origin_port}"}]}},
        }


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless streams are complete in both directions, and half-closed connections continue."""
    try:
        for move in (download, upload):
            with socket.create_connection(("127.0.0.1", running.port), timeout=PROOF_SECONDS) as client:
                move(client, PROOF_BYTES)
        with socket.create_connection(("127.0.0.1", running.port), timeout=PROOF_SECONDS) as client:
            client.sendall(b"Eecho")
            expect("echo", client.recv(5, socket.MSG_WAITALL), b"echo")
    except (OSError, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


SHORT = Connections()
SCENARIO = Scenario(
    name="tcp",
    title="connections passed through as they are",
    about=(
        f"{SHORT.clients} clients that connect, send 100 bytes, get them back and hang up, and come again; then 1 GiB "
        "in one connection, each way. A JSON log with a line for each connection."
    ),
    peers=(
        FastgwTcp(),
        Nginx(routes=0, template=HERE / "nginx-stream.conf"),
        Haproxy(template=HERE / "haproxy-tcp.cfg", log_format=LOG_FORMAT),
        Envoy(template=HERE / "envoy-tcp.yaml"),
    ),
    loads=(
        SHORT,
        TcpStream("1 GiB down", 1 << 30, Direction.DOWN),
        TcpStream("1 GiB up", 1 << 30, Direction.UP),
    ),
    tables=(
        Table(SHORT.name, (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx", CPU_US), RATE, P50, P99)),
        Table("1 GiB down", PER_GIB),
        Table("1 GiB up", PER_GIB),
    ),
    prove=prove,
    origin=tcp.serving,
    pictures=(Picture(Kind.BARS, SHORT.name, "CPU per connection passed through", CPU_US),),
)
