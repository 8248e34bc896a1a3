"""path: transfers over long paths, at the clients' side and at that of the upstreams."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.load.path import RELAY_PORT, ROUND_TRIPS_MS, UPSTREAM_HTTP2, LongPath, Side, body_file, column
from bench.load.relay import relaying
from bench.load.stream import Direction, blocks
from bench.origin import streams
from bench.peers import Caddy, Envoy, Fastgw, Nginx, Running
from bench.peers.programs import find_program
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.scenarios import tls
from bench.scenarios.bodies import NGINX
from bench.scenarios.grpc import ENVOY_HTTP2
from bench.scenarios.scenario import THREE_DECIMALS, Figure, Scenario, Table
from bench.templates import render

SIZES = (1000, 5_000_000, 50_000_000)
LOADS = tuple(LongPath(side, direction, size) for side in Side for direction in Direction for size in SIZES)
IN_MEMORY = "client_max_body_size 0; client_body_buffer_size 64m; proxy_max_temp_file_size 0;"
FASTGW = {**tls.FASTGW, "limits": {"body_bytes": "1GiB"}}


def _seconds(heading: str) -> Figure:
    return Figure(heading, lambda sample: sample.figures[heading], THREE_DECIMALS)


def _table(load: LongPath) -> Table:
    return Table(load.name, [_seconds(column(version, each)) for version in load.versions for each in ROUND_TRIPS_MS])


def prepare(folder: Path) -> None:
    tls.prepare(folder)
    for size in SIZES:
        (folder / body_file(size)).write_bytes(b"".join(blocks(size)))


def prove(name: str, running: Running) -> None:
    """Leave it to the loads, which check each transfer."""


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin of streams, nginx before it for HTTP/2, and a relay that is the path to both; yield its port."""
    http2_port = free_port()
    with streams.serving(folder, core) as origin_port:
        config = render(
            Path(streams.__file__).parent / "http2.conf",
            folder / "http2.conf",
            folder=folder,
            port=http2_port,
            origin_port=origin_port,
        )
        with pinned([*find_program("nginx").command, "-c", config], [core], folder / "http2.out") as nginx:
            wait_until_open(http2_port, nginx)
            with relaying(folder, core, origin_port, http2_port) as port:
                (folder / RELAY_PORT).write_text(str(port))
                yield port


SCENARIO = Scenario(
    name="path",
    title="seconds of a transfer over a long path",
    about=(
        "Bodies of 1 kB, 5 MB and 50 MB over round trips of 0, 20, 80 and 200 ms, by a relay that delays bytes, at any "
        "rate and without loss. Clients far away: a new connection of curl for each, over TLS. Upstreams far away: the "
        "contestant has a connection, in clear text; over HTTP/2 to nginx, whose window for uploads is its own choice. "
        "nginx keeps no bodies in files: as by default it reads all of a request first; unbuffered, as little as the "
        "others do."
    ),
    peers=(
        Fastgw(config=FASTGW),
        Nginx(fill={"listen": "ssl http2", "server": tls.NGINX["server"] + IN_MEMORY}),
        Nginx("nginx, unbuffered", fill={"listen": "ssl http2", "server": tls.NGINX["server"] + NGINX["server"]}),
        Envoy(fill=tls.envoy("h2,http/1.1")),
        Caddy(fill={**tls.CADDY, "global": tls.CADDY["global"].replace("h1", "h1 h2")}),
        Fastgw("fastgw" + UPSTREAM_HTTP2, config={**FASTGW, "upstream": {"protocol": "http2"}}),
        Envoy("envoy" + UPSTREAM_HTTP2, fill={**tls.envoy("h2,http/1.1"), "origin": ENVOY_HTTP2}),
    ),
    loads=LOADS,
    tables=tuple(map(_table, LOADS)),
    prove=prove,
    origin=serving,
    prepare=prepare,
    rounds_of=2,
)
