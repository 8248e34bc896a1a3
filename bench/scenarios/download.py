"""download: response bodies of 1 MiB and 1 GiB, and the cost of a GiB."""

from bench.load.stream import Direction, Stream
from bench.load.wrk import Wrk
from bench.origin import streams
from bench.scenarios.bodies import LOADS, PEERS, PER_GIB
from bench.scenarios.scenario import (
    CPU_PER_GIB,
    Kind,
    Picture,
    Scenario,
    Table,
)

SIZE = 1 << 20

SCENARIO = Scenario(
    name="download",
    title="response bodies of 1 MiB and 1 GiB",
    about=(
        "Bodies of 1 MiB on 16 connections, cut at different places from a random pattern; then 1 GiB in one stream. "
        "100 routes, forwarding fields, a JSON access log. No contestant keeps bodies in files."
    ),
    peers=PEERS,
    thorough=frozenset({"caddy"}),
    loads=(
        Wrk(
            "1 MiB",
            16,
            script=LOADS / "download.lua",
            arguments={"pattern": "@pattern", "size": SIZE},
            body_bytes=SIZE,
        ),
        Stream("1 GiB", 1 << 30, Direction.DOWN),
    ),
    tables=(Table("1 MiB", PER_GIB), Table("1 GiB", PER_GIB)),
    origin=streams.serving,
    prepare=streams.write_pattern,
    pictures=(Picture(Kind.BARS, "1 MiB", "CPU seconds per GiB of downloads of 1 MiB", CPU_PER_GIB),),
)
