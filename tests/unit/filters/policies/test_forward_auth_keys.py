"""Keys of the decisions that `forward_auth` remembers: what filters before it made of the request is in them."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.filters.api import Phase
from fastgw.filters.policies.forward_auth import Remembering, _Memory
from tests.support.memory import Plane, probe


@pytest.mark.parametrize("name", ["X-User", "x-user"])
def test_the_key_has_what_a_filter_has_written_and_nothing_of_the_client(name: str) -> None:
    """Whatever the spelling of the name, in the configuration or on the wire."""
    memory = _Memory(Remembering(key_headers=(name,)))
    keys: list[bytes | None] = []
    users = iter([b"ann", b"bob", b"", b""])

    def own(exchange: Any) -> None:
        exchange.request_dropped |= {b"x-user"}
        if user := next(users):
            exchange.request_added += b"X-User: %b\r\n" % user
        keys.append(memory.key_of(exchange))

    plane = Plane(probes=[probe("owns", Phase.AUTHENTICATE, request=own)])
    for claimed in (b"same", b"same", b"same", b"ann"):
        plane.client().sends(b"GET / HTTP/1.1\r\nHost: a\r\nX-USER: %b\r\n\r\n" % claimed)
    ann, bob, *without = keys
    assert without == [None, None]
    assert ann is not None
    assert b"ann" in ann
    assert bob == ann.replace(b"ann", b"bob")
    assert b"same" not in ann


def test_a_decision_is_for_the_origin_that_a_trusted_proxy_reports() -> None:
    """The service is told it, in `X-Forwarded-*`."""
    memory = _Memory(Remembering(key_headers=("A",), per_address=False))
    reported = [b"Proto: https", b"Proto: http", b"Host: b", b"Port: 81", b"Prefix: /p"]
    for proxies, count in (["127.0.0.0/8"], len(reported)), ([], 1):
        keys: list[bytes | None] = []
        own = probe("own", Phase.AUTHENTICATE, request=lambda each, keys=keys: keys.append(memory.key_of(each)))
        listener = {"address": "127.0.0.1:0", "trusted_proxies": proxies}
        plane = Plane({"listeners": {"main": listener}}, probes=[own])
        for line in reported:
            plane.client().sends(b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nX-Forwarded-%b\r\n\r\n" % line)
        assert (len(keys), len(set(keys))) == (len(reported), count)


def test_requests_that_differ_in_one_part_have_different_keys() -> None:
    memory = _Memory(Remembering(key_headers=("A", "B")))
    keys: list[bytes | None] = []
    plane = Plane(probes=[probe("own", Phase.AUTHENTICATE, request=lambda each: keys.append(memory.key_of(each)))])
    targets = (b"/", b"/?", b"/?q", b"/q")
    lines = (b"A: 1\r\nA: 2\r\n", b"A: 1\r\nB: 2\r\n", b"A: 12\r\n", b"B: 12\r\n", b"A: 1, 2\r\n", b"A: \r\nB: 12\r\n")
    for method in (b"GET", b"HEAD"):
        for target in targets:
            for each in lines:
                plane.client().sends(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, target, each))
    assert None not in keys
    assert len(set(keys)) == len(keys) == 2 * len(targets) * len(lines)
