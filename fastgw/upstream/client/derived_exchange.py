"""Derived exchange: a request of the gateway's own on behalf of an exchange, sent by a forward action of its route.

Rule: it has the values of the exchange that variables stand for, because the path of a route and the hooks that sign or
renew credentials may contain them. The caller adds what it sends: body, headers and query.
"""

from collections.abc import Iterable
from typing import Final

from fastgw.exchange import Chain, ClientSide, Exchange, Route
from fastgw.exchange.action import Action
from fastgw.exchange.chain import FilterInstance
from fastgw.exchange.hooks import Hooks, TranslateHook
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.exchange.states import ENDED
from fastgw.exchange.upstream_chains import NO_FILTERS
from fastgw.http.messages import RequestHead

_NOBODY: Final = Nobody()


def derive_exchange(
    exchange: Exchange, head: RequestHead, client: ClientSide, chain: Chain, action: Action
) -> Exchange:
    """Return the exchange of such a request. `chain`: as of `call_chain` or `copy_chain`. `action`: sends it."""
    made = Exchange(head, client, exchange.listener, exchange.peer, chain)
    made.client_ip, made.params = exchange.client_ip, exchange.params
    made.consumer, made.claims = exchange.consumer, exchange.claims
    made.request_id, made.trace = exchange.request_id, exchange.trace
    route = exchange.route
    if route is not None:  # without its fallback, which is for the client
        made.route = Route(route.name, action, chain, (), filter_timeout=route.filter_timeout)
    made.answered_by = None
    return made


def end_call(call: Exchange) -> None:
    """End the exchange of a request that nobody waits for any more."""
    if call.state is not ENDED:
        call.finish()
    call.client = call.response_sink = _NOBODY  # avoids a reference cycle


def call_chain(chain: Chain) -> Chain:
    """Return the chain of a call: of these filters' hooks only those that sign or renew credentials."""
    made = chain.of_calls
    if made is None:
        made = chain.of_calls = _chain_of(
            (
                FilterInstance(link.use, hooks, False, link.level)
                for link in chain.links
                if (hooks := _hooks_of_calls(link.hooks)) is not None
            ),
            chain,
        )
    return made


def copy_chain(chain: Chain) -> Chain:
    """Return the chain of a copy: of these filters' hooks only those that translate copies."""
    made = chain.of_copies
    if made is None:
        made = chain.of_copies = _chain_of(
            (
                FilterInstance(link.use, Hooks(translate=TranslateHook(hook.of_copies)), False, link.level)
                for link in chain.links
                if (hook := link.hooks.translate) is not None and hook.of_copies is not None
            ),
            chain,
        )
    return made


def _hooks_of_calls(hooks: Hooks) -> Hooks | None:
    """Return the hooks of a filter that renew the credentials of calls, and sign their requests."""
    signing = hooks.translate if hooks.translate is not None and hooks.translate.signs else None
    return None if hooks.renew is None and signing is None else Hooks(renew=hooks.renew, translate=signing)


def _chain_of(links: Iterable[FilterInstance], chain: Chain) -> Chain:
    """Return a chain of these filters that finds the same maps."""
    held = tuple(links)
    return Chain(held, maps=chain.maps) if held or chain.maps else NO_FILTERS
