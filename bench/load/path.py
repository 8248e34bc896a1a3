"""Transfers over long paths: each on a new connection of curl, or from an upstream at some distance."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.load.load import Environment
from bench.load.relay import relaying, set_round_trip
from bench.load.stream import Direction
from bench.peers.peer import HOST, Running
from bench.samples import Told

ROUND_TRIPS_MS = (0, 20, 80, 200)
RELAY_PORT = "relay-port"
"""File with the port of the relay before the origin."""
VERSIONS = {"HTTP/1.1": "--http1.1", "HTTP/2": "--http2"}
UPSTREAM_HTTP2 = ", upstream by HTTP/2"
"""End of the names of contestants that forward over HTTP/2."""
PATIENCE_S = 60


class Side(Enum):
    CLIENT = "clients"
    UPSTREAM = "upstreams"


def column(version: str, round_trip_ms: int) -> str:
    return f"{version}, {round_trip_ms} ms" if version else f"{round_trip_ms} ms"


def body_file(size: int) -> str:
    return f"body-{size}"


@dataclass(frozen=True)
class LongPath:
    """One transfer for each round trip. The figures are seconds, by `column`.

    At the clients' side each is over both versions, with a new connection and its TLS handshake; at the upstreams' side
    the contestant's connection is there.
    """

    side: Side
    direction: Direction
    size: int

    @property
    def name(self) -> str:
        size = f"{self.size // 1_000_000} MB" if self.size >= 1_000_000 else f"{self.size // 1000} kB"
        return f"{self.direction.value} of {size}, {self.side.value} far away"

    @property
    def cut_off(self) -> int:
        return 0

    @property
    def versions(self) -> tuple[str, ...]:
        return (*VERSIONS,) if self.side is Side.CLIENT else ("",)

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        if self.side is Side.CLIENT and name.endswith(UPSTREAM_HTTP2):
            return None
        origin_relay = int((environment.folder / RELAY_PORT).read_text())
        figures: dict[str, float] = {}
        faults: dict[str, int] = {}
        with ExitStack() as started:
            moved, port = origin_relay, running.port
            if self.side is Side.CLIENT:
                moved = port = started.enter_context(relaying(environment.folder, environment.core, running.port))
            started.callback(set_round_trip, origin_relay, 0)
            requests = 0
            for version, round_trip in self._cases():
                set_round_trip(moved, round_trip)
                if self.side is Side.UPSTREAM:
                    _transfer(port, version, Direction.DOWN, 1, environment.folder)  # it has a connection then
                    requests += 1
                told = _transfer(port, version, self.direction, self.size, environment.folder)
                requests += 1
                status, spoken, length, seconds_taken = told.split()
                figures[column(version, round_trip)] = float(seconds_taken)
                if (status, f"HTTP/{spoken}", int(length)) != ("200", version or "HTTP/1.1", self.size):
                    faults[f"{column(version, round_trip)}: {told}"] = 1
        return Told(requests, sum(figures.values()), figures, faults)

    def _cases(self) -> Iterator[tuple[str, int]]:
        for version in self.versions:
            for round_trip in ROUND_TRIPS_MS:
                yield version, round_trip


def _transfer(port: int, version: str, direction: Direction, size: int, folder: Path) -> str:
    """Return status, version, length and seconds of a transfer."""
    command = ["curl", "-sk", "--max-time", str(PATIENCE_S), "-o", "/dev/null", "-H", f"Host: {HOST}", "-H", "Expect:"]
    told = "%{http_code} %{http_version} %{size_download} %{time_total}"
    if direction is Direction.UP:
        told = told.replace("download", "upload")
        command += ["-X", "POST", "-T", str(folder / body_file(size))]
    path = "/svc7/v1/files" if direction is Direction.UP else f"/svc7/stream/{size}?from=0"
    command += ["-w", told, VERSIONS[version or "HTTP/1.1"], f"https://127.0.0.1:{port}{path}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE_S).stdout
