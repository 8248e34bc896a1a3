"""http2: cost of a request received over HTTP/2, in clear text or over TLS, and forwarded over HTTP/1.1."""

import subprocess

from bench.load.http2 import Http2
from bench.origin import BODY
from bench.peers import Envoy, Fastgw, Haproxy, Nginx, Running
from bench.peers.peer import HOST
from bench.prove import NotTheSameWork, expect
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_US,
    P50,
    P99,
    RATE,
    SYSTEM_US,
    USER_US,
    Kind,
    Picture,
    Scenario,
    Table,
    ratio_to,
)
from bench.scenarios.tls import CERTIFICATE, FASTGW, HAPROXY, NGINX, TLS13, envoy, prepare

TLS = ", TLS"
"""End of the names of contestants that listen with TLS."""
CLEAR_TEXT = ("fastgw", "nginx", "haproxy", "envoy")
OVER_TLS = tuple(name + TLS for name in CLEAR_TEXT)
MANY = Http2("16 x 32", 16, 32, only=CLEAR_TEXT)
ONE = Http2("64 x 1", 64, 1, only=CLEAR_TEXT)
LITERAL = Http2("16 x 32, no table", 16, 32, ("--encoder-header-table-size=0",), CLEAR_TEXT)
HTTP1 = Http2("64 over HTTP/1.1", 64, 1, ("--h1",), ("fastgw",))
TLS_MANY = Http2("16 x 32 over TLS", 16, 32, only=OVER_TLS, scheme="https", environment=TLS13)
TLS_ONE = Http2("64 x 1 over TLS", 64, 1, only=OVER_TLS, scheme="https", environment=TLS13)


def table(load: Http2, beside: str) -> Table:
    """Return the table of a load. `beside`: the contestant of its ratios."""
    return Table(load.name, (CPU_US, USER_US, SYSTEM_US, ratio_to(beside), RATE, CORE_USED, P50, P99))


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless routes respond over HTTP/2, and an unknown path is a 404."""
    tls = name.endswith(TLS)
    try:
        expect("a route", _get(running, "/svc7/v1/items/7", tls), ("200 2", BODY))
        expect("status of an unknown path", _get(running, "/elsewhere", tls)[0], "404 2")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


def _get(running: Running, path: str, tls: bool) -> tuple[str, str]:
    """Return status and version, and the body."""
    command = ["curl", "-s", "-H", f"Host: {HOST}", "-w", "\n%{http_code} %{http_version}"]
    if tls:
        authority = running.program.output.parent / CERTIFICATE
        command += ["--http2", "--cacert", str(authority), f"https://127.0.0.1:{running.port}{path}"]
    else:
        command += ["--http2-prior-knowledge", f"http://127.0.0.1:{running.port}{path}"]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout
    body, _, line = told.rpartition("\n")
    return line, body


SCENARIO = Scenario(
    name="http2",
    title="CPU per request over HTTP/2",
    about=(
        "The routes of `plain` over HTTP/2 in clear text, to an upstream of HTTP/1.1: 16 connections with 32 requests "
        "in flight on each, 64 with one, and 16 with 32 where no header is compressed by what an earlier request has "
        "said. Beside them fastgw over HTTP/1.1 from the same load. Then the first two over TLS 1.3, as in `tls`."
    ),
    peers=(
        Fastgw(config={"listener": {"protocols": ["http1", "http2"]}}),
        Nginx(fill={"listen": "http2"}),
        Haproxy(fill={"bind": "proto h2"}),
        Envoy(),
        Fastgw("fastgw" + TLS, config=FASTGW),
        Nginx("nginx" + TLS, fill={**NGINX, "listen": "ssl http2"}),
        Haproxy("haproxy" + TLS, fill={**HAPROXY, "bind": f"{HAPROXY['bind']} alpn h2"}),
        Envoy("envoy" + TLS, fill=envoy("h2")),
    ),
    loads=(MANY, ONE, LITERAL, HTTP1, TLS_MANY, TLS_ONE),
    tables=(
        *(table(load, "nginx") for load in (MANY, ONE, LITERAL, HTTP1)),
        *(table(load, "nginx" + TLS) for load in (TLS_MANY, TLS_ONE)),
    ),
    prove=prove,
    prepare=prepare,
    pictures=(Picture(Kind.BARS, MANY.name, "CPU per request over HTTP/2, 16 connections with 32 requests in flight"),),
)
