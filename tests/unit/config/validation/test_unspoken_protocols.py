"""check notes settings for a protocol that nobody speaks there, each at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw import config
from fastgw.filters import TYPES

BEGIN = "version: 1\nupstreams:\n  u: {targets: [%s]%s}\nlisteners:\n  main: {%s}\nroutes: [{name: r, upstream: u%s}]\n"
HTTP, HTTPS, TCP = '"http://a.test:1"', '"https://a.test:1"', '"tcp://a.test:1"'
MAIN = 'address: "127.0.0.1:0"'
TLS = MAIN + ", protocol: tls, routes: [%s]"
GRPC = ", grpc: {service: a.B}"
AUTO = "upstreams.u.protocol: HTTP/1.1 is spoken: only `https` targets choose a version"
CALLS = "routes[0].grpc: gRPC calls need HTTP/2, which none of its listeners speaks"
CALLED = 'routes[0].upstream: gRPC calls need HTTP/2: upstream "u" speaks HTTP/1.1'
BOTH = MAIN + ", protocols: [http1, http2]"


def notes(folder: Path, text: str) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return [str(note) for note in config.load(str(file), TYPES).notes]


@pytest.mark.parametrize(
    ("target", "protocol", "listener", "route", "wanted"),
    [
        (HTTP, ", protocol: auto", MAIN, "", AUTO),
        (HTTPS, ", protocol: auto", MAIN, "", ""),
        (HTTP, "", MAIN, "", ""),
        (HTTP, "", MAIN + ", http2: {max_concurrent_streams: 5}", "", "listeners.main.http2: it has no effect"),
        (HTTP, "", BOTH + ", http2: {max_concurrent_streams: 5}", "", ""),
        (HTTP, ", protocol: grpc", MAIN, GRPC, CALLS),
        (HTTP, ", protocol: grpc", BOTH, GRPC, ""),
        (HTTP, "", BOTH, GRPC, CALLED),
        (HTTPS, "", BOTH, GRPC, ""),
        (HTTPS, ", protocol: http1", BOTH, GRPC, CALLED),
    ],
)
def test_protocols_of_requests(
    tmp_path: Path, target: str, protocol: str, listener: str, route: str, wanted: str
) -> None:
    told = notes(tmp_path, BEGIN % (target, protocol, listener, route))
    assert len(told) == bool(wanted), told
    assert not wanted or wanted in told[0]


@pytest.mark.parametrize(
    ("routes", "wanted"),
    [
        ("{sni: [a.test], upstream: u}, {sni: [a.test], upstream: u}", "routes[1]: no connection gets here: routes[0]"),
        ("{sni: [a.test], alpn: [h2], upstream: u}, {sni: [a.test], upstream: u}", ""),
        ("{sni: [a.test], upstream: u}, {sni: [a.test], alpn: [h2], upstream: u}", "routes[1]: no connection"),
        ("{sni: [a.test], upstream: u}, {sni: [a.test, b.test], upstream: u}", ""),
        ("{upstream: u}, {upstream: u}", "routes[1]: no connection"),
    ],
)
def test_tls_routes_that_never_match(tmp_path: Path, routes: str, wanted: str) -> None:
    text = BEGIN % (TCP, "", TLS % routes, "")
    told = notes(tmp_path, text[: text.index("routes: [{name")])
    assert len(told) == bool(wanted), told
    assert not wanted or wanted in told[0]


def test_a_protocol_of_http_for_targets_of_none(tmp_path: Path) -> None:
    text = BEGIN % (TCP, ", protocol: http2", MAIN + ", protocol: tcp, upstream: u", "")
    (told,) = notes(tmp_path, text[: text.index("routes: [{name")])
    assert "upstreams.u.protocol: it has no effect: the targets are no HTTP servers" in told
