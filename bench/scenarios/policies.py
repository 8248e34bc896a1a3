"""policies: cost of authentication by JWT, a rate limit per consumer, and CORS.

Tokens are JWTs signed with RS256, the usual default of identity providers, which all peers can verify. HAProxy has no
token cache, so it verifies one for each request. With HS256, for which every gateway would need the issuer's secret, it
costs 1.5 times nginx without a policy instead of 2.3; the others, which have a cache, cost the same.
"""

import http.client
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from bench import prove as plain
from bench.load.tokens import AUDIENCE, ISSUER, token, write_public_key
from bench.load.wrk import Wrk
from bench.peers import Envoy, Fastgw, Haproxy, LeftOut, Nginx, Running
from bench.peers.peer import HERE, HOST, routes
from bench.peers.programs import find_program
from bench.prove import NotTheSameWork, client_of, expect
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
from bench.templates import ConfigTemplate

CONSUMERS = 100
TOKENS = 1000  # one for each request of requests.lua, ten for each consumer
ORIGIN = "https://app.example"
WINDOW_SECONDS = 3600
AMPLE = 4_000_000
POOR, SCARCE = "poor", 5  # the consumer whose limit is exceeded in the verification
SCARCE_PATH = "/svc0/scarce"  # its route: fastgw limits by route
ROUTES = 100
METRICS = "metrics.sock"
MODULES, LUA, LUA_C = "usr/lib/nginx/modules", "usr/share/lua/5.1", "usr/lib/*-linux-gnu/lua/5.1"
"""Where Debian has nginx's modules for Lua."""
PUBLIC_KEY, JWKS = "../public.pem", "../jwks.json"  # in the run's folder; each contestant has its own below it
YARDSTICK = "nginx (no policy)"
FRAGMENTS = HERE / "policies"
METRICS_SECONDS = 3.0  # maximum time until a request appears in the counters
TOLD_BY = {
    "nginx + lua": ("/metrics", r"^requests_total\S* (\d+)$"),
    "haproxy": ("/metrics", r'^haproxy_frontend_http_requests_total\{proxy="public"\} (\d+)$'),
    "envoy": ("/stats/prometheus", r"^envoy_http_downstream_rq_total\{\S*public\S*\} (\d+)$"),
    "fastgw": ("/metrics", r"^fastgw_requests_total\S* (\d+)(?:\.0)?$"),
}
"""How a contestant reports its counters on the socket metrics.sock in its folder, and which of them count requests."""


def fill(program: str) -> Mapping[str, str]:
    """Fragments of a program's template for the policies, by place."""
    nginx = find_program("nginx")
    values = {
        "scripts": FRAGMENTS,
        "modules": "modules" if nginx.root == Path("/") else nginx.root / MODULES,
        "lua": nginx.root / LUA,
        "lua_c": next(nginx.root.glob(LUA_C), ""),
        "key": PUBLIC_KEY,
        "jwks": JWKS,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "origin": ORIGIN,
        "window_s": WINDOW_SECONDS,
        "ample": AMPLE,
        "poor": POOR,
        "scarce": SCARCE,
        "routes": ", ".join(f'"{route}"' for route in routes(ROUTES)),
    }
    fragments = (FRAGMENTS / program).iterdir()
    return {file.stem: ConfigTemplate(file.read_text()).substitute(values).rstrip("\n") for file in fragments}


@dataclass(frozen=True)
class NginxLua(Nginx):
    """nginx with the Lua module of OpenResty, on which Kong and APISIX are built."""

    def version(self) -> str | None:
        told = super().version()
        if told is not None and not (_modules() / "ngx_http_lua_module.so").exists():
            raise LeftOut(f"{_modules()} has no ngx_http_lua_module.so")
        return told


def _modules() -> Path:
    nginx = find_program("nginx")
    built = subprocess.run([*nginx.command, "-V"], stderr=subprocess.PIPE, text=True, check=True).stderr
    folder = re.search(r"--modules-path=(\S+)", built)
    return nginx.root / (folder[1] if folder else "").lstrip("/")


@dataclass(frozen=True)
class MeteredFastgw(Fastgw):
    """fastgw with a status listener on the socket in its folder."""

    def _configuration(self, origin_port: int, access_log: Path) -> dict[str, Any]:
        status = {"address": f"unix:{access_log.with_name(METRICS)}"}
        return {**super()._configuration(origin_port, access_log), "status": status}


def _fastgw() -> MeteredFastgw:
    limit = {"limit": AMPLE, "window": f"{WINDOW_SECONDS}s", "key": "consumer", "headers": "none"}
    filters = {
        "cors": {"origins": [ORIGIN]},
        "jwt": {"issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["RS256"], "jwks_file": JWKS},
        "rate_limit": limit,
    }
    table: list[dict[str, Any]] = [
        {"name": route, "paths": [f"/{route}/*"], "upstream": "origin"} for route in routes(ROUTES)
    ]
    scarce = {"rate_limit": limit | {"limit": SCARCE}}
    table.append({"name": POOR, "paths": [SCARCE_PATH], "upstream": "origin", "filters": scarce})
    return MeteredFastgw(config={"filters": filters, "routes": table})


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless valid tokens pass, invalid ones do not, CORS works, and everything is counted."""
    plain.prove(name, running, fields={"Authorization": f"Bearer {token('prover')}"})
    if name == YARDSTICK:
        return
    client = client_of(running)
    try:
        counted_before = _counted(name, running)
        _prove_tokens(client)
        _prove_cors(client)
        _prove_limit(client)
        expect("requests counted", _grown(name, running, counted_before, at_least=SCARCE), True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def _prove_tokens(client: http.client.HTTPConnection) -> None:
    good = token("prover", 1)
    expect("status with a good token", _ask(client, authorization=f"Bearer {good}").status, 200)
    header, claims, signature = good.split(".")
    bad = {
        "no token": None,
        "another scheme": f"Basic {good}",
        "a token in two words": f"Bearer {good} {good}",
        "another's signature": f"Bearer {token('prover', signer='another')}",
        "a changed signature": f"Bearer {header}.{claims}.{signature[::-1]}",
        "no signature": f"Bearer {header}.{claims}.",
        "another's claims": f"Bearer {header}.{token('other').split('.')[1]}.{signature}",
        "an expired token": f"Bearer {token('prover', exp=int(time.time()) - 3600)}",
        "another issuer": f"Bearer {token('prover', iss='https://elsewhere.example')}",
    }
    for what, authorization in bad.items():
        refused = _ask(client, authorization=authorization)
        expect(f"status with {what}", refused.status, 401)
        expect(f"WWW-Authenticate with {what}", refused.fields.get("WWW-Authenticate", "").startswith("Bearer"), True)
    elsewhere = _ask(client, authorization=f"Bearer {token('prover', aud='elsewhere')}").status
    expect("status with another audience", elsewhere in (401, 403), True)  # Envoy knows the consumer and rejects it


def _prove_cors(client: http.client.HTTPConnection) -> None:
    preflight = _ask(client, "OPTIONS", fields={"Access-Control-Request-Method": "POST"})
    expect("status of a preflight", preflight.status in (200, 204), True)
    expect("methods of a preflight", "POST" in preflight.fields.get("Access-Control-Allow-Methods", ""), True)
    good = f"Bearer {token('prover')}"
    for what, answer in {
        "a preflight": preflight,
        "an answer": _ask(client, authorization=good),
        "a refusal": _ask(client),
    }.items():
        expect(f"Access-Control-Allow-Origin of {what}", answer.fields.get("Access-Control-Allow-Origin"), ORIGIN)
    foreign = _ask(client, authorization=good, fields={"Origin": "https://elsewhere.example"})
    expect("Access-Control-Allow-Origin for a foreign origin", foreign.fields.get("Access-Control-Allow-Origin"), None)


def _prove_limit(client: http.client.HTTPConnection) -> None:
    """Verify that requests with any token of one consumer count for its limit, and other consumers' requests do not."""
    statuses = [
        _ask(client, path=SCARCE_PATH, authorization=f"Bearer {token(POOR, number % 2)}").status
        for number in range(SCARCE + 2)
    ]
    expect(f"statuses with a limit of {SCARCE}", statuses, [200] * SCARCE + [429] * 2)
    other = _ask(client, path=SCARCE_PATH, authorization=f"Bearer {token('prover')}")
    expect("status of another consumer", other.status, 200)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: Message


def _ask(
    client: http.client.HTTPConnection,
    method: str = "GET",
    *,
    path: str = "/svc7/v1/items",
    authorization: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request as a page of `ORIGIN` does."""
    sent = {"Host": HOST, "Origin": ORIGIN, **(fields or {})}
    if authorization:
        sent["Authorization"] = authorization
    client.request(method, path, headers=sent)
    response = client.getresponse()
    response.read()
    return Answer(response.status, response.headers)


class _MetricsClient(http.client.HTTPConnection):
    """Client of the unix socket in a contestant's folder."""

    def __init__(self, running: Running) -> None:
        super().__init__("metrics", timeout=5.0)
        self._path = running.program.output.with_name(METRICS)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _counted(name: str, running: Running) -> int:
    """Return the number of requests that the contestant reports."""
    path, line = TOLD_BY[name]
    with closing(_MetricsClient(running)) as client:
        client.request("GET", path)
        told = client.getresponse().read().decode()
    return sum(map(int, re.findall(line, told, re.MULTILINE)))


def _grown(name: str, running: Running, before: int, at_least: int) -> bool:
    deadline = time.monotonic() + METRICS_SECONDS
    while _counted(name, running) < before + at_least:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _prepare(folder: Path) -> None:
    """Write the key, and the headers of each request: `Origin`, and a token of its own."""
    write_public_key(folder / Path(PUBLIC_KEY).name, folder / Path(JWKS).name)
    lines = (
        f"Authorization: Bearer {token(f'consumer{number % CONSUMERS}', number)}\tOrigin: {ORIGIN}\n"
        for number in range(TOKENS)
    )
    (folder / "fields").write_text("".join(lines))


LOAD = Wrk(arguments={"body": "@body.json", "fields": "@fields"})

SCENARIO = Scenario(
    name="policies",
    title="CPU per request that is authenticated, limited, admitted from a page and counted",
    about=(
        "What `plain` sends, from a page of another origin and with a JWT (RS256) in each request: 1,000 tokens of 100 "
        "consumers. Each contestant verifies the token or remembers it, counts against the consumer's limit, which is "
        "never reached and not told of, adds the CORS field, keeps counters, and logs as in `plain`; nginx (no policy) "
        "only forwards and logs. HAProxy remembers no token; Envoy and nginx + lua do."
    ),
    peers=(
        _fastgw(),
        Nginx(YARDSTICK),
        NginxLua("nginx + lua", fill=fill("nginx")),
        Haproxy(fill=fill("haproxy")),
        Envoy(fill=fill("envoy")),
    ),
    loads=(LOAD,),
    tables=(
        Table(
            LOAD.name,
            (
                CPU_US,
                USER_US,
                SYSTEM_US,
                *map(ratio_to, (YARDSTICK, "nginx + lua", "haproxy", "envoy")),
                RATE,
                CORE_USED,
                P50,
                P90,
                P99,
                P999,
            ),
        ),
    ),
    prove=prove,
    prepare=_prepare,
    pictures=(Picture(Kind.BARS, LOAD.name, "CPU per request that is authenticated, limited and counted"),),
)
