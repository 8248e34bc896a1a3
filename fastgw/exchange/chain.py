"""The filters of a route in running order, and how their request steps are run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

from fastgw.errors import Fault
from fastgw.exchange.reply import Reply, problem
from fastgw.exchange.states import ENDED
from fastgw.observe.families import FilterEvent

if TYPE_CHECKING:
    from fastgw.config.settings import FilterUse
    from fastgw.exchange.exchange import Exchange

log = logging.getLogger("fastgw")

TOLD_EVERY_S: Final = 1.0

Outcome: TypeAlias = Reply | Awaitable[Reply | None] | None
RequestStep: TypeAlias = "Callable[[Exchange], Outcome]"


class Hooks:
    """Where one filter is called on one route. A hook left out costs nothing.

    request: `(exchange) -> None | Reply | Awaitable` before the upstream. response: `(exchange) -> None` once the
    response's head is known, whoever made it. request_body: `(exchange, payload) -> None | Reply` for each piece.
    finish: `(exchange) -> None` when all is over. start: `(services) -> None` in the loop of each worker before the
    first request; stop: `() -> None` when new requests do not come any more. explain: `(exchange) -> str`, for people
    who ask, why the request step has let the request pass; never a secret. preflight: `(exchange) -> None | Reply`, in
    place of all request steps, for a CORS preflight about requests of this route; of a chain's the last one counts.
    None: the upstream answers it, and only those filters see it that do not care who the client is.
    asks: whom a request step asks that has to wait, for people too. would: what stands for the request step where it is
    only told what it would decide, for one that leaves traces: it leaves none.
    """

    __slots__ = (
        "asks",
        "explain",
        "finish",
        "preflight",
        "request",
        "request_body",
        "response",
        "start",
        "stop",
        "would",
    )

    def __init__(
        self,
        *,
        request: RequestStep | None = None,
        response: Callable[[Exchange], None] | None = None,
        request_body: Callable[[Exchange, bytes], Reply | None] | None = None,
        finish: Callable[[Exchange], None] | None = None,
        start: Callable[[Any], None] | None = None,
        stop: Callable[[], None] | None = None,
        explain: Callable[[Exchange], str] | None = None,
        preflight: RequestStep | None = None,
        asks: str = "",
        would: RequestStep | None = None,
    ) -> None:
        self.request, self.response, self.request_body, self.finish = request, response, request_body, finish
        self.start, self.stop, self.explain, self.preflight = start, stop, explain, preflight
        self.asks = asks
        self.would = would


@final
class Link:
    """A filter instance in its place in a chain. `always`: its response step runs for every answer (OBSERVE, ADMIT).

    `level`: where its use is configured. What it holds goes on as long as an equal use stands there and what it has
    read (`reads`: files and their digests) is the same. `keeps`: what it shares with others. `own`: the filter's hooks,
    where others stand in `hooks`, because it is in shadow.
    """

    __slots__ = ("always", "hooks", "keeps", "level", "own", "reads", "started", "use")

    def __init__(
        self,
        use: FilterUse,
        hooks: Hooks,
        always: bool,
        level: str,
        reads: Mapping[str, bytes] = MappingProxyType({}),
        keeps: Iterable[object] = (),
        own: Hooks | None = None,
    ) -> None:
        self.use, self.hooks, self.always, self.level = use, hooks, always, level
        self.own = own or hooks
        self.reads, self.keeps = reads, tuple(keeps)
        self.started = False

    @property
    def is_live(self) -> bool:
        """Whether it holds something in a worker's loop."""
        return self.hooks.start is not None or self.hooks.stop is not None


@final
class Chain:
    """The filters of a route (before one is found: of a listener) in running order, hooks sorted out by kind."""

    __slots__ = (
        "finish_steps",
        "links",
        "preflight",
        "request_body_steps",
        "request_steps",
        "response_steps",
        "told_at",
    )

    def __init__(self, links: Iterable[Link]) -> None:
        self.links = tuple(links)
        self.told_at: dict[object, float] | None = None  # when the log was told of steps that raise
        hooks = [link.hooks for link in self.links]
        self.request_steps = tuple(h.request for h in hooks if h.request is not None)
        self.request_body_steps = tuple(h.request_body for h in hooks if h.request_body is not None)
        # Responses come back through the same filters the other way round.
        self.response_steps = tuple(h.response for h in reversed(hooks) if h.response is not None)
        self.finish_steps = tuple(h.finish for h in reversed(hooks) if h.finish is not None)
        self.preflight = next((h.preflight for h in reversed(hooks) if h.preflight is not None), None)

    @property
    def only_requests(self) -> bool:
        """Whether no filter has anything to do once all have let a request without a body pass."""
        return not self.response_steps and not self.finish_steps

    def response_steps_due(self, answered_by: RequestStep | None) -> tuple[Callable[[Exchange], None], ...]:
        if answered_by is None or not self.response_steps:
            return self.response_steps
        return tuple(link.hooks.response for link in reversed(self.ran(answered_by)) if link.hooks.response is not None)

    def finish_steps_due(self, answered_by: RequestStep | None) -> tuple[Callable[[Exchange], None], ...]:
        if answered_by is None or not self.finish_steps:
            return self.finish_steps
        return tuple(link.hooks.finish for link in reversed(self.ran(answered_by)) if link.hooks.finish is not None)

    def ran(self, answered_by: RequestStep | None) -> list[Link]:
        """The links whose response and finish steps are due when the request step `answered_by` answered."""
        due, reached = [], answered_by is not before_any
        for link in self.links:
            if reached or link.always:
                due.append(link)
            if answered_by is not None and link.hooks.request is answered_by:
                reached = False
        return due

    def name_of(self, step: object) -> str:
        """The instance whose hook `step` is: for the log."""
        return next((link.use.name for link in self.links if step in _hooks_of(link)), "?")


def _hooks_of(link: Link) -> tuple[object, ...]:
    hooks = link.hooks
    return hooks.request, hooks.response, hooks.request_body, hooks.finish, hooks.preflight


class Divider(Protocol):
    """Divides a route among its parts."""

    def __call__(self, exchange: Exchange, /) -> int:
        """Which of them takes it."""

    def told(self, exchange: Exchange, /) -> str:
        """Which upstream that means and why, for people."""


@final
class Route:
    """A compiled route. `action` answers the exchange, at once or later.

    `straight`: the same action, where ordinary requests may take the straight way to it (`upstream.passage`), once
    `steps` have let them pass.
    `patience`: seconds from the beginning of an exchange in which its filters have to decide; None: not said.
    `preflight_chain`: of a preflight's answer; None: there is none. `takes_options`: it names OPTIONS as its own.
    `forwards_preflight`: makes a preflight that the upstream answers one that shows nobody, and gives the route as it
    is for that; None: as for any other request.
    `parts`: the routes that this one is divided into, one for each of its upstreams; `split`: which of them takes an
    exchange; None: it is not divided.
    `fallback`: has an exchange that fails before its answer begins answered otherwise, or returns False.
    """

    __slots__ = (
        "action",
        "chain",
        "encoded_slash_allowed",
        "fallback",
        "forwards_preflight",
        "name",
        "parts",
        "patience",
        "preflight_chain",
        "split",
        "steps",
        "straight",
        "takes_options",
    )

    def __init__(
        self,
        name: str,
        action: Callable[[Exchange], None],
        chain: Chain,
        steps: tuple[RequestStep, ...],
        encoded_slash_allowed: bool = True,
        straight: Any = None,
        patience: float | None = None,
        preflight_chain: Chain | None = None,
        takes_options: bool = False,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # of the whole way: the listener's early filters, then the route's
        self.steps = steps  # the request steps that are left to run once this route is found
        self.encoded_slash_allowed = encoded_slash_allowed
        self.straight = straight
        self.patience = patience
        self.preflight_chain = preflight_chain
        self.takes_options = takes_options
        self.forwards_preflight: Callable[[Exchange], Route] | None = None
        self.fallback: Callable[[Exchange, Fault], bool] | None = None
        self.parts: tuple[Route, ...] = ()
        self.split: Divider | None = None

    @property
    def links(self) -> Iterable[Link]:
        """Its filters, and those of its parts."""
        return dict.fromkeys([*self.chain.links, *(link for part in self.parts for link in part.chain.links)])


def before_any(exchange: Exchange) -> None:
    """Stands in `Exchange.answered_by` for: no request step has run."""


def run_request(steps: Iterable[RequestStep], exchange: Exchange) -> Outcome:
    """Run request steps until one answers. None: all passed. Awaitable: a step must wait; await it for the same.

    A step that raises is a 500, never a pass.
    """
    left = iter(steps)
    for step in left:
        try:
            outcome = step(exchange)
        except BaseException:  # also what a cancelled future of its own raises
            return _raised(step, exchange)
        if outcome is not None:
            exchange.answered_by = step
            return outcome if type(outcome) is Reply else _wait(step, outcome, left, exchange)
    exchange.answered_by = None
    return None


async def _wait(
    step: RequestStep, outcome: Awaitable[Reply | None], left: Iterable[RequestStep], exchange: Exchange
) -> Reply | None:
    try:
        reply = checked(await outcome if isawaitable(outcome) else outcome)
    except BaseException as error:  # out of a task it would end the worker, or nobody would be told
        if exchange.state is ENDED and not isinstance(error, Exception):
            return None  # it was cancelled, for nobody waits for it any more
        return _raised(step, exchange)
    if reply is not None:
        return reply
    later = run_request(left, exchange)
    return later if later is None or type(later) is Reply else await later


def checked(reply: Reply | None) -> Reply | None:
    """What a step has returned, or what came of what it waited for. Raises `TypeError` when it is neither of both."""
    if reply is not None and type(reply) is not Reply:
        raise TypeError(f"a step of a filter returned {reply!r}; expected a Reply or None")
    return reply


def count_raised(step: object, kind: str, exchange: Exchange) -> str:
    """Log and count that a step has raised, while that is handled. Returns what to say of it in the access log.

    What raises for each of thousands of requests is logged once in `TOLD_EVERY_S`, and counted each time.
    """
    chain, now = exchange.chain, exchange.begun_at
    name = chain.name_of(step)
    if chain.told_at is None:
        chain.told_at = {}
    if now >= chain.told_at.get(step, -inf) + TOLD_EVERY_S:
        chain.told_at[step] = now
        log.exception("filter %s: its %s step raised", name, kind)
    exchange.client.count_filter(name, FilterEvent.RAISED)
    return f"filter {name}: its {kind} step raised"


def _raised(step: RequestStep, exchange: Exchange) -> Reply:
    exchange.why = count_raised(step, "request", exchange)
    exchange.answered_by = step
    return problem(Fault.INTERNAL)
