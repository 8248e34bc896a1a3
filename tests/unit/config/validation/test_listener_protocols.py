"""Listeners and upstreams of other protocols than HTTP: what `check` refuses, and the words for it."""

from __future__ import annotations

import pytest

from fastgw.config import ConfigError, load_text
from fastgw.filters import TYPES
from tests.support.table import for_each

BASE = {
    "http": "{targets: ['http://a:1']}",
    "tcp": "{targets: ['tcp://a:1']}",
    "udp": "{targets: ['udp://a:1']}",
    "unix": "{targets: ['unix:/a.sock']}",
}


def told(listener: str = "{}", upstream: str = "", more: str = "") -> list[str]:
    upstreams = ", ".join(f"{name}: {each}" for name, each in (BASE | ({"made": upstream} if upstream else {})).items())
    text = (
        f"version: 1\nstatus: null\nadmin: null\nlisteners: {{main: {listener}}}\n"
        f"upstreams: {{{upstreams}}}\n{more or 'routes: []'}\n"
    )
    try:
        load_text(text.encode(), "a.yaml", TYPES)
    except ConfigError as error:
        return [each.partition(": ")[2] for each in str(error).splitlines()]
    return []


TLS = "tls: {certificates: [{certificate: a.pem, key: a.key}]}"


def of(protocol: str, more: str) -> str:
    return f"{{address: '127.0.0.1:1', protocol: {protocol}, {more}}}"


@pytest.mark.parametrize(
    "listener",
    [
        of("tcp", "upstream: tcp"),
        of("tcp", "upstream: unix"),
        of("tls", "routes: [{upstream: tcp}, {sni: ['*.a.test'], alpn: [h2], upstream: unix}]"),
        of("udp", "upstream: udp"),
        of("tcp", "upstream: {tcp: 90, unix: 10}"),
        of("tls", "routes: [{upstream: {tcp: 1, unix: 0}}]"),
        of("tcp", "upstream: tcp, proxy_protocol: required, trusted_proxies: [10.0.0.0/8]"),
    ],
)
def test_what_is_right(listener: str) -> None:
    assert told(listener) == []


def test_protocols_select_what_is_passed_through_beside_tls_that_ends() -> None:
    found = told(of("tcp", f"{TLS}, routes: [{{alpn: [h2], upstream: tcp, passthrough: true}}, {{upstream: unix}}]"))
    assert [each for each in found if "a readable file" not in each] == []


@for_each(
    ("listener", "wrong"),
    [
        (of("http", "upstream: tcp"), "upstream: has no effect with `protocol: http`"),
        (of("http", "routes: [{upstream: tcp}]"), "routes: has no effect with `protocol: http`"),
        (of("tcp", "tls: null"), "`protocol: tcp` needs an upstream; expected `upstream: NAME`"),
        (of("tcp", "upstream: http"), 'the targets of "http" are not tcp:// URLs'),
        (of("tcp", "upstream: {tcp: 1, udp: 1}"), 'the targets of "udp" are not tcp:// URLs'),
        (of("tcp", "upstream: {tcp: 1, nobody: 1}"), 'unknown upstream "nobody"'),
        (of("tcp", "upstream: {tcp: 0, unix: 0}"), "upstream: all shares are 0; expected at least one share above 0"),
        (of("tls", "routes: [{upstream: {tcp: 0}}]"), "all shares are 0"),
        (of("tcp", "upstream: udp"), 'the targets of "udp" are not tcp:// URLs'),
        (of("tcp", "upstream: nobody"), 'unknown upstream "nobody"'),
        (of("tcp", "upstream: tcp, routes: [{upstream: tcp}]"), "routes: has no effect with `protocol: tcp`"),
        (of("tcp", f"{TLS}, upstream: tcp, routes: [{{upstream: tcp}}]"), "upstream: has no effect with `routes`"),
        (of("tcp", f"{TLS}, routes: [{{alpn: [h2], upstream: tcp}}]"), "alpn: has no effect with `protocol: tcp`"),
        (of("tcp", "upstream: tcp, filters: {cors: {}}"), "filters: has no effect with `protocol: tcp`"),
        (of("tcp", "upstream: tcp, protocols: [http1]"), "protocols: has no effect with `protocol: tcp`"),
        (of("tcp", "upstream: tcp, ambiguous_paths: allow"), "ambiguous_paths: has no effect with `protocol: tcp`"),
        (of("tcp", "upstream: tcp, trusted_proxies: [10.0.0.0/8]"), "expected `proxy_protocol: required` as well"),
        (
            of("tls", "routes: [{upstream: tcp, passthrough: true}]"),
            "passthrough: has no effect with `protocol: tls`, which passes all TLS through",
        ),
        (
            of("tcp", f"{TLS}, routes: [{{upstream: tcp, passthrough: true}}]"),
            "tls: has no effect: every route passes TLS through; expected `protocol: tls`",
        ),
        (of("tls", "upstream: tcp"), "expected `routes`; one without `sni` matches all other connections"),
        (of("tls", "tls: null"), "`protocol: tls` needs routes"),
        (of("tls", "routes: [{upstream: http}]"), 'the targets of "http" are not tcp:// URLs'),
        (
            of("tls", "routes: [{sni: ['a b'], upstream: tcp}]"),
            "'a b' is not a server name; expected a server name such",
        ),
        (of("tls", "routes: [{sni: ['host/'], upstream: tcp}]"), "'host/' is not just a server name; expected"),
        (of("http", "protocols: [http3]"), 'protocols[0]: HTTP/3 is not supported; expected "http1" or "http2"'),
        (of("tls", "routes: [{sni: ['[::1]'], upstream: tcp}]"), "is an address: clients send none as server name"),
        (of("udp", "upstream: tcp"), 'the targets of "tcp" are not udp:// URLs'),
        (of("udp", "upstream: unix"), 'the targets of "unix" are not udp:// URLs'),
        ("{address: 'unix:/a', protocol: udp, upstream: udp}", "unix sockets are not supported for UDP"),
    ],
)
def test_listeners_that_are_wrong(listener: str, wrong: str) -> None:
    assert any(wrong in each for each in told(listener)), told(listener)


@for_each(
    ("upstream", "wrong"),
    [
        ("{targets: ['tcp://a:1', 'http://a:1']}", "targets of different protocols: http, tcp"),
        ("{targets: ['tcp://a']}", '"tcp://a" is not tcp://host:port'),
        ("{targets: ['tcp://a:1/path']}", "is not tcp://host:port"),
        ("{targets: ['tcp://me:secret@a:1']}", "a URL that contains a user or password"),
        ("{targets: ['tcp://a:1'], host_header: preserve}", "host_header: has no effect with tcp targets"),
        (
            "{targets: ['tcp://a:1'], tls: {server_name: host_header}}",
            "tls.server_name: `host_header` has no effect with tcp targets, which have no `Host`; expected a host name",
        ),
        ("{targets: ['tcp://a:1'], hedge: {}}", "hedge: has no effect with tcp targets"),
        ("{targets: ['tcp://a:1'], filters: {cors: {}}}", "filters: has no effect with tcp targets"),
        ("{targets: ['tcp://a:1'], load_balancing: {sticky: {cookie: a}}}", "expected `algorithm: ip_hash`"),
        (
            "{targets: ['tcp://a:1'], load_balancing: {algorithm: consistent_hash, hash_on: 'header:a'}}",
            "connections have no header",
        ),
        ("{targets: ['tcp://a:1'], health_checks: {active: {}}}", "tcp targets do not speak HTTP"),
        ("{targets: ['udp://a:1'], health_checks: {active: {type: tcp}}}", "udp targets cannot be checked"),
        ("{targets: ['udp://a:1'], tls: {}}", "tls: has no effect with udp targets"),
        ("{targets: ['udp://a:1'], pool: {max_connections: 1}}", "pool: has no effect with udp targets"),
        ("{targets: ['udp://a:1'], proxy_protocol: v1}", "proxy_protocol: has no effect with udp targets"),
        ("{targets: ['http://a:1'], proxy_protocol: v1}", "expected tcp targets, or no `proxy_protocol`"),
    ],
)
def test_upstreams_that_are_wrong(upstream: str, wrong: str) -> None:
    found = told(of("tcp", "upstream: tcp"), upstream)
    assert any(wrong in each for each in found), found


@pytest.mark.parametrize(
    ("upstream", "wrong"),
    [
        ("{targets: ['unix:/a.sock'], hedge: {}}", "hedge: has no effect with tcp targets"),
        ("{targets: ['unix:/a.sock'], health_checks: {active: {}}}", "expected `type: tcp`"),
        ("{targets: ['unix:/a.sock:/base']}", "connections that are relayed have no path; expected unix:/a.sock"),
    ],
)
def test_an_upstream_of_unix_sockets_is_of_the_protocol_that_its_listener_has(upstream: str, wrong: str) -> None:
    found = told(of("tcp", "upstream: made"), upstream)
    assert any(wrong in each for each in found), found
    assert told(of("http", "tls: null"), upstream, "routes: [{name: a, upstream: made}]") == []


RELAYED = 'listener "main" relays connections to "unix", so no requests can be sent there'


@pytest.mark.parametrize(
    "route",
    [
        "{name: a, upstream: unix}",
        "{name: a, upstream: {http: 1, unix: 1}}",
        "{name: a, upstream: http, fallback: {upstream: unix}}",
        "{name: a, upstream: http, filters: {mirror: {upstream: unix}}}",
    ],
)
def test_an_upstream_of_unix_sockets_takes_connections_or_requests(route: str) -> None:
    """One upstream has one pool: of bare sockets, or of connections that carry requests."""
    assert any(RELAYED in each for each in told(of("tcp", "upstream: unix"), more=f"routes: [{route}]"))
    assert any(RELAYED in each for each in told(of("tls", "routes: [{upstream: unix}]"), more=f"routes: [{route}]"))
    assert told(of("http", "tls: null"), more=f"routes: [{route}]") == []


@pytest.mark.parametrize(
    ("route", "wrong"),
    [
        ("{name: a, upstream: tcp}", 'the targets of "tcp" are tcp:// URLs, which take no requests'),
        ("{name: a, upstream: {http: 1, tcp: 1}}", 'the targets of "tcp" are tcp:// URLs'),
        ("{name: a, upstream: http, fallback: {upstream: udp}}", 'the targets of "udp" are udp:// URLs'),
        ("{name: a, upstream: http, filters: {mirror: {upstream: tcp}}}", 'the targets of "tcp" are tcp:// URLs'),
        ("{name: a, upstream: http, listeners: [main]}", 'listener "main" has `protocol: tcp`'),
    ],
)
def test_routes_that_are_wrong(route: str, wrong: str) -> None:
    found = told(of("tcp", "upstream: tcp"), more=f"routes: [{route}]")
    assert any(wrong in each for each in found), found


def test_tcp_and_udp_may_share_a_port() -> None:
    both = "{address: '127.0.0.1:53', protocol: udp, upstream: udp}"
    assert told(f"{both}, other: {{address: '127.0.0.1:53', protocol: tcp, upstream: tcp}}") == []
    assert told(f"{both}, other: {both}") != []
