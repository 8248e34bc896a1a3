"""Trailers of a request: they say nothing that filters have written, removed or judged in its head."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from tests.support.memory import Plane

KEY = "key-of-alice-4711"
FORGED = b"X-Role: admin\r\nX_Role: admin\r\nX-Consumer: root\r\nX-Api-Key: theirs\r\nX-Sum: 1\r\n"
ROLE = {"set": {"X-Role": "user", "X-Consumer": "{consumer.name}"}}


def forwarded(plane: Plane, client: Any, pieces: tuple[bytes, bytes], split: bool) -> Any:
    """The upstream that gets the request. `split`: its second piece comes when the first is there already."""
    if split:
        client.sends(pieces[0])
        upstream = plane.connects()
        client.sends(pieces[1])
        return upstream
    client.sends(b"".join(pieces))
    return plane.connects()


def sent(split: bool, **filters: Any) -> tuple[bytes, bytes]:
    """The head that the upstream gets, and the trailers. `split`: they come when all else is there already."""
    consumers = [{"name": "alice", "key_auth": [{"key": KEY}]}]
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}], "consumers": consumers})
    client = plane.client()
    fields = b"X-Api-Key: %b\r\nX-Said: 1\r\nTransfer-Encoding: chunked\r\n" % KEY.encode()
    pieces = (b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n1\r\na\r\n", b"0\r\n%bx_said: 2\r\n\r\n" % FORGED)
    upstream = forwarded(plane, client, pieces, split)
    head, _, body = upstream.received.partition(b"\r\n\r\n")
    assert body.startswith(b"1\r\na\r\n0\r\n")
    assert body.endswith(b"\r\n\r\n")
    return head, body.removeprefix(b"1\r\na\r\n0\r\n").removesuffix(b"\r\n")


@pytest.mark.parametrize("split", [False, True])
def test_what_filters_write_or_judge_is_said_by_nobody_behind_the_body(split: bool) -> None:
    for hide in (False, True):
        head, trailers = sent(split, key_auth={"hide_credentials": hide}, headers={"request": ROLE})
        assert trailers == b"X-Sum: 1\r\n"
        assert b"\r\nX-Role: user\r\n" in head
        assert b"\r\nX-Consumer: alice\r\n" in head
        assert (KEY.encode() in head) is not hide


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("edit", [{"remove": ["X-Role", "X-Consumer"]}, {"set": {"X-Role": "{claims.none}"}}, ROLE])
def test_nor_what_they_remove_though_the_head_has_none_of_it(split: bool, edit: dict[str, Any]) -> None:
    """Also where fields are looked at by a filter behind, and so are not written as ready lines."""
    first = {"type": "headers", "request": edit}
    behind = {"type": "headers", "request": {"remove": ["X-Consumer"]}}
    for filters in ({"first": first}, {"first": first, "behind": behind}):
        _, trailers = sent(split, **filters)
        assert b"ole:" not in trailers
        assert (b"X-Consumer" in trailers) is ("behind" not in filters and "X-Consumer" not in str(edit))
        assert b"X-Sum: 1\r\n" in trailers
        assert b"said" not in trailers


@pytest.mark.parametrize("split", [False, True])
def test_what_nobody_speaks_of_passes(split: bool) -> None:
    _, trailers = sent(split)
    assert trailers == b"X-Role: admin\r\nX_Role: admin\r\nX-Consumer: root\r\nX-Sum: 1\r\n"


@pytest.mark.parametrize("split", [False, True])
def test_nor_what_only_proxies_may_send(split: bool) -> None:
    """A reserved header is none behind the body either."""
    plane = Plane({})
    client = plane.client()
    pieces = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nTrue_Client_IP: 6\r\nX-Sum: 1\r\n\r\n",
    )
    upstream = forwarded(plane, client, pieces, split)
    assert upstream.received.endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")


DIGESTS = b"Content-Digest: sha-256=:AA==:\r\nRepr-Digest: sha-256=:AA==:\r\ndigest: sha-256=AA==\r\n"


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("coding", [b"gzip", b"identity"])
def test_a_digest_of_a_body_that_a_filter_has_changed_is_dropped(split: bool, coding: bytes) -> None:
    """RFC 9530 section 4: it would be that of another body, and a server that verifies it would refuse the request."""
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": {"decompress": {}}}]})
    client = plane.client()
    body = gzip.compress(b"plain") if coding == b"gzip" else b"plain"
    fields = b"Content-Encoding: %b\r\nTransfer-Encoding: chunked\r\n" % coding
    pieces = (
        b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n%x\r\n%b\r\n" % (len(body), body),
        b"0\r\n%bX-Sum: 1\r\n\r\n" % DIGESTS,
    )
    upstream = forwarded(plane, client, pieces, split)
    kept = b"" if coding == b"gzip" else DIGESTS
    assert upstream.received.endswith(b"plain\r\n0\r\n%bX-Sum: 1\r\n\r\n" % kept)
