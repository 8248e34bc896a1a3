"""Headers of the requests for the events of a connection."""

from typing import Final

from fastgw.exchange import Exchange
from fastgw.http.field_names import FORWARDING, WRITTEN_HERE
from fastgw.http.fields import Fields

CONNECTION_ID: Final = b"X-Connection-Id"
EVENT_TYPE: Final = b"X-Event-Type"
ROUTE_KEY: Final = b"X-Route-Key"
CLOSE_CODE: Final = b"X-Close-Code"
CONNECTIONS_URL: Final = b"X-Connections-Url"
Lines = list[tuple[bytes, bytes]]
_OURS: Final = frozenset(name.lower() for name in (CONNECTION_ID, EVENT_TYPE, ROUTE_KEY, CLOSE_CODE, CONNECTIONS_URL))
_OF_RESPONSES: Final = frozenset(
    b"accept-encoding if-match if-modified-since if-none-match if-range if-unmodified-since range".split()
)
"""Headers that ask for another form of the response, or for a part of it. The response to an event is read here."""
_IDENTITY: Final = (b"Accept-Encoding", b"identity")
_NOT_SENT: Final = (
    WRITTEN_HERE
    | FORWARDING
    | _OURS
    | _OF_RESPONSES
    | {b"expect", b"via", b"content-type", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
)


def lines_of_filters(exchange: Exchange) -> Lines:
    """Return the headers that every request gets: those that filters have added for upstreams, such as the name of the
    consumer, and a request for a response that is not compressed.
    """
    return [*Fields.parse(exchange.changes_for_others[0], 0).without(_NOT_SENT), _IDENTITY]


def lines_of_client(exchange: Exchange) -> Lines:
    """Return the headers of the client's handshake that `$connect` gets."""
    return exchange.client_lines(_NOT_SENT)
