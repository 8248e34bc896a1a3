"""egress: cost of an API call with a token that the gateway fetches, and of very many APIs."""

import http.client

from bench.load.at_rest import AtRest
from bench.load.wrk import Wrk
from bench.origin import BODY, tokens
from bench.peers import Fastgw
from bench.peers.egress import EgressFastgw
from bench.peers.peer import HOST, Running
from bench.prove import NotTheSameWork, client_of, expect
from bench.scenarios.scenario import (
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Figure,
    Kind,
    Picture,
    Scenario,
    Table,
    decimals,
    ratio_to,
)

PLAIN, ONE, MANY = "fastgw, a plain route", "fastgw, 1 x 1 with OAuth", "fastgw, 1,000 x 5 with OAuth"
APPS, SERVICES = 1_000, 5
AT_REST = AtRest()


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless calls get responses, and those of the egress role carry the API's token."""
    client = client_of(running)
    try:
        client.request("GET", "/svc0/v1/items/7?page=2", headers={"Host": HOST})
        answer = client.getresponse()
        expect("the answer", (answer.status, answer.read()), (200, BODY.encode()))
        client.request("GET", "/elsewhere", headers={"Host": HOST})
        answer = client.getresponse()
        answer.read()
        expect("an unknown path refused", answer.status in (400, 404), True)
        if name != PLAIN:
            client.request("GET", "/svc0/v1/shown", headers={"Host": HOST, "Authorization": "Bearer own"})
            shown = client.getresponse().read()
            expect("the token shown to the API", shown, b"Bearer " + tokens.ACCESS_TOKEN)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


SCENARIO = Scenario(
    name="egress",
    title="calls with a token that the gateway has fetched",
    about=(
        "The requests of `plain`, to one route, and as an application's calls to an API: the token, which is held, is "
        "put in the place of the client's Authorization, and the answer is looked at for an error, a redirect and a "
        "refusal. 1,000 applications of 5 services each have a route, an upstream and filters for each of these; one "
        "service of each is called. One application in ten is another in each reload. Memory is that of all processes, "
        "before the load."
    ),
    peers=(Fastgw(PLAIN, routes=1), EgressFastgw(ONE), EgressFastgw(MANY, apps=APPS, services=SERVICES)),
    loads=(
        AT_REST,
        Wrk(
            arguments={"body": "@body.json"},
            arguments_of={PLAIN: {"routes": 1}, ONE: {"routes": 1}, MANY: {"routes": APPS}},
        ),
    ),
    tables=(
        Table("64 connections", (CPU_US, USER_US, SYSTEM_US, ratio_to(PLAIN), ratio_to(ONE), RATE, P50, P99)),
        Table(
            AT_REST.name,
            (
                Figure("MiB", lambda s: s.figures["bytes"] / (1 << 20), decimals(1)),
                Figure("reload ms", lambda s: s.figures["apply_s"] * 1e3, decimals(0)),
                Figure("of it to check", lambda s: s.figures["check_s"] * 1e3, decimals(0)),
            ),
        ),
    ),
    prove=prove,
    origin=tokens.serving,
    pictures=(Picture(Kind.BARS, "64 connections", "CPU per call"),),
)
