"""plain: what each request through a gateway costs that only routes, forwards and logs."""

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
    Scenario,
    Table,
    ratio_to,
)

CPU = (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), ratio_to("nginx (no log)"), RATE, CORE_USED, P50, P90, P99, P999)
BODY = {"body": "@body.json"}

SCENARIO = Scenario(
    name="plain",
    title="CPU per proxied request",
    about=(
        "1,000 different requests of about 1 KB, 100 routes, forwarding fields; a JSON access log unless the name says "
        "otherwise."
    ),
    peers=(
        Fastgw(),
        Fastgw("fastgw (pure Python)", environment={"FASTGW_PURE_PYTHON": "1"}),
        Nginx(),
        Nginx("nginx (no log)", logs=False),
        Haproxy(),
        Haproxy("haproxy (no log)", logs=False),
        Envoy(),
        Caddy(),
    ),
    loads=(Wrk(arguments=BODY), Wrk("16 connections", 16, arguments=BODY), FixedRate()),
    tables=(Table("64 connections", CPU), Table("16 connections", CPU), Table("half load", CPU)),
)
