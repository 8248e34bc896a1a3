"""Values of the request in fields: what they stand for, and that none of them ends its line."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fastgw import config
from fastgw.config.base.variables import FIXED
from fastgw.filters import TYPES
from fastgw.filters.api import Consumer, Phase
from fastgw.filters.authentication import templates
from fastgw.filters.authentication.templates import VALUES, Unfit, compiled
from fastgw.http.fields import Fields
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, probe
from tests.support.table import for_each

ROUTES = [{"name": "user", "paths": ["/users/{id}", "/x/{id}/{rest:path}"], "upstream": "u"}]
TRUSTED = {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.0.0.0/8"]}}


def sent(
    value: str,
    *,
    claims: Mapping[str, Any] | None = None,
    consumer: Consumer | None = None,
    path: str = "/users/7",
    fields: bytes = b"",
    edit: str = "set",
    side: str = "request",
) -> list[bytes] | int:
    """The values of `X-A` that the upstream gets (the client, for `response`); the status of a refusal."""

    def identify(exchange: Any) -> None:
        exchange.claims, exchange.consumer = claims or {}, consumer

    plane = Plane(
        {
            "listeners": TRUSTED,
            "routes": ROUTES,
            "filters": {"request_id": {}, "headers": {side: {edit: {"X-A": value}}}},
        },
        probes=[probe("identify", Phase.AUTHENTICATE, request=identify)],
    )
    client = plane.client("10.0.0.1")
    head = b"GET %b HTTP/1.1\r\nHost: A.test:81\r\nX-Request-Id: r-1\r\nX-Forwarded-For: 192.0.2.1\r\n" % path.encode()
    client.sends(head + fields + b"\r\n")
    if not plane.pool.waiting:
        return int(client.received.split(b" ")[1])
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n")
    lines = (upstream if side == "request" else client).received.split(b"\r\n")
    return [line.partition(b":")[2].strip() for line in lines if line.lower().replace(b"_", b"-").startswith(b"x-a:")]


@for_each(
    ("value", "expected"),
    [
        ("plain", b"plain"),
        ("{client_ip}", b"192.0.2.1"),
        ("{scheme}://{host}{path}?{query}", b"http://a.test/users/7?x=1"),
        ("{method} {route} {listener}", b"GET user main"),
        ("{request_id}", b"r-1"),
        ("user-{id}", b"user-7"),
        ("{param.id}", b"7"),
        ("{{{id}}}", b"{7}"),
        ('{{"user": "{id}"}}', b'{"user": "7"}'),
        ("a}}b{{c", b"a}b{c"),
    ],
)
@for_each("side", ["request", "response"])
def test_values_of_the_request(value: str, expected: bytes, side: str) -> None:
    assert sent(value, path="/users/7?x=1", side=side) == [expected]


ALICE = Consumer("alice", frozenset(("staff", "admin")))


@for_each(
    ("value", "expected"),
    [
        ("{consumer.name}", b"alice"),
        ("{consumer.groups}", b"admin,staff"),
        ("{claims.sub}", b"u-1"),
        ("{claims.address.city}", "Zürich".encode()),
        ("{claims.https://ns.example/roles}", b"a,b"),
        ("{claims.level}", b"3"),
        ("{claims.big}", b"12345678901234567890123"),
        ("{claims.bigs}", b'{"a":-12345678901234567890123,"b":"\xc3\xa9"}'),
        ("{claims.paid}", b"true"),
        ("{claims.address}", '{"city":"Zürich"}'.encode()),
        ("{claims./dotted.name}", b"whole"),
        ("{claims.dotted.name}", b"in parts"),
        ("<{claims.sub}>", b"<u-1>"),
    ],
)
def test_who_it_is(value: str, expected: bytes) -> None:
    claims = {
        "big": 12345678901234567890123,
        "bigs": {"a": -12345678901234567890123, "b": "é"},
        "sub": "u-1",
        "address": {"city": "Zürich"},
        "https://ns.example/roles": ["a", "b"],
        "level": 3,
        "paid": True,
        "dotted.name": "whole",
        "dotted": {"name": "in parts"},
    }
    assert sent(value, claims=claims, consumer=ALICE) == [expected]


@for_each(
    "value",
    [
        "{consumer.name}",
        "{consumer.groups}",
        "{claims.sub}",
        "{claims.sub.x}",
        "u-{claims.empty}",
        "{claims.none}",
        "{rest}",
    ],
)
@for_each("edit", ["set", "add"])
@for_each("name", [b"X-A", b"x_a"])
def test_what_is_missing_is_left_out_and_nobody_else_says_it(value: str, edit: str, name: bytes) -> None:
    """`set`: what the client sends under that name does not stand in for it."""
    claims = {"empty": "", "no": None}
    left = [] if edit == "set" else [b"theirs"]
    assert sent(value, claims=claims, fields=name + b": theirs\r\n", edit=edit) == left


HOSTILE = ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "\x7f", "a\x1bb", "alice ", " alice", "\talice", "alice\u00a0"]


UNFIT_LISTS = [["a", "b,c"], ["a", "b\nc"], ["a", " b", "c"], ["a", "b\u00a0", "c"], ['"a', 'b"']]


@for_each("hostile", [*HOSTILE, "\ud800", *UNFIT_LISTS, {"x": "\ud800"}])
def test_who_cannot_be_named_is_refused(hostile: Any) -> None:
    """Left out, the request would go on as another one: of nobody."""
    assert sent("{claims.sub}", claims={"sub": hostile}, fields=b"X-A: theirs\r\n") == 403
    assert sent("{claims.sub}", claims={"sub": hostile}, edit="add") == 403


@pytest.mark.parametrize("name", ["alice ", " alice"])
def test_who_is_called_another_once_a_field_is_trimmed_is_refused(name: str) -> None:
    assert sent("{consumer.name}", consumer=Consumer(name)) == 403
    assert sent("{consumer.groups}", consumer=Consumer("bob", frozenset(("a", name, "z")))) == 403


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_value_ends_its_line(hostile: str, caplog: pytest.LogCaptureFixture) -> None:
    """On the way back there is nobody to refuse: the field is left out. Nothing of the value is logged."""
    with caplog.at_level(logging.WARNING):
        assert sent("{claims.sub}", claims={"sub": hostile}, side="response", fields=b"X-A: theirs\r\n") == []
    why = "is not allowed in a header" if hostile == hostile.strip() else "has space at its beginning or end"
    assert [record.getMessage() for record in caplog.records] == [
        f"filter headers: X-A is not set: {{claims.sub}} {why} (logged once)"
    ]


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@given(value=JSON)
def test_whatever_a_claim_is_one_line_comes_of_it_or_none(value: Any) -> None:
    text = compiled("<{claims.x}>")
    assert not isinstance(text, bytes)
    try:
        made = text(SimpleNamespace(claims={"x": value}))  # type: ignore[arg-type]
    except Unfit:
        return
    if made is not None:
        fields = Fields()
        fields.add(b"X-A", made)
        assert fields.render().count(b"\r\n") == 1
        assert Fields.parse(b"\r\n" + fields.render(), 2).get(b"X-A") == made


def test_json_escapes_what_would_end_a_line() -> None:
    assert sent("{claims.x}", claims={"x": {"a": "b\r\nc"}}) == [b'{"a":"b\\r\\nc"}']


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [("/x/7/a%22b/c", "{rest}", b"a%22b/c"), ("/x/%C3%A9/", "{id}", b"%C3%A9"), ("/x/7/", "{rest}", None)],
)
def test_parameters_are_sent_as_they_are_matched(path: str, value: str, expected: bytes | None) -> None:
    """In normal form, their escapes kept."""
    assert sent(value, path=path) == ([] if expected is None else [expected])


def problems(tmp_path: Path, **settings: Any) -> list[str]:
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps({**SERVICE, "routes": ROUTES, **settings}, indent=1))
    with pytest.raises(config.ConfigError) as caught:
        config.load(str(file), TYPES)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def edits(value: str) -> dict[str, Any]:
    return {"headers": {"request": {"set": {"X-A": value}}}}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{", "has a single brace"),
        ("}", "has a single brace"),
        ("{a", "has a single brace"),
        ("{}", "the unknown variable"),
        ("{a b}", "the unknown variable"),
        ("{consumer.nme}", "the unknown variable"),
        ("{claims.}", "is not a valid claim path"),
        ("{client-ip}", "the unknown variable"),
        ("a\r\nb{id}", "control character"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path: Path, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, filters=edits(value))
    assert told in problem
    assert "filters.headers.request.set.X-A" in problem


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"filters": edits("{clientip}")}, "filters"),
        ({"listeners": {"main": {"address": "127.0.0.1:0", "filters": edits("{clientip}")}}}, "listeners.main.filters"),
        (
            {"upstreams": {"u": {"targets": [{"url": "http://a"}], "filters": edits("{clientip}")}}},
            "upstreams.u.filters",
        ),
        ({"filter_sets": {"headers": edits("{clientip}")}}, "filter_sets.headers"),
        ({"routes": [{**ROUTES[0], "filters": edits("{clientip}")}]}, "routes[0].filters"),
    ],
)
def test_an_unknown_name_is_told_with_its_place(tmp_path: Path, settings: dict[str, Any], place: str) -> None:
    (problem,) = problems(tmp_path, **settings)
    assert f": {place}.headers.request.set.X-A: unknown variable {{clientip}}: no path of this route has" in problem
    assert problem.endswith('did you mean "client_ip"?')


def test_a_parameter_must_be_one_of_the_route() -> None:
    """Or of some route, where it is unknown which."""
    other = {"name": "other", "paths": ["/other/{name}", "~^/v[0-9]"], "upstream": "u"}
    load_document({**SERVICE, "routes": [*ROUTES, other], "filters": edits("{id} {name} {param.rest}")})
    load_document({**SERVICE, "routes": [{**ROUTES[0], "filters": edits("{id}")}, other]})
    with pytest.raises(config.ConfigError, match="no path of this route has such a parameter"):
        load_document({**SERVICE, "routes": [{**ROUTES[0], "filters": edits("{name}")}, other]})


@pytest.mark.parametrize(
    ("value", "fields", "expected"),
    [
        ("{header.X-In}", b"X-In: a\r\n", [b"a"]),
        ("{header.X-In}", b"X-In: a\r\nx-in: a\r\n", [b"a"]),
        ("{header.X-In}", b"X-In: a\r\nX-In: b\r\n", []),
        ("{cookie.c}", b"Cookie: d=1; c=2\r\n", [b"2"]),
        ("{query.q}", b"", [b"1 2"]),
        ("{query.hostile}", b"", []),
        ("{tls.subject}", b"", []),
        ("{target}", b"", []),
    ],
)
def test_values_of_headers_cookies_and_the_query(value: str, fields: bytes, expected: list[bytes]) -> None:
    assert sent(value, fields=fields, path="/users/7?q=1+2&hostile=a%0d%0aX:1") == expected


def test_values_that_are_known_in_the_end() -> None:
    ((target,), (upstream,), (latency,)) = (
        sent(f"{{{name}}}", side="response") for name in ("target", "upstream", "latency")
    )
    assert (target, upstream) == (b"127.0.0.1:9", b"u")
    assert float(latency) >= 0
    (one,), (other,) = sent("{uuid}"), sent("{uuid}")
    assert one != other
    assert len(one) == 36


@for_each(
    "name, expected",
    [("unix", b"1800000000"), ("unix_ms", b"1800000000067"), ("iso", b"2027-01-15T08:00:00.067Z")],
)
def test_the_current_time(monkeypatch: pytest.MonkeyPatch, name: str, expected: bytes) -> None:
    monkeypatch.setattr(templates, "time", lambda: 1_800_000_000.067890)
    for side in ("request", "response"):
        assert sent(f"{{time.{name}}}", side=side) == [expected]


def test_parts_of_compositions_know_the_same_variables() -> None:
    assert VALUES.keys() == FIXED


def owns(exchange: Any) -> None:
    """What authentication does with a header that it writes."""
    exchange.request_dropped |= {b"x-user", b"cookie"}
    exchange.request_added += b"X-User: real\r\nCookie: c=real\r\n"


def removes(exchange: Any) -> None:
    exchange.request_dropped |= {b"x-user", b"cookie"}


def adds_a_secret(exchange: Any) -> None:
    """What `credentials` does: for the upstream of the route only."""
    exchange.keep_from_others(frozenset((b"x-user", b"cookie")))
    owns(exchange)


@pytest.mark.parametrize(
    ("step", "expected"), [(owns, b"real"), (removes, b""), (adds_a_secret, b"")], ids=["owns", "removes", "secret"]
)
@pytest.mark.parametrize("variable", ["header.X-User", "cookie.c"])
@pytest.mark.parametrize("side", ["request", "response"])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_header_is_read_as_filters_have_changed_it(
    step: Any, expected: bytes, variable: str, side: str, is_last: bool
) -> None:
    """Whether the `headers` filter writes lines, as the last one may, or changes parsed headers."""
    edits = {"set": {"X-A": f"<{{{variable}}}>"}}
    filters = {"headers": {side: edits}} if side == "request" or is_last else {"headers": {side: edits, "request": {}}}
    plane = Plane(
        {"routes": ROUTES, "filters": filters},
        probes=[
            probe("step", Phase.AUTHENTICATE, request=step),
            *([] if is_last else [probe("later", Phase.CREDENTIALS, request=lambda exchange: None)]),
        ],
    )
    client = plane.client()
    client.sends(b"GET /users/7 HTTP/1.1\r\nHost: a\r\nX-User: forged\r\nCookie: c=forged\r\n\r\n")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    received = upstream.received if side == "request" else client.received
    values = [line[5:] for line in received.split(b"\r\n") if line.startswith(b"X-A: ")]
    assert values == ([b"<" + expected + b">"] if expected else [])


@pytest.mark.parametrize("is_last", [True, False])
def test_a_header_that_is_replaced_by_its_own_value_is_not_the_clients(is_last: bool) -> None:
    plane = Plane(
        {"routes": ROUTES, "filters": {"headers": {"request": {"set": {"X-User": "user {header.X-User}"}}}}},
        probes=[
            probe("step", Phase.AUTHENTICATE, request=owns),
            *([] if is_last else [probe("later", Phase.CREDENTIALS, request=lambda exchange: None)]),
        ],
    )
    client = plane.client()
    client.sends(b"GET /users/7 HTTP/1.1\r\nHost: a\r\nX-User: forged\r\n\r\n")
    received = plane.connects().received
    assert [line for line in received.split(b"\r\n") if line.startswith(b"X-User")] == [b"X-User: user real"]


@pytest.mark.parametrize("step", [owns, removes])
def test_a_path_is_made_of_headers_as_filters_have_changed_them(step: Any) -> None:
    route = {"name": "r", "paths": ["/r"], "upstream": "u", "rewrite": "/of/{header.X-User}"}
    plane = Plane({"routes": [route]}, probes=[probe("step", Phase.AUTHENTICATE, request=step)])
    client = plane.client()
    client.sends(b"GET /r HTTP/1.1\r\nHost: a\r\nX-User: forged\r\n\r\n")
    if step is owns:
        assert plane.connects().received.startswith(b"GET /of/real HTTP/1.1\r\n")
    else:
        assert client.received.startswith(b"HTTP/1.1 400 ")
