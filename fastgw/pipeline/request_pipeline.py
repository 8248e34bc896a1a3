"""The request pipeline: early filters, the route, the route's filters, and then what the route does.

It is neutral to the protocol: a request's head and body come to it by an exchange, and it asks little of the stream
that the request came by (`RequestStream`). Rule 1: a step that has to wait is waited for without blocking the stream;
what comes of it counts only while the exchange is the one that waits. Rule 2: filters have a deadline, counted from the
exchange's beginning: the route's, or else that of `timeouts.filters`. Rule 3: no step sees a body before a route is
known and nothing is waited for: what is read until then is kept, and shown afterwards as one piece.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Protocol

from fastgw.errors import Fault
from fastgw.exchange import ClientSide, Exchange, Outcome, Reply, Route, problem, run_request
from fastgw.exchange.reply import body_at_once
from fastgw.exchange.request_stages import begin_request_stages
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, say
from fastgw.pipeline.route_selection import choose
from fastgw.routing.table import Match, Router

Waited = asyncio.Future[Reply | None]
"""Future that a step of a filter waits for."""


class RequestStream(ClientSide, Protocol):
    """Client side of one exchange, as the pipeline uses it."""

    waiting: Waited | None
    """Future that the exchange waits for; None: it does not wait, or it has ended."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def send_fast(self, exchange: Exchange, route: Route) -> None:
        """Send the exchange by the route's fast path. Called where `fast` was said of it alone."""


def run_early_steps(stream: RequestStream, exchange: Exchange, router: Router[Route]) -> None:
    """Run the filters of gateway and listener that come before routing, then continue with `router`."""
    _early_done(stream, exchange, router, run_request(exchange.chain.request_steps, exchange))


def _early_done(stream: RequestStream, exchange: Exchange, router: Router[Route], outcome: Outcome) -> None:
    """Continue after the early steps. `router`: the one of the same tables, because the listener may have others by
    now."""
    if outcome is None:
        find_route(stream, exchange, router)
    elif isinstance(outcome, Reply):
        exchange.reply(outcome)
    else:
        router.await_request()
        _wait(stream, exchange, outcome, partial(_early_done, stream, exchange, router)).add_done_callback(router.left)


def find_route(
    stream: RequestStream, exchange: Exchange, router: Router[Route], match: Match[Route] | None = None
) -> None:
    """Find the route, and run its steps. `match`: the route of an ordinary request, where it was found before."""
    refusal = choose(exchange, router, match)
    if refusal is not None:
        exchange.reply(refusal)
        return
    route = exchange.route
    assert route is not None
    run_route_steps(stream, exchange, route, route.fast_path is not None and exchange.head.ordinary)


def run_route_steps(stream: RequestStream, exchange: Exchange, route: Route, fast: bool) -> None:
    """Run the steps of the route, and let it answer. `fast`: the request may take the route's fast path."""
    outcome = run_request(route.steps, exchange) if route.steps else None
    if outcome is not None:
        _route_done(stream, exchange, outcome)
    elif not fast:
        _act(stream, exchange)
    elif not exchange.chain.treats_bodies:
        stream.send_fast(exchange, route)
    elif begin_request_stages(exchange, route.action):
        if exchange.request_body is None or not exchange.request_body.changed:
            stream.send_fast(exchange, route)
        else:
            route.action(exchange)


def _route_done(stream: RequestStream, exchange: Exchange, outcome: Outcome) -> None:
    """Continue after the steps of the route."""
    if outcome is None:
        _act(stream, exchange)
    elif isinstance(outcome, Reply):
        exchange.reply(outcome)
    else:
        _wait(stream, exchange, outcome, partial(_route_done, stream, exchange))


def _act(stream: RequestStream, exchange: Exchange) -> None:
    """Run the action of the route."""
    route = exchange.route
    assert route is not None
    if not exchange.chain.treats_bodies or begin_request_stages(exchange, route.action):
        route.action(exchange)


def _wait(
    stream: RequestStream, exchange: Exchange, outcome: Awaitable[Reply | None], go_on: Callable[[Outcome], None]
) -> Waited:
    """Continue with the result of an awaitable, unless the exchange has ended before."""

    def waited(done: Waited) -> None:
        if stream.waiting is not done:  # the exchange is over
            if not done.cancelled() and done.exception() is None and (late := done.result()) is not None:
                body_at_once(late)  # nobody sends it
            return
        stream.waiting = None
        if done.cancelled():  # from elsewhere: it shared what it waited for
            say(OperatorEvent.DEFECT, "the operation that a filter awaited was cancelled")
            go_on(problem(Fault.INTERNAL))
        elif (error := done.exception()) is not None:
            say(OperatorEvent.DEFECT, "the operation that a filter awaited failed", error=error)
            go_on(problem(Fault.INTERNAL))
        else:
            go_on(done.result())

    loop = stream.loop
    stream.waiting = waiting = asyncio.ensure_future(outcome, loop=loop)
    waiting.add_done_callback(waited)
    limit = loop.call_later(_time_left(stream, exchange), _filter_is_late, stream, exchange, waiting)
    waiting.add_done_callback(lambda done: limit.cancel())
    return waiting


def _time_left(stream: RequestStream, exchange: Exchange) -> float:
    """Return the seconds that filters have left."""
    timeout = None if exchange.route is None else exchange.route.filter_timeout
    limit = stream.filter_timeout() if timeout is None else timeout
    return max(exchange.begun_at + limit - monotonic(), 0.0)


def _filter_is_late(stream: RequestStream, exchange: Exchange, waiting: Waited) -> None:
    if stream.waiting is waiting:
        name = exchange.chain.name_of(exchange.answered_by)
        stream.count_filter(name, FilterEvent.LATE)
        exchange.fail(Fault.FILTER_TIMEOUT, why=f"filter {name} timed out")


def cancel_waiting(stream: RequestStream) -> None:
    """Cancel the wait of an exchange that has ended."""
    if stream.waiting is not None:
        stream.loop.call_soon(stream.waiting.cancel)  # not before it has begun to wait
        stream.waiting = None
