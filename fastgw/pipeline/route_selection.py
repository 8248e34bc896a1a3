"""Selects the route of a request: the gateway's own rules about methods first, then the route table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from fastgw.errors import Fault
from fastgw.exchange import Reply, problem, run_request
from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter_steps import by_path
from fastgw.exchange.reply import ALLOW
from fastgw.exchange.request_ids import identify_anew
from fastgw.exchange.route import Route
from fastgw.filters.policies.cors import is_preflight
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import has_other_readings, other_readings
from fastgw.routing.entry import Routable
from fastgw.routing.table import Match, Router

REFUSED_METHODS: Final = frozenset((b"CONNECT", b"TRACE"))


def too_long(received: bytes, header_bytes: int) -> Fault:
    """Return the fault of a request head that is longer than `header_bytes`."""
    return Fault.HEAD_TOO_LARGE if received.find(b"\r\n", 0, header_bytes) >= 0 else Fault.TARGET_TOO_LONG


def before_routing(exchange: Exchange) -> Reply | None:
    """Return the gateway's own response to special methods, which does not depend on routes."""
    if exchange.method in REFUSED_METHODS:
        return problem(Fault.METHOD_NOT_ALLOWED, fields=(ALLOW,))
    if exchange.method == b"OPTIONS" and (values := exchange.head.received_values(b"max-forwards")):
        return _count_forwards(exchange, values[0])
    return None


def _count_forwards(exchange: Exchange, value: bytes) -> Reply | None:
    """Decrement `Max-Forwards`; with 0 the gateway answers (RFC 9110 section 7.6.2)."""
    if not value.isdigit() or len(value) > 9:
        return problem(Fault.BAD_REQUEST, "Max-Forwards is not a number.")
    if int(value) == 0:
        return Reply(204, fields=(ALLOW,))
    exchange.request_dropped |= {b"max-forwards"}
    exchange.request_added += b"Max-Forwards: %d\r\n" % (int(value) - 1)
    return None


class PreflightSubject:
    """View of a request with another method or path."""

    __slots__ = ("_exchange", "method", "path")

    def __init__(self, exchange: Exchange, method: bytes, path: bytes) -> None:
        self._exchange = exchange
        self.method = method
        self.path = path

    @property
    def host(self) -> bytes:
        return self._exchange.host

    @property
    def query(self) -> bytes | None:
        return self._exchange.query

    @property
    def client_ip(self) -> str:
        return self._exchange.client_ip

    def values(self, name: bytes) -> list[bytes]:
        return self._exchange.values(name)


def preflighted_request(exchange: Exchange) -> Routable:
    """Return the request that a preflight asks about; for any other request the exchange itself."""
    return (
        exchange if (method := _method_meant(exchange)) is None else PreflightSubject(exchange, method, exchange.path)
    )


def _method_meant(exchange: Exchange) -> bytes | None:
    """Return the method that a preflight asks about; None: it is no preflight."""
    if exchange.method == b"OPTIONS" and is_preflight(exchange.head):
        return exchange.field(b"access-control-request-method") or b""
    return None


class SelectedRoute(NamedTuple):
    """The selected route. `match`: the route of the request; None: none matches. `about`: for a preflight, the route of
    the request that it asks about; `preflight`: the chain that may answer the preflight.
    """

    match: Match[Route] | None
    about: Match[Route] | None = None
    preflight: Chain | None = None

    @property
    def route(self) -> Route | None:
        """The route that is tried first; None: none matches."""
        match = self.match if self.preflight is None else self.about or self.match
        return None if match is None else match[0]

    def other_than(self, found: SelectedRoute) -> Route | None:
        """Return a route of this result that differs from the route of `found`; None: none does."""
        if self.route is not None and self.route is not found.route:
            return self.route
        if self.about is not None and found.about is not None and self.about[0] is not found.about[0]:
            return self.about[0]
        return None


def find(exchange: Exchange, router: Router[Route], path: bytes | None = None) -> SelectedRoute:
    """Find the route of a request. `path`: used instead of the request's path.

    A preflight belongs to the route of the request that it asks about, unless a route lists OPTIONS among its methods.
    If that route does not answer preflights, the preflight is routed like other requests.
    """
    asked: Routable = exchange if path is None else PreflightSubject(exchange, exchange.method, path)
    match = router.find(asked)
    method = _method_meant(exchange)
    if method is None:
        return SelectedRoute(match)
    about = match
    if match is None or not match[0].takes_options:
        about = router.find(PreflightSubject(exchange, method, asked.path))
    chain = exchange.chain if about is None else about[0].preflight_chain
    return SelectedRoute(match, about, None if chain is None or chain.preflight is None else chain)


def _answer_preflight(exchange: Exchange, found: SelectedRoute, chain: Chain) -> Match[Route] | Reply | None:
    """Return the answer to a preflight, or the route that forwards it; None: no route matches."""
    route, params = found.about or (None, exchange.params)
    if route is not None:
        ids = exchange.chain.request_ids
        exchange.route, exchange.params, exchange.chain = route, params, chain
        if chain.request_ids is not ids:
            identify_anew(exchange, ids, chain.request_ids)
    assert chain.preflight is not None
    outcome = run_request((chain.preflight,), exchange)
    assert outcome is None or isinstance(outcome, Reply)
    if outcome is None and route is not None and route.forwards_preflight is not None:
        return route.forwards_preflight(exchange), params
    return outcome or found.about or found.match


class OtherRoute(NamedTuple):
    """A different route that matches the path as some servers read it."""

    name: str
    path: bytes
    """The path as such servers read it."""
    done: str
    """Normalization by these servers: `slashes merged`."""


def other_routes(exchange: Exchange, router: Router[Route], found: SelectedRoute) -> Iterator[OtherRoute]:
    """Yield the routes that match if the path is normalized as other servers do, with everything else unchanged. Raises
    `Malformed` for a path that is too long for that.

    A reading without a route is skipped, because there is no route to bypass, such as for `%2F` in a `{parameter}`.
    """
    if found.route is None or not has_other_readings(exchange.raw_path):
        return
    literal = found.route.chain.takes_literally
    for path, done in other_readings(exchange.raw_path, exchange.path, literal=literal).items():
        other = find(exchange, router, path).other_than(found)
        if other is not None:
            yield OtherRoute(other.name, path, done)


def _refuse_ambiguous(exchange: Exchange, router: Router[Route], found: SelectedRoute) -> Reply | None:
    try:
        other = next(other_routes(exchange, router, found), None)
    except Malformed as malformed:
        return exchange.refuse(Fault.AMBIGUOUS_PATH, malformed.reason)
    if other is None:
        return None
    return exchange.refuse(Fault.AMBIGUOUS_PATH, why=f"with {other.done} it is a path of route {other.name}")


def choose(exchange: Exchange, router: Router[Route], match: Match[Route] | None = None) -> Reply | None:
    """Find the route and set it on the exchange, or return the response: 404, 405 with `Allow`, or 400 for an ambiguous
    path.

    `match`: the route of a plain request that no filter has changed, if it is already known.
    """
    if match is None:
        found = _choose_match(exchange, router)
        if not isinstance(found, tuple):
            return found
        match = found
    route: Route = match[0]
    exchange.params = match[1]
    if route.division is not None:
        route = route.division.part_for(exchange)
    exchange.route = route
    chain = route.chain
    ids = exchange.chain.request_ids
    exchange.chain = chain
    if chain.request_ids is not ids:
        identify_anew(exchange, ids, chain.request_ids)
    if route.check_path is not None:
        refusal = route.check_path(exchange)
        if refusal is not None:
            exchange.answered_by = by_path
            return refusal
    return None


def _choose_match(exchange: Exchange, router: Router[Route]) -> Match[Route] | Reply:
    """Find the route by the rules for methods, preflights and ambiguous paths, or return the response."""
    ordinary = exchange.head.plain
    if not ordinary:
        reply = before_routing(exchange)
        if reply is not None:
            return reply
    found = find(exchange, router)
    if not ordinary and exchange.listener.refuses_ambiguous_paths:
        refusal = _refuse_ambiguous(exchange, router, found)
        if refusal is not None:
            return refusal
    answer = found.match if found.preflight is None else _answer_preflight(exchange, found, found.preflight)
    return _no_route(exchange, router) if answer is None else answer


def _no_route(exchange: Exchange, router: Router[Route]) -> Reply:
    allowed = router.allowed_methods(exchange)
    if allowed:
        return problem(Fault.METHOD_NOT_ALLOWED, fields=((b"Allow", b", ".join(allowed)),))
    if exchange.path == b"*":
        return Reply(204, fields=(ALLOW,))  # OPTIONS *: about the server as a whole, which is the gateway
    return problem(Fault.ROUTE_NOT_FOUND)
