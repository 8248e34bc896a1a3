"""workers: cost of a request with one worker and with two."""

from bench.load.wrk import Wrk
from bench.peers import Fastgw, Nginx
from bench.scenarios.scenario import CPU_US, P50, P99, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table, ratio_to


def _with_one(name: str) -> str:
    return name.removesuffix(", 2 workers")


SCENARIO = Scenario(
    name="workers",
    title="CPU per request with one worker and with two",
    about=(
        "The requests of `plain`. Two workers have two cores, of which the load and the origin share the second: their "
        "requests/s tell nothing on a machine with two cores, their CPU per request does."
    ),
    peers=(
        Fastgw(),
        Fastgw("fastgw, 2 workers", workers=2),
        Nginx(),
        Nginx("nginx, 2 workers", workers=2),
    ),
    loads=(Wrk(arguments={"body": "@body.json"}),),
    tables=(
        Table(
            "64 connections",
            (
                CPU_US,
                USER_US,
                SYSTEM_US,
                Comparison("ratio to itself with one", CPU_US, _with_one),
                ratio_to("nginx"),
                RATE,
                P50,
                P99,
            ),
        ),
    ),
)
