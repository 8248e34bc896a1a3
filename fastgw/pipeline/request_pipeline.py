"""The request pipeline: early filters, routing, the route's filters, then the route's action.

It is independent of the protocol version: the exchange gives it the request's head and body, and `RequestStream` is its
small interface to the stream of the request. Who answers is decided here alone. Rule 1: a step may wait without
blocking the stream; its result counts only while the exchange is the one that waits. Rule 2: filters have a deadline,
counted from the beginning of the exchange: the route's, or else `timeouts.filters`. Rule 3: no step sees a body before
the route is known and no step is waiting: the body is buffered until then, and passed on as one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import monotonic

from fastgw.errors import Fault
from fastgw.exchange import Outcome, Reply, RequestStep, problem, run_request
from fastgw.exchange.exchange import ClientSide, Exchange, filter_timeout_of
from fastgw.exchange.ready_answer import ReadyAnswer
from fastgw.exchange.reply import body_at_once
from fastgw.exchange.route import Route
from fastgw.exchange.staged_body import begin_request_stages, fail_unheld, request_budget
from fastgw.http.field_names import EXPECT
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.pipeline.route_selection import choose
from fastgw.routing.requirements import ClientUnknown
from fastgw.routing.route_tree import match_of
from fastgw.routing.table import Match, Router

Waited = asyncio.Future[Reply | None]
"""Future that a step of a filter waits for."""


class RequestStream(ClientSide):
    """Client side of one exchange, as the pipeline uses it."""

    def __cinit__(self) -> None:
        self.waiting: Waited | None = None
        """Future that the exchange waits for; None: it does not wait, or it has ended."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise NotImplementedError

    def send_ready(self, exchange: Exchange, answer: ReadyAnswer) -> None:
        """Send a whole response from memory, and end the exchange."""
        raise NotImplementedError

    def fail_after_defect(self, exchange: Exchange) -> None:
        """Log the exception that is being handled and end the exchange: with a 500, or cut off if its response has
        begun.
        """
        raise NotImplementedError


def begin_request(stream: RequestStream, exchange: Exchange, router: Router[Route]) -> None:
    """Decide who answers a request whose head was received: the filters of gateway and listener that precede routing
    come first. `router`: of the listener.
    """
    head = exchange.head
    early = exchange.chain
    if early.request_steps:
        _early_done(stream, exchange, router, run_request(early.request_steps, exchange))
        return
    exchange.answered_by = None  # none of them is left to run
    match: Match[Route] | None = None
    if head.plain:
        try:
            match = match_of(router, head)
        except ClientUnknown:
            match = None  # found by the exchange
    _find_route(stream, exchange, router, match)


def _early_done(stream: RequestStream, exchange: Exchange, router: Router[Route], outcome: Outcome) -> None:
    """Continue after the early steps. `router`: the router of the same tables, because a reload may have replaced the
    listener's.
    """
    if outcome is None:
        _find_route(stream, exchange, router)
    elif isinstance(outcome, Reply):
        exchange.reply(outcome)
    else:
        router.await_request()
        waiting = _wait(stream, exchange, outcome, partial(_early_done, stream, exchange, router))
        waiting.add_done_callback(router.count_down_request)


def _find_route(
    stream: RequestStream, exchange: Exchange, router: Router[Route], match: Match[Route] | None = None
) -> None:
    """Find the route, and let it answer. `match`: the route of a plain request that no filter has changed, if it is
    already known.
    """
    reply = choose(exchange, router, match)
    if reply is not None:
        exchange.reply(reply)
        return
    assert exchange.route is not None
    route: Route = exchange.route
    chain = exchange.chain
    head = exchange.head
    if chain.ready_answer is not None and exchange.request_body is None and head.ordinary:
        answer = chain.ready_answer(head, exchange.peer, route)
        if answer is not None:
            stream.send_ready(exchange, answer)
            return
    _route_done(stream, exchange, run_request(route.steps, exchange) if route.steps else None)


def _route_done(stream: RequestStream, exchange: Exchange, outcome: Outcome) -> None:
    """Continue after the steps of the route."""
    if outcome is None:
        _run_action(stream, exchange)
    elif isinstance(outcome, Reply):
        exchange.reply(outcome)
    else:
        _wait(stream, exchange, outcome, partial(_route_done, stream, exchange))


def _run_action(stream: RequestStream, exchange: Exchange) -> None:
    """Run the action of the route."""
    if exchange.chain.body_heads and exchange.request_body is not None:
        _inspect_body(stream, exchange)
    else:
        _begin_action(exchange)


def _inspect_body(stream: RequestStream, exchange: Exchange) -> None:
    """Receive the beginning of the body for the filters that decide by it."""
    body = exchange.request_body
    assert body is not None
    heads = [each for each in exchange.chain.body_heads if each.applies(exchange)]
    if not heads:
        _begin_action(exchange)
        return
    if exchange.head.expects_continue:
        exchange.drop_everywhere(EXPECT)  # the gateway itself requests the body
        if not body.bytes:
            exchange.client.send_interim(None)
    inspect = partial(_run_body_head_steps, stream, exchange, [each.step for each in heads])
    budget = request_budget(exchange)
    if body.await_head(max(each.most for each in heads), inspect, budget, lambda: fail_unheld(exchange, budget.why)):
        inspect()


def _run_body_head_steps(stream: RequestStream, exchange: Exchange, steps: Iterable[RequestStep]) -> None:
    _body_head_done(stream, exchange, run_request(steps, exchange))


def _body_head_done(stream: RequestStream, exchange: Exchange, outcome: Outcome) -> None:
    """Continue after the steps that have decided by the beginning of the body."""
    if outcome is None:
        _begin_action(exchange)
    elif isinstance(outcome, Reply):
        exchange.reply(outcome)
    else:
        # The client's time for the body does not count.
        _wait(stream, exchange, outcome, partial(_body_head_done, stream, exchange), monotonic())


def _begin_action(exchange: Exchange) -> None:
    assert exchange.route is not None
    route: Route = exchange.route
    if not exchange.chain.treats_bodies or begin_request_stages(exchange, route.action):
        route.action.begin(exchange)


def _wait(
    stream: RequestStream,
    exchange: Exchange,
    outcome: Awaitable[Reply | None],
    go_on: Callable[[Outcome], None],
    begun_at: float | None = None,
) -> Waited:
    """Continue with the result of an awaitable, unless the exchange has ended by then. `begun_at`: beginning of the
    filters' deadline; None: of the exchange.
    """

    def waited(done: Waited) -> None:
        if stream.waiting is not done:  # the exchange has ended
            if not done.cancelled() and done.exception() is None and (late := done.result()) is not None:
                body_at_once(late)  # it will not be sent
            return
        stream.waiting = None
        if done.cancelled():  # cancelled by others: the step shared an awaitable
            log_event(OperatorEvent.DEFECT, "the operation that a filter awaited was cancelled")
            result: Outcome = problem(Fault.INTERNAL)
        elif (error := done.exception()) is not None:
            log_event(OperatorEvent.DEFECT, "the operation that a filter awaited failed", error=error)
            result = problem(Fault.INTERNAL)
        else:
            result = done.result()
        try:
            go_on(result)
        except Exception:  # the edge of this exchange: the event loop would only log it
            stream.fail_after_defect(exchange)

    loop = stream.loop
    stream.waiting = waiting = asyncio.ensure_future(outcome, loop=loop)
    waiting.add_done_callback(waited)
    seconds = _time_left(stream, exchange, exchange.begun_at if begun_at is None else begun_at)
    limit = loop.call_later(seconds, _filter_is_late, stream, exchange, waiting)
    waiting.add_done_callback(lambda done: limit.cancel())
    return waiting


def _time_left(stream: RequestStream, exchange: Exchange, begun_at: float) -> float:
    """Return the seconds that filters have left, which count from `begun_at`."""
    return max(begun_at + filter_timeout_of(exchange.route, stream) - monotonic(), 0.0)


def _filter_is_late(stream: RequestStream, exchange: Exchange, waiting: Waited) -> None:
    if stream.waiting is waiting:
        name = exchange.chain.name_of(exchange.answered_by)
        stream.counts.count_filter(name, FilterEvent.LATE)
        exchange.fail(Fault.FILTER_TIMEOUT, why=f"filter {name} timed out")


def cancel_waiting(stream: RequestStream) -> None:
    """Cancel the wait of an exchange that has ended."""
    if stream.waiting is not None:
        stream.loop.call_soon(stream.waiting.cancel)  # not before the wait has begun
        stream.waiting = None
