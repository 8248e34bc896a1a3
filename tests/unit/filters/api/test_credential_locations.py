"""What `hide_credentials` hides is told to nobody else either, in whatever else is made of the request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.memory import Plane

KEY = "key-of-alice-4711"
KEY_AUTH = {"key_names": ["key"], "key_in": ["header", "query", "cookie"]}
TOLD = {"X-Query": "{query}", "X-Url": "{path}?{query}", "X-All": "[{query}]"}


def plane_of(route: dict[str, Any], **filters: Any) -> Plane:
    consumers = [{"name": "alice", "key_auth": [{"key": KEY}]}]
    return Plane({"routes": [{"name": "all", **route, "filters": filters}], "consumers": consumers})


def said(received: bytes, name: bytes) -> list[bytes]:
    lines = received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(name + b":")]


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("side", ["request", "response"])
def test_the_query_in_fields_is_the_one_that_is_sent(side: str, hidden: bool) -> None:
    key_auth = KEY_AUTH | {"hide_credentials": hidden}
    plane = plane_of({"upstream": "u"}, key_auth=key_auth, headers={side: {"set": TOLD}})
    client = plane.client()
    client.sends(b"GET /x?a=1&key=%b&b=2 HTTP/1.1\r\nHost: a\r\n\r\n" % KEY.encode())
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    query = b"a=1&b=2" if hidden else b"a=1&key=%b&b=2" % KEY.encode()
    received = upstream.received if side == "request" else client.received
    assert said(received, b"x-query") == [query]
    assert said(received, b"x-url") == [b"/x?" + query]
    assert (KEY.encode() in upstream.received + client.received) is not hidden


def test_a_query_of_nothing_else_is_none() -> None:
    key_auth = KEY_AUTH | {"hide_credentials": True}
    plane = plane_of({"upstream": "u"}, key_auth=key_auth, headers={"request": {"set": TOLD}})
    plane.client().sends(b"GET /x?%%6Bey=%b HTTP/1.1\r\nHost: a\r\n\r\n" % KEY.encode())
    received = plane.connects().received
    assert received.startswith(b"GET /x HTTP/1.1\r\n")
    assert said(received, b"x-query") == said(received, b"x-url") == said(received, b"x-all") == []


@pytest.mark.parametrize(
    ("query", "hidden", "location"),
    [
        (b"?a=1&key=%b", True, b"https://other.test/x?a=1"),
        (b"?key=%b", True, b"https://other.test/x"),
        (b"?a=1&key=%b", False, b"https://other.test/x?a=1&key=%b"),
    ],
)
def test_a_redirect_takes_along_what_would_be_sent(query: bytes, hidden: bool, location: bytes) -> None:
    key_auth = KEY_AUTH | {"hide_credentials": hidden}
    plane = plane_of({"paths": ["/{id}"], "redirect": {"to": "https://other.test/{id}"}}, key_auth=key_auth)
    client = plane.client()
    client.sends(b"GET /x%b HTTP/1.1\r\nHost: a\r\n\r\n" % query.replace(b"%b", KEY.encode()))
    assert said(client.received, b"location") == [location.replace(b"%b", KEY.encode())]
