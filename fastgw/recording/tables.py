"""Tables of a listener while requests are recorded: they see every request, and those that are recorded take the full
path.

A recording adds one filter in front of all others: to the listener's chain, and to the chains of the routes that
recorded requests find. The compiled tables stay as they are, so that a listener without a recording pays nothing.
"""

from collections.abc import Callable, Container
from typing import Any, Final, Protocol, cast, final

from fastgw.config.settings.gateway import FilterUse
from fastgw.exchange import Chain, Division, Exchange, FilterInstance, Hooks, Route
from fastgw.recording.tap import RecordedTrace
from fastgw.routing.table import Match, Routable, Router

NAME: Final = "_recording"
Sample = Callable[[Exchange], None]
"""Decides whether a request is recorded, and begins (`RecordedTrace`)."""


class ListeningTables(Protocol):
    """Tables of a listener, as its connections use them."""

    early: Chain
    router: Router[Route]


def _finish(exchange: Exchange) -> None:
    trace: Any = exchange.trace
    if type(trace) is RecordedTrace and trace.exchange is exchange:
        trace.finish()


def _take_body(exchange: Exchange, payload: bytes) -> None:
    trace: Any = exchange.trace
    if type(trace) is RecordedTrace and trace.exchange is exchange:
        trace.request_body.add(payload)


def link_of(sample: Sample) -> FilterInstance:
    """Return the filter that records the requests that `sample` selects."""
    hooks = Hooks(request=sample, request_body=_take_body, finish=_finish, full_path=True)
    return FilterInstance(FilterUse(NAME, NAME, cast(Any, None)), hooks, True, "gateway", early=True)


@final
class RecordedRouter:
    """Router in front of that of a listener. `routes`: names of the routes to record; None: all."""

    def __init__(
        self,
        inner: Router[Route],
        link: FilterInstance,
        routes: Container[str] | None = None,
        choose: Callable[[Exchange, Division], Route] | None = None,
    ) -> None:
        """`choose`: chooses the part of a traffic split; None: the split does."""
        self.inner = inner
        self._link, self._routes, self._choose = link, routes, choose
        self._made: dict[int, tuple[Route, Route]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def find(self, request: Routable) -> Match[Route] | None:
        match = self.inner.find(request)
        exchange: Any = getattr(request, "_exchange", request)  # of a preflight
        trace = getattr(exchange, "trace", None)
        if match is None or type(trace) is not RecordedTrace:
            return match
        route, params = match
        if self._routes is not None and route.name not in self._routes:
            trace.detach()
            return match
        return self._recorded(route), params

    def _recorded(self, route: Route) -> Route:
        """Return the variant of a route for requests that are recorded."""
        known = self._made.get(id(route))
        if known is not None:
            return known[1]
        made = Route(
            route.name,
            route.action,
            self._chain(route.chain),
            route.steps,
            route.check_path,
            None,
            route.filter_timeout,
            None if route.preflight_chain is None else self._chain(route.preflight_chain),
            route.takes_options,
        )
        self._made[id(route)] = route, made  # the route is kept, so that no other one gets its id
        forwards = route.forwards_preflight
        if forwards is not None:
            made.forwards_preflight = lambda exchange: self._recorded(forwards(exchange))
        made.fallback = route.fallback
        if route.division is not None:
            parts = tuple(map(self._recorded, route.division.parts))
            made.division = Division(parts, route.division.divider)
            if self._choose is not None:
                made.division = cast(Any, _ChosenDivision(made.division, self._choose))
        return made

    def _chain(self, chain: Chain) -> Chain:
        return Chain((self._link, *chain.links), chain.error_pages)


@final
class _ChosenDivision:
    """Traffic split whose part is chosen from outside."""

    def __init__(self, division: Division, choose: Callable[[Exchange, Division], Route]) -> None:
        self._division, self._choose = division, choose
        self.parts, self.divider = division.parts, division.divider

    def part_for(self, exchange: Exchange) -> Route:
        return self._choose(exchange, self._division)


def install(
    tables: ListeningTables,
    link: FilterInstance,
    routes: Container[str] | None = None,
    choose: Callable[[Exchange, Division], Route] | None = None,
) -> None:
    """Record requests of a listener from the next one on, until its tables are set again."""
    early = tables.early
    tables.early = Chain((link, *early.links), early.error_pages)
    tables.router = cast(Router[Route], RecordedRouter(tables.router, link, routes, choose))
