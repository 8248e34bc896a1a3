"""graphql: what asks too much is refused, by what the text of a document says, at a bounded price."""

from __future__ import annotations

import contextlib
import gzip
import json
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fastgw.filters.policies.shield.graphql_document import (
    CEILING,
    CostRules,
    InvalidDocument,
    TokenBudget,
    read_operations,
)
from tests.support.memory import Plane
from tests.support.table import for_each

RULES = CostRules({"search": 50, "free": 0}, frozenset(("first",)), 10)
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


def measured(text: str, variables: Any = None) -> Any:
    (operation,) = read_operations(text, TokenBudget(10_000), RULES, variables)
    return operation


@for_each(
    ("text", "depth", "cost"),
    [
        ("{a}", 1, 1),
        ("query Q($a: [Int!]! = [1 2] @d) @d {a(x: $a) {b c: d}}", 2, 3),
        ('{search(text: "a") {b}}', 2, 51),
        ("{a(first: 5) {b {c}} free}", 3, 1 + 5 * 2),
        ("{a(first: $n) {b}}", 2, 1 + 7),
        ("{a(first: $other) {b}}", 2, 1 + 10),
        ("{a(first: -3) {b}}", 2, 1 + 3),
        ("{a(x: {y: [1.5e3, {z: ENUM}], w: null}) ... on B @include(if: $n) {c} ...F} fragment F on B {d {e}}", 2, 4),
        ('{a(x: """block "quoted" \\""" {b}""", y: "\\u{1F600}\\"") # comment {\n}', 1, 1),
        ("\ufeff,{a,,b}", 1, 2),
        ("query Q($d: Int = 90) {a(first: $d) {b}}", 2, 1 + 90),
        ('"A $d: Int = 1" query Q("How many" $d: Int = 90, """=""" $e: A @c) {a(first: $d) {b}}', 2, 1 + 90),
        ('"""Some "fields" {""" fragment F on A {a} "Reads" query {...F}', 1, 1),
        ("fragment F on A {a(first: $d) {b}} query Q($x: [Int!]! = [1], $d: Int! = 90 @c) {...F}", 2, 1 + 90),
        ("query Q($n: Int = 90) {a(first: $n) {b}}", 2, 1 + 7),
        ("{a(first: 1e3) {b}}", 2, 1 + 1000),
        ('{a(first: "1000") {b}}', 2, 1 + 1000),
        ("{a(first: $float) {b}}", 2, 1 + 1000),
        ("{a(first: $text) {b}}", 2, 1 + 1000),
        ("{a(first: 0.5) {b}}", 2, 1 + 1),
        ("{a(first: $fraction) {b}}", 2, 1 + 1001),  # some servers cut it off: `list_size` would be far too few
        ("{a(first: true) {b}}", 2, 1 + 10),
        ("{a(first: %s) {b}}" % ("9" * 400), 2, CEILING),
    ],
)
def test_depth_and_cost(text: str, depth: int, cost: int) -> None:
    operation = measured(text, {"n": 7, "other": "x", "float": 1e3, "fraction": 1000.5, "text": "1000"})
    assert (operation.measures.depth, operation.measures.cost) == (depth, cost)


def test_other_measures() -> None:
    operation = measured(
        "mutation M @a { x: a @b y: b { __typename ...F @c } } fragment F on A { z: c ... { __type { d } } }"
    )
    assert (operation.kind, operation.name, operation.root_fields) == ("mutation", "M", 2)
    assert (operation.measures.aliases, operation.measures.directives) == (3, 3)
    assert operation.measures.introspects
    assert not measured("{__typename}").measures.introspects


@for_each(
    "text",
    [
        *(
            "",
            "{",
            "{}",
            "{a",
            "a",
            "{a} }",
            "{a{}}",
            "{a()}",
            "{a(b)}",
            "{a(b:)}",
            "query",
            "query {",
            "{1}",
            "{a @}",
            "{...}",
        ),
        *("{a:}", '{a(b: "c)}', '{a(b: """c)}', "{a(b: 01)}", "{a(b: 1a)}", '{a(b: "\\q")}', "{a}}", "type A {b: C}"),
        *(
            "schema {query: Q}",
            "{a} {b}",
            "query A {a} query A {b}",
            "query A {a} {b}",
            "query Q() {a}",
            "query Q($a) {a}",
        ),
        *("{...F}", "{...F} fragment F on A {...F}", "{...F} fragment F on A {...G} fragment G on A {...F}"),
        *("fragment F on A {a}", "{a} fragment on on A {a}", "{...F} fragment F on A {a} fragment F on A {b}", "{a ;}"),
        "{a} fragment F on A {...G}",
        *('"x" {a}', '"x" "y" query {a}', '{"x" a}', 'query "x" Q {a}', 'query Q($a "x": A) {a}', '{a} "x"'),
        *('query Q($a: A "x") {a}', "query Q(x $a: A) {a}", 'query Q("x") {a}', '{a} fragment "x" F on A {a}'),
    ],
)
def test_what_is_no_executable_document_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument):
        read_operations(text, TokenBudget(1000), RULES, None)


@pytest.mark.parametrize("opening", ["{a", "{a(b:[", "{a(b:{c:", "query Q($a:["])
def test_nesting_is_bounded(opening: str) -> None:
    with pytest.raises(InvalidDocument, match=r"nested deeper|more than|not a"):
        read_operations(opening * 5000, TokenBudget(20_000), RULES, None)


def test_a_bomb_of_fragments_costs_what_its_text_costs() -> None:
    """Each fragment uses the next one ten times: expanded, these are 10**200 fields."""
    parts = [f"fragment F{n} on A {{{f' ...F{n + 1}' * 10}}}" for n in range(200)]
    text = "{...F0}" + "".join(parts) + "fragment F200 on A {a}"
    operation = measured(text)
    assert operation.measures.cost == CEILING


@settings(max_examples=60, deadline=None)
@given(some.text(alphabet='{}()[]:!$@.,"\\ \n#ab1-="on fragment query', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidDocument):
        read_operations(text, TokenBudget(1000), RULES, None)


# --- requests ---


def plane_of(**more: Any) -> Plane:
    return Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"graphql": more}}]})


def sent(plane: Plane, request: bytes) -> tuple[int, str]:
    """The status, and the code of the error."""
    client = plane.client()
    client.sends(request)
    if not client.received:
        plane.connects().sends(OK)
    head, _, body = bytes(client.received).partition(b"\r\n\r\n")
    held = json.loads(body)
    return int(head.split(b" ")[1]), held["errors"][0]["extensions"]["code"] if held else ""


def post(body: Any, kind: str = "application/json", target: str = "/", fields: str = "") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Type: {kind}\r\n{fields}"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(raw) + raw


def get(query: str) -> bytes:
    return f"GET /?{query} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode()


HASH = sha256(b"{a}").hexdigest()
PERSISTED = {"persistedQuery": {"version": 1, "sha256Hash": HASH}}


@for_each(
    ("limits", "body", "status", "code"),
    [
        ({}, {"query": "{a}"}, 200, ""),
        ({}, {"query": "query A {a}", "operationName": "A", "variables": {"b": 1}}, 200, ""),
        ({}, {"query": "{a"}, 400, "GRAPHQL_PARSE_FAILED"),
        ({}, {"query": 1}, 400, "BAD_REQUEST"),
        ({}, b'{"query": "{a}", "query": "{b}"}', 400, "BAD_REQUEST"),
        ({}, {"query": "{a}", "Query": "{b}"}, 400, "BAD_REQUEST"),  # one name to encoding/json of Go
        ({}, {"query": "{a}", "variable\u017f": {}}, 400, "BAD_REQUEST"),
        ({}, b"{", 400, "BAD_REQUEST"),
        ({}, {}, 400, "BAD_REQUEST"),
        ({"max_depth": 2}, {"query": "{a {b {c}}}"}, 400, "BAD_REQUEST"),
        ({"max_cost": 3}, {"query": "{a b c d}"}, 400, "BAD_REQUEST"),
        ({"max_aliases": 1}, {"query": "{x: a y: a}"}, 400, "BAD_REQUEST"),
        ({"max_directives": 1}, {"query": "{a @b @b}"}, 400, "BAD_REQUEST"),
        ({"max_root_fields": 1}, {"query": "{a b}"}, 400, "BAD_REQUEST"),
        ({"max_tokens": 2}, {"query": "{a}"}, 400, "GRAPHQL_PARSE_FAILED"),
        ({"max_tokens": 4}, {"query": "{a #1\n#2\n}"}, 400, "GRAPHQL_PARSE_FAILED"),
        ({"max_batch": 2, "max_tokens": 6}, [{"query": "{a}"}] * 2, 200, ""),
        ({"max_batch": 2, "max_tokens": 5}, [{"query": "{a}"}] * 2, 400, "GRAPHQL_PARSE_FAILED"),
        ({"max_bytes": 65536}, {"query": "{a}", "variables": {"b": [[]] * 15_996}}, 200, ""),
        ({"max_bytes": 65536}, {"query": "{a}", "variables": {"b": [[]] * 15_997}}, 400, "BAD_REQUEST"),
        ({"max_bytes": 100}, {"query": "{a}" + " " * 100}, 413, None),
        ({}, {"query": "{__schema {types {name}}}"}, 403, "INTROSPECTION_DISABLED"),
        ({"introspection": True}, {"query": "{__schema {types {name}}}"}, 200, ""),
        ({}, {"query": "subscription {a}"}, 403, "FORBIDDEN"),
        ({}, {"query": "mutation {a}"}, 200, ""),
        ({"types": ["query"]}, {"query": "mutation {a}"}, 403, "FORBIDDEN"),
        ({"operations": ["A"]}, {"query": "query A {a}"}, 200, ""),
        ({"operations": ["A"]}, {"query": "query B {a}"}, 403, "FORBIDDEN"),
        ({"operations": ["A"]}, {"query": "{a}"}, 403, "FORBIDDEN"),
        ({}, {"query": "query A {a} query B {b}"}, 400, "BAD_REQUEST"),
        ({}, {"query": "query A {a} query B {b}", "operationName": "C"}, 400, "BAD_REQUEST"),
        ({}, [{"query": "{a}"}], 400, "BAD_REQUEST"),
        ({"max_batch": 2}, [{"query": "{a}"}, {"query": "{b}"}], 200, ""),
        ({"max_batch": 2}, [{"query": "{a}"}] * 3, 400, "BAD_REQUEST"),
        ({"max_batch": 2, "max_cost": 3}, [{"query": "{a b}"}] * 2, 400, "BAD_REQUEST"),
        ({}, {"extensions": PERSISTED}, 400, "PERSISTED_QUERY_NOT_FOUND"),
        ({"persisted_queries": [HASH]}, {"extensions": PERSISTED}, 200, ""),
        ({"persisted_queries": [HASH]}, {"query": "{a}"}, 200, ""),
        ({"persisted_queries": [HASH]}, {"query": "{b}"}, 403, "FORBIDDEN"),
        ({}, {"query": "{b}", "extensions": PERSISTED}, 400, "BAD_REQUEST"),
        ({"mode": "report"}, {"query": "{a"}, 200, ""),
        ({"mode": "report", "max_bytes": 100}, {"query": "{a}" + " " * 100}, 200, ""),
    ],
)
def test_a_body_is_within_the_limits(limits: dict[str, Any], body: Any, status: int, code: str | None) -> None:
    if code is None:
        client = plane_of(**limits).client()
        client.sends(post(body))
        assert client.received.startswith(b"HTTP/1.1 %d " % status)
        return
    assert sent(plane_of(**limits), post(body)) == (status, code)


@pytest.mark.parametrize(
    ("most", "operations", "message"),
    [
        (1, 1, "Batches (arrays of operations) are not allowed."),
        (1, 0, "Batches (arrays of operations) are not allowed."),
        (2, 0, "An empty batch."),
        (2, 3, "A batch of 3 operations; at most 2 are allowed."),
    ],
)
def test_the_refusal_of_a_batch_says_why(most: int, operations: int, message: str) -> None:
    client = plane_of(max_batch=most).client()
    client.sends(post([{"query": "{a}"}] * operations))
    assert json.loads(client.received.partition(b"\r\n\r\n")[2])["errors"][0]["message"] == message


@pytest.mark.parametrize(("text", "status"), [("{a}", 200), ("{a {b}}", 400)])
def test_a_body_that_is_decompressed_is_within_the_limits(text: str, status: int) -> None:
    filters = {"decompress": {}, "graphql": {"max_depth": 1}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": filters}]})
    request = post(gzip.compress(json.dumps({"query": text}).encode()), fields="Content-Encoding: gzip\r\n")
    assert sent(plane, request)[0] == status


@for_each(
    ("request_bytes", "status"),
    [
        (get("query=" + quote("{a}")), 200),
        (get("query=" + quote("query A {a}") + "&operationName=A&variables=" + quote("{}")), 200),
        (get("query=" + quote("mutation {a}")), 403),
        (get("query=a&query=b"), 400),
        (get("query=%ff"), 400),
        (get("a=b"), 400),
        (post(b"{a}", "application/graphql"), 200),
        (post({"query": "{a}"}, "text/plain"), 415),
        (post({"query": "{a}"}, "application/json; charset=UTF-8"), 200),
        (post({"query": "{a}", "+AHE-uery": "{b}"}, "application/json; charset=utf-7"), 415),
        (post({"query": "{a}"}, target="/?query=" + quote("{b}")), 400),
        (post({"query": "{a}"}, fields="Content-Encoding: gzip\r\n"), 415),
        (b"DELETE / HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403),
    ],
)
def test_other_forms_of_requests(request_bytes: bytes, status: int) -> None:
    assert sent(plane_of(), request_bytes)[0] == status
