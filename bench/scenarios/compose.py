"""compose: cost of a response that is composed of three upstream requests, beside three proxied requests."""

from http.client import HTTPException
from pathlib import Path

from bench.load.wrk import Wrk
from bench.origin import BODY
from bench.peers import Fastgw, Nginx
from bench.peers.peer import HOST, Running, routes
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.bodies import LOADS
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Comparison,
    Scenario,
    Table,
)

COMPOSED = "fastgw, composed of three"
PROXIED = "fastgw, one proxied request"
_NAMES = "abc"
EXPECTED = "{" + ",".join(f'"{name}":{BODY}' for name in _NAMES) + "}"
PARTS = [{"name": name, "upstream": "origin", "path": f"/part/{name}", "group": name} for name in _NAMES]
ROUTES = [{"name": route, "paths": [f"/{route}/*"], "compose": {"parts": PARTS}} for route in routes(100)]


ARGUMENTS = {"body": "@body.json", "composed": "@composed.json"}


def write_expected(folder: Path) -> None:
    (folder / "composed.json").write_text(EXPECTED)


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless the response is composed, or that of the origin."""
    client = client_of(running)
    try:
        client.request("GET", "/svc1/v1/proof/7", headers={"Host": HOST, "X-Request-Id": f"{7:032x}"})
        response = client.getresponse()
        expect("body", response.read().decode(), EXPECTED if name == COMPOSED else BODY)
        expect("whether all parts are there", response.getheader("Fastgw-Completed"), _completed(name))
    except (OSError, HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def _completed(name: str) -> str | None:
    return "true" if name == COMPOSED else None


def _base(name: str) -> str | None:
    return PROXIED if name == COMPOSED else None


SCENARIO = Scenario(
    name="compose",
    title="a response composed of three",
    about=(
        "The requests of `plain`. Composed: each is answered with three upstream responses of 1 KB, requested together "
        "and each under a name of its own; the ratio is to three proxied requests. On one connection, where nothing "
        "waits for another request, the difference is the time that composing adds to the slowest part."
    ),
    peers=(Fastgw(COMPOSED, config={"routes": ROUTES}), Fastgw(PROXIED), Nginx("nginx, one proxied request")),
    loads=(
        Wrk(script=LOADS / "compose.lua", arguments=ARGUMENTS),
        Wrk("1 connection", 1, script=LOADS / "compose.lua", arguments=ARGUMENTS),
    ),
    tables=(
        Table(
            "64 connections",
            (
                CPU_US,
                USER_US,
                SYSTEM_US,
                Comparison("ratio to three proxied", CPU_US, _base, lambda name, ours, theirs: ours / (3 * theirs)),
                RATE,
                CORE_USED,
                P50,
                P99,
            ),
        ),
        Table(
            "1 connection",
            (
                P50,
                Comparison("p50 ms more than one proxied", P50, _base, lambda name, ours, theirs: ours - theirs),
                P99,
            ),
        ),
    ),
    prove=prove,
    prepare=write_expected,
)
