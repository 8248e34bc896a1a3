"""validate: which requests pass, what those that do not are told, and what is reported only."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.explain import as_text, explain
from fastgw.filters.policies.content import Validate
from fastgw.filters.policies.content.body_checks import BodyCheck
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from fastgw.observe.metrics.families import FilterEvent
from fastgw.testing import ConfigError, configured
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane
from tests.support.table import for_each

ORDER = {
    "type": "object",
    "required": ["sku"],
    "properties": {"sku": {"type": "string", "maxLength": 5}, "n": {"type": "integer"}},
    "additionalProperties": False,
}
PAGE = {"properties": {"page": {"type": "integer", "minimum": 1}}, "additionalProperties": False}


class Checked:
    """A gateway with the filter, and what becomes of one request. `later`: its end, if it comes in two pieces."""

    def __init__(
        self, settings: dict[str, Any], request: bytes, paths: list[str] | None = None, later: bytes = b""
    ) -> None:
        route = {"name": "all", "upstream": "u", "filters": {"validate": settings}}
        self.plane = Plane({"routes": [{**route, "paths": paths} if paths else route]})
        self.client = self.plane.client()
        self.client.sends(request)
        if later:
            self.client.sends(later)
        self.passed = bool(self.plane.pool.waiting)
        self.sent = b""
        if self.passed:
            upstream = self.plane.connects()
            self.sent = upstream.received
            upstream.sends(b"HTTP/1.1 204 No Content\r\n\r\n")

    @property
    def status(self) -> int:
        return int(self.client.received.split(b" ", 2)[1])

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        problem = json.loads(self.client.received.partition(b"\r\n\r\n")[2])
        return [(each["in"], each["pointer"], each["keyword"]) for each in problem["errors"]]


def post(body: bytes, target: str = "/", kind: str = "application/json", *lines: str) -> bytes:
    fields = [f"POST {target} HTTP/1.1", "Host: a", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*fields, "", ""]).encode() + body


def get(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"sku":"a1"}', None),
        (b' {"n": 12345678901234567890123, "sku": "a"} ', None),
        (b'{"sku":"secret","n":1.5}', [("body", "/sku", "maxLength"), ("body", "/n", "type")]),
        (b"{}", [("body", "", "required")]),
        (b'{"sku":"a","sku":"b"}', [("body", "", "json")]),
        (b'{"sku":', [("body", "", "json")]),
        (b'{"sku":"\xff"}', [("body", "", "json")]),
    ],
)
def test_bodies(body: bytes, errors: list[Any] | None) -> None:
    checked = Checked({"body": {"inline": ORDER}}, post(body))
    if errors is None:
        assert checked.passed
        assert checked.sent.endswith(body)
    else:
        assert not checked.passed
        assert checked.status == 400
        assert checked.errors == errors
        assert b"secret" not in checked.client.received


NODE = {"$ref": "#/$defs/node"}
ALTERNATIVES = [
    {"type": "string"},
    {"type": "object", "properties": {"a": NODE}, "additionalProperties": False},
    {"type": "object", "properties": {"a": NODE}, "required": ["b"]},
]
EXTENDED = {"allOf": [{"properties": {"a": NODE}}], "properties": {"a": NODE, "w": {"type": "integer"}}}


@pytest.mark.parametrize("mode", ["enforce", "report"])
@pytest.mark.parametrize(
    ("node", "inner", "outer", "keyword"),
    [
        ({"anyOf": ALTERNATIVES}, b"1", b"", "anyOf"),
        (EXTENDED, b'"s"', b',"w":"q"', "schema"),
        (EXTENDED, b'"s"', b',"w":"q","more":"' + b"x" * 600 + b'"', "schema"),
    ],
    ids=["alternatives", "extended", "extended and long"],
)
def test_a_body_that_the_schema_leads_to_on_very_many_ways_is_refused(
    node: dict[str, Any], inner: bytes, outer: bytes, keyword: str, mode: str
) -> None:
    """Each level of the body doubled the errors of its inner value: at 26 levels a worker ran out of memory."""
    body = b'{"a":' * 60 + inner + b"}" * 59 + outer + b"}"
    checked = Checked({"body": {"inline": {"allOf": [NODE], "$defs": {"node": node}}}, "mode": mode}, post(body))
    if mode == "enforce":
        assert checked.status == 400
        assert checked.errors == [("body", "", keyword)]
    else:
        assert checked.passed
        (record,) = checked.plane.records
        assert record.shadowed == f"validate: refuse 400 validation_failed (body -: {keyword})"


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_a_body_that_is_declared_too_long_is_refused_before_it_comes(mode: str) -> None:
    """A mode that refuses nothing lets the upstream request the body."""
    settings = {"body": {"inline": ORDER, "max_bytes": 20}, "mode": mode}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"validate": settings}}]})
    client = plane.client()
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 21\r\n"
    client.sends(request + b"Expect: 100-continue\r\n\r\n")
    if mode == "report":
        assert client.received == b""
        assert b"Expect: 100-continue\r\n" in plane.connects().received
    else:
        assert client.received.startswith(b"HTTP/1.1 413 ")
        assert [record.fault for record in plane.records] == ["body_too_large"]
        plane.assert_quiet()


def test_bodies_that_are_none_too_long_or_of_another_type() -> None:
    schema = {"inline": ORDER, "max_bytes": 20}
    assert Checked({"body": schema}, get("/")).errors == [("body", "", "required")]
    assert Checked({"body": {**schema, "required": False}}, get("/")).passed
    assert Checked({"body": schema}, post(b'{"sku":"' + b"a" * 20 + b'"}')).status == 413
    assert Checked({"body": schema}, post(b"sku=a1", "/", "application/x-www-form-urlencoded")).status == 415
    assert Checked({"body": schema}, post(b'{"sku":"a"}', "/", "application/vnd.x+json; charset=utf-8")).passed
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert Checked({"body": schema}, chunked + b'b\r\n{"sku":"a"}\r\n0\r\n\r\n').passed
    assert Checked({"body": schema}, chunked + b"2\r\n{}\r\n0\r\n\r\n").errors == [("body", "", "required")]


@pytest.mark.parametrize(
    ("target", "errors"),
    [
        ("/?page=2", None),
        ("/", None),
        ("/?page=0", [("query", "/page", "minimum")]),
        ("/?page=x", [("query", "/page", "type")]),
        ("/?page=1&page=2", [("query", "/page", "type")]),
        ("/?pag%65=3", None),
        ("/?other=1", [("query", "", "additionalProperties")]),
        ("/?page=%ff", [("query", "", "encoding")]),
    ],
)
def test_query(target: str, errors: list[Any] | None) -> None:
    checked = Checked({"query": {"inline": PAGE}}, get(target))
    assert checked.passed is (errors is None)
    if errors is not None:
        assert checked.errors == errors


def test_path_headers_and_cookies() -> None:
    settings = {
        "path": {"inline": {"properties": {"id": {"type": "integer", "maximum": 9}}}},
        "headers": {
            "inline": {"properties": {"X-Tenant": {"type": "string", "pattern": "^[a-z]+$"}}, "required": ["X-Tenant"]}
        },
        "cookies": {"inline": {"properties": {"lang": {"enum": ["de", "en"]}}, "additionalProperties": False}},
    }
    good = get("/u/7", "x-tenant: abc", "Cookie: other=1; lang=de")
    assert Checked(settings, good, ["/u/{id}"]).passed
    bad = Checked(settings, get("/u/70", "Cookie: lang=fr"), ["/u/{id}"])
    assert bad.errors == [("path", "/id", "maximum"), ("header", "", "required"), ("cookie", "/lang", "enum")]


@pytest.mark.parametrize(
    ("schema", "lines", "errors"),
    [
        ({"required": ["x-tenant"]}, ["X-Tenant: a"], None),
        ({"required": ["X-TENANT"]}, ["x-tenant: a"], None),
        ({"required": ["x-tenant"]}, [], [("header", "", "required")]),
        ({"dependentRequired": {"x-tenant": ["x-user"]}}, ["X-Tenant: a", "X-User: b"], None),
        ({"dependentRequired": {"x-tenant": ["x-user"]}}, ["X-Tenant: a"], [("header", "", "required")]),
        ({"anyOf": [{"required": ["x-tenant"]}, {"required": ["x-user"]}]}, ["X-User: a"], None),
    ],
)
def test_names_of_headers_are_compared_without_case(schema: Any, lines: list[str], errors: list[Any] | None) -> None:
    named = {"properties": {"X-Tenant": {"type": "string"}, "X-User": {"type": "string"}}}
    checked = Checked({"headers": {"inline": {**named, **schema}}}, get("/", *lines))
    assert checked.passed is (errors is None)
    assert errors is None or checked.errors == errors


@pytest.mark.parametrize("count", [100, 101])
def test_parameters_have_few_numbers_that_take_long_to_compare(count: int) -> None:
    schema = {"properties": {"n": {"type": "array", "items": {"type": "number"}}}}
    checked = Checked({"query": {"inline": schema}}, get(f"/?{'&'.join(['n=1e-300'] * count)}"))
    assert checked.passed is (count == 100)
    assert checked.passed or checked.errors == [("query", "", "maxItems")]


@for_each(
    ("body", "passes"),
    [
        (b'{"n":10.0000000000000000000001}', True),
        (b'{"n":10.000000000000002}', False),
        (b'{"exact":9007199254740993}', False),
        (b'{"long":12345678901234567890124}', True),
        (b'{"whole":1.0000000000000000000001}', True),
    ],
)
@for_each("more", [{}, {"not": {"required": ["x"]}}])
def test_numbers_are_compared_as_doubles_and_forwarded_as_written(
    more: dict[str, Any], body: bytes, passes: bool
) -> None:
    """The guide says so. Integers of 64 bits are compared as they are."""
    bounds = {"n": 10, "exact": 9007199254740992, "long": 12345678901234567890123}
    properties = {name: {"maximum": most} for name, most in bounds.items()}
    schema = {"properties": {**properties, "whole": {"type": "integer"}}, **more}
    checked = Checked({"body": {"inline": schema}}, post(body))
    assert checked.passed is passes
    assert checked.sent.endswith(body) is passes


ALIASED = [("header", "/X-Tenant", "name")]


@for_each(
    ("lines", "errors"),
    [
        (["X_Tenant: A"], ALIASED),
        (["x.tenant: a"], ALIASED),
        (["X-Tenant: a", "X_Tenant: a"], ALIASED),
        (["X_Tenant: a", "X-Tenant: A"], [*ALIASED, ("header", "/X-Tenant", "pattern")]),
        (["X_Other: A", "XTenant: A", "X-Tenant-: A", "X-Tenant: a"], None),
        (["Connection: x_tenant", "X_Tenant: A"], None),  # it is not forwarded
        (["b_c: 1"], None),
        (["b.c: 1"], [("header", "/b-c", "name")]),
    ],
)
@for_each("mode", ["enforce", "report"])
def test_a_header_that_services_read_as_a_declared_one_is_an_error(
    lines: list[str], errors: list[Any] | None, mode: str
) -> None:
    """CGI and WSGI make `HTTP_X_TENANT` of `X-Tenant` and `X_Tenant` (RFC 3875 section 4.1.18)."""
    schema = {"properties": {"X-Tenant": {"pattern": "^[a-z]$"}, "b_c": {}, "b-c": {}}}
    settings = {"headers": {"inline": schema}, "mode": mode}
    checked = Checked(settings, get("/", *lines))
    if mode == "report":
        assert checked.passed
        assert ("name" in checked.plane.records[0].shadowed) is (errors is not None)
    else:
        assert checked.passed is (errors is None)
        assert errors is None or checked.errors == errors


@pytest.mark.parametrize("count", [1000, 1001])
@pytest.mark.parametrize("location", ["query", "headers", "cookies"])
def test_values_are_counted_before_they_are_read(location: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is repeated thousands of times held the event loop for 0.2 s."""
    converted: list[str] = []
    monkeypatch.setattr(
        "fastgw.filters.policies.content.schemas.converted", lambda text, types: converted.append(text) or text
    )
    pairs = ["l"] * count
    request = {
        "query": get(f"/?{'&'.join(pairs)}"),
        "headers": get("/", *[f"{each}: " for each in pairs]),
        "cookies": get("/", "Cookie: " + ";".join(pairs)),
    }[location]
    schema = {"inline": {"properties": {"l": {"type": "array", "items": {"type": "integer"}}}}}
    settings = {"validate": {location: schema}}
    route = {"name": "all", "upstream": "u", "filters": settings}
    plane = Plane({"routes": [route], "limits": {"header_count": 2000}})
    client = plane.client()
    client.sends(request)
    (error,) = json.loads(client.received.partition(b"\r\n\r\n")[2])["errors"]
    if count == 1000:
        assert (error["pointer"], error["keyword"]) == ("/l/0", "type")  # the first, as of a long body
    else:
        assert (error["pointer"], error["keyword"]) == ("", "maxItems")
        assert converted == []


def gzipped(body: bytes, coding: str) -> bytes:
    return post(body, "/", "application/json", f"Content-Encoding: {coding}")


@pytest.mark.parametrize(
    ("coding", "mode", "status"),
    [("gzip", "enforce", 415), ("identity", "enforce", 204), ("Identity", "report", 204), ("br", "report", 204)],
)
def test_a_body_with_a_content_coding_is_not_taken_for_its_content(coding: str, mode: str, status: int) -> None:
    """The bytes that are checked are not those that the service reads."""
    checked = Checked({"body": {"inline": ORDER}, "mode": mode}, gzipped(b'{"sku":"a"}', coding))
    assert checked.status == status
    (record,) = checked.plane.records
    if status == 415:
        assert b"Accept-Encoding: identity\r\n" in checked.client.received
        assert b"A request body with a content coding is not supported here." in checked.client.received
    assert ("415" in record.shadowed) is (coding == "br")


def test_a_body_that_decompress_has_decoded_is_checked() -> None:
    body = gzip.compress(b'{"sku":"too long"}')
    filters = {"decompress": {}, "validate": {"body": {"inline": ORDER}}}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}]})
    client = plane.client()
    client.sends(gzipped(body, "gzip"))
    assert [each["keyword"] for each in json.loads(client.received.partition(b"\r\n\r\n")[2])["errors"]] == [
        "maxLength"
    ]


CODING = "decompress: change request Content-Encoding"


@pytest.mark.parametrize(
    ("target", "coding", "shadowed"),
    [
        (
            "/?page=1",
            "gzip",
            f"{CODING}, change request body; validate: unknown: bodies are not decompressed in shadow",
        ),
        ("/?page=0", "gzip", f"{CODING}; validate: refuse 400 validation_failed (query /page: minimum)"),
        ("/?page=1", "deflate", "decompress: refuse 415 unsupported_media_type (unknown content coding)"),
        ("/?page=1", "identity", "validate: refuse 400 validation_failed (body -: json)"),
    ],
)
def test_in_shadow_a_body_that_decompress_would_decode_is_not_refused_for_its_coding(
    target: str, coding: str, shadowed: str
) -> None:
    """Enforced together they check what the body is once it is decoded."""
    body = gzip.compress(b'{"sku":"a"}')
    check = {"body": {"inline": ORDER}, "query": {"inline": PAGE}, "shadow": True}
    plane = Plane(
        {"routes": [{"name": "all", "upstream": "u", "filters": {"decompress": {"shadow": True}, "validate": check}}]}
    )
    client = plane.client()
    client.sends(post(body, target, "application/json", f"Content-Encoding: {coding}"))
    upstream = plane.connects()
    assert f"Content-Encoding: {coding}".encode() in upstream.received
    assert upstream.received.endswith(body)
    upstream.sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert [record.shadowed for record in plane.records] == [shadowed]


@pytest.mark.parametrize("request_", [post(b"{}"), post(b"{"), post(b"x", "/", "text/plain"), get("/?page=0")])
def test_report_lets_pass_and_tells_the_log(request_: bytes) -> None:
    settings = {"body": {"inline": ORDER, "required": False}, "query": {"inline": PAGE}, "mode": "report"}
    checked = Checked(settings, request_)
    assert checked.passed
    (record,) = checked.plane.records
    assert record.shadowed.startswith("validate: refuse 4")
    assert (record.fault, record.status) == ("", 204)
    assert checked.plane.observer.filters == [("validate", FilterEvent.ANSWER)]


AT_MOST, ABOVE = (b"[" + b",".join([b"{}"] * objects) + b"]" for objects in (15_999, 16_000))


def test_a_body_of_very_many_arrays_and_objects_is_checked_outside_of_the_event_loop() -> None:
    """What makes its values takes longer than the loop may wait."""
    checked: list[bytes] = []
    submitted: list[bytes] = []

    async def accept(payload: bytes) -> None:
        submitted.append(payload)

    async def check(payload: bytes) -> bytes:
        stage = BodyCheck(checked.append, lambda payload: asyncio.create_task(accept(payload)))
        passed = stage.feed(payload)
        if (pending := stage.pending()) is not None:
            await asyncio.wait((pending,))
        return passed + stage.end()

    for payload in (AT_MOST, ABOVE):
        assert asyncio.run(check(payload)) == payload
    assert (checked, submitted) == ([AT_MOST], [ABOVE])


@pytest.mark.parametrize(("payload", "reports"), [(AT_MOST, True), (ABOVE, False)])
def test_what_is_only_reported_passes_unchecked_there(payload: bytes, reports: bool) -> None:
    checked = Checked({"body": {"inline": {"type": "object"}}, "mode": "report"}, post(payload))
    assert checked.passed
    assert bool(checked.plane.records[0].shadowed) is reports


@pytest.mark.parametrize(("numbers", "reports"), [(100, True), (101, False)])
def test_numbers_with_exponents_pass_unchecked_if_they_are_only_reported(numbers: int, reports: bool) -> None:
    payload = b"[" + b",".join([b"1e-30"] * numbers) + b"]"
    checked = Checked({"body": {"inline": {"contains": {"const": 2}}}, "mode": "report"}, post(payload))
    assert checked.passed
    assert bool(checked.plane.records[0].shadowed) is reports


class CountingPlane(Plane):
    """Whose filters are started, with the counts of a worker."""

    def _start(self) -> None:
        super()._start()
        self.counted: list[tuple[str, str]] = []
        services: Any = SimpleNamespace(count_validation=lambda *labels: self.counted.append(labels))
        for link in self.gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(services)


def test_reports_are_counted_by_route() -> None:
    filters = {"validate": {"body": {"inline": ORDER}, "mode": "report", "response": {"inline": ORDER}}}
    plane = CountingPlane({"routes": [{"name": "orders", "upstream": "u", "filters": filters}]})
    for body, answer in ((b'{"sku":"a"}', b"{}"), (b"{}", b'{"sku":"a"}')):
        plane.client().sends(post(body))
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        plane.connects().sends(head % len(answer) + answer)
    assert plane.counted == [("orders", "response"), ("orders", "request")]


def test_a_schema_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps(ORDER))
    settings = {"body": {"schema": str(file)}}
    assert Checked(settings, post(b'{"sku":"a"}')).passed
    file.write_text('{"$ref": "http://127.0.0.1:9/other.json"}')
    with pytest.raises(CompileError, match=r"order\.json:1:10: a `\$ref` leads to another document"):
        Checked(settings, post(b"{}"))


BAD_SCHEMAS = [
    ('{"type": "objekt"}', r"1:10: not valid JSON Schema: `type`"),
    ('{"properties": {\n  "secret": {"pattern": "^(?=secret)"}}}', r"2:25: the pattern is not valid.*look-around"),
    (
        '{"properties": {\n  "a": {"$ref": "#/$defs/secret"}}}',
        r"2:17: a `\$ref` leads to another document, or to nothing",
    ),
    ('{"$schema": "https://a.example/secret"}', r"1:13: unknown draft; expected draft 2020-12"),
]


@pytest.mark.parametrize(("text", "wrong"), BAD_SCHEMAS)
def test_a_schema_that_cannot_be_used_is_located_and_not_quoted(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "order.json"
    file.write_text(text)
    with pytest.raises(CompileError, match=rf"order\.json:{wrong}") as refused:
        Checked({"body": {"schema": str(file)}}, post(b"{}"))
    assert "secret" not in str(refused.value)


BAD_TEXTS = [
    ('{\n  "secret": x}', r"2:\d+: not valid JSON"),
    ('{"a": 1,\n "a": 2}', r"2:2: duplicate key; first.* line 1"),
]


@pytest.mark.parametrize(("text", "wrong"), BAD_TEXTS)
def test_a_file_that_is_no_json_is_located_and_not_quoted(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "order.json"
    file.write_text(text)
    with pytest.raises(CompileError, match=rf"order\.json:{wrong}") as refused:
        Checked({"body": {"schema": str(file)}}, post(b"{}"))
    assert "secret" not in str(refused.value)


INLINE = r'body\.inline\.properties\.a\.type: "strin": not valid JSON Schema: `type`; expected array, boolean, '


def test_an_inline_schema_that_cannot_be_used_says_where() -> None:
    with pytest.raises(CompileError, match=INLINE):
        Checked({"body": {"inline": {"properties": {"a": {"type": "strin"}}}}}, post(b"{}"))


def test_it_is_explained() -> None:
    filters = {
        "validate": {"body": {"inline": ORDER, "required": False, "max_bytes": "4KiB"}, "query": {"inline": PAGE}}
    }
    loaded = load_document({**SERVICE, "routes": [{"name": "all", "upstream": "u", "filters": filters}]})
    refused = as_text(explain(compile(loaded, 1), "GET", "http://a/?page=0"))
    assert "400 validation_failed" in refused
    assert "the whole body of the request, up to 4KiB" in as_text(explain(compile(loaded, 1), "GET", "http://a/"))


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "at least one of"),
        ({"body": {}}, "exactly one of"),
        ({"body": {"inline": {}, "schema": "x"}}, "."),
        ({"body": {"inline": {}, "max_bytes": "9MiB"}}, "max_bytes"),
        ({"body": {"inline": {}, "max_bytes": "1MiB"}, "mode": "report"}, "smaller `max_bytes`"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        configured(Validate, **settings)


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
TYPELESS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


def test_an_empty_body_without_a_length_is_no_body() -> None:
    checked = Checked({"body": {"inline": ORDER}}, CHUNKED + b"0\r\n\r\n")
    assert (checked.passed, checked.status, checked.errors) == (False, 400, [("body", "", "required")])
    assert Checked({"body": {"inline": ORDER, "required": False}}, CHUNKED + b"0\r\n\r\n").passed


@pytest.mark.parametrize("mode", ["enforce", "report"])
@pytest.mark.parametrize("line", [b"", b"Content-Type: text/plain\r\n", b"Content-Encoding: gzip\r\n"])
def test_an_empty_body_without_a_length_needs_no_type(line: bytes, mode: str) -> None:
    """As no other request without a body does."""
    settings = {"body": {"inline": ORDER, "required": False}, "mode": mode}
    chunked = TYPELESS + line + b"\r\n"
    for empty in (Checked(settings, chunked + b"0\r\n\r\n"), Checked(settings, chunked, later=b"0\r\n\r\n")):
        assert empty.passed
        assert [record.shadowed for record in empty.plane.records] == [""]
    missing = Checked({"body": {"inline": ORDER}}, chunked, later=b"0\r\n\r\n")
    assert (missing.status, missing.errors) == (400, [("body", "", "required")])


@for_each("mode", ["enforce", "report"])
@for_each("line", [b"", b"Content-Type: text/plain\r\n", b"Content-Encoding: gzip\r\n"])
@for_each("pieces", [1, 2])
@for_each("is_long", [False, True])
def test_a_body_of_another_type_without_a_length(line: bytes, mode: str, pieces: int, is_long: bool) -> None:
    """Also if it is longer than `max_bytes`: its type is wrong, whatever its length."""
    settings = {"body": {"inline": ORDER, "max_bytes": 10}, "mode": mode}
    body = b"14\r\n" + b"x" * 20 if is_long else b"2\r\n{}"
    sent = [TYPELESS + line + b"\r\n", body + b"\r\n0\r\n\r\n"]
    other = Checked(settings, *sent[:1], later=sent[1]) if pieces == 2 else Checked(settings, b"".join(sent))
    (record,) = other.plane.records
    if mode == "enforce":
        assert (other.passed, other.status) == (False, 415)
    else:
        assert other.passed
        assert record.shadowed.startswith("validate: refuse 415 unsupported_media_type")


def test_a_body_of_another_type_without_a_length_is_refused_at_its_first_byte() -> None:
    """Nothing of it is held, and a client that would wait with it need not send it."""
    settings = {"body": {"inline": ORDER, "required": False}}
    begun = Checked(settings, TYPELESS + b"\r\n", later=b"5\r\nx")
    assert (begun.passed, begun.status) == (False, 415)
    waiting = Checked(settings, TYPELESS + b"Expect: 100-continue\r\n\r\n")
    assert (waiting.passed, waiting.status) == (False, 415)


def test_a_client_that_waits_with_json_without_a_length_is_asked_for_it() -> None:
    waiting = Checked({"body": {"inline": ORDER}}, CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert (waiting.passed, waiting.status) == (False, 100)


def test_a_long_body_passes_in_the_mode_report() -> None:
    settings = {"body": {"inline": ORDER, "max_bytes": 10}, "mode": "report"}
    checked = Checked(settings, post(b'{"sku": 1, "more": 1}'))
    assert checked.passed
    assert checked.sent.endswith(b'{"sku": 1, "more": 1}')
    assert [record.shadowed for record in checked.plane.records] == [""]


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"200 OK\r\nContent-Type: application/json", b'{"sku": "a"}', ""),
        (
            b"200 OK\r\nContent-Type: application/json",
            b'{"sku": 1}',
            "validate: response does not conform (body /sku: type)",
        ),
        (b"404 Not Found\r\nContent-Type: application/json", b"{}", ""),
        (b"200 OK\r\nContent-Type: text/plain", b"{}", ""),
        (b"200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip", b"{}", ""),
    ],
)
def test_responses_are_reported_and_pass_as_they_are(head: bytes, body: bytes, expected: str) -> None:
    filters = {"validate": {"response": {"inline": ORDER}}}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}]})
    client = plane.client()
    client.sends(get("/"))
    plane.connects().sends(b'HTTP/1.1 %b\r\nETag: "a"\r\nContent-Length: %d\r\n\r\n%b' % (head, len(body), body))
    assert client.received.endswith(b"\r\n\r\n" + body)
    assert b'ETag: "a"' in client.received
    assert plane.records[-1].shadowed == expected


def test_a_response_passes_as_it_arrives_whatever_is_required_of_the_request() -> None:
    """Also one that is longer than is checked."""
    filters = {"validate": {"body": {"inline": ORDER}, "response": {"inline": ORDER}}}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}]})
    client = plane.client()
    client.sends(post(b'{"sku":"a"}'))
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    body = b'"%b"' % (b"a" * 199_998)
    for at in range(0, len(body), 50_000):
        upstream.sends(body[at : at + 50_000])
        assert client.received.endswith(b"\r\n\r\n" + body[: at + 50_000])
