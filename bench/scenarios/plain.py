"""plain: cost of a request that is only routed, forwarded and logged."""

from bench.load.h2load import FixedRate
from bench.load.wrk import Wrk
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P90,
    P99,
    P999,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

CPU = (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), ratio_to("nginx (no log)"), RATE, CORE_USED, P50, P90, P99, P999)
BODY_OF_ANSWERS = {"body": "@body.json"}

SCENARIO = Scenario(
    name="plain",
    title="CPU per proxied request",
    about=(
        "1,000 different requests of about 1 KB, 100 routes, forwarding fields; a JSON access log unless the name says "
        "otherwise. Half load is a fixed rate, half of nginx's at 64 connections, for three times as long, and latency "
        "there counts from when a request was due; a contestant that is saturated by less has no row."
    ),
    peers=(
        Fastgw(),
        Nginx(),
        Nginx("nginx (no log)", logs=False),
        Haproxy(),
        Haproxy("haproxy (no log)", logs=False),
        Envoy(),
        Caddy(),
    ),
    loads=(
        Wrk(arguments=BODY_OF_ANSWERS),
        Wrk("16 connections", 16, arguments=BODY_OF_ANSWERS),
        FixedRate(times_as_long=3),
    ),
    tables=(
        Table("64 connections", CPU),
        Table("16 connections", CPU),
        Table("half load", (*CPU, ratio_to("nginx", P99))),
    ),
    thorough=frozenset({"nginx (no log)", "haproxy (no log)"}),
    pictures=(
        Picture(Kind.BARS, "64 connections", "CPU per proxied request, 64 connections"),
        Picture(Kind.LINES, "half load", "Latency at half of nginx's saturation, from when each request was due"),
    ),
)
