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
