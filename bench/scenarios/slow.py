"""slow: latency of other clients with 2,000 slow ones."""

from bench.load.beside import BesideSlowOnes
from bench.load.h2load import FixedRate
from bench.load.wrk import Wrk
from bench.peers import Envoy, Fastgw, Haproxy, Nginx
from bench.scenarios.scenario import (
    CPU_US,
    P50,
    P90,
    P99,
    P999,
    RATE,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)

ALONE = FixedRate("alone", share=0.25)
BESIDE = BesideSlowOnes("beside 2,000 slow ones", ALONE)
COLUMNS = (P50, P90, P99, P999, ratio_to("nginx", P99), CPU_US, RATE)

SCENARIO = Scenario(
    name="slow",
    title="latency of good clients while 2,000 slow ones hang on",
    about=(
        "A quarter of nginx's saturation at a fixed rate, alone and beside 2,000 clients that send a request head "
        "without end, a byte every 3 s each; who is cut off comes again. Latency counts from when a request was due."
    ),
    peers=(Fastgw(), Nginx(), Haproxy(), Envoy()),
    rounds_of=2,
    loads=(Wrk(arguments={"body": "@body.json"}), ALONE, BESIDE),
    tables=(Table(ALONE.name, COLUMNS), Table(BESIDE.name, COLUMNS)),
    pictures=(Picture(Kind.LINES, BESIDE.name, "Latency of good clients beside 2,000 slow ones"),),
)
