"""`explain` and `diff` of TCP listeners."""

from __future__ import annotations

from pathlib import Path

from fastgw.config import load_text
from fastgw.diff import as_text, differences
from fastgw.explain import explain
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from tests.support.certificates import Certificates

TEXT = """
version: 1
status: null
admin: null
listeners:
  web: {address: "127.0.0.1:80"}
  pass: {address: "127.0.0.1:443", protocol: tls, routes: [{sni: ["*.a.test"], upstream: a}]}
  db: {address: "127.0.0.1:5432", protocol: tcp, upstream: a}
upstreams: {a: {targets: ["tcp://10.0.0.1:1", "tcp://10.0.0.2:1"]}}
routes: [{name: all, respond: {body: ok}}]
"""


def loaded(text: str = TEXT):  # type: ignore[no-untyped-def]
    return load_text(text.encode(), "a.yaml", TYPES)


def test_where_a_connection_goes_is_explained() -> None:
    gateway = compile(loaded().config, 1)
    found = explain(gateway, "GET", "https://x.a.test/", listener="pass")
    assert (found.route, found.upstream) == ("listener/pass", "a")
    assert "10.0.0.1:1, 10.0.0.2:1" in found.detail
    assert "unrecognized_name" in explain(gateway, "GET", "https://b.test/", listener="pass").detail
    assert explain(gateway, "GET", "http://x/", listener="db").upstream == "a"


def test_the_client_is_assumed_to_offer_the_protocols_of_http() -> None:
    """An https URL is that of an HTTP client. The explanation says so where it matters."""
    listed = '[{sni: ["*.a.test"], alpn: [h2], upstream: a}, {sni: [b.test], alpn: [postgresql], upstream: a}]'
    gateway = compile(loaded(TEXT.replace('[{sni: ["*.a.test"], upstream: a}]', listed)).config, 1)
    found, refused = (explain(gateway, "GET", f"https://{name}/", listener="pass") for name in ("x.a.test", "b.test"))
    assumed = "; assumed that the client offers h2 and http/1.1 (ALPN), which the routes depend on"
    assert (found.route, found.upstream) == ("listener/pass", "a")
    assert found.detail == (
        f"connections are passed through to the targets of the upstream: 10.0.0.1:1, 10.0.0.2:1{assumed}"
    )
    assert refused.detail == (
        f'no route for the server name "b.test": the connection is closed (unrecognized_name){assumed}'
    )
    without = explain(compile(loaded().config, 1), "GET", "https://x.a.test/", listener="pass")
    assert "ALPN" not in without.detail


def test_what_is_passed_through_on_a_port_that_ends_tls_is_presented_no_certificate(tmp_path: Path) -> None:
    certificate, key = Certificates(tmp_path).issue("a.test")
    text = f"""
version: 1
status: null
admin: null
listeners:
  both:
    address: "127.0.0.1:443"
    protocol: tcp
    tls: {{certificates: [{{certificate: {certificate}, key: {key}}}]}}
    routes: [{{sni: [a.test], upstream: a}}, {{sni: ["*.a.test"], upstream: b, passthrough: true}}]
upstreams: {{a: {{targets: ["tcp://10.0.0.1:1"]}}, b: {{targets: ["tcp://10.0.0.2:1"]}}}}
"""
    found = load_text(text.encode(), "a.yaml", TYPES)
    gateway = compile(found.config, 1, files=found.captured)
    ended, passed = (explain(gateway, "GET", f"https://{name}/") for name in ("a.test", "x.a.test"))
    assert (ended.upstream, ended.server_certificate) == ("a", str(certificate))
    assert (passed.upstream, passed.server_certificate) == ("b", "")
    assert passed.detail == "connections are passed through, with their TLS, to the targets of the upstream: 10.0.0.2:1"


def test_requests_are_explained_by_the_listener_that_takes_some() -> None:
    assert explain(compile(loaded().config, 1), "GET", "http://x:8080/").route == "all"


def test_another_route_is_a_difference() -> None:
    before, after = loaded().config, loaded(TEXT.replace("*.a.test", "*.b.test")).config
    told = as_text(differences(before, after))
    assert "pass" in told
    assert "db" not in told
