"""State of a request before a filter authenticates its client, to try another method or the same one again."""

from typing import Any, TypeAlias

from fastgw.exchange import Exchange
from fastgw.http.fields import Fields

RequestState: TypeAlias = tuple[tuple[Any, ...], Fields | None]
"""Attributes of an exchange that the request step of a filter may change, and a copy of the headers; None: they are as
received.
"""


def state_of(exchange: Exchange) -> RequestState:
    """Return the current state of a request."""
    edited = exchange.head.edited()
    # PERF: 4,500 instructions less than by an `attrgetter` and a named tuple (CPython 3.11, callgrind, micro/filters).
    attributes = (
        exchange.claims,
        exchange.client_ip,
        exchange.consumer,
        exchange.is_authenticated,
        exchange.method,
        exchange.params,
        exchange.path,
        exchange.query_sent,
        exchange.request_added,
        exchange.request_dropped,
        exchange.request_id,
        exchange.scheme,
        exchange.sends_client_authorization,
        exchange.why,
    )
    return attributes, None if edited is None else edited.copy()


def restore_attributes(exchange: Exchange, state: RequestState) -> None:
    """Set the attributes of an exchange, but not its headers, to those of an earlier state."""
    (
        exchange.claims,
        exchange.client_ip,
        exchange.consumer,
        exchange.is_authenticated,
        exchange.method,
        exchange.params,
        exchange.path,
        exchange.query_sent,
        exchange.request_added,
        exchange.request_dropped,
        exchange.request_id,
        exchange.scheme,
        exchange.sends_client_authorization,
        exchange.why,
    ) = state[0]
