"""Compiled routes: the action and its filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.chain import Chain, FilterInstance
from fastgw.exchange.hooks import RequestStep
from fastgw.exchange.reply import Reply
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange


class Divider(Protocol):
    """Traffic split: distributes requests over the variants of a route."""

    def __call__(self, exchange: Exchange, /) -> int:
        """Return the part that takes the request."""

    def describe_split(self, exchange: Exchange, /) -> str:
        """Return the upstream that is selected and why, for people."""


class Route:
    """A compiled route. `action` answers the exchange, at once or later.

    `check_path`: rejects paths that match but must not be forwarded; None: all are accepted.
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
        filter_timeout: float | None = None,
        preflight_chain: Chain | None = None,
        takes_options: bool = False,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # complete chain: the listener's early filters, then the route's
        self.steps = steps  # request steps that run after routing
        self.check_path = check_path
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
