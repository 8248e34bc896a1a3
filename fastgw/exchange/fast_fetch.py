"""Fast fetch: a filter stores the response to a request on the fast path, as it passes it to the client.

The filter sees the request before it is sent, and its response once that was received as a whole. As soon as the
request leaves the fast path (`upstream.forwarding.fast_path`), the filter goes on as if it had taken the exchange over
by its `translate` hook.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastgw.consumers.index import Consumer
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.route import Route
from fastgw.http.http1.parser import Http1ResponseHead
from fastgw.http.messages import RequestHead


class FetchRequest(Protocol):
    """Interface of a request for the filter that fetches its response: an exchange, or a request on the fast path."""

    @property
    def head(self) -> RequestHead: ...
    @property
    def peer(self) -> Any: ...
    @property
    def route(self) -> Route | None: ...
    @property
    def path(self) -> bytes: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def params(self) -> Mapping[str, bytes]: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def consumer(self) -> Consumer | None: ...
    def current_values(self, name: bytes) -> list[bytes]: ...
    @property
    def is_fast(self) -> bool: ...
    @property
    def sends_client_authorization(self) -> bool: ...


class FastFetch(Protocol):
    """One request on the fast path whose response a filter stores."""

    @property
    def forward(self) -> Any:
        """The `Forward` of the route, by which the request is sent."""

    @property
    def dropped(self) -> frozenset[bytes]:
        """Lower-case names of the client's headers that are not sent to the upstream."""

    @property
    def result(self) -> str:
        """Result for log and metrics, like `Exchange.cache_result`, once the response was taken."""

    def take_response(self, head: Http1ResponseHead) -> bytes | None:
        """Handle a response that was received as a whole, as the upstream has sent it. Returns the header lines that
        are added to it for the client, before the response steps of an exchange run; None: the request has to leave the
        fast path.
        """

    def leave_fast_path(self, exchange: Exchange) -> Exchange:
        """Take the exchange of the client over. Returns the exchange of the request that was sent, or will be: its
        response is the filter's.
        """


FetchStep = Callable[[FetchRequest, Any], FastFetch | None]
"""Begins to fetch the response to an ordinary GET; None: the request takes the full path. The second argument is the
`Forward` of the route."""
