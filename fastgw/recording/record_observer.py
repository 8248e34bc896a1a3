"""Observer that records requests. It begins before the route is known, so that refused requests are recorded, too."""

from collections.abc import Callable, Container
from typing import Any, Final, final

from fastgw.capture.observed_tables import observer_link
from fastgw.exchange import Exchange, FilterInstance, Hooks, Route
from fastgw.recording.tap import RecordedTrace
from fastgw.routing.entry import Routable

NAME: Final = "_recording"
Sample = Callable[[Exchange], None]
"""Decides whether a request is recorded, and begins (`RecordedTrace`)."""


@final
class RecordObserver:
    """Records the requests that `sample` selects. `routes`: names of the routes to record; None: all, and requests
    without a route.
    """

    def __init__(self, sample: Sample, routes: Container[str] | None = None) -> None:
        self._routes = routes
        hooks = Hooks(request=sample, request_body=_take_body, finish=_finish)
        self.link: FilterInstance = observer_link(NAME, hooks, early=True)
        self.early_link: FilterInstance | None = self.link

    def __repr__(self) -> str:
        return "<RecordObserver>"

    def wants(self, request: Routable, route: Route) -> bool:
        """Implements `ExchangeObserver.wants`."""
        trace: Any = getattr(getattr(request, "_exchange", request), "trace", None)
        if type(trace) is not RecordedTrace:
            return False
        if self._routes is not None and route.name not in self._routes:
            trace.detach()
            return False
        return True


def _finish(exchange: Exchange) -> None:
    trace: Any = exchange.trace
    if type(trace) is RecordedTrace and trace.exchange is exchange:
        trace.finish()


def _take_body(exchange: Exchange, payload: bytes) -> None:
    trace: Any = exchange.trace
    if type(trace) is RecordedTrace and trace.exchange is exchange:
        trace.request_body.add(payload)
