"""upload: request bodies of 1 MiB and 1 GiB, and the cost of a GiB."""

from bench.load.stream import Direction, Stream
from bench.origin import streams
from bench.scenarios.bodies import PEERS, PER_GIB, different, posting
from bench.scenarios.scenario import (
    CPU_PER_GIB,
    Kind,
    Picture,
    Scenario,
    Table,
)

SIZE = 1 << 20

SCENARIO = Scenario(
    name="upload",
    title="request bodies of 1 MiB and 1 GiB",
    about=(
        "Random bodies of 1 MiB on 16 connections, of which the origin answers the CRC-32; then 1 GiB in one stream. "
        "100 routes, forwarding fields, a JSON access log. No contestant keeps bodies in files."
    ),
    peers=PEERS,
    thorough=frozenset({"caddy"}),
    loads=(posting("1 MiB", 16, SIZE, count=64), Stream("1 GiB", 1 << 30, Direction.UP)),
    tables=(Table("1 MiB", PER_GIB), Table("1 GiB", PER_GIB)),
    origin=streams.serving,
    prepare=different(16, SIZE),
    pictures=(Picture(Kind.BARS, "1 MiB", "CPU seconds per GiB of uploads of 1 MiB", CPU_PER_GIB),),
)
