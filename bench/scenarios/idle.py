"""idle: memory per idle connection."""

from bench.load.idle import Idle
from bench.peers import Caddy, Envoy, Fastgw, Nginx
from bench.scenarios.scenario import (
    Figure,
    Kind,
    Picture,
    Scenario,
    Table,
    decimals,
    ratio_to,
)

NEVER_SENT = Figure("bytes, never sent", lambda s: s.figures["bytes_never_sent"], decimals(0))
AFTER_REQUEST = Figure("bytes, after one request", lambda s: s.figures["bytes_after_request"], decimals(0))

PATIENT = {"timeouts": {"request_headers": "10m", "keepalive": "1h"}}
HTTP1 = Idle(("fastgw", "nginx", "envoy", "caddy"))
HTTP2 = Idle(("fastgw, HTTP/2",), http2=True)

SCENARIO = Scenario(
    name="idle",
    title="memory per idle connection, in user space",
    about=(
        "10,000 connections on which nothing was sent, then one request on each: anonymous memory "
        "(/proc/PID/smaps_rollup) beyond that before they were opened, divided by their number. Each round begins with "
        "new processes. fastgw has two workers, as each keeps half of its open files for upstreams. nginx allocates "
        "the table of its connections when it starts, so that is not in its figure; memory in the kernel is in "
        "nobody's. fastgw once more with a request over HTTP/2 on each. HAProxy is not here: it "
        "starts only where each connection may have two files, and the limit is often 20,000."
    ),
    peers=(
        Fastgw(workers=2, config=PATIENT),
        Fastgw("fastgw, HTTP/2", workers=2, config={**PATIENT, "listener": {"protocols": ["http1", "http2"]}}),
        Nginx(fill={"server": "client_header_timeout 10m;"}),
        Envoy(),
        Caddy(),
    ),
    loads=(HTTP1, HTTP2),
    tables=(
        Table(HTTP1.name, (NEVER_SENT, AFTER_REQUEST, ratio_to("nginx", AFTER_REQUEST))),
        Table(HTTP2.name, (NEVER_SENT, AFTER_REQUEST)),
    ),
    fresh=True,
    rounds_of=3,
    pictures=(
        Picture(Kind.BARS, "10,000 connections", "Memory per idle connection, after one request", AFTER_REQUEST),
    ),
)
