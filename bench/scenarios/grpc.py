"""grpc: cost of a unary call of gRPC, with a message of a kilobyte each way."""

import subprocess
from pathlib import Path

from bench.load.http2 import Http2
from bench.origin.grpc import FRAMED, serving
from bench.peers import Envoy, Fastgw, Nginx, Running
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

CALL = "call.bin"
PROTOCOL = ("content-type: application/grpc", "te: trailers", "grpc-accept-encoding: identity, deflate, gzip")
FIELDS = (f":authority: {HOST}", "user-agent: grpc-c++/1.60.0 grpc-c/37.0.0 (linux; chttp2)", *PROTOCOL)
MANY = Http2("16 x 32", 16, 32, fields=FIELDS, body=CALL)
ONE = Http2("64 x 1", 64, 1, fields=FIELDS, body=CALL)
COLUMNS = (CPU_US, USER_US, SYSTEM_US, ratio_to("nginx"), ratio_to("envoy"), RATE, CORE_USED, P50, P99)
NGINX_FIELDS = {
    "Host": "$http_host",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Proto": "$scheme",
    "X-Forwarded-Host": "$http_host",
    "X-Forwarded-Port": "$server_port",
    "Via": '"2.0 nginx"',
}
"""Headers that `proxy_set_header` sets for the other scenarios."""
ENVOY_HTTP2 = """\
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
"""


def prepare(folder: Path) -> None:
    """Write the message of a call."""
    (folder / CALL).write_bytes(FRAMED)


def prove(name: str, running: Running) -> None:
    """Raise `NotTheSameWork` unless a call is answered with the message and its status."""
    try:
        told = _called(running, "/svc7/v1.Items/Get")
        expect("status and message of a call", told, (b"0", FRAMED))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error


def _called(running: Running, path: str) -> tuple[bytes, bytes]:
    """Return `grpc-status` of the trailers, and the body."""
    command = ["curl", "-s", "--http2-prior-knowledge", "--data-binary", "@-", "-H", f"Host: {HOST}", "-D", "-"]
    command += [part for line in PROTOCOL for part in ("-H", line)]
    command.append(f"http://127.0.0.1:{running.port}{path}")
    told = subprocess.run(command, input=FRAMED, stdout=subprocess.PIPE, check=True, timeout=10).stdout
    _, _, rest = told.partition(b"\r\n\r\n")
    body, trailers = rest[: len(FRAMED)], rest[len(FRAMED) :]
    return trailers.lower().partition(b"grpc-status: ")[2][:1], body


SCENARIO = Scenario(
    name="grpc",
    title="CPU per unary call of gRPC",
    about=(
        "Unary calls of gRPC with a message of 1 KiB each way, HTTP/2 in clear text on both sides: 16 connections with "
        "32 calls in flight on each, and 64 with one."
    ),
    peers=(
        Fastgw(config={"listener": {"protocols": ["http1", "http2"]}, "upstream": {"protocol": "grpc"}}),
        Nginx(
            fill={
                "listen": "http2",
                "server": "".join(f"grpc_set_header {name} {value}; " for name, value in NGINX_FIELDS.items()),
            },
            action="grpc_pass grpc://origin;",
        ),
        Envoy(fill={"origin": ENVOY_HTTP2}),
    ),
    loads=(MANY, ONE),
    tables=tuple(Table(load.name, COLUMNS) for load in (MANY, ONE)),
    prove=prove,
    origin=serving,
    prepare=prepare,
    pictures=(Picture(Kind.BARS, MANY.name, "CPU per unary call of gRPC, 16 connections with 32 calls in flight"),),
)
