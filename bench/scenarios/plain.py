"""plain: cost of a request that is only routed, forwarded and logged."""

import re

from httptools import HttpRequestParser, HttpResponseParser

from bench.load.h2load import FixedRate
from bench.load.wrk import Wrk
from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room, time_room
from bench.origin import BODY
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx
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
from fastgw.http.http1.second_parser import SharedParser

CPU = (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), ratio_to("nginx (no log)"), RATE, CORE_USED, P50, P90, P99, P999)
BODY_OF_ANSWERS = {"body": "@body.json"}
CONTENT_LENGTH, LENGTH = re.compile(rb"Content-Length: [0-9]+"), b"Content-Length: %d" % len(BODY)
PASSES = 9


def parts() -> dict[str, float]:
    """Return the share of the second parser: llhttp reads both heads and the response body."""
    request, response = SharedParser(HttpRequestParser), SharedParser(HttpResponseParser)
    answers = [head + BODY.encode() for head in (CONTENT_LENGTH.sub(LENGTH, head) for head in RESPONSES)]
    ns = time_room(Room("request", request.head, REQUESTS), PASSES).least
    ns += time_room(Room("response", response.whole, answers), PASSES).least
    return {"of fastgw's, llhttp as the second judge (timed alone)": ns / 1000}


SCENARIO = Scenario(
    name="plain",
    title="CPU per proxied request",
    about=(
        "1,000 different requests of about 1 KB, 100 routes, forwarding fields; a JSON access log unless the name says "
        "otherwise. Half load is a fixed rate, half of nginx's at 64 connections, for three times as long, and latency "
        "there counts from when a request was due; a contestant that is saturated by less has no row."
    ),
    peers=(
        Fastgw(),
        Nginx(),
        Nginx("nginx (no log)", logs=False),
        Haproxy(),
        Haproxy("haproxy (no log)", logs=False),
        Envoy(),
        Caddy(),
    ),
    loads=(
        Wrk(arguments=BODY_OF_ANSWERS),
        Wrk("16 connections", 16, arguments=BODY_OF_ANSWERS),
        FixedRate(times_as_long=3),
    ),
    tables=(
        Table("64 connections", CPU),
        Table("16 connections", CPU),
        Table("half load", (*CPU, ratio_to("nginx", P99))),
    ),
    parts=parts,
    thorough=frozenset({"nginx (no log)", "haproxy (no log)"}),
    pictures=(
        Picture(Kind.BARS, "64 connections", "CPU per proxied request, 64 connections"),
        Picture(Kind.LINES, "half load", "Latency at half of nginx's saturation, from when each request was due"),
    ),
)
