"""What takes the place of an upstream that fails: a reply, or another upstream that gets nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.errors import Fault
from tests.support.memory import Plane, Wire

OTHER = {"upstream": "v"}
STATIC = {"respond": {"status": 200, "body": "away", "headers": {"X-From": "us"}}}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"


def plane_with(fallback: dict[str, Any], **more: Any) -> Plane:
    settings = {
        "upstreams": {
            "u": {
                "targets": [{"url": "http://127.0.0.1:9"}],
                "retries": {"max": 0},
                "load_balancing": {"panic_threshold": "0%"},
            },
            "v": {"targets": [{"url": "http://127.0.0.2:9"}], "retries": {"max": 0}},
        },
        "routes": [{"name": "all", "upstream": "u", "fallback": fallback, **more}],
    }
    return Plane(settings)


def asked(plane: Plane, method: bytes = b"GET", body: bytes = b"") -> Wire:
    client = plane.client()
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    client.sends(method + b" /a HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n" + body)
    return client


def test_a_reply_in_place_of_a_fault() -> None:
    plane = plane_with(STATIC)
    client = asked(plane)
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nX-From: us\r\n" in client.received
    assert client.received.endswith(b"\r\n\r\naway")
    (record,) = plane.records
    assert (record.status, record.fault) == (200, Fault.CONNECT_REFUSED.label)
    client.sends(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")  # the connection goes on
    assert plane.pool.waiting
    plane.cannot_connect(Fault.DNS_FAILED)
    assert client.received.count(b"away") == 2
    plane.assert_quiet()


def test_another_upstream_in_place_of_one_that_cannot_be_reached() -> None:
    plane = plane_with(OTHER)
    client = asked(plane, b"POST", b"payload")  # nothing was sent yet, so this may be a POST
    plane.cannot_connect()
    upstream = plane.connects()
    assert upstream.target == "127.0.0.2:9"
    assert upstream.received.startswith(b"POST /a HTTP/1.1\r\nHost: a\r\n")
    assert upstream.received.endswith(b"\r\n\r\npayload")
    upstream.sends(OK)
    assert client.received.endswith(b"other")
    (record,) = plane.records
    assert (record.status, record.fault, record.upstream) == (200, "", "v")
    plane.assert_quiet()


ADDED = {"request_parameters": {"headers": {"X-Tenant": "t1"}, "query": {"key": "of u"}}}


def test_what_is_for_one_upstream_alone_stays_behind() -> None:
    """Another host does not get to see it, and what the client has sent is as it was."""
    plane = plane_with(OTHER, filters=ADDED)
    client = plane.client()
    client.sends(b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\n\r\n")
    first = plane.connects()
    assert first.received.startswith(b"GET /a?b=c&key=of%20u HTTP/1.1\r\n")
    assert b"\r\nX-Tenant: t1\r\n" in first.received
    first.resets()
    second = plane.connects()
    assert second.target == "127.0.0.2:9"
    assert second.received.startswith(b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n")
    assert b"\r\nX-Own: 1\r\n" in second.received
    assert b"X-Tenant" not in second.received
    second.sends(OK)
    assert client.received.endswith(b"other")
    plane.assert_quiet()


@pytest.mark.parametrize("meant_for_both", [True, False])
@pytest.mark.parametrize("level", ["gateway", "listener", "upstreams"])
def test_it_goes_along_where_it_is_meant_for_both(level: str, meant_for_both: bool) -> None:
    """Because it stands where all upstreams are meant, or because both have the same."""
    upstream = {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}}
    others = {**upstream, "targets": [{"url": "http://127.0.0.2:9"}]}
    listener: dict[str, Any] = {"address": "127.0.0.1:0"}
    settings: dict[str, Any] = {"routes": [{"name": "all", "upstream": "u", "fallback": OTHER}]}
    if level == "gateway":
        settings["filters"] = ADDED
    elif level == "listener":
        listener = {**listener, "filters": ADDED}
    else:
        upstream, others = {**upstream, "filters": ADDED}, {**others, "filters": ADDED}
    if not meant_for_both:  # the route's own takes the place of what is for both
        settings["routes"][0]["filters"] = {"request_parameters": {"headers": {"X-Tenant": "t2"}}}
    plane = Plane({**settings, "listeners": {"main": listener}, "upstreams": {"u": upstream, "v": others}})
    asked(plane)
    plane.cannot_connect()
    other = plane.connects()
    received = other.received
    assert other.target == "127.0.0.2:9"
    assert (b"key=of%20u" in received) is (b"X-Tenant: t1" in received) is meant_for_both
    assert b"X-Tenant: t2" not in received


def broken(wire: Wire) -> None:
    wire.resets()


def nonsense(wire: Wire) -> None:
    wire.sends(b"nonsense\r\n\r\n")


@pytest.mark.parametrize("fail", [broken, nonsense])
@pytest.mark.parametrize(
    ("method", "body", "again"),
    [(b"GET", b"", True), (b"PUT", b"payload", True), (b"POST", b"payload", False), (b"POST", b"", False)],
)
def test_what_may_have_been_acted_on_is_repeated_only_if_its_method_allows_it(
    method: bytes, body: bytes, again: bool, fail: Callable[[Wire], None]
) -> None:
    plane = plane_with(OTHER)
    client = asked(plane, method, body)
    first = plane.connects()
    assert first.received.startswith(method)
    fail(first)
    if again:
        second = plane.connects()
        assert second.target == "127.0.0.2:9"
        assert second.received.startswith(method + b" /a HTTP/1.1\r\nHost: a\r\n")
        assert second.received.endswith(b"\r\n\r\n" + body)
        second.sends(OK)
        assert client.received.endswith(b"other")
    else:
        assert client.received.startswith(b"HTTP/1.1 502 ")
        assert not plane.pool.waiting
    plane.assert_quiet()


def test_a_body_that_is_not_at_hand_any_more_is_not_sent() -> None:
    plane = plane_with(OTHER)
    client = plane.client()
    client.sends(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(1000))
    first = plane.connects()
    for _ in range(10):
        client.sends(bytes(10_000))
    first.resets()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert not plane.pool.waiting


def test_the_other_upstream_has_no_other() -> None:
    plane = plane_with(OTHER)
    client = asked(plane)
    plane.cannot_connect()
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert [record.upstream for record in plane.records] == ["v"]
    plane.assert_quiet()


def test_only_what_was_asked_for() -> None:
    plane = plane_with({**STATIC, "conditions": ["unavailable"]})
    client = asked(plane)
    plane.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    plane.gateway.upstreams["u"].shunned = frozenset(plane.gateway.upstreams["u"].targets)
    plane.gateway.upstreams["u"].settle()  # without panic: it is not picked for want of another
    client = asked(plane)
    assert client.received.endswith(b"away")
    assert plane.records[-1].fault == Fault.NO_HEALTHY_TARGET.label


def test_an_answer_that_has_begun_is_not_replaced() -> None:
    plane = plane_with(STATIC)
    client = asked(plane)
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    upstream.resets()
    assert b"away" not in client.received
    assert client.ended or client.aborted
    plane.assert_quiet()


def test_the_client_leaves_while_the_other_is_asked() -> None:
    plane = plane_with(OTHER)
    client = asked(plane)
    plane.cannot_connect()
    client.ends()
    assert not plane.pool.waiting
    plane.assert_quiet()


def test_a_post_that_was_sent_goes_nowhere_else_although_it_may_be_sent_again() -> None:
    """`non_idempotent` is about its own upstream."""
    retries = {
        "max": 1,
        "conditions": ["per_try_timeout"],
        "per_try_timeout": "200ms",
        "non_idempotent": True,
        "backoff": {"base": "0s"},
    }
    settings = {
        "upstreams": {
            "u": {
                "targets": [{"url": "http://127.0.0.1:9"}],
                "retries": retries,
                "load_balancing": {"panic_threshold": "0%"},
            },
            "v": {"targets": [{"url": "http://127.0.0.2:9"}]},
        },
        "routes": [{"name": "all", "upstream": "u", "fallback": OTHER}],
    }
    plane = Plane(settings)
    client = asked(plane, b"POST", b"payload")
    plane.connects()
    upstream = plane.gateway.upstreams["u"]
    upstream.shunned = frozenset(upstream.targets)  # as when its breaker opens with this failure
    upstream.settle()
    plane.passes(0.3)
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert not plane.pool.waiting
    plane.assert_quiet()
