"""routes: cost of a request with 10, 1,000 and 10,000 routes."""

from bench.load.wrk import Wrk
from bench.peers import Fastgw, Haproxy, Nginx
from bench.peers.peer import Running
from bench.prove import prove
from bench.scenarios.scenario import (
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Comparison,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

COUNTS = (10, 1_000, 10_000)


def _named(program: str, count: int) -> str:
    return f"{program}, {count:,} routes"


COUNT_OF = {_named(program, count): count for program in ("fastgw", "nginx", "haproxy") for count in COUNTS}


def _with_fewest(name: str) -> str:
    return _named(name.partition(",")[0], COUNTS[0])


def _prove(name: str, running: Running) -> None:
    """Verify the first hundred routes; the load itself covers the others."""
    prove(name, running, min(COUNT_OF[name], 100))


SCENARIO = Scenario(
    name="routes",
    title="CPU per request with 10, 1,000 and 10,000 routes",
    about="1,000 different requests of about 1 KB to routes all over the table; forwarding fields, a JSON access log.",
    peers=(
        *(Fastgw(_named("fastgw", count), routes=count) for count in COUNTS),
        *(Nginx(_named("nginx", count), routes=count) for count in COUNTS),
        *(Haproxy(_named("haproxy", count), routes=count) for count in COUNTS),
    ),
    loads=(
        Wrk(
            arguments={"body": "@body.json"},
            arguments_of={name: {"routes": count} for name, count in COUNT_OF.items()},
        ),
    ),
    tables=(
        Table(
            "64 connections",
            (
                CPU_US,
                USER_US,
                SYSTEM_US,
                Comparison("ratio to itself with 10 routes", CPU_US, _with_fewest),
                ratio_to(_named("nginx", COUNTS[0])),
                RATE,
                P50,
                P99,
            ),
        ),
    ),
    prove=_prove,
    thorough=frozenset(_named("haproxy", count) for count in COUNTS),
    pictures=(Picture(Kind.BARS, "64 connections", "CPU per request by number of routes"),),
)
