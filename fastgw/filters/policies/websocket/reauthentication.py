"""Repeated authentication of the client of a WebSocket, by the filters of its route.

Rule: they see the request as they saw it the first time, not as later filters have changed it for the upstream; and
nothing that they change has an effect on the connection.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from fastgw.errors import Fault
from fastgw.exchange.exchange import Exchange, filter_timeout_of
from fastgw.exchange.filter_steps import checked, count_raised
from fastgw.exchange.hooks import RequestStep
from fastgw.exchange.reply import Reply, body_at_once
from fastgw.exchange.route import Route
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.filters.api import Hooks, Phase
from fastgw.filters.authentication.request_state import RequestState, restore_attributes
from fastgw.filters.policies.websocket.guard import NOT_CHECKED, ForcedClose
from fastgw.http.websocket.frames import INTERNAL_ERROR, POLICY, TRY_AGAIN_LATER
from fastgw.observe.metrics.families import FilterEvent

_AGAIN: Final = frozenset((Phase.AUTHENTICATE, Phase.AUTHORIZE))
_RAISED: Final = (Exception, asyncio.CancelledError)


async def authenticate_again(exchange: Exchange, state: RequestState | None) -> ForcedClose | None:
    """Run the authentication and authorization steps of the current route, of the variant that has admitted the
    connection; return how to close the connection of a client that may not continue, or that cannot be checked.

    `state`: that of the request before these steps ran for the first time.
    """
    assert state is not None  # `before_authentication` has run
    copy = _copy_of(exchange, state)
    match = exchange.listener.router.find(copy)
    if match is None:
        why = "the route is gone"
        return ForcedClose(POLICY, why, Fault.ROUTE_NOT_FOUND, why)
    route, copy.params = match
    copy.route = route = _part_of(route, copy)
    copy.chain = route.chain
    ran: list[Hooks] = []
    try:
        for link in copy.chain.links:
            if link.hooks.request is None or link.always or link.use.shadow:  # an observer's has no settings
                continue
            if link.use.settings.phase not in _AGAIN:
                continue
            ran.append(link.hooks)
            closing = await _run_step(link.hooks.request.step, link.use.name, copy)
            if closing is not None:
                return closing
    finally:
        for hooks in reversed(ran):
            if hooks.finish is not None:
                _finish(hooks.finish, copy)
    return None


def _finish(step: Callable[[Exchange], None], copy: ShadowExchange) -> None:
    try:
        step(copy)
    except Exception:  # the edge of a filter: logged, as at the end of an exchange
        count_raised(step, "finish", copy)


def _copy_of(exchange: Exchange, state: RequestState) -> ShadowExchange:
    copy = ShadowExchange(exchange)
    copy.begun_at = monotonic()
    restore_attributes(copy, state)
    _, edited = state
    copy.for_others = None  # filters that authenticate add nothing for one upstream only
    copy.replace_headers(exchange.head.received_fields() if edited is None else edited.copy())
    return copy


def _part_of(route: Route, copy: ShadowExchange) -> Route:
    """Return the part of a traffic split that has admitted the connection; if it is gone, that for a new one."""
    if route.division is None:
        return route
    same = (part for part in route.division.parts if part.chain.variant == copy.chain.variant)
    return next(same, None) or route.division.part_for(copy)


async def _run_step(step: RequestStep, name: str, copy: ShadowExchange) -> ForcedClose | None:
    try:
        async with asyncio.timeout(filter_timeout_of(copy.route, copy.real.client)) as limit:
            outcome = step(copy)
            reply = checked(outcome if outcome is None or isinstance(outcome, Reply) else await outcome)
    except _RAISED:  # the edge of the filters: a client that is not checked may not continue
        task, counts = asyncio.current_task(), copy.real.client.counts
        if task is not None and task.cancelling():
            raise  # the connection has ended; otherwise a future that the step awaits was cancelled
        if limit.expired():
            counts.count_filter(name, FilterEvent.LATE)
            return ForcedClose(TRY_AGAIN_LATER, NOT_CHECKED, Fault.FILTER_TIMEOUT, f"filter {name} timed out")
        counts.count_filter(name, FilterEvent.RAISED)
        return ForcedClose(INTERNAL_ERROR, NOT_CHECKED, Fault.INTERNAL, count_raised(step, "request", copy))
    if reply is None:
        return None
    body_at_once(reply)  # it will not be sent
    if reply.status >= 500:
        return ForcedClose(TRY_AGAIN_LATER, NOT_CHECKED, reply.fault or Fault.AUTH_UNAVAILABLE, copy.why or NOT_CHECKED)
    reason = "the client is not authenticated any more"
    return ForcedClose(POLICY, reason, reply.fault or Fault.CREDENTIALS_INVALID, copy.why or reason)
