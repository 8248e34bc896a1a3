"""Hooks of a filter: the steps that it has for requests, responses and their bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, final

from fastgw.exchange.body_stages import BodyFunction, BodyHook, StageFactory, check_returns_at_once
from fastgw.exchange.reply import Reply
from fastgw.exchange.request_ids import RequestIds
from fastgw.exchange.sent_fields import FieldsStep, SentFields
from fastgw.exchange.tunnel import TunnelStep
from fastgw.http.fields import folded

if TYPE_CHECKING:
    from fastgw.exchange.body_relay import Trailers
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.ready_answer import ReadyAnswer
    from fastgw.exchange.route import Route
    from fastgw.http.messages import RequestHead, ResponseHead

Outcome: TypeAlias = Reply | Awaitable[Reply | None] | None
RequestStep: TypeAlias = "Callable[[Exchange], Outcome]"
ResponseStep: TypeAlias = "Callable[[Exchange], None]"
ReplyStep: TypeAlias = "Callable[[Exchange, Reply], Reply]"
TrailerStep: TypeAlias = "Callable[[Exchange, Trailers], Iterable[tuple[bytes, bytes]]]"
RenewStep: TypeAlias = "Callable[[Exchange, ResponseHead], Awaitable[bool] | None]"
TranslateStep: TypeAlias = "Callable[[Exchange, Any], bool]"
"""The second argument is the `Forward` of the route."""
ReadyStep: TypeAlias = "Callable[[RequestHead, Any, Route], ReadyAnswer | None]"
"""The second argument is the `Peer` of the connection."""


@final
class ResponseLines:
    """Headers that a response step changes by lines, in `Response.added` and `Response.dropped`.

    `names`: those of the headers, `folded`. `reads`: whether it reads headers, too. `replaces`: whether it removes
    earlier lines of these headers from `added`.
    """

    __slots__ = ("names", "reads", "replaces")

    def __init__(self, names: Iterable[bytes], *, reads: bool = False, replaces: bool = False) -> None:
        self.names, self.reads, self.replaces = frozenset(map(folded, names)), reads, replaces


@final
class RequestHook:
    """Request step, and what is known of it before it runs.

    `step`: `(exchange) -> None | Reply | Awaitable`. `asks`: name of the service that it waits for, for people.
    `for_upstream`: its only effect are headers for the upstream, so that it need not run where a response from memory
    answers. `would`: replaces it when its decision is only reported, for one with side effects: it has none. Or, for a
    filter that only serves an effect on others, such as a copy of the request, what does not exist in shadow mode, for
    people ("copies are not sent"): none of its steps runs there. `before_authentication`: `(exchange) -> None`, before
    the first filter of the route that authenticates, for a filter of a later phase: the request is as that filter sees
    it. The finish step runs then, even if a filter in between has answered. `ids`: it assigns request ids before all
    filters, as these do, and not as a step; those of the last filter of a chain are used.
    """

    __slots__ = ("asks", "before_authentication", "for_upstream", "ids", "step", "would")

    def __init__(
        self,
        step: RequestStep,
        *,
        asks: str = "",
        for_upstream: bool = False,
        would: RequestStep | str | None = None,
        before_authentication: Callable[[Exchange], None] | None = None,
        ids: RequestIds | None = None,
    ) -> None:
        self.step, self.asks, self.for_upstream, self.would = step, asks, for_upstream, would
        self.before_authentication, self.ids = before_authentication, ids


@final
class ResponseHook:
    """Response step, and what is known of it before it runs.

    `step`: `(exchange) -> None`, when the head of the response (of the upstream or the gateway) is known. `lines`: the
    headers that it changes, if it does nothing else, for responses of upstreams or in `Chain.line_steps`. `fields`: the
    `SentFields` that are its only effect, for each response the same, or a function of the request, `(head, peer) ->
    SentFields | None`, that returns one of a few, or None: the step has to run. They stand for it in responses from
    memory, and need `lines`.
    """

    __slots__ = ("fields", "lines", "step")

    def __init__(
        self,
        step: ResponseStep,
        *,
        lines: ResponseLines | None = None,
        fields: SentFields | FieldsStep | None = None,
    ) -> None:
        if fields is not None and lines is None:
            raise ValueError("fields stand for a response step that changes lines; expected lines, too")
        self.step, self.lines, self.fields = step, lines, fields


@final
class BodyHead:
    """Hook for a request's body whose step decides by the beginning of it. `most`: bytes that it needs; a shorter body
    is complete.

    It runs once all request steps have let the request pass, and the beginning was received, which is
    `exchange.request_body.head(most)`; not for sub-requests. `applies`: whether it has to see the body of a request,
    for which the exchange then waits. `skips_calls`: it does not see the bodies of gRPC calls, whose clients may wait
    for the first response.
    """

    __slots__ = ("_applies", "most", "skips_calls", "step")

    def __init__(
        self, step: RequestStep, most: int, applies: Callable[[Exchange], bool], skips_calls: bool = False
    ) -> None:
        self.step, self.most, self._applies, self.skips_calls = step, most, applies, skips_calls

    def applies(self, exchange: Exchange) -> bool:
        return not (self.skips_calls and exchange.is_call) and self._applies(exchange)


@final
class TranslateHook:
    """Step that answers exchanges in place of the upstream, with calls of its own.

    `step`: `(exchange, forward) -> bool`, once all request steps and body hooks have let the request pass, for a route
    with an upstream. True: the filter has taken the exchange over and answers it, with an
    `upstream.client.call` by `forward`. False: the next one of the chain is asked, and the exchange is
    forwarded as usual if none has taken it. `of_copies`: the same for copies of the request for another upstream
    (`mirror`), which run no other hook: to translate them as well, or to change them as what is sent. `signs`: it runs
    after all others, and for each call of a filter that has taken the exchange over: its request is final, but for the
    gateway's forwarding headers; True: the filter has answered the exchange. `ready`: `(head, peer, route) -> None |
    ReadyAnswer`, for a plain GET on a route whose other filters have only steps that need not run for a response from
    memory: the whole response. None: the request is processed as usual.
    """

    __slots__ = ("of_copies", "ready", "signs", "step")

    def __init__(
        self,
        step: TranslateStep,
        *,
        of_copies: TranslateStep | None = None,
        signs: bool = False,
        ready: ReadyStep | None = None,
    ) -> None:
        self.step, self.of_copies, self.signs, self.ready = step, of_copies, signs, ready


class Hooks:
    """Hooks of one filter on one route. A hook that is left out costs nothing. A function stands for a hook of which
    no more is known.

    request: before the request is forwarded (`RequestHook`). response: when the head of the response is known
    (`ResponseHook`).
    request_body, response_body: for the bodies (`BodyHook`): `(exchange, payload) -> None | bytes | Reply`, for each
    piece. A `StageFactory` makes a `BodyStage` for each exchange, which may hold back data. The hooks of the response
    are called in reverse order, also for responses of the gateway, except for faults. Or, for requests, a `BodyHead`.
    trailers: `(exchange, trailers) -> trailers`, for the trailers of the response, pairs of name and value; the list
    may be empty.
    reply: `(exchange, reply) -> Reply`, for each response of the gateway itself on a route of the filter, before the
    response steps: returns this reply or another one. The log keeps the fault of the first reply, unless the other one
    has its own.
    renew: `(exchange, head) -> None | Awaitable`, for the head of a 401 or 403 of the upstream, or of a gRPC call
    that has ended with UNAUTHENTICATED or PERMISSION_DENIED, once per exchange. None: this filter has no
    credentials to renew. An awaitable: the response is held back until it has decided. True: the filter has changed
    the credentials in `request_added` or `request_dropped`; the request is sent once more, whatever its method, and
    the client gets the second response. False, an exception or a timeout: the client gets the first response. It
    also gets the first one if the request cannot be sent again (`exchange.may_be_sent_again`), or if its response
    has begun, as that of a call whose status comes after messages; then nothing is awaited. The filters are called
    from the upstream outwards, and the first awaitable is used.
    translate: in place of the upstream (`TranslateHook`). tunnel: `(exchange, response) -> None | Tunnel | Reply`, when
    the upstream has switched to another protocol: inspects the data of the tunnel (`exchange.tunnel`), or answers
    with a Reply instead of the 101. The innermost Tunnel of a chain is used.
    preflight: `(exchange) -> None | Reply`, instead of all request steps, for a CORS preflight for requests of this
    route; the last one of a chain is used. None: the upstream answers the preflight, and only filters without
    authentication and authorization run.
    finish: `(exchange) -> None`, when the exchange has ended. start: `(services) -> None`, in the event loop of each
    worker before the first request; stop: `() -> None`, when no more requests come. explain: `(exchange) -> str`, for
    people: why the request step has let the request pass; never a secret.
    """

    __slots__ = ("explain", "finish", "preflight", "renew", "reply", "request", "request_body", "response",
                 "response_body", "start", "stop", "trailers", "translate", "tunnel")  # fmt: skip

    def __init__(
        self,
        *,
        request: RequestHook | RequestStep | None = None,
        response: ResponseHook | ResponseStep | None = None,
        request_body: BodyHook | BodyFunction | StageFactory | BodyHead | None = None,
        response_body: BodyHook | BodyFunction | StageFactory | None = None,
        trailers: TrailerStep | None = None,
        reply: ReplyStep | None = None,
        renew: RenewStep | None = None,
        translate: TranslateHook | None = None,
        tunnel: TunnelStep | None = None,
        preflight: RequestStep | None = None,
        finish: Callable[[Exchange], None] | None = None,
        start: Callable[[Any], None] | None = None,
        stop: Callable[[], None] | None = None,
        explain: Callable[[Exchange], str] | None = None,
    ) -> None:
        self.request = request if request is None or isinstance(request, RequestHook) else RequestHook(request)
        self.response = response if response is None or isinstance(response, ResponseHook) else ResponseHook(response)
        self.request_body = request_body if isinstance(request_body, BodyHead) else _body_hook(request_body)
        self.response_body = _body_hook(response_body)
        if trailers is not None:
            check_returns_at_once("trailers", trailers)
        self.trailers, self.reply, self.renew = trailers, reply, renew
        self.translate, self.tunnel, self.preflight = translate, tunnel, preflight
        self.finish, self.start, self.stop, self.explain = finish, start, stop, explain


def _body_hook(hook: BodyHook | BodyFunction | StageFactory | None) -> BodyHook | None:
    return hook if hook is None or isinstance(hook, BodyHook) else BodyHook(hook)
