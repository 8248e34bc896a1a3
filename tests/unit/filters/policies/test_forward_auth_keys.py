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
