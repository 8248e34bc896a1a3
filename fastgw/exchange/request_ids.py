"""Request id: generated here, or taken from the client; for the log, the upstream and the response.

It is assigned first, and not by a filter step: nearly every request has one, and no steps run on the fast path.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast, final

from fastgw.exchange import _request_ids
from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.http1.lines import REQUEST_ID, id_line
from fastgw.http.messages import RequestHead

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange

_acceptable: Final = re.compile(rb"[!-~]{1,128}").fullmatch


@final
class RequestIds:
    """Assigns request ids according to the settings of the filter `request_id`."""

    __slots__ = ("_dropped", "_lower", "_prefix", "_trusts", "_twins", "is_usual")

    def __init__(self, header: bytes, trusts: bool) -> None:
        self._lower = header.lower()
        self._trusts = trusts
        self._prefix = header + b": "
        self._dropped = frozenset((self._lower,))
        self._twins = self._lower not in READ_IN_REQUESTS  # for other names: similar names are forwarded
        self.is_usual = self._lower == REQUEST_ID

    def of(self, head: RequestHead) -> bytes:
        """Return the id of a request with this head."""
        if self._trusts:
            name = head.first(self._lower)
            if name is not None and _acceptable(name):
                return name
        return _request_ids.made()

    def identify(self, exchange: "Exchange") -> None:
        """Assign the id of an exchange, and add it to the request for the upstream."""
        self.resume(exchange, self.of(exchange.head))

    def resume(self, exchange: "Exchange", request_id: bytes) -> None:
        """Assign to an exchange the id that its request already has."""
        exchange.request_id = request_id
        if self.is_usual:
            exchange.id_shown = request_id
        sent = exchange.head.values(self._lower)
        if sent == [request_id] and not self._twins:
            return  # it is forwarded as received
        if sent or self._twins:
            exchange.request_dropped |= self._dropped
        exchange.request_added += self.line(request_id)

    def line(self, request_id: bytes) -> bytes:
        """Return the header line with an id.

        The usual name is always written as the compiled module writes it, regardless of its case in the configuration.
        """
        return id_line(request_id) if self.is_usual else self._prefix + request_id + b"\r\n"

    def take_back(self, exchange: "Exchange") -> None:
        """Undo `identify`, because the selected route has other settings."""
        exchange.request_added = exchange.request_added.removeprefix(self.line(exchange.request_id))
        exchange.request_dropped -= self._dropped
        exchange.request_id = exchange.id_shown = b""

    def add_to_response(self, exchange: "Exchange") -> None:
        """Add an id to the response, in a header other than the usual one."""
        assert exchange.response is not None
        exchange.response.dropped |= self._dropped
        exchange.add_response_fields(self.line(exchange.request_id))


@lru_cache(maxsize=64)
def request_ids(header: bytes, trusts: bool) -> RequestIds:
    """Return the same object for equal settings, so that routes with equal settings are recognized as equal."""
    ids = RequestIds(header, trusts)
    return cast("RequestIds", _request_ids.RequestIds(ids, trusts)) if ids.is_usual else ids


def is_id_line(exchange: "Exchange") -> bool:
    """Whether the usual line with the id is the only addition to the request."""
    return exchange.request_added == id_line(exchange.id_shown)


def identify_anew(exchange: "Exchange", before: RequestIds | None, now: RequestIds | None) -> None:
    """Apply a route's own settings for the id of an exchange."""
    if before is not None:
        before.take_back(exchange)
    if now is not None:
        now.identify(exchange)
