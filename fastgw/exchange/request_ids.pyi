"""Request id: generated here, or taken from the client; for the log, the upstream and the response.

It is assigned first, and not by a filter step: nearly every request has one, and most run no other step.
"""

from typing import final

from fastgw.exchange.exchange import Exchange
from fastgw.http.messages import RequestHead

@final
class RequestIds:
    """Assigns request ids according to the settings of the filter `request_id`."""

    @property
    def is_usual(self) -> bool:
        """Whether the header is `X-Request-Id`. It is always written so, regardless of its case in the settings."""

    def __init__(self, header: bytes, trusts: bool) -> None: ...
    def of(self, head: RequestHead) -> bytes:
        """Return the id of a request with this head."""

    @property
    def dropped(self) -> frozenset[bytes]:
        """Lower-case name of the header."""

    def identify(self, exchange: Exchange) -> None:
        """Assign the id of an exchange, and add it to the request for the upstream."""

    def sent_line(self, head: RequestHead, request_id: bytes) -> bytes:
        """Return the header line with the id for the upstream; b"": that of the client is forwarded."""

    def replaces(self, head: RequestHead) -> bool:
        """Whether a line of the client has to be left out, if there is one of the gateway."""

    def line(self, request_id: bytes) -> bytes:
        """Return the header line with an id."""

    def take_back(self, exchange: Exchange) -> None:
        """Undo `identify`, because the selected route has other settings."""

    def add_to_response(self, exchange: Exchange) -> None:
        """Add an id to the response, in a header other than the usual one."""

def made() -> bytes:
    """Create an id: 128 random bits, as 32 hexadecimal digits."""

def request_ids(header: bytes, trusts: bool) -> RequestIds:
    """Return the same object for equal settings, so that routes with equal settings are recognized as equal."""

def is_id_line(exchange: Exchange) -> bool:
    """Whether the usual line with the id is the only addition to the request."""

def identify_anew(exchange: Exchange, before: RequestIds | None, now: RequestIds | None) -> None:
    """Apply a route's own settings for the id of an exchange."""
