"""Routes of a TCP listener: one for all connections, or selected by server name and ALPN of the ClientHello, also of
TLS that has been terminated. A route has one upstream, or several with shares of its connections.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from random import random
from typing import Any, NamedTuple, final

from fastgw.config.settings import gateway as config
from fastgw.net.client_hello import ClientHello
from fastgw.upstream.policies.traffic_split import share_ends
from fastgw.upstream.upstream import Upstream

_ANY: str = ""


class TcpRoute(NamedTuple):
    """Destination of connections."""

    upstreams: tuple[Upstream, ...]
    ends: tuple[float, ...]
    """Ends of their shares, in a range from 0 to 1."""
    protocols: frozenset[bytes] = frozenset()
    """ALPN protocols, one of which the client has to offer; empty: any."""
    passes_through: bool = False
    """Whether TLS is passed through, on a listener that terminates it otherwise."""

    def choose(self) -> Upstream:
        """Return the upstream of a connection, at random by the shares."""
        upstreams = self.upstreams
        return upstreams[0] if len(upstreams) == 1 else upstreams[bisect_right(self.ends, random())]


@final
class TcpRoutes:
    """Routes of one listener. Immutable."""

    __slots__ = ("_exact", "_wildcards", "name", "needs_hello", "only_route", "passes_some", "selects_by_alpn")

    def __init__(self, listener: str, settings: config.Listener, upstreams: Mapping[str, Upstream]) -> None:
        self.name = label_of(listener)
        """Name of the route in logs and metrics."""
        self.needs_hello = settings.protocol == "tls"
        """Whether the route depends on a ClientHello that is passed through."""
        self.passes_some = any(route.passthrough for route in settings.routes)
        """Whether some routes pass TLS through, and the others terminate it."""
        self.selects_by_alpn = any(route.alpn for route in settings.routes)
        """Whether some routes depend on the protocols that a client offers."""
        self._exact: dict[str, list[TcpRoute]] = {}
        self._wildcards: dict[str, list[TcpRoute]] = {}  # by the part after `*.`; `_ANY`: any name, or none
        if settings.upstream is not None:
            self._wildcards[_ANY] = [_route(settings.upstream, upstreams)]
        self.only_route = None if settings.upstream is None else self._wildcards[_ANY][0]
        """The route of all connections. None: it depends on the ClientHello."""
        for each in settings.routes:
            protocols = frozenset(protocol.encode() for protocol in each.alpn)
            route = _route(each.upstream, upstreams, protocols, each.passthrough)
            for name in each.sni or (_ANY,):
                wildcard = not name or name.startswith("*.")
                names = self._wildcards if wildcard else self._exact
                names.setdefault(name.removeprefix("*."), []).append(route)

    def find(self, hello: ClientHello) -> TcpRoute | None:
        """Return the route of a connection that begins with this ClientHello; None: no route matches.

        The exact name comes first, then the longest wildcard, then any name; among equals the first in the file.
        """
        name = hello.server_name
        found = _first(self._exact.get(name, ()), hello) if name else None
        while found is None and name:
            name = name.partition(".")[2]
            found = _first(self._wildcards.get(name, ()), hello)
        return found or _first(self._wildcards.get(_ANY, ()), hello)

    def upstream_of_session(self, name: str) -> Upstream | None:
        """Return the upstream of a session as it is now: the only one, or of several the one of this name."""
        upstreams = () if self.only_route is None else self.only_route.upstreams
        if len(upstreams) == 1:
            return upstreams[0]
        return next((each for each in upstreams if each.name == name), None)


def _route(said: str | Mapping[str, int], upstreams: Mapping[str, Upstream], *more: Any) -> TcpRoute:
    """Return the route to upstreams as in the settings. `more`: its other attributes."""
    shares = config.shares_of(said)
    return TcpRoute(tuple(upstreams[name] for name in shares), share_ends([*shares.values()]), *more)


def label_of(listener: str) -> str:
    """Return the route name under which connections of a listener are counted."""
    return f"listener/{listener}"


def _first(routes: Sequence[TcpRoute], hello: ClientHello) -> TcpRoute | None:
    for route in routes:
        if not route.protocols or not route.protocols.isdisjoint(hello.protocols):
            return route
    return None
