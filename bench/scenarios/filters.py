"""filters: cost of each no-op filter."""

from pathlib import Path

from bench.load.wrk import Wrk
from bench.peers import Fastgw, Nginx
from bench.peers.fastgw import PYTHON
from bench.scenarios.scenario import CPU_US, RATE, SYSTEM_US, USER_US, Comparison, Scenario, Table, ratio_to

COUNTS = (0, 4, 8, 16)
FEW = "fastgw, 4 filters"
COUNT_OF = {f"fastgw, {count} filters": count for count in COUNTS}
LAUNCHER = Path(__file__).parents[1] / "peers" / "launchers" / "with_noop.py"


def _per_filter(name: str, ours: float, theirs: float) -> float:
    return (ours - theirs) / (COUNT_OF[name] - COUNT_OF[FEW])


def _with_few(name: str) -> str | None:
    return FEW if COUNT_OF.get(name, 0) > COUNT_OF[FEW] else None


SCENARIO = Scenario(
    name="filters",
    title="what a filter costs that does nothing",
    about=(
        "The requests of `plain` through 0, 4, 8 and 16 instances of a filter whose one step lets every request pass; "
        "us per filter is the difference to 4, divided by how many there are more. The first one costs more than the "
        "others: something has to be made that it can look at. `bench.micro chain` times the steps alone."
    ),
    peers=(
        *(
            Fastgw(
                name,
                command=(PYTHON, LAUNCHER),
                config={"filters": {f"noop{number}": {"type": "noop"} for number in range(count)}},
            )
            for name, count in COUNT_OF.items()
        ),
        Nginx(),
    ),
    loads=(Wrk(arguments={"body": "@body.json"}),),
    thorough=frozenset({"fastgw, 8 filters"}),
    tables=(
        Table(
            "64 connections",
            (
                CPU_US,
                USER_US,
                SYSTEM_US,
                Comparison("us per filter", CPU_US, _with_few, _per_filter),
                Comparison("user us per filter", USER_US, _with_few, _per_filter),
                ratio_to("nginx"),
                RATE,
            ),
        ),
    ),
)
