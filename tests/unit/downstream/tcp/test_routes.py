"""Routes of TCP listeners: the exact name, the longest wildcard, any; and ALPN beside each."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import pytest

from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Listener, TlsRoute
from fastgw.downstream.tcp.routes import TcpRoutes
from fastgw.net.client_hello import ClientHello
from tests.support.table import for_each

UPSTREAMS: Any = {name: name for name in ("exact", "special", "deep", "wide", "any", "any h2")}
ROUTES = (
    TlsRoute(sni=("*.test",), upstream="wide"),
    TlsRoute(sni=("*.b.test",), upstream="deep"),
    TlsRoute(sni=("a.test",), alpn=("special",), upstream="special"),
    TlsRoute(sni=("a.test", "x.b.test"), upstream="exact"),
    TlsRoute(alpn=("h2",), upstream="any h2"),
    TlsRoute(upstream="any"),
)


def found(routes: tuple[TlsRoute, ...], name: str, *protocols: bytes) -> str | None:
    listener = Listener(address=Address(host="127.0.0.1", port=1), protocol="tls", routes=routes)
    route = TcpRoutes("main", listener, UPSTREAMS).find(ClientHello(name, protocols))
    return None if route is None else cast(Any, route.choose())


@for_each(
    ("name", "protocols", "upstream"),
    [
        ("a.test", (), "exact"),
        ("a.test", (b"h2",), "exact"),
        ("a.test", (b"h2", b"special"), "special"),
        ("x.b.test", (), "exact"),
        ("y.b.test", (), "deep"),
        ("z.y.b.test", (), "deep"),
        ("b.test", (), "wide"),
        ("c.d.test", (), "wide"),
        ("test", (), "any"),
        ("test", (b"h2",), "any h2"),
        ("atest", (), "any"),
        ("", (), "any"),
        ("", (b"h2",), "any h2"),
    ],
)
def test_the_nearest_route_is_found(name: str, protocols: tuple[bytes, ...], upstream: str) -> None:
    assert found(ROUTES, name, *protocols) == upstream


def test_the_order_in_the_file_decides_among_those_alike_only() -> None:
    assert found(ROUTES[::-1], "a.test", b"special") == "exact"
    assert found(ROUTES[::-1], "y.b.test") == "deep"


def test_without_a_route_for_all_there_may_be_none() -> None:
    assert found(ROUTES[:4], "test") is None
    assert found(ROUTES[:4], "") is None
    assert found(ROUTES[2:3], "a.test") is None


def test_a_listener_of_tcp_has_one_for_all() -> None:
    listener = Listener(address=Address(host="127.0.0.1", port=1), protocol="tcp", upstream="any")
    routes = TcpRoutes("main", listener, UPSTREAMS)
    assert routes.only_route is not None
    assert [str(each) for each in routes.only_route.upstreams] == ["any"]
    assert not routes.needs_hello
    assert routes.name == "listener/main"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"any": 0, "wide": 3}, {"wide": 1000}),
        ({"any": 20, "wide": 0, "deep": 80}, {"any": 180, "deep": 820}),
    ],
)
def test_connections_are_distributed_by_the_shares(shares: dict[str, int], expected: dict[str, int]) -> None:
    listener = Listener(address=Address(host="127.0.0.1", port=1), protocol="tcp", upstream=shares)
    route = TcpRoutes("main", listener, UPSTREAMS).only_route
    assert route is not None
    random.seed(1)
    assert Counter(route.choose() for _ in range(1000)) == expected
