"""request_parameters: what a client has not said itself is added for the upstream, and nobody else is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.explain import explain
from fastgw.filters.policies.request_parameters import RequestParameters
from fastgw.gateway.compiler import compile
from fastgw.gateway.tables import CompileError
from fastgw.testing import ConfigError, configured, run
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane

SECRET = "tenant-4711"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request(target: str = "/a", *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def sent(settings: dict[str, Any], target: str = "/a", *lines: str, **more: Any) -> tuple[str, list[tuple[str, str]]]:
    """The request target and the fields that the upstream gets, but for those of every request."""
    ran = run(configured(RequestParameters, **settings), request(target, *lines), **more)
    fields = [(name.decode(), value.decode()) for name, value in ran.sent_fields]
    ours = ("Host", "Via", "Forwarded", "X-Forwarded-", "X-Real-IP")
    return ran.sent.split(b" ")[1].decode(), [field for field in fields if not field[0].startswith(ours)]


def test_several_values_are_several_lines_and_parameters() -> None:
    settings = {
        "headers": {"X-Tenant": ["t1", "t2"], "X-Way": "a b"},
        "query": {"client": ["100", "200"], "lang": "de"},
    }
    assert sent(settings) == (
        "/a?client=100&client=200&lang=de",
        [("X-Tenant", "t1"), ("X-Tenant", "t2"), ("X-Way", "a b")],
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a", "/a?sap%20client=1%2622&x%3D=%C3%A4"),
        ("/a?", "/a?sap%20client=1%2622&x%3D=%C3%A4"),
        ("/a?b=c&d", "/a?b=c&d&sap%20client=1%2622&x%3D=%C3%A4"),
        ("/a?sap+client=7", "/a?sap+client=7&x%3D=%C3%A4"),
        ("/a?x%3d", "/a?x%3d&sap%20client=1%2622"),
        ("/a?%73ap%20client=&x%3D=1", "/a?%73ap%20client=&x%3D=1"),
    ],
)
def test_parameters_are_escaped_behind_those_of_the_client_which_win(target: str, expected: str) -> None:
    """They are compared as a server decodes them."""
    assert sent({"query": {"sap client": "1&22", "x=": "ä"}}, target)[0] == expected


@pytest.mark.parametrize("said", ["X-Tenant: mine", "x-tenant: mine", "X_Tenant: mine", "X.TENANT: mine"])
def test_a_field_of_the_clients_own_wins_also_by_a_twin(said: str) -> None:
    """CGI and its heirs could not tell them apart."""
    name = said.partition(":")[0]
    settings = {"headers": {"X-Tenant": SECRET, "X-Way": "w"}}
    assert sent(settings, "/a", said)[1] == [(name, "mine"), ("X-Way", "w")]


def test_a_field_that_only_looks_alike_is_another() -> None:
    said = ["X-Tenants: 1", "A-X-Tenant: 2", "Y: X-Tenant: 3"]
    fields = sent({"headers": {"X-Tenant": "t"}}, "/a", *said)[1]
    assert fields == [("X-Tenants", "1"), ("A-X-Tenant", "2"), ("Y", "X-Tenant: 3"), ("X-Tenant", "t")]


def test_a_client_cannot_name_ours_away() -> None:
    """RFC 9110 section 7.6.1: what `Connection` names was the client's own line."""
    fields = sent({"headers": {"X-Tenant": "t"}}, "/a", "Connection: X-Tenant", "X-Tenant: mine")[1]
    assert fields == [("X-Tenant", "t")]


def plane_of(**filters: Any) -> Plane:
    consumers = [{"name": "alice", "key_auth": [{"key": "key-of-alice"}]}]
    return Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}], "consumers": consumers})


def received(plane: Plane, request: bytes) -> bytes:
    client = plane.client()
    client.sends(request)
    upstream = plane.connects()
    upstream.sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    return upstream.received


def test_what_was_taken_out_the_client_has_not_sent() -> None:
    """A key for the gateway goes, and the one that the API wants comes in its place."""
    key_auth = {"key_names": ["X-Api-Key", "apikey"], "key_in": ["header", "query"], "hide_credentials": True}
    parameters = {"headers": {"X-Api-Key": SECRET}, "query": {"apikey": SECRET}}
    both = {"key_auth": key_auth, "request_parameters": parameters}
    by_field = received(plane_of(**both), request("/a?b=1", "X-Api-Key: key-of-alice"))
    assert by_field.startswith(b"GET /a?b=1&apikey=tenant-4711 HTTP/1.1\r\n")
    assert by_field.count(b"X-Api-Key: ") == by_field.count(b"X-Api-Key: tenant-4711\r\n") == 1
    by_query = received(plane_of(**both), request("/a?apikey=key-of-alice"))
    assert by_query.startswith(b"GET /a?apikey=tenant-4711 HTTP/1.1\r\n")
    assert b"key-of-alice" not in by_field + by_query


def test_what_other_filters_have_said_wins_as_well() -> None:
    headers = {"request": {"set": {"X-Tenant": "by headers"}, "remove": ["X-Way"]}}
    parameters = {"headers": {"x-tenant": SECRET, "X-Way": "ours"}}
    sent = received(plane_of(headers=headers, request_parameters=parameters), request("/a", "X-Way: mine"))
    assert b"\r\nX-Tenant: by headers\r\n" in sent
    assert sent.count(b"\r\nX-Way: ") == sent.count(b"\r\nX-Way: ours\r\n") == 1
    assert SECRET.encode() not in sent


def test_nobody_else_is_told() -> None:
    """Neither the client, by a field that shows the query, nor the log."""
    headers = {"response": {"set": {"X-Query": "[{query}]"}}}
    plane = plane_of(headers=headers, request_parameters={"query": {"key": SECRET}})
    client = plane.client()
    client.sends(request("/a?b=1"))
    upstream = plane.connects()
    assert upstream.received.startswith(b"GET /a?b=1&key=tenant-4711 HTTP/1.1\r\n")
    upstream.sends(OK)
    assert b"\r\nX-Query: [b=1]\r\n" in client.received
    assert SECRET.encode() not in client.received
    (record,) = plane.records
    assert (record.path, record.query) == (b"/a", b"b=1")


def test_a_redirect_does_not_take_it_along() -> None:
    filters = {"request_parameters": {"query": {"key": SECRET}}}
    plane = Plane({"routes": [{"name": "all", "redirect": {"to": "https://other.test/"}, "filters": filters}]})
    client = plane.client()
    client.sends(request("/a?b=1"))
    assert b"\r\nLocation: https://other.test/?b=1\r\n" in client.received


def test_explain_masks_values_whatever_they_are_called() -> None:
    filters = {"request_parameters": {"headers": {"X-Tenant": SECRET}, "query": {"sap client": SECRET}}}
    gateway = compile(load_document({**SERVICE, "routes": [{"name": "all", "upstream": "u", "filters": filters}]}), 1)
    told = explain(gateway, "GET", "http://a/x?b=1")
    assert "GET /x?b=1&sap%20client=*** HTTP/1.1" in told.sends
    assert "X-Tenant: ***" in told.sends
    assert SECRET not in repr(told)


def test_in_shadow_nothing_is_added() -> None:
    settings = {"headers": {"X-Tenant": SECRET}, "query": {"key": SECRET}}
    ran = run(configured(RequestParameters, **settings), request("/a?b=1"), shadow=True)
    assert ran.sent.startswith(b"GET /a?b=1 HTTP/1.1\r\n")
    assert SECRET.encode() not in ran.sent
    assert ran.shadowed == "request_parameters: change request X-Tenant, query"


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "expected at least one of `headers`, `query` and `query_first`"),
        ({"headers": {"Content-Length": "1"}}, "`Content-Length` is a connection header, which is set by the gateway"),
        ({"headers": {"X-A": []}}, "headers.X-A"),
        ({"query": {"": "1"}}, "query"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        configured(RequestParameters, **settings)


def test_a_query_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="query_first: a query with a character that has to be percent-enc") as caught:
        configured(RequestParameters, query_first=f"key={SECRET} x")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["two\nlines", " led by a blank", "\x7f"])
def test_a_secret_that_could_not_stand_in_a_field_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(value)
    filters = {"request_parameters": {"headers": {"X-Tenant": {"file": str(secret)}}}}
    with pytest.raises(CompileError, match="the secret for X-Tenant is not a single line") as caught:
        compile(load_document({**SERVICE, "filters": filters}), 1)
    assert value.strip() not in str(caught.value)
