"""Settings of routes that are the API of a WebSocket gateway."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_types import Destination, Duration, Size, Url

MOST_MESSAGE: Final = 1024**2
"""Maximum bytes that the limit on messages may have."""
CONNECT: Final = "$connect"
DISCONNECT: Final = "$disconnect"
DEFAULT: Final = "$default"
OF_GATEWAY: Final = frozenset((CONNECT, DISCONNECT, DEFAULT))
"""Route keys that no message selects by its value."""

RouteKey = Annotated[str, Meta(pattern=r"^\$?[A-Za-z0-9_.:/-]{1,128}$", examples=["$connect", "send"])]


class MessageRoute(Settings):
    """Request that is sent for an event of a connection."""

    path: Annotated[str, Meta(pattern=r"^/[!-~]*$", examples=["/messages"])]
    """Path of the request, and its query if it has one. The method is POST."""
    upstream: Destination | None = None
    """Upstream of the request, by name or as a URL. null = `upstream` of the API."""
    reply: bool = False
    """Whether the body of the response is sent to the client as a message. Not for `$connect` and `$disconnect`."""


class WebsocketApi(Settings):
    """API of a WebSocket gateway: the gateway holds the connections of a route, and back ends without WebSockets
    receive each event as an HTTP request.

    Route keys are those of AWS API Gateway. `$connect`: the request to connect; a response other than 2xx refuses the
    connection. `$disconnect`: the connection has ended, at least once, also if its worker is killed. Every text message
    is JSON whose member `select` names the route key; `$default` gets all other messages. Messages of one connection
    are processed in their order.

    Requests have the headers `X-Connection-Id`, `X-Event-Type` (`CONNECT`, `MESSAGE` or `DISCONNECT`) and
    `X-Route-Key`, and what the filters of the route add. Back ends send messages to clients by the admin API: `POST
    /connections/{id}`. Rates, idle time and origins are limited by the filter `websocket`.
    """

    upstream: Destination
    """Upstream of the requests, by name or as a URL. Its load balancing, retries, limits, health and credentials apply;
    its other filters do not run."""
    routes: Annotated[Mapping[RouteKey, MessageRoute], Meta(min_length=1, max_length=1000)]
    """Requests by route key: `$connect`, `$disconnect`, `$default`, and values of `select`. Events without a request
    are not sent; a message without one is answered with an error message."""
    select: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$")] = "action"
    """Member of a message that names its route key; `.` separates the levels of objects: `header.type`."""
    message_bytes: Annotated[Size, Meta(ge=1, le=MOST_MESSAGE)] = 128 * 1024
    """Maximum size of a message in either direction. A client that sends a longer one is closed with 1009."""
    concurrency: Annotated[int, Meta(ge=1, le=100)] = 1
    """Maximum number of messages of one connection that are processed at the same time. Above 1 they may overtake each
    other."""
    timeout: Duration = 30.0
    """Timeout for the whole response to each request."""
    connections_url: Annotated[str, Meta(pattern=r"^https?://[!-~]{1,1000}$")] | None = None
    """URL at which back ends reach the admin API of this node, sent as `X-Connections-Url`: a connection can only be
    reached by the node that holds it. null = the header is not sent."""

    def __post_init__(self) -> None:
        for key, route in self.routes.items():
            if key.startswith("$") and key not in OF_GATEWAY:
                raise ValueError(
                    f"{key} is no route key; expected $connect, $disconnect, $default, or a name without $"
                )
            if route.reply and key in (CONNECT, DISCONNECT):
                raise ValueError(f"`reply` has no effect on {key}; expected no `reply`")

    @property
    def destinations(self) -> tuple[str | Url, ...]:
        """Return the upstreams of all requests, each once."""
        return tuple(dict.fromkeys(each.upstream or self.upstream for each in self.routes.values()))
