"""Observed tables: variants of a listener's tables with further filters, which observe exchanges for `fastgw tap`,
`fastgw record`, `fastgw debug` and `fastgw replay`.

Rule: without an observer requests cost nothing more. While there are no observers, requests use the compiled tables.
With observers, the router is replaced by one that returns a variant of the route for the requests that one of them
wants, for which all steps run.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast, final

from fastgw.config.base.settings_base import FilterUse
from fastgw.exchange import Exchange
from fastgw.exchange.chain import Chain, FilterInstance, request_steps_of
from fastgw.exchange.hooks import Hooks
from fastgw.exchange.route import Division, Route
from fastgw.routing.entry import Routable
from fastgw.routing.route_tree import Finder
from fastgw.routing.table import Match, Router

ChoosePart = Callable[[Exchange, Division], Route]
"""Chooses the part of a traffic split for a request."""


class ExchangeObserver(Protocol):
    """Observer of exchanges. Its filter runs first in a chain, so it sees responses as they are sent to clients."""

    @property
    def link(self) -> FilterInstance:
        """Filter of this observer, for all routes. If it is early, its request step does not run for a route again."""

    @property
    def early_link(self) -> FilterInstance | None:
        """Filter for requests whose route is not yet known. None: the observer needs a route."""

    def wants(self, request: Routable, route: Route) -> bool:
        """Whether to observe a request of this route. `request`: its head, its exchange, or the request that a
        preflight asks about. Asked once or more for each request."""


class ListenerTables(Protocol):
    """Tables of a listener, as its connections use them, or as they were compiled."""

    early: Chain
    router: Router[Route]


def observer_link(name: str, hooks: Hooks, *, early: bool = False) -> FilterInstance:
    """Return the filter of an observer: its response and finish steps run for every exchange."""
    return FilterInstance(FilterUse(name=name, type=name, settings=None), hooks, True, "observer", early=early)


@final
class ObservedRouter(Finder[Route]):
    """Stand-in for the router of a listener. It is replaced together with the tables, so it keeps no old ones alive."""

    def __init__(
        self, router: Router[Route], observers: Sequence[ExchangeObserver], choose: ChoosePart | None = None
    ) -> None:
        """`choose`: chooses the part of a traffic split; None: the split does."""
        self.trees = None  # each look-up is observed
        self.router: Final = router
        self._find = router.find
        self._observers, self._links = tuple(observers), tuple(each.link for each in observers)
        self._choose = choose
        self._variants: dict[Route, Route] = {}
        self.await_request = router.await_request
        self.count_down_request = router.count_down_request
        self.allowed_methods = router.allowed_methods
        self.candidates = router.candidates

    def __repr__(self) -> str:
        return f"<ObservedRouter of {self.router!r}>"

    def find(self, request: Routable) -> Match[Route] | None:
        """Find a route as the router does."""
        match = self._find(request)
        if match is None:
            return None
        route = match[0]
        is_wanted = False
        for observer in self._observers:  # each is asked: some leave the requests that they do not want
            if observer.wants(request, route):
                is_wanted = True
        return (self._observed(route), match[1]) if is_wanted else match

    def _observed(self, route: Route) -> Route:
        """Return the variant of a route with the observers' filters before its own, which all run."""
        variant = self._variants.get(route)
        if variant is None:
            variant = self._variants[route] = self._variant(route)
        return variant

    def _variant(self, route: Route) -> Route:
        own = request_steps_of([each for each in self._links if not each.early])
        variant = Route(
            *(route.name, route.action, self._chain(route.chain), (*own, *route.steps), route.check_path),
            filter_timeout=route.filter_timeout,
            preflight_chain=None if route.preflight_chain is None else self._chain(route.preflight_chain),
            takes_options=route.takes_options,
        )
        forwards = route.forwards_preflight
        if forwards is not None:
            variant.forwards_preflight = lambda exchange: self._observed(forwards(exchange))
        variant.fallback = route.fallback
        if route.division is not None:
            division = Division(tuple(map(self._observed, route.division.parts)), route.division.divider)
            chosen: Any = division if self._choose is None else _ChosenDivision(division, self._choose)
            variant.division = chosen
        return variant

    def _chain(self, chain: Chain) -> Chain:
        return chain.with_links((*self._links, *chain.links))


@final
class _ChosenDivision:
    """Traffic split whose part is chosen from outside."""

    def __init__(self, division: Division, choose: ChoosePart) -> None:
        self._division, self._choose = division, choose
        self.parts, self.divider = division.parts, division.divider

    def part_for(self, exchange: Exchange) -> Route:
        return self._choose(exchange, self._division)


def observe_tables(
    used: ListenerTables,
    compiled: ListenerTables,
    observers: Sequence[ExchangeObserver],
    choose: ChoosePart | None = None,
) -> None:
    """Let these observers, and no others, observe the requests of a listener from the next one on, until its tables are
    set again. `compiled`: tables without observers.
    """
    early, router = compiled.early, compiled.router
    links = tuple(each.early_link for each in observers if each.early_link is not None)
    used.early = early.with_links((*links, *early.links)) if links else early
    used.router = cast(Router[Route], ObservedRouter(router, observers, choose)) if observers else router


def head_of(request: Routable) -> Any:
    """Return the head of a request that a router has been asked for."""
    exchange = getattr(request, "_exchange", request)  # of a preflight
    return getattr(exchange, "head", exchange)
