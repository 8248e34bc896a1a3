"""How an exchange begins, by its class and by the compiled twin: the same, and of nobody else's."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from itertools import pairwise
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.exchange import Chain, Exchange
from fastgw.exchange import _new_exchange as TWIN
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from tests.support.collector import no_collector

GET = parse_request(b"GET /a?b=c HTTP/1.1\r\nHost: a.test:81\r\n\r\n")
HEADS = [
    GET,
    parse_request(b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n"),
    parse_request(b"GET /b/../c HTTP/1.0\r\nHost: b.test\r\n\r\n"),
    parse_request(b"OPTIONS * HTTP/1.1\r\nHost: b.test\r\n\r\n"),  # which the reference reads
]
PEERS: list[Any] = [
    Peer("192.0.2.1", 1, 80, trusted=False),
    Peer("2001:db8::1", 2, 443, trusted=True, scheme=b"https"),
    SimpleNamespace(ip="192.0.2.2", scheme=b"other"),
]
Begin = Callable[..., Exchange]


class Anybody:
    """A client, a listener, a chain."""

    route: Any = None


@pytest.fixture(params=["plain", "compiled"])
def begin(request: pytest.FixtureRequest) -> Begin:
    return Exchange if request.param == "plain" else TWIN.Maker(Exchange).create_exchange


@pytest.mark.parametrize("first", PEERS, ids=lambda peer: peer.ip)
def test_it_begins_as_the_class_makes_it(begin: Begin, first: Any) -> None:
    """Also where the first of all was on a connection of another kind."""
    client, listener, chain = Anybody(), Anybody(), Chain(())
    begin(GET, Anybody(), Anybody(), first, Chain(()))
    for head in HEADS:
        for peer in PEERS:
            before = monotonic()
            made = begin(head, client, listener, peer, chain)
            assert before <= made.begun_at <= monotonic()
            assert type(made) is Exchange
            assert type(made.begun_at) is float
            expected = Exchange(head, client, listener, peer, chain)  # type: ignore[arg-type]
            for name in Exchange.__slots__:
                if name == "method":
                    assert made.method == expected.method
                elif name != "begun_at":
                    assert getattr(made, name) is getattr(expected, name), name


def test_what_happens_to_one_is_not_seen_on_another(begin: Begin) -> None:
    first = begin(GET, Anybody(), Anybody(), PEERS[0], Chain(()))
    at_first = {name: getattr(first, name) for name in Exchange.__slots__ if name != "begun_at"}
    for name in Exchange.__slots__:
        setattr(first, name, object())
    second = begin(*(at_first[name] for name in ("head", "client", "listener", "peer", "chain")))
    assert {name: getattr(second, name) for name in at_first} == at_first


def test_all_that_it_holds_is_let_go_with_it(begin: Begin) -> None:
    head, client, listener, chain = GET, Anybody(), Anybody(), Chain(())
    peer = Peer("192.0.2.1", 1, 80, trusted=False)
    begin(head, client, listener, peer, chain)
    first = begin(head, client, listener, peer, chain)
    held = [
        head,
        client,
        listener,
        peer,
        chain,
        peer.scheme,
        peer.ip,
        Exchange,
        *map(first.__getattribute__, at_first()),
    ]
    del first
    begin(head, client, listener, peer, chain)
    with no_collector():  # what other tests have left holds some of these too
        before = list(map(sys.getrefcount, held))
        many = [begin(head, client, listener, peer, chain) for _ in range(1000)]
        assert min(after - was for was, after in zip(before, map(sys.getrefcount, held), strict=True)) >= 1000
        del many
        assert list(map(sys.getrefcount, held)) == before


def at_first() -> list[str]:
    """Attributes whose first value is an object that is counted as any."""
    return ["query_sent", "claims", "params", "answered_by", "state", "request_dropped"]


def test_a_circle_through_it_is_collected(begin: Begin) -> None:
    """Its client knows it while it is under way."""
    client = Anybody()
    begin(GET, Anybody(), Anybody(), PEERS[0], Chain(()))
    client.route = begin(GET, client, Anybody(), PEERS[0], Chain(()))
    assert gc.is_tracked(client.route)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("wrong", ["a head that says nothing", "a peer without an address", "too few"])
def test_one_that_cannot_begin_is_an_error_as_of_the_class(begin: Begin, wrong: str) -> None:
    """Be it the first of all or a later one."""
    whole: list[Any] = [GET, Anybody(), Anybody(), PEERS[0], Chain(())]
    broken = {
        "a head that says nothing": [object(), *whole[1:]],
        "a peer without an address": [*whole[:3], object(), whole[4]],
        "too few": whole[:4],
    }[wrong]
    for _ in range(2):
        with pytest.raises((AttributeError, TypeError)):
            begin(*broken)
        assert begin(*whole).head is GET


def test_later_ones_begin_later(begin: Begin) -> None:
    made = [begin(GET, None, None, PEERS[0], Chain(())) for _ in range(100)]
    assert all(one.begun_at <= other.begun_at for one, other in pairwise(made))


def test_the_twin_makes_nothing_of_a_head_that_was_not_read() -> None:
    begin = TWIN.Maker(Exchange).create_exchange
    for _ in range(2):
        with pytest.raises(AttributeError, match="method"):
            begin(type(GET)(), None, None, PEERS[0], Chain(()))
        assert begin(GET, None, None, PEERS[0], Chain(())).method == b"GET"


def test_the_twin_makes_nothing_of_a_class_that_is_not_as_it_knows_it() -> None:
    class WithMore(Exchange):
        __slots__ = ("more",)

    class Open(Exchange):
        pass

    for unknown in (WithMore, Open):
        with pytest.raises((TypeError, AttributeError), match="slots"):
            TWIN.Maker(unknown)
