"""Hooks of a filter: the steps that it has for requests, responses and their bodies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from fastgw.exchange.body_stages import BodyFunction, Bounded, StageFactory
from fastgw.exchange.reply import Reply
from fastgw.exchange.request_ids import RequestIds
from fastgw.exchange.sent_fields import FieldsStep, SentFields
from fastgw.exchange.tunnel import TunnelStep
from fastgw.http.fields import folded

if TYPE_CHECKING:
    from fastgw.exchange.body_relay import Trailers
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.ready_answer import ReadyAnswer, ReadyRefusal
    from fastgw.exchange.route import Route
    from fastgw.http.http1.parser import Http1RequestHead
    from fastgw.http.messages import RequestHead, ResponseHead

Outcome: TypeAlias = Reply | Awaitable[Reply | None] | None
RequestStep: TypeAlias = "Callable[[Exchange], Outcome]"
LooksAt: TypeAlias = "Callable[[ResponseHead], bool]"
PassTest: TypeAlias = Callable[["RequestHead"], bool]
ReplyStep: TypeAlias = "Callable[[Exchange, Reply], Reply]"
TrailerStep: TypeAlias = "Callable[[Exchange, Trailers], Iterable[tuple[bytes, bytes]]]"
RenewStep: TypeAlias = "Callable[[Exchange, ResponseHead], Awaitable[bool] | None]"
TranslateStep: TypeAlias = "Callable[[Exchange, Any], bool]"
"""The second argument is the `Forward` of the route."""
RefuseStep: TypeAlias = Callable[["RequestHead"], "ReadyRefusal | None"]
ReadyStep: TypeAlias = "Callable[[Http1RequestHead, Any, Route], ReadyAnswer | None]"
"""The second argument is the `Peer` of the connection."""
_IS_LOWER_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+").fullmatch


@final
class Looks:
    """A `looks_at` by status and headers. The filters of a chain are combined into one test.

    `statuses`: statuses of responses that have to be processed; `names`, in lower case: headers of such responses.
    """

    # PERF: 0.5 us for the three filters of an egress call, 0.65 one after the other (CPython 3.11, micro/egress).
    __slots__ = ("_names", "names", "statuses")

    def __init__(self, statuses: Iterable[int] = (), names: Iterable[bytes] = ()) -> None:
        self.statuses, self.names = frozenset(statuses), frozenset(names)
        self._names = tuple(sorted(self.names))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Looks) and (self.statuses, self.names) == (other.statuses, other.names)

    def __hash__(self) -> int:
        return hash((self.statuses, self.names))

    def __call__(self, head: ResponseHead) -> bool:
        for name in self._names:
            if head.first(name) is not None:
                return True
        return head.status in self.statuses


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
class BodyHead:
    """Step that decides by the beginning of a request's body. `most`: bytes that it needs; a shorter body is complete.

    `applies`: whether it has to see the body of a request, for which the exchange then waits. Called once all request
    steps have passed. `lets_pass`: as in `Hooks`, in place of both. `skips_calls`: it does not see the bodies of gRPC
    calls, whose clients may wait for the first response.
    """

    __slots__ = ("_applies", "lets_pass", "most", "skips_calls", "step")

    def __init__(
        self,
        step: RequestStep,
        most: int,
        applies: Callable[[Exchange], bool],
        lets_pass: PassTest | None = None,
        skips_calls: bool = False,
    ) -> None:
        self.step, self.most, self._applies, self.lets_pass = step, most, applies, lets_pass
        self.skips_calls = skips_calls

    def applies(self, exchange: Exchange) -> bool:
        return not (self.skips_calls and exchange.is_call) and self._applies(exchange)


class Hooks:
    """Hooks of one filter on one route. A hook that is left out costs nothing.

    request: `(exchange) -> None | Reply | Awaitable`, before the request is forwarded. request_headers: lower-case
    names of headers; the request step has to run only for requests with one of them, and may run for others. None: for
    all. lets_pass: `(head) -> bool`, for a request that was received as a whole (`head.payload` is its body): whether
    the request step and the hook for its body would let it pass as it is, without any effect; then they do not run.
    False: they run, and decide. refuse: `(head) -> None | ReadyRefusal`, called if `lets_pass` has just returned False:
    the refusal, if it is certain that they would answer with just this problem, without any other effect; it is sent in
    their place if no other filter has to see it. sent_fields: the `SentFields` for a request step whose only effect
    they are, the same for all requests; it need not run for them. response: `(exchange) -> None`, when the head of the
    response (of the upstream or the gateway) is known. response_fields: the `SentFields` for a response step
    whose only effect on responses they are, the same for all; it need not run for them. Or a function of the
    request, `(head, peer) -> SentFields | None`, that returns one of a few; None: the response step has to run. They
    need `response_lines`.
    response_lines: the `ResponseLines` of a response step that changes only `added` and `dropped` of responses of
    upstreams, or does so in `Chain.line_steps`. looks_at: `(head) -> bool`, whether the response step and
    the response body hook have to run for a response of the upstream; if no filter needs it, none of them runs. They
    may run nevertheless, as for a response that arrives in pieces.
    request_body, response_body: `(exchange, payload) -> None | bytes | Reply`, for each piece of a body. None: it does
    not change. bytes: they replace the piece, if `changes_body` is set; a body that may change is sent without its
    length, digest and strong ETag, and ranges of it are not requested. A Reply, for requests only: answer with it. A
    `StageFactory` instead of the function makes a `BodyStage` for each exchange, which may hold back data. The hooks of
    the response are called in reverse order, also for responses of the gateway, except for faults. needs_body:
    `Bounded("1MiB")`: both functions get the whole body in one piece, and may change it; the exchange waits for it. A
    longer request body is answered 413, a longer response body 502, and one for which the node's memory for held bodies
    is used up 503.
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
    finish: `(exchange) -> None`, when the exchange has ended. start: `(services) -> None`, in the event loop of each
    worker before the first request; stop: `() -> None`, when no more requests come. explain: `(exchange) -> str`, for
    people: why the request step has let the request pass; never a secret. preflight: `(exchange) -> None | Reply`,
    instead of all request steps, for a CORS preflight for requests of this route; the last one of a chain is used.
    None: the upstream answers the preflight, and only filters without authentication and authorization run. asks: name
    of the service that a waiting request step asks, for people. would: replaces the request step when its decision is
    only reported, for a step with side effects: it has none. request_ids: assigns request ids, instead of a request
    step, before all filters; the last one of a chain is used. tunnel: `(exchange, response) -> None | Tunnel | Reply`,
    when the upstream has switched to another protocol: inspects the data of the tunnel (`exchange.tunnel`), or answers
    with a Reply instead of the 101. The innermost Tunnel of a chain is used.
    translate: `(exchange, forward) -> bool`, once all request steps and body hooks have let the request pass, for a
    route with an upstream. True: the filter has taken the exchange over and answers it, with a
    `upstream.client.translated_call` by `forward`. False: the next one of the chain is asked, and the exchange is
    forwarded as usual if none has taken it. translate_copy: the same for copies of the request for another upstream
    (`mirror`), which run no other hook: to translate them as well, or to change them as what is sent. sign: `(exchange,
    forward) -> bool`, after all translate steps, and for each call of a filter that has taken the exchange over: its
    request is final, but for the gateway's forwarding headers. True: the filter has answered the exchange.
    ready_answer: `(head, peer, route) -> None | ReadyAnswer`, for a plain GET on a route where all steps of other
    filters have `sent_fields` or `response_fields`: a whole response from memory, in place of all other steps, with
    those `response_fields`. None: the request is processed as usual.
    body_head: a `BodyHead`, whose step runs once all request steps have let a request with a body pass and the
    beginning of the body was received, which is `exchange.request_body.head(most)`. The body stays as it is. Not called
    for sub-requests. before_authentication: `(exchange) -> None`, before the first filter of the route that
    authenticates, for a filter of a later phase: the request is as that filter sees it. The finish step runs then, even
    if a filter in between has answered. effect: for a filter whose steps only serve an effect on others, such as a copy
    of the request: the part of it that does not exist in shadow mode, for people ("copies are not sent"). In shadow
    mode none of its steps runs.
    """

    __slots__ = (
        "asks",
        "before_authentication",
        "body_head",
        "changes_body",
        "effect",
        "explain",
        "finish",
        "lets_pass",
        "looks_at",
        "needs_body",
        "preflight",
        "ready_answer",
        "refuse",
        "renew",
        "reply",
        "request",
        "request_body",
        "request_headers",
        "request_ids",
        "response",
        "response_body",
        "response_fields",
        "response_lines",
        "sent_fields",
        "sign",
        "start",
        "stop",
        "trailers",
        "translate",
        "translate_copy",
        "tunnel",
        "would",
    )

    def __init__(
        self,
        *,
        request: RequestStep | None = None,
        response: Callable[[Exchange], None] | None = None,
        looks_at: LooksAt | None = None,
        request_body: BodyFunction | StageFactory | None = None,
        response_body: BodyFunction | StageFactory | None = None,
        trailers: TrailerStep | None = None,
        needs_body: Bounded | None = None,
        changes_body: bool = False,
        reply: ReplyStep | None = None,
        renew: RenewStep | None = None,
        finish: Callable[[Exchange], None] | None = None,
        start: Callable[[Any], None] | None = None,
        stop: Callable[[], None] | None = None,
        explain: Callable[[Exchange], str] | None = None,
        preflight: RequestStep | None = None,
        asks: str = "",
        would: RequestStep | None = None,
        request_ids: RequestIds | None = None,
        tunnel: TunnelStep | None = None,
        translate: TranslateStep | None = None,
        translate_copy: TranslateStep | None = None,
        sign: TranslateStep | None = None,
        ready_answer: ReadyStep | None = None,
        body_head: BodyHead | None = None,
        request_headers: frozenset[bytes] | None = None,
        lets_pass: PassTest | None = None,
        sent_fields: SentFields | None = None,
        refuse: RefuseStep | None = None,
        response_fields: SentFields | FieldsStep | None = None,
        response_lines: ResponseLines | None = None,
        before_authentication: Callable[[Exchange], None] | None = None,
        effect: str = "",
    ) -> None:
        self.request, self.response, self.request_body, self.finish = request, response, request_body, finish
        self.response_body, self.trailers = response_body, trailers
        self.needs_body, self.changes_body = needs_body, changes_body
        if needs_body is not None and not isinstance(needs_body, Bounded):
            raise ValueError(f'needs_body is {needs_body!r}; expected a bound such as Bounded("1MiB")')
        for name, hook in (("request_body", request_body), ("response_body", response_body), ("trailers", trailers)):
            if hook is not None and iscoroutinefunction(hook):
                raise ValueError(f"{name} is a coroutine function; expected one that returns at once")
        if (needs_body is not None or changes_body) and request_body is None and response_body is None:
            raise ValueError("needs_body and changes_body are for body hooks; expected request_body or response_body")
        if request_headers is not None:
            is_usable = all(isinstance(name, bytes) and _IS_LOWER_NAME(name) for name in request_headers)
            if not request_headers or not is_usable:  # the request step would never run
                told = f"request_headers is {set(request_headers)!r}"
                raise ValueError(f'{told}; expected lower-case names such as frozenset((b"if-range",))')
        if response_fields is not None and (response is None or response_lines is None):
            raise ValueError("response_fields stand for a response step; expected response and response_lines, too")
        self.reply, self.renew, self.looks_at = reply, renew, looks_at
        self.start, self.stop, self.explain, self.preflight = start, stop, explain, preflight
        self.asks = asks
        self.would = would
        self.request_ids = request_ids
        self.tunnel = tunnel
        self.translate, self.sign = translate, sign
        self.translate_copy = translate_copy
        self.ready_answer = ready_answer
        self.body_head = body_head
        self.request_headers = request_headers
        self.lets_pass = lets_pass
        self.sent_fields = sent_fields
        self.refuse = refuse
        self.response_fields = response_fields
        self.response_lines = response_lines
        self.before_authentication = before_authentication
        self.effect = effect
