"""State of a request before a filter authenticates its client, to try another method or the same one again."""

from operator import attrgetter
from typing import Any, Final, NamedTuple

from fastgw.exchange import Exchange
from fastgw.http.fields import Fields

CHANGED: Final = (
    "claims",
    "client_ip",
    "consumer",
    "is_authenticated",
    "method",
    "params",
    "path",
    "query_sent",
    "request_added",
    "request_dropped",
    "request_id",
    "scheme",
    "sends_client_authorization",
    "why",
)
"""Attributes of an exchange that the request step of a filter may change, in addition to the headers."""
_held: Final = attrgetter(*CHANGED)


class RequestState(NamedTuple):
    """State of a request. `attributes`: values of `CHANGED`. `edited`: its headers; None: they are as received."""

    attributes: tuple[Any, ...]
    edited: Fields | None


def state_of(exchange: Exchange) -> RequestState:
    """Return the current state of a request."""
    edited = exchange.head.edited()
    return RequestState(_held(exchange), None if edited is None else edited.copy())


def restore_attributes(exchange: Exchange, state: RequestState) -> None:
    """Set the attributes of an exchange, but not its headers, to those of an earlier state."""
    for name, value in zip(CHANGED, state.attributes, strict=True):
        setattr(exchange, name, value)
