"""Compiled routes: the action, its filters, and when their steps run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.chain import Chain, FilterInstance
from fastgw.exchange.filter_steps import all_let_pass
from fastgw.exchange.hooks import PassTest, RefuseStep, RequestStep
from fastgw.exchange.reply import Reply
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, SentFields
from fastgw.http.http1.parser import is_path_as_sent
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.http.messages import RequestHead


class Divider(Protocol):
    """Traffic split: distributes requests over the variants of a route."""

    def __call__(self, exchange: Exchange, /) -> int:
        """Return the part that takes the request."""

    def describe_split(self, exchange: Exchange, /) -> str:
        """Return the upstream that is selected and why, for people."""


class StepPlan:
    """When the steps of a route need not run, by what its filters declare; shared by all routes with an equal plan. It
    is for requests that were received as a whole, and that no filter has changed yet.

    `checks_path`: the route has a path check (`Route.check_path`), which accepts every path that was received in normal
    form. `step_headers`: lower-case names of headers; for requests with one of them the steps run. `pass_tests`: tests
    in place of the steps and the hooks for the body; for a request that does not pass they run. `sent_fields`: headers
    for the upstream that the steps change, the same for all requests. `refuse`: `Hooks.refuse` of the filter with the
    last of the tests; None: refusals are left to the steps.
    """

    def __init__(
        self,
        checks_path: bool,
        step_headers: tuple[bytes, ...] = (),
        pass_tests: tuple[PassTest, ...] = (),
        sent_fields: SentFields = NO_SENT_FIELDS,
        refuse: RefuseStep | None = None,
    ) -> None:
        self.checks_path, self.step_headers, self.pass_tests = checks_path, step_headers, pass_tests
        self.sent_fields, self.refuse = sent_fields, refuse

    def _parts(self) -> tuple[object, ...]:
        return self.checks_path, self.step_headers, self.pass_tests, self.sent_fields, self.refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepPlan) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def lets_pass(self, head: RequestHead) -> bool:
        """Whether the request passes without the steps and the path check."""
        if self.checks_path and not is_path_as_sent(head):
            return False
        for name in self.step_headers:
            if head.first(name) is not None:
                return False
        return not self.pass_tests or all_let_pass(self.pass_tests, head)


class Route:
    """A compiled route. `action` answers the exchange, at once or later.

    `check_path`: rejects paths that match but must not be forwarded; None: all are accepted.
    `plan`: by which `steps` need not run; None: they run for each request.
    `filter_timeout`: seconds from the beginning of an exchange in which its filters have to decide; None: the default.
    `preflight_chain`: chain that answers a CORS preflight; None: there is none. `takes_options`: the route lists
    OPTIONS among its methods.
    `forwards_preflight`: prepares a preflight that the upstream answers: removes the client's identity, and returns the
    variant of the route without authentication; None: a preflight is treated like any other request.
    `division`: traffic split among variants of the route, one for each of its upstreams; None: it is not split.
    `fallback`: answers an exchange that has failed before its response has begun; returns False if it does not.
    """

    def __init__(
        self,
        name: str,
        action: Action,
        chain: Chain,
        steps: tuple[RequestStep, ...],
        check_path: Callable[[Exchange], Reply | None] | None = None,
        plan: StepPlan | None = None,
        filter_timeout: float | None = None,
        preflight_chain: Chain | None = None,
        takes_options: bool = False,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # complete chain: the listener's early filters, then the route's
        self.steps = steps  # request steps that run after routing
        self.check_path = check_path
        self.plan = plan
        self.filter_timeout = filter_timeout
        self.preflight_chain = preflight_chain
        self.takes_options = takes_options
        self.forwards_preflight: Callable[[Exchange], Route] | None = None
        self.fallback: Callable[[Exchange, Fault], bool] | None = None
        self.division: Division | None = None

    @property
    def links(self) -> Iterable[FilterInstance]:
        """The filters of the route, and of its variants for several upstreams."""
        if self.division is None:
            return self.chain.links
        parts = self.division.parts
        return dict.fromkeys([*self.chain.links, *(link for part in parts for link in part.chain.links)])


@final
@dataclass(frozen=True, slots=True)
class Division:
    """Traffic split: variants of a route, one for each upstream, and the choice between them."""

    parts: tuple[Route, ...]
    divider: Divider

    def part_for(self, exchange: Exchange) -> Route:
        return self.parts[self.divider(exchange)]


expose_fields(Route)
