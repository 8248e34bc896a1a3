"""Which route answers a request: the gateway's own rules about methods first, then the route table."""

from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Route, problem, run_request
from fastgw.exchange.chain import by_path
from fastgw.exchange.reply import ALLOW
from fastgw.filters.cors import is_preflight
from fastgw.routing import Match, Routable, Router

REFUSED_METHODS: Final = frozenset((b"CONNECT", b"TRACE"))


def too_long(received: bytes, header_bytes: int) -> Fault:
    """The fault of a request head that is longer than `header_bytes`."""
    return Fault.HEAD_TOO_LARGE if received.find(b"\r\n", 0, header_bytes) >= 0 else Fault.TARGET_TOO_LONG


def before_routing(exchange: Exchange) -> Reply | None:
    """What the gateway answers for itself, whatever the routes are."""
    head = exchange.head
    if exchange.method in REFUSED_METHODS:
        return problem(Fault.METHOD_NOT_ALLOWED, fields=(ALLOW,))
    if exchange.method == b"OPTIONS" and b"max-forwards" in head.known:
        return _count_forwards(exchange, head.known[b"max-forwards"][0][2])
    return None


def _count_forwards(exchange: Exchange, value: bytes) -> Reply | None:
    """RFC 9110 section 7.6.2: 0 is for us to answer, anything else goes on lessened by one."""
    if not value.isdigit() or len(value) > 9:
        return problem(Fault.BAD_REQUEST, "Max-Forwards is not a number.")
    if int(value) == 0:
        return Reply(204, fields=(ALLOW,))
    exchange.request_dropped |= {b"max-forwards"}
    exchange.request_added += b"Max-Forwards: %d\r\n" % (int(value) - 1)
    return None


class Meant:
    """The request that a preflight is about."""

    __slots__ = ("_exchange", "method")

    def __init__(self, exchange: Exchange, method: bytes) -> None:
        self._exchange = exchange
        self.method = method

    @property
    def host(self) -> bytes:
        return self._exchange.host

    @property
    def path(self) -> bytes:
        return self._exchange.path

    @property
    def query(self) -> bytes | None:
        return self._exchange.query

    def values(self, name: bytes) -> list[bytes]:
        return self._exchange.values(name)


def meant(exchange: Exchange) -> Routable:
    """What a preflight is about; of any other request the exchange itself."""
    if exchange.method == b"OPTIONS" and is_preflight(exchange):
        return Meant(exchange, exchange.field(b"access-control-request-method") or b"")
    return exchange


def _preflight(exchange: Exchange, router: Router[Route]) -> Match[Route] | Reply | None:
    """The answer to a preflight, or the route that it is for; None: it is a request like others.

    It is for the route that takes the request which it is about, unless one names OPTIONS among its methods.
    """
    about = meant(exchange)
    if about is exchange:
        return None
    match = router.find(exchange)
    if match is None or not match[0].takes_options:
        match = router.find(about)
    route, params = match or (None, exchange.params)
    chain = exchange.chain if route is None else route.preflight_chain
    if chain is None or chain.preflight is None:
        return None
    if route is not None:
        exchange.route, exchange.params, exchange.chain = route, params, chain
    outcome = run_request((chain.preflight,), exchange)
    assert outcome is None or isinstance(outcome, Reply)
    if outcome is None and route is not None and route.forwards_preflight is not None:
        return route.forwards_preflight(exchange), params
    return outcome or match


def choose(exchange: Exchange, router: Router[Route], match: Match[Route] | None = None) -> Reply | None:
    """Find the route and note it on the exchange, or say why there is none: 404, or 405 with `Allow`.

    `match`: the route, where it was found before, for an ordinary request.
    """
    if match is None:
        if not exchange.ordinary:
            reply = before_routing(exchange)
            if reply is not None:
                return reply
        found = _preflight(exchange, router) if exchange.method == b"OPTIONS" else None
        if isinstance(found, Reply):
            return found
        match = found or router.find(exchange)
        if match is None:
            return _no_route(exchange, router)
    route, exchange.params = match
    if route.division is not None:
        route = route.division.part_for(exchange)
    exchange.route = route
    exchange.chain = route.chain
    if route.judge_path is not None:
        refusal = route.judge_path(exchange)
        if refusal is not None:
            exchange.answered_by = by_path
            return refusal
    return None


def _no_route(exchange: Exchange, router: Router[Route]) -> Reply:
    allowed = router.allowed_methods(exchange)
    if allowed:
        return problem(Fault.METHOD_NOT_ALLOWED, fields=((b"Allow", b", ".join(allowed)),))
    if exchange.path == b"*":
        return Reply(204, fields=(ALLOW,))  # OPTIONS *: about the server as a whole, which is this gateway
    return problem(Fault.ROUTE_NOT_FOUND)
