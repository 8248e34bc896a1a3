"""websocket: limits, origins and close codes for WebSocket connections; messages are forwarded unchanged."""

from collections.abc import Iterable, Mapping
from functools import partial
from math import inf
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.value_types import Duration, Size, Trait
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import Reply, Response, problem
from fastgw.exchange.tunnel import Tunnel
from fastgw.filters.api import Env, Fault, Filter, Hooks, Outcome, Phase, RequestHook, Services, WarningContext
from fastgw.filters.authentication.request_state import RequestState, state_of
from fastgw.filters.limiting.keys import key_of, key_warnings
from fastgw.filters.policies.websocket.guard import Limits, WebsocketGuard
from fastgw.filters.policies.websocket.reauthentication import authenticate_again
from fastgw.http.websocket.frames import Deflate
from fastgw.http.websocket.handshake import WEBSOCKET, fault_in_request, fault_in_response
from fastgw.shm.node_limits import Cells

_EXTENSIONS: Final = b"sec-websocket-extensions"
_DROPPED: Final = frozenset((_EXTENSIONS,))
_DEFLATE: Final = b"permessage-deflate"
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}

Rate = Annotated[str, Meta(pattern="^[1-9][0-9]{0,8}/[smh]$", examples=["100/s"])]
Origin = Annotated[
    str,
    Meta(
        pattern=r"^([a-z][a-z0-9+.-]*://(\*\.)?[^/*\s]+|null)$",
        title="an origin without a path",
        examples=["https://app.example"],
    ),
]


class Websocket(Filter, name="websocket", phase=Phase.LIMIT_CONSUMER, order=30):  # type: ignore[literal-required]  # order: ours
    """Limit WebSocket connections, and close them with a close code. Frames are checked strictly (RFC 6455) in both
    directions; messages pass unchanged. Other requests of the route are not affected.

    The gateway closes with a close frame to both sides: 1009 message too big, 1008 too many messages or the client is
    not authenticated any more, 1013 it could not be authenticated again, 1001 idle, maximum duration, and at the
    beginning of a drain, 1002 protocol error, 1007 text that is not UTF-8, 1011 the upstream is lost or a filter has
    failed. It answers a `Sec-WebSocket-Accept` that does not belong to the key with 502.
    """

    message_bytes: Size | None = None
    """Maximum payload of one message over its frames, in either direction. A frame that declares more is refused before
    its payload. null = unlimited."""
    rate: Rate | None = None
    """Maximum rate of the client's messages and pings on each connection, such as `100/s`; up to one second's worth
    at once. null = unlimited."""
    idle: Duration | None = None
    """Close a connection on which no whole frame has passed for this long, in either direction. null = only
    `timeouts.tunnel_idle` of the upstream."""
    total: Duration | None = None
    """Maximum duration of a connection. null = unlimited."""
    per_consumer: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """Maximum number of connections of one consumer (of one client address where there is none), exactly for the node.
    Others are answered 429."""
    ping: Duration | None = None
    """Ping the client this often; a client that has not answered by the next ping is closed. Not while it is not read
    from, because the upstream accepts no more. null = never."""
    origins: tuple[Origin, ...] = ()
    """Origins that may connect, such as `https://app.example` or `https://*.example`; other values of `Origin` are
    answered 403. A request without `Origin` comes from no browser, and passes. [] = any."""
    reauthenticate: Duration | None = None
    """Authenticate and authorize the client again this often, by the filters of the route (with `variants`, of the one
    that it was sent to) and with the credentials of its first request, as it has sent them. A client that is refused is
    closed with 1008; one that cannot be checked, because a service cannot be asked or answers with a 5xx, with 1013
    (try again later). A login session (`oidc`) is checked as its cookie was; it is not refreshed. null = only at the
    beginning."""
    log_messages: Rate | None = None
    """Log a line for each message and control frame that passes, in the access logs: at most so many of each connection
    in the time, such as `20/s`, and one second's worth at once. Its `websocket` has `sender`, `kind` and `bytes`, the
    payload as it is sent. The line of the connection counts the others as `unlogged`. null = that line alone."""
    close_timeout: Duration = 5.0
    """Timeout for the other side's close frame, and for the connections to be closed."""
    extensions: Literal["strip", "pass"] = "strip"
    """Extensions that clients offer: none reach the upstream, or permessage-deflate does. Compressed messages are
    inflated to check them, within `message_bytes`."""

    def warnings(self, context: WarningContext) -> Iterable[str]:
        yield from key_warnings(context, self.per_consumer is not None and self.reauthenticate is not None, ())
        if context.positions and not context.websockets:
            yield (
                "no WebSocket connection is possible on the routes that it runs for: it needs GET, an upstream that "
                "speaks HTTP/1.1, and `upgrade` of the route with `websocket`"
            )

    @property
    def unknown_in_shadow(self) -> str:
        return "messages"

    def build(self, env: Env) -> Hooks:
        limits, instance = self.limits(), env.instance
        use = f"websocket\n{env.level}\n{env.route if env.level == 'route' else None}\n{instance}"
        read = key_of((Trait("consumer"),), 64, use.encode())
        per_consumer, strips = self.per_consumer, self.extensions == "strip"
        origins = frozenset(each.lower().encode() for each in self.origins)  # as browsers send them
        held: dict[Exchange, Cells] = {}
        begun: dict[Exchange, RequestState] = {}  # before the client is authenticated, until the tunnel starts
        services: Services | None = None

        def start(given: Services) -> None:
            nonlocal services
            services = given

        def check_handshake(exchange: Exchange) -> Reply | None:
            wrong = fault_in_request(exchange.head)
            if wrong:
                return exchange.refuse(Fault.BAD_REQUEST, wrong)
            if exchange.values(b"sec-websocket-version") != [b"13"]:
                fields = ((b"Sec-WebSocket-Version", b"13"),)
                return exchange.refuse(Fault.BAD_REQUEST, "Sec-WebSocket-Version is not 13.", fields)
            if origins and not _is_allowed(exchange.values(b"origin"), origins):
                return exchange.refuse(Fault.FORBIDDEN, "This origin may not connect.")
            return None

        def before_authentication(exchange: Exchange) -> None:
            if WEBSOCKET in exchange.head.upgrade:
                begun[exchange] = state_of(exchange)

        def request(exchange: Exchange) -> Outcome:
            if WEBSOCKET not in exchange.head.upgrade:
                return None
            refusal = check_handshake(exchange)
            if refusal is not None:
                return refusal
            if per_consumer is not None and services is not None:
                cells = services.in_flight.cells(read(exchange))
                if not services.in_flight.try_take(cells, per_consumer):
                    exchange.client.counts.count_refusal(exchange, instance)
                    return exchange.refuse(Fault.TOO_MANY_AT_ONCE, "Too many WebSocket connections.")
                held[exchange] = cells
            if exchange.field(_EXTENSIONS) is not None:
                kept = b"" if strips else b", ".join(_offers(exchange.values(_EXTENSIONS)))
                exchange.drop_everywhere(_DROPPED)
                if kept:
                    exchange.request_added += b"Sec-WebSocket-Extensions: " + kept + b"\r\n"
            return None

        def tunnel(exchange: Exchange, response: Response) -> Tunnel | Reply | None:
            head = response.head
            if services is None or head is None or WEBSOCKET not in head.upgrade:
                return None
            why, deflate = fault_in_response(exchange.head, head), _NO_DEFLATE
            if not why:
                offered = () if strips else _offers(exchange.values(_EXTENSIONS))
                agreed = _agreed(offered, head.values(_EXTENSIONS))
                if agreed is None:
                    why = "the upstream has accepted an extension that was not offered"
                else:
                    deflate = agreed
            if why:
                exchange.why = why
                return problem(Fault.UPGRADE_FAILED)
            again = partial(authenticate_again, state=begun.pop(exchange, None))
            return WebsocketGuard(instance, limits, services.worker_loop, again, deflate, services.log_message)

        def finish(exchange: Exchange) -> None:
            begun.pop(exchange, None)
            cells = held.pop(exchange, None)
            if cells is not None and services is not None:
                services.in_flight.give_back(cells)
            if isinstance(exchange.tunnel, WebsocketGuard):
                exchange.tunnel.finished()

        def explain(exchange: Exchange) -> str:
            if WEBSOCKET not in exchange.head.upgrade:
                return "the request is no WebSocket handshake"
            return f"a WebSocket of which {', '.join(self._limited()) or 'frames'} are limited"

        return Hooks(
            request=RequestHook(
                request,
                would=lambda exchange: check_handshake(exchange) if WEBSOCKET in exchange.head.upgrade else None,
                before_authentication=None if self.reauthenticate is None else before_authentication,
            ),
            tunnel=tunnel,
            finish=finish,
            start=start,
            explain=explain,
        )

    def limits(self) -> Limits:
        """Return the limits of each connection."""
        return Limits(
            self.message_bytes,
            inf if self.rate is None else _per_second(self.rate),
            inf if self.idle is None else self.idle,
            inf if self.total is None else self.total,
            inf if self.ping is None else self.ping,
            inf if self.reauthenticate is None else self.reauthenticate,
            self.close_timeout,
            0.0 if self.log_messages is None else _per_second(self.log_messages),
        )

    def _limited(self) -> list[str]:
        named = ("message_bytes", "rate", "idle", "total", "per_consumer")
        return [name for name in named if getattr(self, name) is not None]


_NO_DEFLATE: Final[tuple[Deflate | None, Deflate | None]] = (None, None)


def _per_second(rate: Rate) -> float:
    count, _, unit = rate.partition("/")
    return int(count) / _SECONDS[unit]


def _is_allowed(sent: list[bytes], origins: frozenset[bytes]) -> bool:
    if not sent:
        return True
    origin = sent[0].lower()
    if len(sent) > 1:
        return False
    if origin in origins:
        return True
    scheme, has_scheme, host = origin.partition(b"://")
    labels = host.split(b".")
    return bool(has_scheme) and any(
        scheme + b"://*." + b".".join(labels[place:]) in origins for place in range(1, len(labels))
    )


def _offers(values: list[bytes]) -> tuple[bytes, ...]:
    """Return the offers of permessage-deflate in `Sec-WebSocket-Extensions`, as sent."""
    offers = (each.strip() for value in values for each in value.split(b","))
    return tuple(each for each in offers if each.partition(b";")[0].strip().lower() == _DEFLATE)


def _agreed(offered: tuple[bytes, ...], accepted: list[bytes]) -> tuple[Deflate | None, Deflate | None] | None:
    """Return the negotiated parameters for the client's and for the upstream's messages; None: extension was not
    offered.
    """
    if not accepted:
        return _NO_DEFLATE
    if len(accepted) > 1 or b"," in accepted[0] or not offered or not _offers(accepted):
        return None
    parameters: Mapping[bytes, bytes] = {
        name.strip().lower(): value for name, _, value in (each.partition(b"=") for each in accepted[0].split(b";")[1:])
    }
    return (
        Deflate(keeps_context=b"client_no_context_takeover" not in parameters),
        Deflate(keeps_context=b"server_no_context_takeover" not in parameters),
    )
