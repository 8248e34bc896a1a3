"""http2: cost of a request received over HTTP/2 and forwarded over HTTP/1.1."""

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

COLUMNS = (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), RATE, CORE_USED, P50, P99)
MANY = Http2("16 x 32", 16, 32)
ONE = Http2("64 x 1", 64, 1)
LITERAL = Http2("16 x 32, no table", 16, 32, ("--encoder-header-table-size=0",))
HTTP1 = Http2("64 over HTTP/1.1", 64, 1, ("--h1",), only="fastgw")


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless routes respond over HTTP/2, and an unknown path is a 404."""
    try:
        expect("a route", _get(running, "/svc7/v1/items/7"), ("200 2", BODY))
        expect("status of an unknown path", _get(running, "/elsewhere")[0], "404 2")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


def _get(running: Running, path: str) -> tuple[str, str]:
    """Return status and version, and the body."""
    command = ["curl", "-s", "--http2-prior-knowledge", "-H", f"Host: {HOST}", "-w", "\n%{http_code} %{http_version}"]
    command.append(f"http://127.0.0.1:{running.port}{path}")
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout
    body, _, line = told.rpartition("\n")
    return line, body


SCENARIO = Scenario(
    name="http2",
    title="CPU per request over HTTP/2",
    about=(
        "The routes of `plain` over HTTP/2 in clear text, to an upstream of HTTP/1.1: 16 connections with 32 requests "
        "in flight on each, 64 with one, and 16 with 32 where no header is compressed by what an earlier request has "
        "said. Beside them fastgw over HTTP/1.1 from the same load."
    ),
    peers=(
        Fastgw(config={"listener": {"protocols": ["http1", "http2"]}}),
        Nginx(fill={"listen": "http2"}),
        Haproxy(fill={"bind": "proto h2"}),
        Envoy(),
    ),
    loads=(MANY, ONE, LITERAL, HTTP1),
    tables=tuple(Table(load.name, COLUMNS) for load in (MANY, ONE, LITERAL, HTTP1)),
    prove=prove,
    pictures=(Picture(Kind.BARS, MANY.name, "CPU per request over HTTP/2, 16 connections with 32 requests in flight"),),
)
