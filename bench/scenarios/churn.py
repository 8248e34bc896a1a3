"""churn: a new connection for each request."""

from bench.load.wrk import Wrk
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

SCENARIO = Scenario(
    name="churn",
    title="CPU per request on a connection of its own",
    about=(
        "The requests of `plain`, each with `Connection: close` on a connection of its own; those to the origin are "
        "kept alive."
    ),
    peers=(Fastgw(), Nginx(), Haproxy(), Envoy(), Caddy()),
    loads=(Wrk(arguments={"body": "@body.json", "close": 1}),),
    tables=(Table("64 connections", (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), RATE, CORE_USED, P50, P99)),),
    pictures=(Picture(Kind.BARS, "64 connections", "CPU per request on a connection of its own"),),
)
