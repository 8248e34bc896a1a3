"""reload: latency of requests during configuration changes."""

from bench.load.h2load import FixedRate
from bench.load.reloading import Reloading
from bench.load.wrk import Wrk
from bench.peers.peer import Running
from bench.peers.reloaded import ReloadedFastgw
from bench.prove import prove
from bench.samples import Sample
from bench.scenarios.scenario import P50, P99, Figure, Scenario, Table, decimals

COUNTS = (10, 1_000, 10_000)
ASKED = 10
FEWEST = "fastgw, 10 routes"
UNDER = Reloading("half load, reloading", FixedRate(of=FEWEST, asked=ASKED))


def _ms(figure: str, heading: str) -> Figure:
    return Figure(heading, lambda s: s.figures[f"{figure}_s"] * 1e3, decimals(0))


def _us(figure: str, heading: str) -> Figure:
    return Figure(heading, lambda s: s.figures[f"{figure}_us"] / 1e3)


def _later(figure: str) -> Figure:
    """Return the difference in latency with and without reloads, in the same round."""

    def of(sample: Sample) -> float:
        return (sample.figures[f"{figure}_us"] - sample.figures[f"alone_{figure}_us"]) / 1e3

    return Figure(f"{figure} ms later", of)


def _prove(name: str, running: Running) -> None:
    prove(name, running, ASKED)


SCENARIO = Scenario(
    name="reload",
    title="latency while one configuration after another is taken",
    about=(
        "Half the rate at which fastgw with 10 routes is saturated, to ten routes, with and without reloads 50 ms "
        "apart; latency counts from when a request was due. One route in ten is another each time, where the name "
        "does not say all. The contestant's one core is that of its worker and of everything that a reload takes: "
        "reading, checking, building. A configuration is applied when the admin listener answers that all workers "
        "serve it. To check is to read, check, compile and compare, without a load."
    ),
    peers=(
        *(ReloadedFastgw(f"fastgw, {count:,} routes", routes=count) for count in COUNTS),
        ReloadedFastgw("fastgw, 10,000 routes, all change", routes=10_000, change_all=True),
    ),
    loads=(Wrk(arguments={"body": "@body.json", "routes": ASKED}), UNDER),
    tables=(
        Table(
            UNDER.name,
            (
                P50,
                _us("alone_p99", "p99 ms, no reload"),
                P99,
                _us("alone_max", "max ms, no reload"),
                _us("max", "max ms"),
                _later("p99"),
                _later("max"),
                Figure("reloads", lambda s: s.figures["reloads"], decimals(0)),
                _ms("apply", "apply ms"),
                _ms("alone_apply", "apply ms, no load"),
                _ms("alone_check", "of it to check"),
            ),
        ),
    ),
    prove=_prove,
    thorough=frozenset({"fastgw, 1,000 routes"}),
)
