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
        (HTTP, ", protocol: http2, tolerate: [bare_lf]", MAIN, "", "upstreams.u.tolerate: it has no effect with"),
        (HTTP, ", protocol: http2, response_limits: {header_count: 200}", MAIN, "", ""),
        (HTTPS, ", tolerate: [bare_lf]", MAIN, "", ""),
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


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            "timeouts: {response_headers: 3s}",
            ["timeouts.response_headers: it has no effect: tcp targets"],
        ),
        ("timeouts: {connect: 3s, tls: 1s, tunnel_idle: 5s, total: 1h}", []),
        ("timeouts: {idle: 5s}", ["timeouts.idle: it has"]),
        ("tolerate: [bare_lf], response_limits: {header_count: 200}", ["tolerate: it has", "response_limits: it has"]),
        (
            "pool: {max_idle: 3, idle_timeout: 3s, max_uses: 1}",
            ["pool.max_idle", "pool.idle_timeout", "pool.max_uses"],
        ),
        ("pool: {max_connections: 3, max_pending: 3, pending_timeout: 3s}", []),
        ("retries: {max: 2, budget: 10%, backoff: {base: 1s, max: 1s}, conditions: [connect_failure]}", []),
        ("retries: {conditions: [connect_failure, reset_before_response]}", []),
        (
            "retries: {conditions: ['503', connect_failure, reset]}",
            ["retries.conditions: 503, reset without effect: tcp targets get no requests, so only"],
        ),
        ("retries: {non_idempotent: true, body_bytes: 1KiB}", ["retries.non_idempotent:", "retries.body_bytes:"]),
        (
            "retries: {per_try_timeout: 1s, conditions: [per_try_timeout]}",
            ["retries.per_try_timeout:", "retries.conditions:"],
        ),
    ],
)
def test_settings_about_requests_for_targets_that_get_none(tmp_path: Path, settings: str, wanted: list[str]) -> None:
    text = BEGIN % (TCP, f", {settings}", MAIN + ", protocol: tcp, upstream: u", "")
    told = notes(tmp_path, text[: text.index("routes: [{name")])
    assert len(told) == len(wanted), told
    assert all(f"upstreams.u.{each}" in note for each, note in zip(wanted, told, strict=True)), told
    http = text.replace(TCP, HTTP).replace(", protocol: tcp, upstream: u", "")
    assert not [each for each in notes(tmp_path, http) if "no requests" in each]


def test_settings_about_requests_for_targets_of_udp(tmp_path: Path) -> None:
    settings = ", timeouts: {response_headers: 3s}, retries: {conditions: ['503']}"
    text = BEGIN % ('"udp://a.test:1"', settings, MAIN + ", protocol: udp, upstream: u", "")
    told = notes(tmp_path, text[: text.index("routes: [{name")])
    assert ["timeouts.response_headers" in told[0], "retries.conditions" in told[1], len(told)] == [True, True, 2]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("filters: {compress: {}}", ["filters.compress: it has no effect: no listener has `protocol: http`"]),
        ("error_pages: {'404': {html: x}}", ["error_pages: it has no effect: no listener has `protocol: http`"]),
        ("error_pages: {}", []),
    ],
)
def test_what_is_for_requests_where_no_listener_takes_any(tmp_path: Path, more: str, wanted: list[str]) -> None:
    text = BEGIN % (TCP, "", MAIN + ", protocol: tcp, upstream: u", "")
    only_tcp = text[: text.index("routes: [{name")] + more
    told = notes(tmp_path, only_tcp)
    assert len(told) == len(wanted), told
    assert all(each in note for each, note in zip(wanted, told, strict=True))
    and_http = only_tcp.replace("listeners:\n", "listeners:\n  web: {address: '127.0.0.1:0'}\n")
    assert notes(tmp_path, and_http) == []


NEEDS_HTTP1 = "routes[0].upgrade: it has no effect: upgrades need HTTP/1.1, and no upstream of this route speaks it"


@pytest.mark.parametrize(
    ("protocol", "route", "wanted"),
    [
        ("http2", ", upgrade: [websocket]", NEEDS_HTTP1),
        ("grpc", ", upgrade: [WebSocket]", NEEDS_HTTP1),
        ("http2", "", ""),
        ("http2", ", upgrade: []", ""),
        ("http1", ", upgrade: [websocket]", ""),
        (
            "http1",
            ", upgrade: [websockets]",
            'routes[0].upgrade[0]: "websockets" is not WebSocket; did you mean "websocket"?',
        ),
        ("http1", ", upgrade: [WebScoket]", 'routes[0].upgrade[0]: "WebScoket" is not WebSocket; did you mean'),
        ("http1", ", upgrade: [web-socket]", 'routes[0].upgrade[0]: "web-socket" is not WebSocket; did you mean'),
        ("http1", ", upgrade: [tls, spdy/3.1]", ""),
        ("http1", ", upgrade: [websocket-v2, WebSocket2, x-websocket, websocketplus]", ""),
    ],
)
def test_upgrades_that_are_not_possible(tmp_path: Path, protocol: str, route: str, wanted: str) -> None:
    told = notes(tmp_path, BEGIN % (HTTP, f", protocol: {protocol}", MAIN, route))
    assert len(told) == bool(wanted), told
    assert not wanted or wanted in told[0]


def test_an_upgrade_that_one_of_two_upstreams_speaks(tmp_path: Path) -> None:
    begin = BEGIN % (HTTP, ", protocol: http2", MAIN, ", upgrade: [websocket]")
    text = begin.replace("upstream: u", "upstream: {u: 1, v: 1}").replace(
        "listeners:", f"  v: {{targets: [{HTTP}]}}\nlisteners:"
    )
    assert notes(tmp_path, text) == []


STATUSES = ", retries: {conditions: [connect_failure, unavailable]%s}"
NEVER = "calls are not retried after unavailable: they are POST, which needs `non_idempotent: true`"


@pytest.mark.parametrize(
    ("upstream", "route", "wanted"),
    [
        (STATUSES % "", "", f'routes[0].upstream: upstream "u": {NEVER}'),
        (STATUSES % ", non_idempotent: true", "", ""),
        (STATUSES % ", max: 0", "", ""),
        (STATUSES % "", ", retries: {non_idempotent: true}", ""),
        (STATUSES % ", non_idempotent: true", ", retries: {non_idempotent: false}", NEVER),
        ("", STATUSES % "", f"routes[0].retries.conditions: {NEVER}"),
        ("", "", ""),
    ],
)
def test_grpc_statuses_that_lead_to_no_retry(tmp_path: Path, upstream: str, route: str, wanted: str) -> None:
    told = notes(tmp_path, BEGIN % (HTTP, f", protocol: grpc{upstream}", BOTH, GRPC + route))
    assert len(told) == bool(wanted), told
    assert not wanted or wanted in told[0]
    without = BEGIN % (HTTP, f", protocol: grpc{upstream}", BOTH, route)
    assert notes(tmp_path, without) == []


def test_of_several_upstreams_the_note_on_retries_names_those_without_them(tmp_path: Path) -> None:
    text = BEGIN % (HTTP, ", protocol: grpc", BOTH, GRPC + STATUSES % "")
    other = f"  v: {{targets: [{HTTP}], protocol: grpc, retries: {{non_idempotent: true}}}}\nlisteners:"
    text = text.replace("upstream: u", "upstream: {u: 1, v: 1}").replace("listeners:", other)
    (told,) = notes(tmp_path, text)
    assert f'routes[0].retries.conditions: upstream "u": {NEVER}' in told
