"""Compiled routes: the action, its filters, and the plan of the fast path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange.body_stages import ChangeWhole
from fastgw.exchange.chain import Chain, FilterInstance
from fastgw.exchange.filter_steps import all_let_pass
from fastgw.exchange.hooks import LooksAt, PassTest, RefuseStep, RequestStep
from fastgw.exchange.reply import Reply
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, JoinedFields, SentFields
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.fast_fetch import FetchStep
    from fastgw.http.messages import RequestHead


class Divider(Protocol):
    """Traffic split: distributes requests over the variants of a route."""

    def __call__(self, exchange: Exchange, /) -> int:
        """Return the part that takes the request."""

    def describe_split(self, exchange: Exchange, /) -> str:
        """Return the upstream that is selected and why, for people."""


class FastPathPlan:
    """Fast path plan of a route (`upstream.forwarding.fast_path`), shared by all routes with an equal plan.

    `forward`: the route's action. `checks_path`: the route has a path check (`Route.check_path`); with `at_once` it
    accepts every path that is already in normal form. `at_once`: no filter processes all requests or responses, or
    bodies.
    `calls_only`: it is for gRPC calls only, which come over HTTP/2.
    `looks_at`: whether a response on the fast path has to continue on the full path because a filter processes it;
    None: never. `meets_answers`: whether filters process all responses. `id_of`: returns the id of a request; None:
    requests have no id. `fetch`: the step of the filter that stores the response; None: there is none.
    `change_whole`: changes a response that was received as a whole, in place of `looks_at`; None: nothing does.
    `full_path_headers`: lower-case names of headers; requests with one of them take the full path. `pass_tests`: tests
    in place of the route's request steps and the hooks for its body; a request that does not pass takes the full path.
    `sent_fields`: headers for the upstream that the request steps of filters change, the same for all requests.
    `refuse`: `Hooks.refuse` of the filter with the last of the tests; None: refusals take the full path.
    `response_fields`: headers of responses that filters change, whose response steps do not run here (None for a
    request: they do); with the names that `forward` leaves out, unless they are `NO_SENT_FIELDS`. None: of gRPC calls,
    whose responses without trailers take the full path.
    """

    def __init__(
        self,
        forward: Any,
        checks_path: bool,
        at_once: bool,
        looks_at: LooksAt | None,
        meets_answers: bool,
        id_of: Callable[[RequestHead], bytes] | None = None,
        calls_only: bool = False,
        fetch: FetchStep | None = None,
        change_whole: ChangeWhole | None = None,
        full_path_headers: tuple[bytes, ...] = (),
        pass_tests: tuple[PassTest, ...] = (),
        sent_fields: SentFields = NO_SENT_FIELDS,
        refuse: RefuseStep | None = None,
        response_fields: SentFields | JoinedFields | None = NO_SENT_FIELDS,
    ) -> None:
        self.forward, self.looks_at, self.id_of, self.fetch = forward, looks_at, id_of, fetch
        self.checks_path, self.at_once, self.meets_answers = checks_path, at_once, meets_answers
        self.calls_only, self.change_whole, self.full_path_headers = calls_only, change_whole, full_path_headers
        self.pass_tests, self.sent_fields, self.refuse = pass_tests, sent_fields, refuse
        self.response_fields = response_fields

    def _parts(self) -> tuple[object, ...]:
        flags = self.checks_path, self.at_once, self.meets_answers, self.calls_only
        steps = self.looks_at, self.id_of, self.fetch, self.change_whole, self.pass_tests, self.refuse
        return self.forward, flags, steps, self.full_path_headers, self.sent_fields, self.response_fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FastPathPlan) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def accepts(self, head: RequestHead) -> bool:
        """Whether an ordinary request may take the fast path."""
        if self.checks_path and not head.path_as_sent:
            return False
        for name in self.full_path_headers:
            if head.first(name) is not None:
                return False
        return not self.pass_tests or all_let_pass(self.pass_tests, head)


class Route:
    """A compiled route. `action` answers the exchange, at once or later.

    `check_path`: rejects paths that match but must not be forwarded; None: all are accepted.
    `fast_path`: the plan by which ordinary requests may take the fast path to the same action, once `steps` have
    passed.
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
        action: Callable[[Exchange], None],
        chain: Chain,
        steps: tuple[RequestStep, ...],
        check_path: Callable[[Exchange], Reply | None] | None = None,
        fast_path: FastPathPlan | None = None,
        filter_timeout: float | None = None,
        preflight_chain: Chain | None = None,
        takes_options: bool = False,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # complete chain: the listener's early filters, then the route's
        self.steps = steps  # request steps that run after routing
        self.check_path = check_path
        self.fast_path: Any = fast_path  # `FastPath` has checked that it is set
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
