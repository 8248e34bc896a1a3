"""waf: cost of the rules of the firewall for a GET, and latency of other requests beside the OWASP Core Rule Set."""

from bench.load.beside import BesideRequests
from bench.load.h2load import FixedRate
from bench.load.wrk import Wrk
from bench.peers import Fastgw
from bench.peers.peer import routes
from bench.scenarios.scenario import (
    CPU_US,
    P50,
    P99,
    P999,
    RATE,
    SYSTEM_US,
    USER_US,
    Comparison,
    Scenario,
    Table,
)

NONE, OWN, CRS = "fastgw, no firewall", "fastgw, own rules", "fastgw, CRS on another route"
BESIDE = "beside 50 POST requests per second"
PER_SECOND = 50
_BODY = b'{"note":"' + b"It's a test of the rules, and of their speed. " * 20 + b'"}'


def _beside(waf: object) -> dict[str, object]:
    """Return the configuration with a route of its own for the requests beside the load."""
    filters = {"filters": {"waf": waf}} if waf is not None else {}
    plain = [{"name": route, "paths": [f"/{route}/*"], "upstream": "origin"} for route in routes(100)]
    return {"routes": [*plain, {"name": "beside", "paths": ["/beside/*"], "upstream": "origin", **filters}]}


def _none(name: str) -> str | None:
    return None if name == NONE else NONE


def _more(name: str, ours: float, theirs: float) -> float:
    return ours - theirs


MORE_P99 = Comparison("p99: ms more than without", P99, _none, _more)
LOAD = Wrk(arguments={"body": "@body.json"})
LATENCY = Wrk("16 connections", 16, arguments={"body": "@body.json"})
QUARTER = f"a quarter of the load, {BESIDE}"
AT_RATE = FixedRate("a quarter of the load", 0.25, NONE, times_as_long=2)

SCENARIO = Scenario(
    name="waf",
    title="requests inspected by a firewall",
    about=(
        "The requests of `plain`, inspected by the rules of fastgw or not. Then the same on 16 connections, while "
        f"another client sends {PER_SECOND} POST requests per second with a JSON body of 1 KB to a route, which the "
        "OWASP Core Rule Set inspects in a helper process, on the core of the gateway like its worker, or which is not "
        "inspected; and once more at a quarter of the rate at which fastgw is saturated without a firewall."
    ),
    peers=(
        Fastgw(NONE, routes=101, config=_beside(None)),
        Fastgw(OWN, routes=101, config={**_beside(None), "filters": {"waf": {}}}),
        Fastgw(CRS, routes=101, config=_beside({"rules": "none", "crs": {"deadline": "1s"}})),
    ),
    loads=(
        LOAD,
        BesideRequests(BESIDE, LATENCY, PER_SECOND, "/beside/order", _BODY),
        BesideRequests(QUARTER, AT_RATE, PER_SECOND, "/beside/order", _BODY),
    ),
    tables=(
        Table(
            LOAD.name,
            (CPU_US, USER_US, SYSTEM_US, Comparison("CPU us more than without", CPU_US, _none, _more), RATE),
        ),
        Table(BESIDE, (P50, P99, P999, MORE_P99, RATE)),
        Table(QUARTER, (P50, P99, P999, MORE_P99, RATE)),
    ),
)
