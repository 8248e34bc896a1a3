"""transform: bodies in, bodies out, and what cannot be transformed."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from typing import Any

import pytest

from fastgw.filters.api import Exchange, Phase
from fastgw.filters.policies.content_coding import Compress
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.transform import Transform
from fastgw.filters.policies.transform.compiled_change import compile_change
from fastgw.filters.policies.transform.expressions import compile_jq, compile_jsonata
from fastgw.filters.policies.transform.json_mapping import JsonFunction
from fastgw.filters.policies.transform.values import IN_HELPER, IN_STREAM, CostlyBody, UnmappableBody
from fastgw.http.json import texts
from fastgw.testing import ConfigError, Ran, configured, run
from tests.support.memory import Plane, probe
from tests.support.table import for_each
from tests.unit.filters.policies.cache.world import World

JSON = b"application/json"


def post(body: bytes, kind: bytes = JSON, lines: bytes = b"", target: bytes = b"/") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (target, kind, len(body), lines) + body


def ok(body: bytes, kind: bytes = JSON, lines: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, kind, len(body), lines) + body


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def sent(body: bytes, request: bytes | None = None, **rules: Any) -> bytes:
    """Return the body that the upstream gets for a request with this body."""
    ran = run(configured(Transform, request={"json": rules}), request or post(body))
    assert ran.passed, ran.why
    assert ran.sent_fields.get(b"content-length") == b"%d" % len(ran.sent_body)
    return ran.sent_body


def answered(response: bytes, request: bytes = GET, timeout: float = 5.0, **change: Any) -> Ran:
    return run(configured(Transform, response=change), request, response=response, timeout=timeout)


def within(lists: int, value: Any) -> Any:
    """A value within this many lists."""
    for _ in range(lists):
        value = [value]
    return value


@for_each(
    ("rules", "body", "mapped"),
    [
        ({"allow": ["a", "b.c"]}, b'{"a": 1.10, "b": {"c": 2, "d": 3}, "e": 4}', b'{"a":1.10,"b":{"c":2}}'),
        ({"allow": ["b.c"]}, b'{"b": {"d": 3}, "e": 4}', b"{}"),
        ({"allow": ["b.c"]}, b'{"b": [1]}', b"{}"),
        ({"allow": ["l.*.x"]}, b'{"l": [{"x": 1, "y": 2}, 5, {}]}', b'{"l":[{"x":1},{}]}'),
        ({"allow": ["*.x", "b.y"]}, b'{"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 4}}',
         b'{"a":{"x":1},"b":{"x":3,"y":4}}'),
        ({"allow": ["*.x"]}, b'[{"x": 1, "y": 2}, [3]]', b'[{"x":1}]'),
        ({"deny": ["a", "b.c", "l.*.x"]}, b'{"a":1,"b":{"c":2,"d":3},"l":[{"x":1,"y":2},7]}',
         b'{"b":{"d":3},"l":[{"y":2},7]}'),
        ({"allow": ["b"], "deny": ["b.c"]}, b'{"a":1,"b":{"c":2,"d":3}}', b'{"b":{"d":3}}'),
        ({"rename": {"a": "b"}}, b'{"x":0,"a":1,"b":2}', b'{"x":0,"b":1}'),
        ({"rename": {"a": "b", "b": "a"}}, b'{"a":1,"b":2}', b'{"b":1,"a":2}'),
        ({"rename": {"l.*.a": "b", "l": "m"}}, b'{"l":[{"a":1},{"c":2}]}', b'{"m":[{"b":1},{"c":2}]}'),
        ({"move": {"a.b": "c.d"}}, b'{"a":{"b":12345678901234567890123}}',
         b'{"a":{},"c":{"d":12345678901234567890123}}'),
        ({"move": {"a": "a.b"}}, b'{"a":1}', b'{"a":{"b":1}}'),
        ({"move": {"l.*.a.b": "l.*.c"}}, b'{"l":[{"a":{"b":1}},{"a":{"b":2}}]}',
         b'{"l":[{"a":{},"c":1},{"a":{},"c":2}]}'),
        ({"move": {"a.*": "b.*.v"}}, b'{"a":{"x":1,"y":2}}', b'{"a":{},"b":{"x":{"v":1},"y":{"v":2}}}'),
        ({"move": {"a": "b.c"}}, b'{"a":1,"b":null}', b'{"a":1,"b":null}'),
        ({"move": {"a": "b.c"}}, b'{"a":1,"b":[]}', b'{"a":1,"b":[]}'),
        ({"move": {"a": "b.c", "x": "y"}}, b'{"a":1,"b":5,"x":2}', b'{"a":1,"b":5,"y":2}'),
        ({"move": {"*.a": "b"}}, b'[{"a":1},{"a":2}]', b'[{"a":1},{"a":2}]'),
        ({"move": {"a": "b.c"}}, b'{"a":1,"b":{"c":2}}', b'{"b":{"c":1}}'),
        ({"move": {"o.*.t": "s.*.v"}}, b'{"o":[{"t":1.10},{"t":2}]}',
         b'{"o":[{},{}],"s":[{"v":1.10},{"v":2}]}'),
        ({"move": {"o.*.t": "s.*.v"}}, b'{"o":[5,{"t":1},{}],"s":[]}', b'{"o":[5,{},{}],"s":[{},{"v":1}]}'),
        ({"move": {"o.*.t": "s.*.v"}}, b'{"o":[{"t":1},{"t":2},{"t":3}],"s":[{"w":0},null]}',
         b'{"o":[{},{"t":2},{}],"s":[{"w":0,"v":1},null,{"v":3}]}'),
        ({"move": {"o.*.t": "s.*.v"}}, b'{"o":[{"t":1}],"s":{"v":2}}', b'{"o":[{"t":1}],"s":{"v":2}}'),
        ({"move": {"o.*.t": "s.*.v"}}, b'{"o":{"x":{"t":1}},"s":[]}', b'{"o":{"x":{"t":1}},"s":[]}'),
        ({"move": {"a.*.*": "b.*.*.v"}}, b'{"a":[[1],[2,3]]}', b'{"a":[[],[]],"b":[[{"v":1}],[{"v":2},{"v":3}]]}'),
        ({"move": {"l.*": "l.*.v"}}, b'{"l":[1,2]}', b'{"l":[{"v":1},{"v":2}]}'),
        ({"move": {"*": "x.*.v"}}, b'{"y":1,"x":2}', b'{"x":{"y":{"v":1},"x":{"v":2}}}'),
        ({"move": {"*.*.k": "x.*.k"}}, b'{"p":{"q":{"k":1}},"x":{"p":{"k":2}}}',
         b'{"p":{"q":{}},"x":{"p":{"k":1},"x":{"k":2}}}'),
        ({"default": {"a": 9, "b.c": [1, {"d": None}]}}, b'{"a":null}', b'{"a":null,"b":{"c":[1,{"d":null}]}}'),
        ({"set": {"a": True, "l.*.x": "t"}}, b'{"a":1,"l":[{},3]}', b'{"a":true,"l":[{"x":"t"},3]}'),
        ({"set": {"a.b": 1}}, b'{"a":"text"}', b'{"a":"text"}'),
        ({"set": {"a": 12345678901234567890123, "b": [{"n": -9223372036854775809}]},
          "default": {"c": {"n": 18446744073709551616}, "d": ["{path}", 18446744073709551616]}}, b"{}",
         b'{"c":{"n":18446744073709551616},"d":["/",18446744073709551616],"a":12345678901234567890123,'
         b'"b":[{"n":-9223372036854775809}]}'),
        ({"set": {"a.b": 1}, "default": {"c.d.e": 2}}, b'{"a":null,"c":[]}', b'{"a":null,"c":[]}'),
        ({"set": {"a.b.c": 1, "a.b.d": 2}}, b'{"a":{}}', b'{"a":{"b":{"c":1,"d":2}}}'),
        ({"set": {"a.b.c": [{}]}, "default": {"a.x.y": 2, "a.b.c": 3}}, b'{"a":{"x":{"z":0}}}',
         b'{"a":{"x":{"z":0,"y":2},"b":{"c":[{}]}}}'),
        ({"set": {"page.size": "{query.size}", "page.n.m": "{{ gone }}"}}, b"{}", b"{}"),
        ({"default": {"page.size": "{query.size}"}}, b"{}", b"{}"),
        ({"set": {"l.*.n": 1}, "default": {"a.l.*.n": 2}}, b"{}", b"{}"),
        ({"set": {"l.*.n": 1}, "default": {"a.l.*.n": 2}}, b'{"a":{}}', b'{"a":{}}'),
        ({"set": {"l.*.a.n": 1}, "default": {"l.*.n": 2}}, b'{"l":[{},{"a":{"b":2}},{"a":null,"n":0},[]]}',
         b'{"l":[{"n":2,"a":{"n":1}},{"a":{"b":2,"n":1},"n":2},{"a":null,"n":0},[]]}'),
        ({"default": {"n": "{{ length(gone) }}"}}, b'{"n":1}', b'{"n":1}'),
        ({"set": {"r": "{{ l[?x > `1`].x }}", "s": "{{ a < b }}"}},
         b'{"l":[{"x":"n/a"},{"x":5},{"x":true}],"a":"x","b":2}',
         b'{"l":[{"x":"n/a"},{"x":5},{"x":true}],"a":"x","b":2,"r":[5]}'),
        ({"wrap": "items", "allow": ["items.*.x"]}, b' [{"x":1,"y":2}] ', b'{"items":[{"x":1}]}'),
        ({"wrap": "items"}, b'{"a":1}', b'{"a":1}'),
        ({"group": "data"}, b'[1, 2]', b'{"data":[1, 2]}'),
        ({"set": {"n": "{{ length(l) }}", "f": "{{ l[0] }}", "t": "{{ l[0] }} of {{ x.y }}"}},
         b'{"l":[1.10,2],"x":{"y":"\xc3\xa9\\""}}',
         b'{"l":[1.10,2],"x":{"y":"\xc3\xa9\\""},"n":2,"f":1.10,"t":"1.10 of \xc3\xa9\\""}'),
        ({"set": {"a": "{{ l[:2] }}", "b": "{{ length(l[1:]) }}"}}, b'{"l":[1,2,3]}', b'{"l":[1,2,3],"a":[1,2],"b":2}'),
        ({"set": {"a": "{{ gone }}", "b": "x{{ gone }}", "c": "{{ '{' }}"}}, b'{"a":1}', b'{"a":1,"c":"{"}'),
        ({"deny": ["s"], "set": {"k": "{{ s.k }}"}}, b'{"s":{"k":[1, 2]}}', b'{"k":[1, 2]}'),
        ({"set": {"m": "{method}", "q": "{query.q}", "h": "{header.x-a}-"}}, b"{}", b'{"m":"POST"}'),
    ],
)  # fmt: skip
def test_rules(rules: dict[str, Any], body: bytes, mapped: bytes) -> None:
    assert sent(body, **rules) == mapped


def test_values_of_the_request_are_texts_and_cannot_add_members() -> None:
    request = post(b"{}", target=b"/?q=%22,%22admin%22:true")
    ran = run(configured(Transform, request={"json": {"set": {"q": "<{query.q}>"}}}), request)
    assert json.loads(ran.sent_body) == {"q": '<","admin":true>'}


@pytest.mark.parametrize(
    ("target", "body"), [(b"/users/J%C3%B6rg%22", '{"n":"J\u00f6rg\\""}'), (b"/users/a%2Fb%2520", '{"n":"a/b%20"}')]
)
def test_path_parameters_are_decoded(target: bytes, body: str) -> None:
    """As in `compose`, and as values of the query are. A name that is not UTF-8 is refused."""
    filters = {"transform": {"request": {"json": {"set": {"n": "{name}"}}}}}
    plane = Plane({"routes": [{"name": "user", "paths": ["/users/{name}"], "upstream": "u", "filters": filters}]})
    plane.client().sends(post(b"{}", target=target))
    assert plane.connects().received.endswith(b"\r\n\r\n" + body.encode())
    refused = plane.client()
    refused.sends(post(b"{}", target=b"/users/%ff"))
    assert refused.received.startswith(b"HTTP/1.1 400 ")


def test_claims_that_are_no_text_refuse_the_request() -> None:
    transform = configured(Transform, request={"json": {"set": {"q": "{query.q}"}}})
    assert run(transform, post(b"{}", target=b"/?q=%ff")).fault == "bad_request"


def test_an_integer_of_any_size_is_a_value_of_the_request() -> None:
    claims = {"n": 10**30, "list": [1, -(10**30)]}

    def identify(exchange: Exchange) -> None:
        exchange.claims = claims

    transform = {"request": {"json": {"set": {"n": "{claims.n}", "list": "{claims.list}"}}}}
    plane = Plane(
        {"routes": [{"name": "all", "upstream": "u", "filters": {"transform": transform}}]},
        probes=[probe("who", Phase.AUTHENTICATE, request=identify)],
    )
    plane.client().sends(post(b"{}"))
    assert plane.connects().received.endswith(b'\r\n\r\n{"n":"1%b","list":"1,-1%b"}' % (b"0" * 30, b"0" * 30))


@for_each(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"x":{"a":1,"\\u0061":2}}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":NaN}',
        b'{"a":01}',
        b'{"a":1}x',
        b'{"a":1',
        b'{"a":"\n"}',
        b'"text',
        b"nul",
        b"1e400",
        b"[" * 100_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        '{"a":1}'.encode("utf-16"),
    ],
)
@for_each("rules", [{"json": {"allow": ["b"]}}, {"json": {"set": {"b": 1}}}, {"template": {"b": "{{ b }}"}}])
def test_bodies_with_more_than_one_meaning_are_refused(body: bytes, rules: dict[str, Any]) -> None:
    ran = run(configured(Transform, request=rules), post(body), timeout=60)  # a helper process starts for large ones
    assert (ran.status, ran.fault, ran.passed) == (400, "bad_request", False)
    assert b"application/problem+json" in ran.received
    ran = answered(ok(body), timeout=60, **rules)
    assert (ran.status, ran.fault) == (502, "upstream_malformed")
    assert ran.why.startswith("transform: ")


@for_each("body", [b"null", b"true", b"5", b"1.10", b'"\xc3\xa9, {[\\u0022"', b' "x"\n'])
@for_each(
    ("change", "mapped"),
    [
        ({"json": {"deny": ["*.d", "a.b"], "rename": {"b": "c"}, "move": {"*": "a.b"}}}, b"%b"),
        ({"json": {"set": {"a": 1, "*.b": 1}, "default": {"a.b": 1}, "wrap": "items"}}, b"%b"),
        ({"json": {"allow": ["a"]}}, b"null"),
        ({"json": {"group": "data"}}, b'{"data":%b}'),
        ({"template": {"a": "{{ @ }}", "b": "{{ a }}"}}, b'{"a":%b,"b":null}'),
    ],
)
def test_a_body_that_is_neither_an_object_nor_an_array_has_no_paths(
    body: bytes, change: dict[str, Any], mapped: bytes
) -> None:
    expected = mapped.replace(b"%b", body.strip())
    assert answered(ok(body), **change).body == expected
    assert run(configured(Transform, request=change), post(body)).sent_body == expected
    assert answered(LINES + b"{}\n" + body.strip() + b"\n", **change).body.endswith(b"\n" + expected + b"\n")
    events = answered(EVENTS + b"data: " + body.strip() + b"\n\ndata: [1]\n\n", **change).body
    assert events.startswith(b"data: " + expected + b"\n\ndata: ")


def test_a_body_that_is_neither_an_object_nor_an_array_is_no_form() -> None:
    assert run(configured(Transform, request={"output": "form"}), post(b"5")).status == 400


@pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"1" + b"0" * 400])
def test_a_number_beyond_the_range_of_a_double_is_named_as_the_reason(number: bytes) -> None:
    """RFC 8259 section 6 leaves the range to each reader."""
    for change in ({"json": {"deny": ["s"]}}, {"template": {"a": 1}}):
        ran = run(configured(Transform, request=change), post(b'{"a":%b}' % number))
        assert (ran.status, ran.why) == (400, "transform: a number is too large for a double")


DEEP = b"[" * 255 + b"]" * 255
JQ = {"jq": "if .several then 1, 2 else {v: .a} end"}
SUM = {"json": {"set": {"a": "{{ sum(secret_rule) }}"}}}


@for_each(
    ("change", "body", "reason"),
    [
        ({"json": {"deny": ["s"]}}, b'{"a":1e400}', "a number is too large for a double"),
        ({"json": {"deny": ["s"]}}, DEEP, "nested too deeply"),
        ({"json": {"deny": ["s"]}}, b'{"a":1,"a":2}', "duplicate names in an object"),
        ({"json": {"deny": ["s"]}}, b'{"a":', "not JSON in UTF-8"),
        ({"template": {"a": 1}}, b'{"a":1e400}', "a number is too large for a double"),
        ({"output": "form"}, b"5", "only an object can be a form"),
        (SUM, b'{"secret_rule":["hidden"]}', "an expression failed"),
        ({"json": {"set": {"a": "{query.secret_rule}"}}}, b"{}", "a value of the request is not a text in UTF-8"),
        (JQ, b'{"a":9007199254740993}', "an integer is beyond 2^53, and would be rounded"),
        (JQ, b"[1]", "an expression failed"),
        (JQ, b'{"several":true}', "an expression has several results"),
        (JQ, b'{"a":1e400}', "a number is too large for a double"),
        (JQ, DEEP, "nested too deeply"),
    ],
)
def test_the_client_is_told_why_its_body_is_refused_and_nothing_of_the_rules(
    change: dict[str, Any], body: bytes, reason: str
) -> None:
    request = post(body, target=b"/?secret_rule=%ff")
    ran = run(configured(Transform, request=change), request, timeout=60)  # a helper process starts
    problem = json.loads(ran.received.partition(b"\r\n\r\n")[2])
    assert (ran.status, problem["detail"]) == (400, f"The request body cannot be processed: {reason}.")


def test_a_template_is_as_deep_as_can_be_written() -> None:
    template = within(253, {"a": "{{ a }}"})
    ran = answered(ok(b'{"a":1.0}'), template=template)
    assert ran.body == b"[" * 253 + b'{"a":1.0}' + b"]" * 253


def test_a_template_builds_the_body() -> None:
    template = {"id": "{{ user.id }}", "names": ["{{ user.name }}", "x{{ user.id }}"], "all": "{{ tags[?@ != 'b'] }}",
                "v": 18446744073709551616, "none": "{{ gone }}", "route": "{route}"}  # fmt: skip
    body = b'{"user":{"id":1.10,"name":"A\\u0022"},"tags":["a","b"]}'
    ran = answered(ok(body), template=template)
    assert (
        ran.body
        == b'{"id":1.10,"names":["A\\u0022","x1.10"],"all":["a"],"v":18446744073709551616,"none":null,"route":"test"}'
    )
    assert ran.fields.get(b"content-length") == b"%d" % len(ran.body)


def test_header_fields_that_described_the_received_body_are_dropped() -> None:
    lines = b'ETag: "v1"\r\nAccept-Ranges: bytes\r\nContent-Digest: sha-256=:AA==:\r\n'
    request = b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-3\r\nAccept-Encoding: gzip\r\n\r\n"
    ran = answered(ok(b'{"a":1,"s":2}', lines=lines), request, json={"deny": ["s"]})
    assert ran.body == b'{"a":1}'
    assert ran.fields.get_all(b"etag") == [b'W/"v1"']
    assert not ran.fields.get_all(b"accept-ranges") + ran.fields.get_all(b"content-digest")
    assert ran.sent_fields.get_all(b"accept-encoding") == [b"identity"]
    assert not ran.sent_fields.get_all(b"range")


@pytest.mark.parametrize(
    ("variable", "kept"),
    [("header.X-U", False), ("cookie.u", False), ("client_ip", False), ("query.u", True), ("path", True)],
)
def test_a_body_with_values_that_are_not_in_the_url_has_no_validators(variable: str, kept: bool) -> None:
    """RFC 9110 section 8.8.1: those of the upstream say nothing about it, so that no 304 confirms another body."""
    lines = b'ETag: "v1"\r\nLast-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n'
    request = b"GET /?u=1 HTTP/1.1\r\nHost: a\r\nX-U: 1\r\nCookie: u=1\r\n\r\n"
    rules = {"set": {"u": f"x{{{variable}}}"}}
    ran = answered(ok(b'{"a":1}', lines=lines), request, json=rules)
    assert ran.status == 200
    assert ran.fields.get_all(b"etag") == [b'W/"v1"'] * kept
    assert (ran.fields.get(b"last-modified") is not None) == kept
    ran = answered(b"HTTP/1.1 304 Not Modified\r\n" + lines + b"\r\n", request, json=rules)
    assert ran.fields.get_all(b"etag") == [b'W/"v1"'] * kept


def test_head_and_not_modified_are_told_the_same() -> None:
    lines = b'ETag: "v1"\r\n'
    head = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\nETag: "v1"\r\n\r\n'
    ran = answered(head, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", json={"deny": ["s"]})
    assert (ran.status, ran.fields.get(b"etag"), ran.fields.get_all(b"content-length")) == (200, b'W/"v1"', [])
    ran = answered(b"HTTP/1.1 304 Not Modified\r\n" + lines + b"\r\n", json={"deny": ["s"]})
    assert (ran.status, ran.fields.get(b"etag")) == (304, b'W/"v1"')
    ran = answered(b"HTTP/1.1 204 No Content\r\n" + lines + b"\r\n", json={"deny": ["s"]})
    assert (ran.status, ran.fields.get(b"etag")) == (204, b'"v1"')


def test_not_modified_has_one_etag_where_compress_has_weakened_it() -> None:
    filters = [configured(Transform, response={"json": {"deny": ["s"]}}), configured(Compress)]
    request = b'GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nIf-None-Match: W/"v1"\r\n\r\n'
    ran = run(filters, request, response=b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n')
    assert (ran.status, ran.fields.get_all(b"etag")) == (304, [b'W/"v1"'])


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (ok(b"{}", lines=b"Content-Encoding: gzip\r\n"), "content coding"),
        (ok(b"{}", status=b"206 Partial Content", lines=b"Content-Range: bytes 0-1/9\r\n"), "a part of the content"),
        (ok(b'{"a":"' + b"x" * 1000 + b'"}'), "more than 1000 bytes"),
    ],
)
def test_responses_that_cannot_be_transformed(response: bytes, why: str) -> None:
    ran = answered(response, json={"deny": ["s"]}, max_bytes="1000B")
    assert (ran.status, why in ran.why) == (502, True)
    assert b"xxx" not in ran.received


def test_requests_that_cannot_be_transformed() -> None:
    transform = configured(Transform, request={"json": {"deny": ["s"]}, "max_bytes": "100B"})
    assert run(transform, post(b'{"a":"' + b"x" * 100 + b'"}')).status == 413
    assert run(transform, post(b"{}", lines=b"Content-Encoding: gzip\r\n")).status == 415
    assert run(transform, post(b"{}" + b" " * 98)).sent_body == b"{}"


def test_a_request_that_declares_too_long_a_body_is_refused_before_it_comes() -> None:
    settings = {"transform": {"request": {"json": {"deny": ["s"]}, "max_bytes": "100B"}}}
    request = post(b'"%b"' % (b"x" * 99), lines=b"Expect: 100-continue\r\n")
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": settings}]})
    client = plane.client()
    client.sends(request[:-101])
    assert client.received.startswith(b"HTTP/1.1 413 ")
    assert [record.fault_detail for record in plane.records] == ["transform: more than 100 bytes"]
    plane.assert_quiet()


@pytest.mark.parametrize("kind", [b"application/x-ndjson", b"text/plain"])
def test_bodies_of_which_no_whole_is_held_may_be_longer(kind: bytes) -> None:
    """`max_bytes` is of one line, and of none where the body does not change."""
    transform = configured(Transform, request={"json": {"deny": ["s"]}, "max_bytes": "100B"})
    body = b'{"a":1}\n' * 20
    whole = post(body, kind)
    assert run(transform, [whole[: -len(body)], body]).sent_body == body


@pytest.mark.parametrize("coding", [b"identity", b"Identity, identity"])
def test_identity_is_no_content_coding(coding: bytes) -> None:
    """RFC 9110 section 8.4.1."""
    both = configured(Transform, request={"json": {"deny": ["s"]}}, response={"json": {"deny": ["s"]}})
    line = b"Content-Encoding: %b\r\n" % coding
    ran = run(both, post(b'{"s":1}', lines=line), response=ok(b'{"s":1}', lines=line))
    assert (ran.status, ran.sent_body, ran.body) == (200, b"{}", b"{}")
    ran = run(both, post(b'{"s":1}', lines=line + b"Content-Encoding: gzip\r\n"))
    assert ran.status == 415


@pytest.mark.parametrize("request_", [GET, post(b"{}")])
def test_several_transformations_request_one_response_without_coding(request_: bytes) -> None:
    transform = configured(Transform, response={"json": {"deny": ["s"]}})
    headers = configured(Headers, request={"set": {"X-Accept-Encoding": "identity", "X-Method": "{method}"}})
    ran = run([transform, headers, transform], request_, response=ok(b'{"s":1}'))
    assert ran.sent_fields.get_all(b"accept-encoding") == [b"identity"]
    assert ran.sent_fields.get_all(b"x-accept-encoding") == [b"identity"]
    assert ran.body == b"{}"


def test_other_types_and_statuses() -> None:
    text = ok(b'{"s":1}', b"text/plain", lines=b'ETag: "v1"\r\n')
    ran = answered(text, json={"deny": ["s"]})
    assert (ran.body, ran.fields.get(b"etag")) == (b'{"s":1}', b'"v1"')
    assert answered(text, json={"deny": ["s"]}, other_types="refuse").status == 502
    error = ok(b'{"s":1}', status=b"404 Not Found")
    assert answered(error, json={"deny": ["s"]}).body == b'{"s":1}'
    assert answered(error, json={"deny": ["s"]}, statuses=["200-499"]).body == b"{}"
    refusing = configured(Transform, request={"json": {"deny": ["s"]}, "other_types": "refuse"})
    assert run(refusing, post(b"x", b"text/plain")).status == 415
    assert run(refusing, GET).passed
    passing = configured(Transform, request={"json": {"deny": ["s"]}})
    assert run(passing, post(b"\x00\x00\x00\x00\x00", b"application/grpc+json")).sent_body == b"\x00\x00\x00\x00\x00"


def test_forms() -> None:
    to_json = configured(Transform, request={"input": "form", "json": {"set": {"v": 1}}})
    ran = run(to_json, post(b"a=1+2&b=%C3%A9&b=&c&", b"application/x-www-form-urlencoded"))
    assert ran.sent_body == b'{"a":"1 2","b":["\xc3\xa9",""],"c":"","v":1}'
    assert ran.sent_fields.get_all(b"content-type") == [b"application/json"]
    to_form = configured(Transform, request={"output": "form", "json": {"deny": ["s"]}})
    ran = run(to_form, post(b'{"a":"x&y","n":1.10,"l":[true,"z"],"no":null,"s":{}}'))
    assert ran.sent_body == b"a=x%26y&n=1.10&l=true&l=z"
    assert ran.sent_fields.get_all(b"content-type") == [b"application/x-www-form-urlencoded"]
    assert run(to_form, post(b'{"a":{"b":1}}')).status == 400
    for body in (b"a=%zz", b"a=%f", b"a=%ff", b"&".join([b"a=1"] * 1001)):
        assert run(to_json, post(body, b"application/x-www-form-urlencoded")).status == 400, body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a":[' + b"1," * 999 + b"1]}", 204),
        (b'{"a":[' + b"1," * 1000 + b"1]}", 400),
        (b'{"a":[' + b"1," * 60_000 + b"1]}", 400),
        (b"{" + b",".join(b'"%d":1' % number for number in range(1001)) + b"}", 400),
        (b'{"a":"' + b"," * 2000 + b'"}', 204),
        (b'{"a":[' + b"null,1," * 600 + b'null],"b":null}', 204),
    ],
)
def test_the_fields_of_a_form_are_counted_before_they_are_made(
    body: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """65,000 fields held the event loop for 0.15 s."""
    opened: list[Any] = []
    monkeypatch.setattr(
        "fastgw.filters.policies.transform.forms.opened", lambda node: opened.append(node) or texts.opened(node)
    )
    ran = run(configured(Transform, request={"output": "form"}), post(body))
    assert ran.passed is (status == 204)
    if status == 400:
        assert (ran.status, opened) == (400, [])


MULTIPART = (
    b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1 2\r\n'
    b'--B\r\nContent-Disposition: form-data; name="b"\r\n\r\n\xc3\xa9\r\n'
    b'--B\r\nContent-Disposition: form-data; name="b"\r\n\r\n\r\n'
    b'--B\r\nContent-Disposition: form-data; name="f"; filename="x \\"y\\".bin"\r\n'
    b"Content-Type: image/png\r\n\r\n\0\xff\r\n--B--\r\n"
)
OF_B = b"multipart/form-data; boundary=B"


@pytest.mark.parametrize("max_bytes", ["64KiB", "1B"])
def test_multipart_forms(max_bytes: str) -> None:
    to_json = configured(Transform, request={"input": "multipart", "max_bytes": max_bytes, "json": {"set": {"v": 1}}})
    ran = run(to_json, post(MULTIPART, OF_B))
    if max_bytes == "1B":
        assert ran.status == 413
        return
    assert ran.sent_fields.get_all(b"content-type") == [b"application/json"]
    file = b'{"filename":"x \\"y\\".bin","content_type":"image/png","content":"AP8="}'
    assert ran.sent_body == b'{"a":"1 2","b":["\xc3\xa9",""],"f":%b,"v":1}' % file
    to_form = configured(Transform, request={"input": "multipart", "output": "form", "json": {"deny": ["f"]}})
    ran = run(to_form, post(MULTIPART, OF_B))
    assert ran.sent_body == b"a=1+2&b=%C3%A9&b="
    assert ran.sent_fields.get_all(b"content-type") == [b"application/x-www-form-urlencoded"]
    passed = run(to_form, post(b"a=1", b"application/x-www-form-urlencoded"))
    assert passed.sent_body == b"a=1"


@for_each(
    ("body", "content_type"),
    [
        (MULTIPART, b"multipart/form-data; boundary=C"),
        (MULTIPART, b"multipart/form-data"),
        (MULTIPART, b"multipart/form-data; boundary=B; boundary=B"),
        (MULTIPART.replace(b"--B--", b"--B"), OF_B),
        (MULTIPART.replace(b'name="a"', b'name="a"; name="b"'), OF_B),
        (MULTIPART.replace(b"; filename=", b'; filename="other"; filename='), OF_B),
        (MULTIPART.replace(b"\xc3\xa9", b"\xc3"), OF_B),
        (MULTIPART.split(b"\r\n--B--")[0][:-40] + b"\r\n--B--\r\n", OF_B),
        (b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 201 + b"--B--", OF_B),
        (b"x", OF_B),
    ],
)
def test_multipart_that_two_readers_could_read_in_two_ways_is_refused(body: bytes, content_type: bytes) -> None:
    to_json = configured(Transform, request={"input": "multipart", "json": {"set": {"v": 1}}})
    assert run(to_json, post(body, content_type)).status == 400


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
LINES = EVENTS.replace(b"text/event-stream", b"application/x-ndjson")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_and_lines_are_mapped_one_by_one(size: int) -> None:
    stream = (
        b': hi\n\nid: 1\ndata: {"a":1,\ndata: "s":2}\n\nevent: e\r\ndata:{"s":1}\r\n\r\ndata: [DONE]\n\ndata: {"cut'
    )
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    ran = run(configured(Transform, response={"json": {"deny": ["s"]}}), GET, response=[EVENTS, *pieces])
    assert ran.body == b': hi\n\nid: 1\ndata: {"a":1}\n\nevent: e\ndata: {}\n\ndata: [DONE]\n\n'
    stream = b'{"a":1.10,"s":1}\n\n{"s":2}\r\n{"a":[1]}'
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    ran = run(configured(Transform, response={"json": {"deny": ["s"]}}), GET, response=[LINES, *pieces])
    assert ran.body == b'{"a":1.10}\n\n{}\n{"a":[1]}'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_comments_count_towards_no_event_and_do_not_wait_for_its_end(size: int) -> None:
    """WHATWG HTML section 9.2.6: a comment belongs to no event. A keep-alive is one, often without an empty line."""
    pings = b": ping\n" * 50
    stream = b'data: {"a":1}\n\n' + pings + b'id: 1\n:\r\ndata: {"s":1,\n' + pings + b'data: "b":2}\n\n' + pings
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    transform = configured(Transform, response={"json": {"deny": ["s"]}, "max_bytes": "100B"})
    ran = run(transform, GET, response=[EVENTS, *pieces])
    assert ran.body == b'data: {"a":1}\n\n' + pings + b":\n" + pings + b'id: 1\ndata: {"b":2}\n\n' + pings
    stream = b"id: 1\n: ping\n" * 50  # an event without an end has its bound all the same
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert "an event is longer than 100 bytes" in run(transform, GET, response=[EVENTS, *pieces]).why


def test_a_cache_has_the_response_of_the_upstream_and_each_client_its_own_transformation() -> None:
    transform = {"response": {"json": {"deny": ["s"], "set": {"n": "{header.X-N}"}}}}
    made = World(route={"filters": {"transform": transform}})
    stored = b'{"a":1,"s":2}'
    clients = [made.client(fields=b"X-N: 1\r\n")]
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: application/json\r\n"
    made.upstream().sends(head + b"Content-Length: %d\r\n\r\n%b" % (len(stored), stored))
    clients += [made.client(fields=b"X-N: %b\r\n" % each) for each in (b"1", b"2")]
    assert [
        b'{"a":1,"n":"%b"}' % each in client.received for each, client in zip((b"1", b"1", b"2"), clients, strict=True)
    ] == [True] * 3
    assert b"fastgw; hit" in clients[2].received


MARK = b"\xef\xbb\xbf"


@for_each("size", [1, 2, 5, 1000])
@for_each(
    ("stream", "sent"),
    [
        (MARK + b'data: {"a":1,"s":2}\n\n', b'data: {"a":1}\n\n'),
        (MARK + MARK + b'data: {"a":1,"s":2}\n\n', b'data: {"a":1}\n\n'),
        (b'data: {"a":1}\n' + MARK + b'data: {"s":2}\n\n', b'data: {"a":1}\n\n'),
        (MARK + b"\n" + b'data: {"s":2}\n\n', b"\ndata: {}\n\n"),
        (b'data: {"a":1}\r\rdata: {"a":2,"s":1}\r\r', b'data: {"a":1}\n\ndata: {"a":2}\n\n'),
        (b'data: {"a":1}\r\n\r\rdata: {"a":2}\r\n\r', b'data: {"a":1}\n\n\ndata: {"a":2}\n\n'),
    ],
)
def test_a_byte_order_mark_hides_no_event_and_any_line_end_completes_one(stream: bytes, sent: bytes, size: int) -> None:
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    ran = run(configured(Transform, response={"json": {"deny": ["s"]}}), GET, response=[EVENTS, *pieces])
    assert ran.body == sent


@pytest.mark.parametrize("head", [EVENTS, LINES])
def test_a_stream_is_cut_off_at_what_cannot_be_mapped(head: bytes) -> None:
    mark = b"data: " if head == EVENTS else b""
    for bad in (b'{"a":1,"a":2}\n\n', b"x" * 200, b"x" * 200 + b"\n\n", b"{\n\n"):
        response = [head, mark + b'{"a":1}\n\n', mark + bad]
        ran = run(
            configured(Transform, response={"json": {"deny": ["s"]}, "max_bytes": "100B"}), GET, response=response
        )
        assert b'{"a":1}\n' in ran.received
        assert b"xxx" not in ran.received
        assert not ran.received.endswith(b"0\r\n\r\n")
        assert ran.why.startswith("transform: ")


@for_each("compresses", [False, True])
@for_each("bad", [b"nope\n\n", b"x" * 200, b"x" * 200 + b"\n\n"])
@for_each("kind", ["text/event-stream", "application/x-ndjson"])
def test_events_before_one_that_cannot_be_mapped_are_sent_however_they_arrive(
    kind: str, bad: bytes, compresses: bool
) -> None:
    """The response is cut off behind them: over HTTP/1.1 without the last chunk."""
    mark = b"data: " if kind == "text/event-stream" else b""
    mapped = b'%b{"a":1}\n\n%b{"a":2}\n\n' % (mark, mark)
    source = b'%b{"a":1,"s":1}\n\n%b{"a":2}\n\n%b%b' % (mark, mark, mark, bad)
    filters: dict[str, Any] = {"transform": {"response": {"json": {"deny": ["s"]}, "max_bytes": "100B"}}}
    if compresses:
        filters["compress"] = {"min_bytes": 1, "types": [kind], "encodings": ["gzip"]}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind.encode()
    end = b"0\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(source), source)
    for pieces in ([head + chunk + end], [head, chunk + end], [head + chunk], [head, chunk], [head, *each(chunk)]):
        if compresses and pieces[0].endswith(end):
            continue  # a compressor of a whole body has no output before its end
        plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}]})
        assert answered_in_chunks(plane, pieces, compresses) == (mapped, False, True)
        (record,) = plane.records
        assert (record.status, record.fault) == (200, "upstream_malformed")


@pytest.mark.parametrize("compresses", [False, True])
def test_lines_before_a_last_one_without_a_line_end_that_cannot_be_mapped_are_sent(compresses: bool) -> None:
    filters: dict[str, Any] = {"transform": {"response": {"json": {"deny": ["s"]}}}}
    if compresses:
        filters["compress"] = {"min_bytes": 1, "types": ["application/x-ndjson"], "encodings": ["gzip"]}
    source = b'{"a":1,"s":1}\n{"a":2}\nnope'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % len(source)
    for pieces in ([head + source], [head, source], [head, *each(source)]):
        if compresses and pieces == [head + source]:
            continue  # a compressor of a whole body has no output before its end
        plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}]})
        assert answered_in_chunks(plane, pieces, compresses) == (b'{"a":1}\n{"a":2}\n', False, True)


def answered_in_chunks(plane: Plane, pieces: list[bytes], compresses: bool) -> tuple[bytes, bool, bool]:
    """Return the body of the response to a client that accepts gzip, whether it is whole, and whether the connection
    has ended. `pieces`: of the upstream's response.
    """
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    upstream = plane.connects()
    for piece in pieces:
        upstream.sends(piece)
    got, chunked = client.received.partition(b"\r\n\r\n")[::2]
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    body, is_whole = dechunked(chunked)
    return zlib.decompressobj(31).decompress(body) if compresses else body, is_whole, client.ended


def each(content: bytes) -> list[bytes]:
    return [content[at : at + 1] for at in range(len(content))]


def dechunked(text: bytes) -> tuple[bytes, bool]:
    """Return the content of chunks, and whether the last one has come."""
    content = b""
    while text:
        size, _, text = text.partition(b"\r\n")
        if size == b"0":
            return content, True
        content, text = content + text[: int(size, 16)], text[int(size, 16) + 2 :]
    return content, False


@for_each(
    ("settings", "error"),
    [
        ({}, "expected `request` or `response`"),
        ({"request": {}}, "expected `json`, `template`, `jq` or `jsonata`"),
        ({"request": {"json": {}}}, "expected at least one of wrap"),
        ({"request": {"json": {"allow": ["a"]}, "template": {}}}, "mutually exclusive"),
        ({"request": {"json": {"allow": ["a..b"]}}}, "empty step"),
        ({"request": {"json": {"set": {"a.*": 1}}}}, "ends with `*`"),
        ({"request": {"json": {"move": {"a.*.b": "c.*.*.d"}}}}, "has more `*`"),
        ({"request": {"json": {"rename": {"a": "c", "b": "c"}}}}, "same name"),
        ({"request": {"json": {"deny": ["a"], "rename": {"a.b": "c"}}}}, "never exists"),
        ({"request": {"json": {"allow": ["x"], "rename": {"a": "c"}}}}, "never exists"),
        ({"request": {"json": {"set": {"a": "{{ a. }}"}}}}, "not a JMESPath expression"),
        ({"request": {"json": {"set": {"a": "{{ nope(a) }}"}}}}, "unknown function nope()"),
        ({"request": {"json": {"set": {"a": "{{ nope(a)[1:] }}"}}}}, "unknown function nope()"),
        ({"request": {"json": {"set": {"a": "{nope}"}}}}, "unknown variable {nope}"),
        ({"request": {"json": {"set": {"a": "{"}}}}, "single brace"),
        ({"response": {"template": {"a": ["{{ " + "a || " * 300 + "b }}"]}}}, "expected at most 1000"),
        ({"response": {"template": {"a": "{{ " + "[" * 40 + "a" + "]" * 40 + " }}"}}}, "nested too deeply"),
        ({"response": {"json": {"deny": ["a"]}, "max_bytes": "9MiB"}}, "max_bytes"),
        ({"response": {"template": within(255, "{param.a}")}}, "template: nested too deep; expected at most 254"),
        ({"response": {"template": within(900, {})}}, "template: nested too deep; expected at most 254"),
        ({"request": {"json": {"set": {"a": within(255, 1)}}}}, "set.a: nested too deep; expected at most 254"),
        ({"request": {"jq": ".", "template": 1}}, "`template` and `jq` are mutually exclusive"),
        ({"request": {"jq": ".", "output": "form", "on_timeout": "pass"}}, "keep their content type"),
        ({"request": {"jq": ".", "deadline": "31s"}}, "deadline"),
        ({"request": {"jsonata": "a +"}}, "not a JSONata expression: Unexpected end of expression (character 3)"),
        ({"request": {"jsonata": "$eval(a)"}}, "$eval would run data as an expression"),
    ],
)
def test_mistakes(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(Transform, **settings)
    assert error in str(raised.value)


def test_a_check_of_jsonata_leaves_the_depth_that_other_parsers_refuse() -> None:
    check = "from fastgw.filters.policies.transform.expressions import check_jsonata; check_jsonata('a.b')"
    limits = subprocess.run(
        [sys.executable, "-c", f"import sys; print(sys.getrecursionlimit()); {check}; print(sys.getrecursionlimit())"],
        stdout=subprocess.PIPE,
        check=True,
    )
    before, after = limits.stdout.split()
    assert before == after


@for_each(
    ("number", "result"),
    [
        ("1e-400", None),
        ("-1e-99999999999999999999", None),
        ("4.9e-324", None),
        ("5e-324", "5e-324"),
        ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        ("1.234567890123e-310", "1.234567890123e-310"),
        ("1.234567890123456e-310", None),
        ("0.1000000000000000055511151231257827", None),
        ("0.30000000000000004", "0.30000000000000004"),
        ("0.300000000000000000", "0.3"),
        ("9007199254740993", None),
        ("0e-99999999999999999999", "0"),
        ("1.10", "1.1"),
    ],
)
def test_an_engine_gets_only_numbers_that_a_double_keeps(number: str, result: str | None) -> None:
    """IEEE 754: subnormal numbers have fewer digits, and what is nearer to zero is zero."""
    evaluate = compile_jq(".a")
    body = b'{"a":%b}' % number.encode()
    if result is None:
        with pytest.raises(UnmappableBody):
            evaluate(body, lambda name: None)
    else:
        assert float(evaluate(body, lambda name: None)) == float(result)


LARGE = b'{"a":[1e22,-1.7976931348623157e308],"b":{"c":9007199254740992,"d":1e18},"e":true}'


@pytest.mark.parametrize("compiled", [compile_jq("."), compile_jsonata("$")], ids=["jq", "JSONata"])
def test_an_engine_returns_the_largest_numbers_as_they_came(compiled: JsonFunction) -> None:
    """jq makes integers of doubles, and those of more than 64 bits are no JSON of ours."""
    assert json.loads(compiled(LARGE, lambda name: None)) == json.loads(LARGE)


def test_integers_of_more_than_64_bits_are_doubles_in_a_result() -> None:
    assert compile_jq(".a * 1000")(b'{"a":1e18}', lambda name: None) == b"1e+21"
    assert compile_jsonata("$power(3, 50)")(b"{}", lambda name: None) == b"7.178979876918526e+23"


def test_an_expression_that_fails_says_nothing_of_the_body() -> None:
    transform = configured(Transform, request={"json": {"set": {"a": "{{ sum(l) }}"}}})
    ran = run(transform, post(b'{"l":["hidden"]}'))
    assert (ran.status, "hidden" in ran.why) == (400, False)
    assert "sum(l)" in ran.why


def test_in_shadow_nothing_changes() -> None:
    transform = configured(Transform, request={"json": {"deny": ["s"]}}, response={"json": {"deny": ["s"]}})
    ran = run(transform, post(b'{"s":1}'), response=ok(b'{"s":1}'), shadow=True)
    assert (ran.sent_body, ran.body) == (b'{"s":1}', b'{"s":1}')


@pytest.mark.parametrize(
    ("rules", "elements"),
    [
        ({"set": {"*.x": 1}}, 401),
        ({"move": {"*.a": "*.b"}}, 401),
        ({"default": {"*.*.x": 1}}, 401),
        ({"set": {"x": "{{ [?length(@) > `0`] }}"}, "wrap": "l"}, 401),
        ({"set": {"x": "{{ length(@) }}"}, "wrap": "l"}, 8002),
        ({"set": {"y": 1}, "wrap": "l"}, 8002),
    ],
)
def test_bodies_of_which_very_many_values_are_opened_are_left_to_a_helper_process(
    rules: dict[str, Any], elements: int
) -> None:
    request = configured(Transform, request={"json": rules}).request
    assert request is not None
    change = compile_change(request)
    few = b"[" + b",".join([b'{"a":{}}'] * 100) + b"]"
    many = b"[" + b",".join([b'{"a":{}}'] * elements) + b"]"
    assert change(few, lambda name: None)
    with pytest.raises(CostlyBody):
        change(many, lambda name: None)
    assert compile_change(request, IN_HELPER)(many, lambda name: None)


@pytest.mark.parametrize("rules", [{"move": {"*.*.a": "*.*.b"}}, {"set": {"*.*.a": 1}}, {"default": {"*.*.a.b": 1}}])
def test_objects_that_a_path_opens_in_vain_count(rules: dict[str, Any]) -> None:
    request = configured(Transform, request={"json": rules}).request
    assert request is not None
    few, many = (b"[%b]" % b",".join([b"[%b]" % b",".join([b'{"c":1}'] * number)] * number) for number in (10, 30))
    assert compile_change(request)(few, lambda name: None)
    with pytest.raises(CostlyBody):
        compile_change(request)(many, lambda name: None)
    assert compile_change(request, IN_HELPER)(many, lambda name: None)


SCALARS = {
    "numbers": b"7",
    "texts": b'"a"',
    "arrays": b"[]",
}
EXPRESSIONS = [
    "l[?@ == `5`]",
    "l[*].[@, @]",
    "l[]",
    "sum(l[?type(@) == 'number'])",
    "l[0]",
    "[to_string(l), to_string(l)]",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("value", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize(
    "change",
    [
        lambda expression: {"template": {"n": expression}},
        lambda expression: {"json": {"set": {"n": expression}}},
        lambda expression: {"json": {"default": {"n": expression}}},
        lambda expression: {"output": "xml", "xml_template": f'<a><b each="l[?`false`]"/>{expression}</a>'},
    ],
    ids=["template", "set", "default", "xml_template"],
)
def test_the_values_of_expressions_are_counted_whatever_their_kind(change: Any, value: bytes, expression: str) -> None:
    """An array of a hundred thousand bytes is left to a helper process by each kind of change, and a line that has it
    ends a stream."""
    body = b'{"l":[%b]}' % b",".join([value] * (100_000 // (len(value) + 1)))
    request = configured(Transform, request=change("{{ " + expression + " }}")).request
    assert request is not None
    with pytest.raises(CostlyBody):
        compile_change(request)(body, lambda name: None)


@pytest.mark.parametrize(
    ("template", "elements"),
    [
        ('<a><b each="l">{{ a }}</b></a>', 600),
        ('<a><b each="l">{{ @ }}</b></a>', 600),
        ('<a><b each="l" c="{{ a }}"><d>{{ a }}</d>{{ a }}{{ a }}{{ a }}{{ a }}</b></a>', 120),
        ('<a><b each="l"/><b each="l"/><b each="l"/><b each="l"/></a>', 150),
    ],
)
def test_repeated_elements_take_steps_for_each_of_their_values(template: str, elements: int) -> None:
    request = configured(Transform, request={"output": "xml", "xml_template": template}).request
    assert request is not None
    value = b"1" if "@" in template else b'{"a":1}'
    few, many = (b'{"l":[%b]}' % b",".join([value] * number) for number in (50, elements))
    assert compile_change(request)(few, lambda name: None)
    with pytest.raises(CostlyBody):
        compile_change(request)(many, lambda name: None)
    assert compile_change(request, IN_HELPER)(many, lambda name: None)


@pytest.mark.parametrize("expression", ["l[*].{id: a, name: b.c, price: d}", "l[*].[to_string(a), b.c]"])
def test_members_that_are_selected_of_hundreds_of_elements_are_selected_at_once(expression: str) -> None:
    request = configured(Transform, request={"template": {"n": "{{ " + expression + " }}"}}).request
    assert request is not None
    body = b'{"l":[%b]}' % b",".join([b'{"a":1,"b":{"c":"x"},"d":1.5}'] * 200)
    assert compile_change(request)(body, lambda name: None)


@pytest.mark.parametrize("expression", ["l[?@ == `5`]", "l[*].[@, @]", "l[*].to_string(@)"])
def test_a_line_of_a_stream_has_more_steps_but_not_any_number(expression: str) -> None:
    response = configured(Transform, response={"template": {"n": "{{ " + expression + " }}"}}).response
    assert response is not None
    change = compile_change(response, IN_STREAM)
    assert change(b'{"l":[%b]}' % b",".join([b"7"] * 500), lambda name: None)
    with pytest.raises(CostlyBody):
        change(b'{"l":[%b]}' % b",".join([b"7"] * 20_000), lambda name: None)


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("id", b'"a"'),
        ("far.from[0]", b"1.50"),
        ("@.far", b'{"from":[1.50]}'),
        ("numbers", b"[%b]" % b",".join([b"12.345"] * 10_000)),
    ],
)
def test_values_beside_those_that_a_path_opens_cost_nothing(path: str, made: bytes) -> None:
    """A path opens the objects and arrays on its way: neither what is beside them nor the value itself, however many
    numbers and commas they have."""
    body = b'{"id":"a","text":"%b","numbers":[%b],"far":{"from":[1.50]}}' % (
        b"," * 10_000,
        b",".join([b"12.345"] * 10_000),
    )
    template = configured(Transform, request={"template": {"n": "{{ " + path + " }}"}}).request
    assert template is not None
    assert compile_change(template)(body, lambda name: None) == b'{"n":%b}' % made
    if path == "id":
        xml = configured(Transform, request={"output": "xml", "xml_template": "<n>{{ id }}</n>"}).request
        assert xml is not None
        assert compile_change(xml)(body, lambda name: None).endswith(b"<n>a</n>")


@pytest.mark.parametrize(
    ("paths", "elements"),
    [
        (["l[0]"], 10_000),
        (["l[0]", "m[0]"], 5_000),
        (["l[0]", *["l"] * 20], 1_000),
    ],
)
def test_a_path_that_opens_very_many_values_is_left_to_a_helper_process(paths: list[str], elements: int) -> None:
    """Those of all paths together, with the values that are written again because another path has opened them."""
    template = {f"n{number}": "{{ " + path + " }}" for number, path in enumerate(paths)}
    request = configured(Transform, request={"template": template}).request
    assert request is not None
    few, many = (b'{"l":[%b],"m":[%b]}' % (numbers, numbers) for numbers in (b"7", b",".join([b"7"] * elements)))
    assert compile_change(request)(few, lambda name: None)
    with pytest.raises(CostlyBody):
        compile_change(request)(many, lambda name: None)
    assert compile_change(request, IN_HELPER)(many, lambda name: None)


def test_the_steps_of_all_expressions_are_those_of_one_body() -> None:
    """Thirty expressions are no cheaper than one that takes thirty times as many steps, nor are repeated elements."""
    body = b'{"l":[%b]}' % b",".join([b"7"] * 200)
    one = {"template": {"n": "{{ l[?@ == `5`] }}"}}
    thirty = {"template": {f"n{number}": "{{ l[?@ == `5`] }}" for number in range(30)}}
    repeated = {"output": "xml", "xml_template": '<a><b each="l">{{ @ == `1` || @ == `2` || @ == `7` }}</b></a>'}
    for change, costly in ((one, False), (thirty, True), (repeated, True)):
        request = configured(Transform, request=change).request
        assert request is not None
        try:
            compile_change(request)(body, lambda name: None)
        except CostlyBody:
            assert costly, change
        else:
            assert not costly, change
        assert compile_change(request, IN_HELPER)(body, lambda name: None)


def test_a_costly_body_is_transformed_in_a_helper_process() -> None:
    transform = configured(Transform, request={"json": {"set": {"*.x": 1}}, "deadline": "30s"})
    ran = run(transform, post(b"[" + b",".join([b'{"a":1.10}'] * 500) + b"]"), timeout=60)
    assert ran.sent_body == b"[" + b",".join([b'{"a":1.10,"x":1}'] * 500) + b"]"


def test_line_ends_of_events_of_all_kinds() -> None:
    stream = b'\n\n\r\ndata: {"a":\rdata: 1}\r\rdata:{"s":1}\r\n\r\n\n'
    for size in (1, 2, 5, 100):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        ran = run(configured(Transform, response={"json": {"deny": ["s"]}}), GET, response=[EVENTS, *pieces])
        assert ran.body == b'\n\n\ndata: {"a":1}\n\ndata: {}\n\n\n', size
