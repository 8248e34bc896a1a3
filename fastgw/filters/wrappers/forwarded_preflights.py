"""Preflights that the upstream answers (`cors`): they bypass authentication filters, because browsers send no
credentials with them.

Rule: such a request has no identity: headers that those filters read or write are not forwarded.
"""

from collections.abc import Callable, Sequence
from typing import Final

from fastgw.exchange import Exchange, FilterInstance, Route
from fastgw.exchange.chain import request_steps_of
from fastgw.filters.api import Phase
from fastgw.filters.api.credential_locations import CredentialLocations
from fastgw.filters.authentication.identity_headers import CREDENTIALS
from fastgw.http.fields import folded

_WHO_ASKS: Final = frozenset((Phase.AUTHENTICATE, Phase.AUTHORIZE, Phase.LIMIT_CONSUMER, Phase.CREDENTIALS))
"""Phases of the filters that authenticate or authorize the client, or send credentials in its place."""


def forwards_preflight(route: Route, own: Sequence[FilterInstance]) -> Callable[[Exchange], Route] | None:
    """See `Route.forwards_preflight`. `own`: the filters that run after routing."""
    passed = frozenset(link for link in own if link.use.settings.phase in _WHO_ASKS)
    if not passed:
        return None
    places = CredentialLocations(tuple(CREDENTIALS))
    for link in passed:
        settings = link.use.settings
        written = tuple(folded(name.encode()) for name in settings.written_fields())
        places = places | settings.credential_places() | CredentialLocations(written)
    steps = request_steps_of([link for link in own if link not in passed])
    chain = route.chain.with_links(link for link in route.chain.links if link not in passed)
    forwarding = Route(route.name, route.action, chain, steps, route.check_path, route.filter_timeout)

    def forwards(exchange: Exchange) -> Route:
        places.hide(exchange)
        return forwarding

    return forwards
