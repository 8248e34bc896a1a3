"""How an exchange begins and ends: what it holds is let go with it, and circles through it are collected."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from itertools import pairwise
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

import fastgw
from fastgw.exchange import Chain, Exchange
from fastgw.exchange.exchange import ClientSide
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from tests.support.collector import no_collector

GET = parse_request(b"GET /a?b=c HTTP/1.1\r\nHost: a.test:81\r\n\r\n")
PEER = Peer("192.0.2.1", 1, 80, trusted=False)
TYPES = Path(fastgw.__file__).with_name("exchange").joinpath("exchange.pxd").read_text()
FLAGS = re.findall(r"cdef public bint (\w+)$", TYPES, re.MULTILINE)
FIELDS = re.findall(r"cdef public [\w ]*?(\w+)$", TYPES.rpartition("cdef class Exchange:")[2], re.MULTILINE)


class Anybody(ClientSide):
    """A client, a listener."""

    route: Any = None
    held_body_budget: Any = None


def begin(client: ClientSide | None = None, peer: Any = PEER, head: Any = GET) -> Exchange:
    return Exchange(head, client or Anybody(), None, peer, Chain(()))


def test_it_begins_now_with_what_its_head_and_its_peer_say() -> None:
    before = monotonic()
    made = begin(peer=Peer("2001:db8::1", 2, 443, trusted=True, scheme=b"https"))
    assert before <= made.begun_at <= monotonic()
    assert (made.method, made.path, made.scheme, made.client_ip) == (b"GET", b"/a", b"https", "2001:db8::1")
    many = [begin() for _ in range(100)]
    assert all(one.begun_at <= other.begun_at for one, other in pairwise(many))


def test_all_that_it_holds_is_let_go_with_it() -> None:
    client, listener, chain, peer = Anybody(), Anybody(), Chain(()), Peer("192.0.2.1", 1, 80, trusted=False)
    first = Exchange(GET, client, listener, peer, chain)
    held = [GET, client, listener, peer, chain, peer.scheme, peer.ip]
    held += [getattr(first, name) for name in ("query_sent", "claims", "params", "answered_by", "state")]
    del first
    with no_collector():  # what other tests have left holds some of these too
        before = list(map(sys.getrefcount, held))
        many = [Exchange(GET, client, listener, peer, chain) for _ in range(1000)]
        assert min(after - was for was, after in zip(before, map(sys.getrefcount, held), strict=True)) >= 1000
        del many
        assert list(map(sys.getrefcount, held)) == before


def test_a_circle_through_it_is_collected() -> None:
    """Its client knows it while it is under way."""
    client = Anybody()
    client.route = begin(client)
    assert gc.is_tracked(client.route)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(("head", "peer"), [(object(), PEER), (GET, object())])
def test_one_that_cannot_begin_is_an_error(head: Any, peer: Any) -> None:
    with pytest.raises((AttributeError, TypeError)):
        begin(head=head, peer=peer)


def test_a_copy_has_all_fields_of_the_real_one_or_its_own() -> None:
    """A field that is added to the exchange is one of the two."""
    real = begin(Anybody())
    for name in ("retries", "response_bytes", "request_bytes"):
        setattr(real, name, 7)
    real.upstream_s, real.is_authenticated, real.renewed, real.why = 7.0, True, True, "why"
    marked = {name: SimpleNamespace() for name in FIELDS if getattr(real, name) is None and name != "request_body"}
    for name, mark in marked.items():
        setattr(real, name, mark)
    copy = ShadowExchange(real)
    differ = {name for name in FIELDS if getattr(copy, name) != getattr(real, name)}
    assert differ == {"client", "head", "limits", "response", "response_sink", "service", "shadows", "taker", "why"}
