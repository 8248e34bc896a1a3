"""Variables in `respond`, `redirect` and `rewrite`: encoded for their position, and refused where they are unknown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import config
from fastgw.config.base.variables import FIXED
from fastgw.filters import TYPES
from fastgw.filters.authentication.templates import VALUES, fit_value
from tests.support.memory import Plane
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"


def test_each_variable_has_a_value() -> None:
    assert frozenset(VALUES) == FIXED


def answer(route: dict[str, Any], target: str, fields: bytes = b"") -> bytes:
    plane = Plane({"routes": [{"name": "r", "paths": ["/x/{id}"], **route}]})
    client = plane.client()
    client.sends(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target.encode(), HOST, fields))
    return bytes(client.received)


@pytest.mark.parametrize(
    ("kind", "body", "sent"),
    [
        ("text/plain", "{id} {header.X-A} {route} {unknown} {a}", b'7 "<b> r {unknown} {a}'),
        ("application/json", '{"id": "{id}", "a": "{header.X-A}"}', b'{"id": "7", "a": "\\"<b>"}'),
        ("application/problem+json", '{"a": "{header.X-A}"}', b'{"a": "\\"<b>"}'),
        ("text/html; charset=utf-8", "<p>{header.X-A}</p>", b"<p>&quot;&lt;b&gt;</p>"),
        ("text/plain", "[{header.X-Missing}] {target}", b"[] {target}"),
    ],
)
def test_a_body_has_values_escaped_for_its_type(kind: str, body: str, sent: bytes) -> None:
    respond = {"body": body, "headers": {"Content-Type": kind}}
    assert answer({"respond": respond}, "/x/7", b'X-A: "<b>\r\n').endswith(b"\r\n\r\n" + sent)


@for_each("kind", ["application/soap+xml", "text/xml; charset=utf-8", "text/html"])
@for_each("value", ["%00", "%01", "%1F", "%EF%BF%BE", "%FF"])
def test_a_value_puts_no_character_into_xml_that_xml_does_not_allow(kind: str, value: str) -> None:
    """No escape stands for one (XML 1.0 section 2.2): it is replaced, as bytes are that are not UTF-8."""
    respond = {"body": "<a>{query.q}</a>", "headers": {"Content-Type": kind}}
    got = answer({"respond": respond}, f"/x/7?q=1%09{value}2")
    assert got.endswith("\r\n\r\n<a>1\t\ufffd2</a>".encode())


def test_a_header_has_values_too_and_is_left_out_without_them() -> None:
    headers = {"X-Id": "{id}/{method}", "X-None": "a{query.none}"}
    got = answer({"respond": {"body": "ok", "headers": headers}}, "/x/7")
    assert b"\r\nX-Id: 7/GET\r\n" in got
    assert b"X-None" not in got


def test_a_fixed_answer_has_the_headers_of_each_listener() -> None:
    """Changes that are the same for all responses are part of the bytes that are kept."""
    listeners = {"main": {"address": "127.0.0.1:0"}}
    set_ = {"set": {"X-A": "new", "X-B": "b"}, "remove": ["X_C"], "add": {"X-A": "more"}}
    respond = {"body": "ok", "headers": {"X-A": "old", "X-C": "c"}}
    route = {"name": "r", "paths": ["/*"], "respond": respond, "filters": {"headers": {"response": set_}}}
    plane = Plane({"listeners": listeners, "routes": [route]})
    (rule,) = (rule for routes in plane.gateway.routes for rule in routes.rules)
    assert rule[0].route.chain.ready_answer is not None
    heads = []
    for method in (b"GET", b"GET", b"HEAD"):
        client = plane.client()
        client.sends(b"%b / HTTP/1.1\r\n%b\r\n" % (method, HOST))
        lines = bytes(client.received).partition(b"\r\n\r\n")[0].split(b"\r\n")
        heads.append(sorted(line for line in lines if not line.startswith((b"Date", b"X-Request-Id"))))
    assert heads[0] == heads[1] == heads[2]
    assert [line for line in heads[0] if line.startswith(b"X-")] == [b"X-A: more", b"X-A: new", b"X-B: b"]


@pytest.mark.parametrize("existing", ["replace", "keep"])
def test_a_fixed_answer_has_the_headers_for_each_origin(existing: str) -> None:
    """From memory as from the steps of the filters."""
    cors = {"origins": ["https://a.test", "https://*.b.test"]}
    filters = {"cors": cors, "security_headers": {"existing": existing}}
    route = {"name": "r", "paths": ["/*"], "respond": {"body": "ok"}, "filters": filters}
    plane = Plane({"routes": [route]})
    (rule,) = (rule for routes in plane.gateway.routes for rule in routes.rules)
    assert (rule[0].route.chain.ready_answer is not None) is (existing == "replace")
    for origin in (b"", b"https://a.test", b"https://x.b.test", b"https://c.test", b"https://y.b.test", b""):
        heads = []
        for method in (b"GET", b"GET", b"HEAD"):
            client = plane.client()
            fields = b"Origin: %b\r\n" % origin if origin else b""
            client.sends(b"%b / HTTP/1.1\r\n%b%b\r\n" % (method, HOST, fields))
            lines = bytes(client.received).partition(b"\r\n\r\n")[0].split(b"\r\n")
            heads.append(sorted(line for line in lines if not line.startswith((b"Date", b"X-Request-Id"))))
        assert heads[0] == heads[1] == heads[2]
        allowed = [line for line in heads[0] if line.startswith(b"Access-Control-Allow-Origin: ")]
        assert [line[29:] for line in allowed] == ([origin] if b"a.test" in origin or b"b.test" in origin else [])
        assert heads[0].count(b"Vary: Origin") == heads[0].count(b"X-Frame-Options: SAMEORIGIN") == 1


def test_a_value_never_ends_a_header() -> None:
    got = answer({"respond": {"body": "ok", "headers": {"X-Q": "{query.q}"}}}, "/x/7?q=a%0d%0aX-B:%20c")
    assert b"X-B" not in got


@pytest.mark.parametrize(
    ("to", "target", "location"),
    [
        ("/y/{query.q}", "/x/7?q=a/..%2Fb%3Fc%0d%0a", b"/y/a%2F..%2Fb%3Fc%0D%0A?q=a/..%2Fb%3Fc%0d%0a"),
        ("/y?next={path}", "/x/7", b"/y?next=/x/7"),
        ("https://b.test/{path}", "/x/7?a=b", b"https://b.test/x/7?a=b"),
        ("/y/{id}/{route}", "/x/7", b"/y/7/r"),
    ],
)
def test_a_redirect_has_values_percent_encoded(to: str, target: str, location: bytes) -> None:
    got = answer({"redirect": {"to": to}}, target)
    assert b"\r\nLocation: " + location + b"\r\n" in got


@for_each(
    ("to", "target", "location"),
    [
        ("/new#sec", "/x/7?a=1", b"/new?a=1#sec"),
        ("/new#sec?x", "/x/7?a=1", b"/new?a=1#sec?x"),
        ("/new#sec?x={id}", "/x/7?a=1", b"/new?a=1#sec?x=7"),
        ("/new#{id}", "/x/7?a=1", b"/new?a=1#7"),
        ("/new#{query.a}", "/x/7?a=%23b", b"/new?a=%23b#%23b"),
        ("/new?b#sec", "/x/7?a=1", b"/new?b#sec"),
        ("/new?b=#sec?x", "/x/7?a=1", b"/new?b=#sec?x"),
        ("https://b.test#sec", "/x/7?a=1", b"https://b.test?a=1#sec"),
        ("https://b.test/#/{id}?x#", "/x/7?", b"https://b.test/?#/7?x#"),
        ("/new#sec", "/x/7", b"/new#sec"),
    ],
)
def test_the_query_of_a_redirect_precedes_the_fragment(to: str, target: str, location: bytes) -> None:
    """RFC 3986 section 3.5: all that follows the first `#` is the fragment, a `?` as well."""
    got = answer({"redirect": {"to": to}}, target)
    assert b"\r\nLocation: " + location + b"\r\n" in got


@pytest.mark.parametrize(("path", "sent"), [("/a b", b"/a%20b"), ("/ä", b"/%C3%A4"), ("/a%7eb//c", b"/a~b//c")])
def test_the_path_of_a_redirect_is_encoded(path: str, sent: bytes) -> None:
    assert b"\r\nLocation: http://a.test%b?q\r\n" % sent in answer({"redirect": {"path": path}}, "/x/7?q")


@for_each(
    ("path", "to", "target", "location"),
    [
        ("/old/{a}.html", "/new/{a}/x", "/old/...html", b""),
        ("/old/{a}.html", "/new/{a}/x", "/old/a.html", b"/new/a/x"),
        ("/old/{a}.html", "https://b.test/new/{a}#x", "/old/...html", b""),
        ("/old/{a}.html", "https://b.test?a={a}", "/old/...html", b"https://b.test?a=.."),
        ("/old/{a}.html", "https://b.test/#/{a}/b", "/old/...html", b"https://b.test/#/../b"),
        ("/old/{a}.html", "/old/%2e{a}/x", "/old/..html", b""),
        ("/old/{a}.html", "/a/../{a}", "/old/b.html", b"/a/../b"),
        ("/old/{a}.html", "/a/../{a}", "/old/...html", b""),
        ("/dq", "/new/{query.t}/x", "/dq?t=..", b""),
        ("/dq", "/new/{query.t}/x", "/dq?t=...", b"/new/.../x?t=..."),
        ("/{rest:path}", "/new/.{rest}", "/", b""),
        ("~^/q/(?P<a>..)", "/new/{a}/x", "/q/%2Fx", b""),
        ("~^/q/(?P<a>..)", "/new?a={a}", "/q/%2Fx", b""),
        ("~^/q/(?P<a>...)", "/new/{a}/x", "/q/%2Fx", b"/new/%2F/x"),
    ],
)
def test_no_value_completes_a_dot_segment_or_half_an_escape_of_a_redirect(
    path: str, to: str, target: str, location: bytes
) -> None:
    """RFC 3986 sections 2.1 and 5.2.4: clients resolve dot segments of paths; literal ones are the author's."""
    got = answer({"paths": [path], "redirect": {"to": to}}, target)
    assert (b"\r\nLocation: " + location + b"\r\n" in got) if location else got.startswith(b"HTTP/1.1 400 ")


def test_a_redirect_without_its_value_is_refused() -> None:
    assert answer({"redirect": {"to": "/y/{query.q}"}}, "/x/7").startswith(b"HTTP/1.1 400 ")
    assert answer({"redirect": {"to": "/y/{claim.sub}"}}, "/x/7").startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("claim", [["a,b"], " a", "\ud800"])
def test_a_claim_that_is_ambiguous_counts_as_missing(claim: object) -> None:
    exchange: Any = SimpleNamespace(claims={"groups": claim})
    assert fit_value("claims.groups")(exchange) is None


def sent_path(rewrite: str, target: bytes) -> bytes:
    plane = Plane({"routes": [{"name": "r", "paths": ["/x/{id}"], "upstream": "u", "rewrite": rewrite}]})
    client = plane.client()
    client.sends(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, HOST))
    if client.received:
        return bytes(client.received[:12])
    return bytes(plane.connects().received.split(b" ")[1])


@pytest.mark.parametrize(
    ("rewrite", "target", "sent"),
    [
        ("/in/{query.q}/{id}", b"/x/7?q=a%2Fb", b"/in/a%2Fb/7?q=a%2Fb"),
        ("/in{path}", b"/x/7", b"/in/x/7"),
        ("/in/{path}", b"/x/7", b"/in/x/7"),
        ("/in/{upstream}/{id}", b"/x/7", b"/in/u/7"),
        ("/in/{query.q}", b"/x/7?q=..", b"HTTP/1.1 400"),
        ("/in/{query.q}", b"/x/7", b"HTTP/1.1 400"),
        ("/in/{claim.tenant}", b"/x/7", b"HTTP/1.1 403"),
    ],
)
def test_a_rewrite_has_values_that_stay_in_their_segment(rewrite: str, target: bytes, sent: bytes) -> None:
    assert sent_path(rewrite, target) == sent


@pytest.mark.parametrize(
    ("route", "wrong"),
    [
        ('rewrite: "/in/{claim.a b}"', "claim.a b"),
        ('rewrite: "/in/{nothing.a}"', 'unknown variable "nothing.a"'),
        ('rewrite: "/in/{clientip}"', 'the parameter "clientip"'),
    ],
)
def test_check_knows_the_variables(tmp_path: Path, route: str, wrong: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'
        f'routes: [{{name: r, paths: ["/x/{{id}}"], upstream: "http://a.test", {route}}}]\n'
    )
    with pytest.raises(config.ConfigError) as error:
        config.load(str(file), TYPES)
    assert wrong in str(error.value)


def test_what_only_an_upstream_knows_is_no_part_of_a_redirect(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        'version: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\nroutes: [{name: r, redirect: {to: "/{target}"}}]\n'
    )
    with pytest.raises(config.ConfigError, match='unknown variable "target"'):
        config.load(str(file), TYPES)


@pytest.mark.parametrize(
    ("kind", "body", "is_valid"),
    [
        ("text/javascript", 'var a = "{query.a}"', False),
        ("Application/ECMAScript", 'var a = "{id}"', False),
        ("text/css", "a { color: {param.id} }", False),
        ("{header.accept}", "{id}", False),
        ("text/javascript", "function f() {return} {unknown}", True),
        ("text/javascript", "let {target} = {upstream}, {claim.a..b}", True),  # literal in `respond`
        ("text/csv", "{id}", True),
    ],
)
def test_no_value_is_inserted_into_a_script(kind: str, body: str, is_valid: bool) -> None:
    """No encoding is right at each position of one."""
    respond = {"body": body, "headers": {"content-type": kind}}
    routes = [{"name": "r", "paths": ["/x/{id}"], "respond": respond}]
    if is_valid:
        Plane({"routes": routes})
    else:
        with pytest.raises(config.ConfigError, match="cannot be inserted into"):
            Plane({"routes": routes})
