"""Observed routes: variants of routes with further filters, which observe exchanges while a capture runs.

Rule: without a capture requests cost nothing more. While there are no observers, requests use the compiled tables.
With observers, the router is replaced by one that returns a variant of the route for the requests that one of them
wants; they take the full path. All other requests stay on the fast path.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast, final

from fastgw.config.base.settings_base import FilterUse
from fastgw.exchange.chain import Chain, Division, FilterInstance, Hooks, Route
from fastgw.routing.table import Match, Routable, Router


class RouteObserver(Protocol):
    """Observer of exchanges. Its filter runs first in the chain, so it sees responses as they are sent to clients."""

    @property
    def link(self) -> FilterInstance:
        """Filter of this observer, for all routes."""

    def wants(self, request: Routable, route: Route) -> bool:
        """Whether to observe a request of this route."""


def observer_link(name: str, hooks: Hooks) -> FilterInstance:
    """Return the filter of an observer: its response and finish steps run for every exchange."""
    return FilterInstance(FilterUse(name=name, type=name, settings=None), hooks, True, "observer")


@final
class ObservedRouter:
    """Stand-in for the router of a listener. It is replaced together with the tables, so it keeps no old ones alive."""

    def __init__(self, router: Router[Route], observers: Sequence[RouteObserver]) -> None:
        self.router: Final = router
        self._find = router.find
        self._observers = tuple(observers)
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
        if any(observer.wants(request, route) for observer in self._observers):
            variant = self._variants.get(route)
            if variant is None:
                variant = self._variants[route] = observed(route, [each.link for each in self._observers])
            return variant, match[1]
        return match


def observed_router(router: Router[Route], observers: Sequence[RouteObserver]) -> Router[Route]:
    """Return the router with these observers instead of those that it has."""
    known: Any = router
    compiled = known.router if type(known) is ObservedRouter else known
    return cast(Router[Route], ObservedRouter(compiled, observers) if observers else compiled)


def observed(route: Route, links: Sequence[FilterInstance]) -> Route:
    """Return a variant of a route with further filters before its own. It never takes the fast path."""
    chain = Chain((*links, *route.chain.links), route.chain.error_pages)
    own = tuple(link.hooks.request for link in links if link.hooks.request is not None)
    variant = Route(
        *(route.name, route.action, chain, (*own, *route.steps), route.check_path),
        fast_path=None,
        filter_timeout=route.filter_timeout,
        preflight_chain=route.preflight_chain,
        takes_options=route.takes_options,
    )
    variant.forwards_preflight, variant.fallback = route.forwards_preflight, route.fallback
    if route.division is not None:
        parts = tuple(observed(part, links) for part in route.division.parts)
        variant.division = Division(parts, route.division.divider)
    return variant
