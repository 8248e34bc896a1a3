"""mirror: send a copy of requests to another upstream, and discard its responses."""

from collections.abc import Iterable
from random import random
from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.value_types import Name, Percent, Size
from fastgw.errors import Fault
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, RequestHook, Services
from fastgw.observe.metrics.families import FilterEvent
from fastgw.upstream.client.mirror_request import Answered, send_copy

MOST_HELD: Final = 64 * 1024 * 1024
"""Maximum bytes of bodies that a worker buffers for copies of one filter; larger ones are not copied."""
_LEFT: Final = frozenset((Fault.CLIENT_LEFT, Fault.CLIENT_STALLED, Fault.REQUEST_TIMEOUT))


class Mirror(Filter, name="mirror", phase=Phase.CREDENTIALS):
    """Send a copy of requests to another upstream, such as a new version of a service, and discard its responses.

    A copy is sent after its request has been answered, with the changes of the other filters, and with the path,
    `host_header`, `forwarded` and `via` of the route: it cannot delay the request or make it fail. The copy has the
    method and credentials of the request, so its effects may happen twice; but it does not have what `credentials` and
    `request_parameters` add, which is only for the upstream of the route. On a route with `cache` it does not have what
    the cache does not send either: parameters that are not in the key, headers such as `X-HTTP-Method-Override`, and
    the body of a GET.
    Calls of gRPC-Web and Connect are copied as calls of gRPC; `grpc_transcode` translates copies for an upstream with
    `protocol: grpc`, and others get the JSON of the client.
    In shadow mode nothing is copied.
    Requests are not copied if the client has left, if the body is longer than `body_bytes`, or if they ask for a
    tunnel. Results are counted in `fastgw_filter_copies_total`.
    """

    upstream: Name
    """Name of the upstream that gets the copies."""
    share: Percent = 1.0
    """Share of requests that are mirrored, selected at random."""
    body_bytes: Annotated[Size, Meta(le=16 * 1024**2)] = 64 * 1024
    """Maximum size of a body that is copied. The body is kept in memory until the request is answered; a worker keeps
    64 MiB at most."""
    in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 100
    """Maximum number of copies in flight; beyond it no copy is made."""
    compare: bool = False
    """Whether responses are compared by status and body length, as the upstreams have sent them; differences are
    counted as `different`. Responses to calls that are translated are compared in the protocol of the client."""

    @property
    def unknown_in_shadow(self) -> str:
        return "copies of requests"

    def upstream_names(self) -> Iterable[tuple[str, str]]:
        return (("upstream", self.upstream),)

    def build(self, env: Env) -> Hooks:
        key = f"mirror\n{env.level}\n{env.route if env.level == 'route' else None}\n{env.instance}".encode()
        held: dict[Exchange, _MirroredBody] = {}
        holding = 0
        services: Services | None = None

        def start(given: Services) -> None:
            nonlocal services
            services = given

        def count(exchange: Exchange, event: FilterEvent) -> None:
            exchange.client.counts.count_filter(env.instance, event)

        def request(exchange: Exchange) -> None:
            if services is not None and (self.share == 1.0 or random() < self.share):
                held[exchange] = _MirroredBody()

        def request_body(exchange: Exchange, payload: bytes) -> None:
            nonlocal holding
            body = held.get(exchange)
            if body is not None:
                if body.length + len(payload) > self.body_bytes or holding + len(payload) > MOST_HELD:
                    holding -= held.pop(exchange).length
                    count(exchange, FilterEvent.COPY_SKIPPED)
                else:
                    body.length += len(payload)
                    holding += len(payload)
                    body.pieces.append(payload)

        def response(exchange: Exchange) -> None:
            body = held.get(exchange)
            if body is not None and exchange.response is not None:
                body.status, body.answered = exchange.response.status, 0

        def response_body(exchange: Exchange, payload: bytes) -> None:
            body = held.get(exchange)
            if body is not None:
                body.answered += len(payload)

        def finish(exchange: Exchange) -> None:
            nonlocal holding
            body = held.pop(exchange, None)
            if body is None or services is None:
                return
            holding -= body.length
            upstream = services.upstreams(self.upstream)
            cells = services.in_flight.cells(key)
            if upstream is None or not _is_whole(exchange) or not services.in_flight.try_take(cells, self.in_flight):
                count(exchange, FilterEvent.COPY_SKIPPED)
                return
            original = Answered(body.status, body.answered)
            if not body.status and exchange.response is not None:  # a fault
                original = Answered(exchange.response.status, exchange.response_bytes)

            def done(answered: Answered) -> None:
                assert services is not None
                services.in_flight.give_back(cells)
                if not answered.status:
                    count(exchange, FilterEvent.COPY_FAILED)
                elif self.compare and answered != original:
                    count(exchange, FilterEvent.COPY_DIFFERENT)
                else:
                    count(exchange, FilterEvent.COPY_SENT)

            send_copy(exchange, b"".join(body.pieces), upstream, done)

        def explain(exchange: Exchange) -> str:
            return f"mirrors {self.share:.0%} of the requests to {self.upstream}"

        return Hooks(
            request=RequestHook(request, would="copies are not sent"),
            response=response if self.compare else None,
            request_body=request_body,
            response_body=response_body if self.compare else None,
            finish=finish,
            start=start,
            explain=explain,
        )


class _MirroredBody:
    """Received part of a body, and what the upstream has answered so far."""

    __slots__ = ("answered", "length", "pieces", "status")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.length = 0
        self.status = self.answered = 0


def _is_whole(exchange: Exchange) -> bool:
    """Whether the complete request is known, and has ended properly."""
    body = exchange.request_body
    return (body is None or body.passed) and not exchange.head.upgrade and exchange.fault not in _LEFT
