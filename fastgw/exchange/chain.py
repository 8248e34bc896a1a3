"""The filters of a route in running order, and how their request steps are run."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from inspect import CORO_CREATED, getcoroutinestate, isawaitable, iscoroutine, iscoroutinefunction
from itertools import count
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, cast, final

from fastgw.compiled import twin
from fastgw.errors import Fault
from fastgw.exchange.body_stages import (
    BodyFunction,
    BodyHook,
    BodyRefused,
    BodyStage,
    BodyStages,
    BodyTooLong,
    Bounded,
    ChangeWhole,
    NoRoomForBody,
    RemovedCodings,
    StageFactory,
    WholeBodyStage,
)
from fastgw.exchange.reply import NO_NAMES, Reply, problem
from fastgw.exchange.request_ids import RequestIds
from fastgw.exchange.states import ENDED
from fastgw.exchange.tunnel import TunnelStep
from fastgw.http.fields import folded, without_fields
from fastgw.http.grpc.status import GrpcStatus, parse_status
from fastgw.observe.metrics.families import FilterEvent
from fastgw.observe.tracing.trace import MOST_TIMELINE, EndedWait
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.held_body_budget import WHY_NOT_HELD

if TYPE_CHECKING:
    from fastgw.config.settings.gateway import FilterUse
    from fastgw.exchange.body_relay import Trailers
    from fastgw.exchange.error_pages import ErrorPages
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.fast_fetch import FetchStep
    from fastgw.exchange.ready_answer import ReadyAnswer, ReadyRefusal
    from fastgw.http.messages import RequestHead, ResponseHead

log = logging.getLogger("fastgw")

LOG_EVERY_S: Final = 1.0
LONG_WAIT_S: Final = 0.001
"""Seconds from which a wait for a filter is part of the story of a request."""
MOST_JOINED: Final = 1024
"""Maximum number of joined changes that a process keeps: one for each origin, for example."""
RENEWED_ON: Final = frozenset((401, 403))
"""Response status codes of the upstream that reject credentials."""
_RENEWED_ON_GRPC: Final = frozenset((GrpcStatus.UNAUTHENTICATED, GrpcStatus.PERMISSION_DENIED))
"""Statuses of gRPC calls that reject credentials."""

Outcome: TypeAlias = Reply | Awaitable[Reply | None] | None
RequestStep: TypeAlias = "Callable[[Exchange], Outcome]"
LooksAt: TypeAlias = "Callable[[ResponseHead], bool]"
PassTest: TypeAlias = Callable[["RequestHead"], bool]
ReplyStep: TypeAlias = "Callable[[Exchange, Reply], Reply]"
ValueStep: TypeAlias = "Callable[[Exchange], bytes | None]"
TrailerStep: TypeAlias = "Callable[[Exchange, Trailers], Iterable[tuple[bytes, bytes]]]"
RenewStep: TypeAlias = "Callable[[Exchange, ResponseHead], Awaitable[bool] | None]"
TranslateStep: TypeAlias = "Callable[[Exchange, Any], bool]"
"""The second argument is the `Forward` of the route."""
RefuseStep: TypeAlias = Callable[["RequestHead"], "ReadyRefusal | None"]
ReadyStep: TypeAlias = "Callable[[RequestHead, Any, Route], ReadyAnswer | None]"
"""The second argument is the `Peer` of the connection."""
_IS_LOWER_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_NUMBERS: Final = count()
_NO_MAPS: Final[Mapping[str, Any]] = MappingProxyType({})


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


_RENEWS: Final = Looks(RENEWED_ON)


@lru_cache(256)
def _union(looks: frozenset[Looks]) -> Looks:
    """Combine them into one. Cached, because thousands of routes have the same ones."""
    return Looks(
        frozenset().union(*(each.statuses for each in looks)), frozenset().union(*(each.names for each in looks))
    )


@final
class SentFields(NamedTuple):
    """Changes to the headers of messages: lower-case names of headers that are not sent, together with their twins
    (`Fields`), and lines that are added.
    """

    dropped: frozenset[bytes]
    added: bytes

    def then(self, later: SentFields) -> SentFields:
        """Return these changes and later ones as one: a header that is added here may be dropped there."""
        if self == NO_SENT_FIELDS:
            return later  # the same object, whose names are recognized
        added = without_fields(self.added, frozenset(map(folded, later.dropped))) if self.added else b""
        return SentFields(self.dropped | later.dropped, added + later.added)


NO_SENT_FIELDS: Final = SentFields(NO_NAMES, b"")

FieldsStep: TypeAlias = "Callable[[RequestHead, Any], SentFields | None]"
"""The second argument is the `Peer` of the connection."""


@final
class JoinedFields:
    """Changes that several filters make to the headers of a response, of which some depend on the request, as one
    `FieldsStep`. Equal ones are shared by thousands of routes.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[SentFields | FieldsStep, ...]) -> None:
        """`parts`: in the order in which the changes are made."""
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedFields) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __call__(self, head: RequestHead, peer: Any) -> SentFields | None:
        found, parts = [], self.parts
        try:
            for part in parts:
                fields = part if type(part) is SentFields else part(head, peer)
                if fields is None:
                    return None
                found.append(fields)
            return join_found(tuple(found))
        except Exception:  # the edge of a filter: its response step runs
            return None


@lru_cache(MOST_JOINED)
def join_found(found: tuple[SentFields, ...]) -> SentFields:
    """Return changes of several filters as one. Raises `TypeError` for what a filter should not return."""
    for fields in found:
        if (type(fields), type(fields.dropped), type(fields.added)) != (SentFields, frozenset, bytes):
            raise TypeError(f"{fields!r} are no SentFields of a frozenset and bytes")
    return reduce(SentFields.then, found)


def join_fields(parts: tuple[SentFields | FieldsStep, ...]) -> SentFields | JoinedFields:
    """Return changes to the headers of a response, in this order, as one."""
    if any(type(part) is not SentFields for part in parts):
        return JoinedFields(parts)
    return reduce(SentFields.then, cast("tuple[SentFields, ...]", parts), NO_SENT_FIELDS)


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
    steps have passed. `lets_pass`: as in `Hooks`, in place of both.
    """

    __slots__ = ("applies", "lets_pass", "most", "step")

    def __init__(
        self,
        step: RequestStep,
        most: int,
        applies: Callable[[Exchange], bool],
        lets_pass: PassTest | None = None,
    ) -> None:
        self.step, self.most, self.applies, self.lets_pass = step, most, applies, lets_pass


class Hooks:
    """Hooks of one filter on one route. A hook that is left out costs nothing.

    request: `(exchange) -> None | Reply | Awaitable`, before the request is forwarded. request_headers: lower-case
    names of headers; the request step has to run only for requests with one of them, and may run for others. None: for
    all. lets_pass: `(head) -> bool`, for a request that was received as a whole (`head.payload` is its body): whether
    the request step and the hook for its body would let it pass as it is, without any effect; then they do not run.
    False: they run, and decide. refuse: `(head) -> None | ReadyRefusal`, called if `lets_pass` has just returned False:
    the refusal, if it is certain that they would answer with just this problem, without any other effect; the fast path
    sends it if no other filter has to see it. sent_fields: the `SentFields` for a request step whose only effect they
    are, the same for all requests; the fast path sends them without it. response: `(exchange) -> None`, when the head
    of the response (of the upstream or the gateway) is known. response_fields: the `SentFields` for a response step
    whose only effect on responses they are, the same for all; the fast path sends them without it. Or a function of the
    request, `(head, peer) -> SentFields | None`, that returns one of a few; None: the response step has to run. They
    need `response_lines`.
    response_lines: the `ResponseLines` of a response step that changes only `added` and `dropped` of responses of
    upstreams, or does so in `Chain.line_steps`. looks_at: `(head) -> bool`, whether the response step and
    the response body hook have to run for a response of the upstream; if no filter needs it, most requests take the
    fast path. They may run nevertheless.
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
    those `response_fields`. None: the request is processed as usual. fetch: of the same filter: `(request, forward) ->
    None | FastFetch`, in place of `translate`, for such a request without a ready answer, if it can take the fast path.
    full_path: the request step replaces a side of the exchange, so that no request of the route takes the fast path.
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
        "fetch",
        "finish",
        "full_path",
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
        fetch: FetchStep | None = None,
        full_path: bool = False,
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
        self.fetch = fetch
        self.full_path = full_path
        self.body_head = body_head
        self.request_headers = request_headers
        self.lets_pass = lets_pass
        self.sent_fields = sent_fields
        self.refuse = refuse
        self.response_fields = response_fields
        self.response_lines = response_lines
        self.before_authentication = before_authentication
        self.effect = effect


@final
class FilterInstance:
    """Filter instance at its position in a chain. `always`: its response step runs for every response (OBSERVE, ADMIT).

    `level`: level at which it is configured. Its state is kept over reloads while its configuration at this level and
    the files that it has read (`reads`: files and their digests) do not change. `keeps`: objects that it shares with
    others. `own`: the filter's own hooks, if `hooks` are those of its shadow mode. `early`: it runs before a route is
    found.
    """

    __slots__ = ("always", "early", "hooks", "keeps", "level", "own", "reads", "started", "use")

    def __init__(
        self,
        use: FilterUse,
        hooks: Hooks,
        always: bool,
        level: str,
        reads: Mapping[str, bytes] = MappingProxyType({}),
        keeps: Iterable[object] = (),
        own: Hooks | None = None,
        early: bool = False,
    ) -> None:
        self.use, self.hooks, self.always, self.level, self.early = use, hooks, always, level, early
        self.own = own or hooks
        self.reads, self.keeps = reads, tuple(keeps)
        self.started = False

    @property
    def is_live(self) -> bool:
        """Whether it holds resources in a worker's event loop."""
        return self.hooks.start is not None or self.hooks.stop is not None


@final
class Chain:
    """Filters of a route (before a route is found: of a listener) in running order, with hooks sorted by kind."""

    __slots__ = (
        "allows_fetch",
        "body_heads",
        "drops_ranges",
        "error_pages",
        "fetch_plan",
        "finish_steps",
        "line_steps",
        "links",
        "logged_at",
        "maps",
        "number",
        "of_calls",
        "of_copies",
        "pass_tests",
        "preflight",
        "ready_answer",
        "removed_codings",
        "renew_steps",
        "reply_steps",
        "request_body_hooks",
        "request_ids",
        "request_steps",
        "response_body_hooks",
        "response_fields",
        "response_steps",
        "sent_settings",
        "sign_steps",
        "trailer_steps",
        "translate_steps",
        "treats_bodies",
        "treats_responses",
        "tunnel_steps",
        "variant",
        "whole_check",
        "whole_hook",
    )

    def __init__(
        self,
        links: Iterable[FilterInstance],
        error_pages: ErrorPages | None = None,
        maps: Mapping[str, ValueStep] = _NO_MAPS,
    ) -> None:
        self.links = tuple(links)
        self.maps = maps  # results of the gateway's maps, by name, for values in this chain
        # Of a part of a traffic split: its label, and its number among parts of this label. A reload keeps both.
        self.variant: tuple[str, int] | None = None
        # By what its requests differ from others of the route with the same upstream and path, for keys of caches: the
        # name of a listener with filters of its own, and settings of a part. Unlike `variant`, they name the same
        # requests when the order of the parts changes. b"": nothing.
        self.sent_settings = b""
        # Chains of requests of the gateway's own for exchanges of this one (`upstream.client.derived_exchange`), made
        # when the first one is sent; None: none was.
        self.of_calls: Chain | None = None
        self.of_copies: Chain | None = None
        self.number = next(_NUMBERS)  # another one for each chain: filters may be kept over a reload, a route is not
        self.error_pages = error_pages  # for the gateway's own faults; None: they are answered with problem documents
        self.logged_at: dict[object, float] | None = None  # monotonic time of the last log line, by step
        hooks = [link.hooks for link in self.links]
        self.request_steps = request_steps_of(self.links)
        # Tests in place of all request steps, for a request that was received as a whole; None: they have to run.
        self.pass_tests = pass_tests(h.lets_pass for h in hooks if h.request is not None)
        self.request_body_hooks = tuple(
            BodyHook(h.request_body, h.needs_body, h.changes_body) for h in hooks if h.request_body is not None
        )
        self.removed_codings = self._removed_codings()
        self.response_body_hooks = tuple(
            (link, BodyHook(link.hooks.response_body, link.hooks.needs_body, link.hooks.changes_body))
            for link in reversed(self.links)
            if link.hooks.response_body is not None
        )
        self.drops_ranges = any(
            hook.spoils_ranges for _, hook in self.response_body_hooks
        )  # of requests: see `BodyHook.spoils_ranges`
        self.trailer_steps = tuple(h.trailers for h in reversed(hooks) if h.trailers is not None)
        self.treats_responses = bool(self.response_body_hooks or self.trailer_steps)
        self.body_heads = tuple(h.body_head for h in hooks if h.body_head is not None)
        self.treats_bodies = self.treats_responses or bool(self.request_body_hooks or self.body_heads)
        # Response steps run in reverse order.
        self.response_steps = tuple(h.response for h in reversed(hooks) if h.response is not None)
        # Those of them that may change headers by lines: no later step and no body hook reads or replaces them.
        self.line_steps = frozenset() if self.treats_responses else _line_steps(hooks)
        self.reply_steps = tuple(h.reply for h in reversed(hooks) if h.reply is not None)
        self.tunnel_steps = tuple(h.tunnel for h in reversed(hooks) if h.tunnel is not None)
        self.renew_steps = tuple(h.renew for h in reversed(hooks) if h.renew is not None)
        self.finish_steps = tuple(h.finish for h in reversed(hooks) if h.finish is not None)
        self.preflight = next((h.preflight for h in reversed(hooks) if h.preflight is not None), None)
        self.request_ids = next((h.request_ids for h in reversed(hooks) if h.request_ids is not None), None)
        self.sign_steps = tuple(h.sign for h in hooks if h.sign is not None)
        self.translate_steps = (*(h.translate for h in hooks if h.translate is not None), *self.sign_steps)
        self.whole_hook = self._whole_hook()
        self.whole_check = self._whole_check()
        # Headers of responses that the filters change where their steps do not run.
        sent = (h.response_fields for h in reversed(hooks) if self._sends_fields_of(h))
        self.response_fields = join_fields(tuple(fields for fields in sent if fields is not None))
        self.ready_answer = self._ready_answer(hooks)
        self.fetch_plan: Any = None  # `FastPathPlan` for requests without a ready answer; None: there is none
        self.allows_fetch = False  # whether a filter may fetch a response to an exchange on the fast path

    def with_links(self, links: Iterable[FilterInstance]) -> Chain:
        """Return a chain of other filters at the same position."""
        chain = Chain(links, self.error_pages, self.maps)
        chain.variant, chain.sent_settings = self.variant, self.sent_settings
        return chain

    def _removed_codings(self) -> RemovedCodings | None:
        """Return the function for the content codings that a filter removes from the body of a request. None: none
        does.
        """
        steps = (hook.step for hook in self.request_body_hooks)
        return next((step.codings for step in steps if isinstance(step, StageFactory) and step.codings), None)

    def _whole_hook(self) -> BodyHook | None:
        """Return the hook that changes complete response bodies at once (`StageFactory.change_whole`). None: there is
        none, or other filters take part.
        """
        if len(self.response_body_hooks) != 1 or self.trailer_steps:
            return None
        hook = self.response_body_hooks[0][1]
        is_able = isinstance(hook.step, StageFactory) and hook.step.change_whole is not None and hook.bound is None
        return hook if is_able else None

    def _whole_check(self) -> BodyHook | None:
        """Return the hook that checks complete request bodies at once (`StageFactory.check_whole`). None: there is
        none, or other filters take part.
        """
        if len(self.request_body_hooks) != 1:
            return None
        step = self.request_body_hooks[0].step
        return self.request_body_hooks[0] if isinstance(step, StageFactory) and step.check_whole is not None else None

    def lets_pass(self, head: RequestHead) -> bool:
        """Whether a request passes without the request steps: there are none, or it was received as a whole, and the
        tests in place of all of them let it pass.
        """
        tests = self.pass_tests
        return tests is not None and (not tests or (head.ordinary and all_let_pass(tests, head)))

    def _sends_fields_of(self, hooks: Hooks) -> bool:
        """Whether the `response_fields` of a filter are sent without its response step: no later step sees them."""
        return hooks.response_fields is not None and hooks.response in self.line_steps

    @property
    def change_whole(self) -> ChangeWhole | None:
        """Function that changes complete response bodies on the fast path. None: there is none, or other filters have
        to see the response.
        """
        hook = self.whole_hook
        if hook is None or self.response_steps or self.renew_steps:
            return None
        assert isinstance(hook.step, StageFactory)
        return hook.step.change_whole

    @property
    def is_bare(self) -> bool:
        """Whether no filter sees requests or responses: the action alone decides about the answer, which gets the
        `response_fields`.
        """
        seen = self.request_steps or self.reply_steps or self.finish_steps or self.treats_bodies or self.translate_steps
        hooks = [link.hooks for link in self.links if link.hooks.response is not None]
        return not seen and all(map(self._sends_fields_of, hooks))

    @property
    def fetch_step(self) -> FetchStep | None:
        """Step that fetches a response on the fast path; None: the requests have to take the full path."""
        if self.ready_answer is None or self.request_steps:
            return None
        return next((link.hooks.fetch for link in self.links if link.hooks.fetch is not None), None)

    def _ready_answer(self, hooks: Iterable[Hooks]) -> ReadyStep | None:
        """Return the step that answers from memory, if no other filter has to see the request or the response."""
        ready = [h for h in hooks if h.ready_answer is not None]
        if len(ready) != 1 or self.treats_bodies or self.finish_steps:
            return None
        others = [h for h in hooks if h is not ready[0]]
        is_alone = all(
            (h.request is None or h.sent_fields is not None)
            and (h.response is None or self._sends_fields_of(h))
            and h.translate is None
            and h.sign is None
            for h in others
        )
        return ready[0].ready_answer if is_alone and ready[0].request is None else None

    @property
    def meets_answers(self) -> bool:
        """Whether a filter has to see every response, or the end of every exchange."""
        if self.finish_steps:
            return True
        hooks = (link.hooks for link in self.links if link.hooks.response is not None)
        return not all(each.looks_at is not None or self._sends_fields_of(each) for each in hooks)

    def response_fields_for(self, head: RequestHead, peer: Any) -> SentFields | None:
        """Return the `response_fields` for the response to a request. None: the response steps have to run."""
        fields = self.response_fields
        return fields if type(fields) is SentFields else fields(head, peer)

    @property
    def needs_full_path(self) -> bool:
        """Whether responses have to be sent by the full path, because a filter processes the body of each, or stands
        between the two sides."""
        unseen = any(link.hooks.looks_at is None for link, _ in self.response_body_hooks)
        replaced = any(link.hooks.full_path for link in self.links)
        return unseen or replaced or bool(self.trailer_steps)

    @property
    def looks_at(self) -> LooksAt | None:
        """Whether a filter has to process a response. None: no filter has, or its response steps run on the fast path
        anyway.
        """
        steps = () if self.meets_answers else self.links
        tests = [link.hooks.looks_at for link in steps if link.hooks.response is not None]
        tests += [link.hooks.looks_at for link, _ in self.response_body_hooks]
        simple = frozenset(test for test in tests if isinstance(test, Looks))
        if self.renew_steps:
            simple |= {_RENEWS}
        rest: list[LooksAt] = [test for test in tests if test is not None and not isinstance(test, Looks)]
        if simple:
            together = _union(simple)
            if not rest:
                return together
            rest.insert(0, together)
        if not rest:
            return None

        def looks(head: ResponseHead) -> bool:
            try:
                for test in rest:
                    if test(head):
                        return True
            except Exception:  # the edge of a filter: its response step runs
                return True
            return False

        return looks

    def response_steps_due(self, answered_by: RequestStep | None) -> tuple[Callable[[Exchange], None], ...]:
        if answered_by is None or not self.response_steps:
            return self.response_steps
        return tuple(link.hooks.response for link in reversed(self.ran(answered_by)) if link.hooks.response is not None)

    def finish_steps_due(self, answered_by: RequestStep | None) -> tuple[Callable[[Exchange], None], ...]:
        if answered_by is None or not self.finish_steps:
            return self.finish_steps
        return tuple(link.hooks.finish for link in reversed(self.ran(answered_by)) if link.hooks.finish is not None)

    def response_body_hooks_due(self, answered_by: RequestStep | None) -> list[BodyHook]:
        """Return the hooks of response bodies for an exchange that the step `answered_by` has answered, in reverse
        order.
        """
        due = self.links if answered_by is None else self.ran(answered_by)
        return [hook for link, hook in self.response_body_hooks if link in due]

    def trailer_steps_due(self, answered_by: RequestStep | None) -> tuple[TrailerStep, ...]:
        if answered_by is None or not self.trailer_steps:
            return self.trailer_steps
        return tuple(link.hooks.trailers for link in reversed(self.ran(answered_by)) if link.hooks.trailers is not None)

    def ran(self, answered_by: RequestStep | None) -> list[FilterInstance]:
        """Return the links whose response and finish steps have to run when the request step `answered_by` has
        answered."""
        due, by_its_path = [], answered_by is by_path
        reached = answered_by is not before_any and not by_its_path
        for link in self.links:
            if reached or link.always or (by_its_path and link.early) or link.hooks.before_authentication is not None:
                due.append(link)
            if answered_by is not None and link.hooks.request is answered_by:
                reached = False
        return due

    def name_of(self, step: object) -> str:
        """Return the instance whose hook `step` is, for the log."""
        return next((link.use.name for link in self.links if step in _hooks_of(link)), "?")


def request_steps_of(links: Sequence[FilterInstance]) -> tuple[RequestStep, ...]:
    """Return the request steps of filters in running order, with the steps before authentication in their place."""
    steps = [link.hooks.request for link in links if link.hooks.request is not None]
    first = [link.hooks.before_authentication for link in links if link.hooks.before_authentication is not None]
    if first:
        early = [link for link in links if link.hooks.request is not None and _is_early(link)]
        steps[len(early) : len(early)] = first
    return tuple(steps)


def _is_early(link: FilterInstance) -> bool:
    """Whether a filter runs before those that authenticate. That of an observer always does, and has no settings."""
    return link.always or link.early or link.use.settings.phase.early


def _line_steps(hooks: Iterable[Hooks]) -> frozenset[Callable[[Exchange], None]]:
    """Return the response steps that may change headers by lines. `hooks`: in the order of requests, so that the last
    response step comes first.
    """
    steps: set[Callable[[Exchange], None]] = set()
    later: frozenset[bytes] = NO_NAMES  # headers that a later step adds without looking for such lines
    for each in hooks:
        if each.response is None:
            continue
        if each.response in steps:  # two filters have the same one, which must not stand for both
            steps.remove(each.response)
            break
        lines = each.response_lines
        if lines is None or not lines.names.isdisjoint(later):
            break
        steps.add(each.response)
        if lines.reads:
            break
        if not lines.replaces:
            later |= lines.names
    return frozenset(steps)


def _hooks_of(link: FilterInstance) -> tuple[object, ...]:
    hooks = link.hooks
    steps = (
        hooks.request,
        hooks.response,
        hooks.request_body,
        hooks.finish,
        hooks.preflight,
        hooks.before_authentication,
    )
    head = None if hooks.body_head is None else hooks.body_head.step
    return *steps, hooks.reply, hooks.renew, hooks.response_body, hooks.trailers, hooks.translate, hooks.sign, head


class Divider(Protocol):
    """Traffic split: distributes requests over the variants of a route."""

    def __call__(self, exchange: Exchange, /) -> int:
        """Return the part that takes the request."""

    def describe_split(self, exchange: Exchange, /) -> str:
        """Return the upstream that is selected and why, for people."""


@final
@dataclass(frozen=True, slots=True)
class FastPathPlan:
    """Fast path plan of a route (`upstream.forwarding.fast_path`), shared by all routes with an equal plan.

    `forward`: the route's action. `checks_path`: the route has a path check (`Route.check_path`); with `at_once` it
    accepts every path that is already in normal form. `at_once`: no filter processes all requests or responses, or
    bodies.
    `calls_only`: it is for gRPC calls only, which come over HTTP/2.
    `looks_at`: whether a response on the fast path has to continue on the full path because a filter processes it;
    None: never. `meets_answers`: whether filters process all responses. `id_of`: returns the id of a request; None:
    requests have no id. `fetch`: the step of the filter that stores the response; None: there is none.
    `change_whole`: changes a response that was received as a whole, in place of `looks_at`; None: nothing does.
    `full_path_headers`: lower-case names of headers; requests with one of them take the full path. `pass_tests`: tests
    in place of the route's request steps and the hooks for its body; a request that does not pass takes the full path.
    `sent_fields`: headers for the upstream that the request steps of filters change, the same for all requests.
    `refuse`: `Hooks.refuse` of the filter with the last of the tests; None: refusals take the full path.
    `response_fields`: headers of responses that filters change, whose response steps do not run here (None for a
    request: they do); with the names that `forward` leaves out, unless they are `NO_SENT_FIELDS`. None: of gRPC calls,
    whose responses without trailers take the full path.
    """

    forward: Any
    checks_path: bool
    at_once: bool
    looks_at: LooksAt | None
    meets_answers: bool
    id_of: Callable[[RequestHead], bytes] | None = None
    calls_only: bool = False
    fetch: FetchStep | None = None
    change_whole: ChangeWhole | None = None
    full_path_headers: tuple[bytes, ...] = ()
    pass_tests: tuple[PassTest, ...] = ()
    sent_fields: SentFields = NO_SENT_FIELDS
    refuse: RefuseStep | None = None
    response_fields: SentFields | JoinedFields | None = NO_SENT_FIELDS

    def accepts(self, head: RequestHead) -> bool:
        """Whether an ordinary request may take the fast path."""
        if self.checks_path and not head.path_as_sent:
            return False
        if not all(head.first(name) is None for name in self.full_path_headers):
            return False
        return all_let_pass(self.pass_tests, head)


class _PendingStep:
    """Base of `Route`: the attributes read first."""

    # PERF: slots of a base class come first, so they share a cache line with the reference count, as long as the size
    # of a `Route` with its GC head is a multiple of 64 bytes. With 10,000 routes the next one is not in a near cache:
    # with this layout, and with equal parts shared (`FastPathPlan`, `Forward`), 1 line is fetched instead of 5.5
    # (simulated for 1 MiB by valgrind, CPython 3.11, micro/routes).
    __slots__ = ("fast_path", "name")


@final
class Route(_PendingStep):
    """A compiled route. `action` answers the exchange, at once or later.

    `check_path`: rejects paths that match but must not be forwarded; None: all are accepted.
    `fast_path`: the plan by which ordinary requests may take the fast path to the same action, once `steps` have
    passed.
    `filter_timeout`: seconds from the beginning of an exchange in which its filters have to decide; None: the default.
    `preflight_chain`: chain that answers a CORS preflight; None: there is none. `takes_options`: the route lists
    OPTIONS among its methods.
    `forwards_preflight`: prepares a preflight that the upstream answers: removes the client's identity, and returns the
    variant of the route without authentication; None: a preflight is treated like any other request.
    `division`: traffic split among variants of the route, one for each of its upstreams; None: it is not split.
    `fallback`: answers an exchange that has failed before its response has begun; returns False if it does not.
    """

    __slots__ = (
        "action",
        "chain",
        "check_path",
        "division",
        "fallback",
        "filter_timeout",
        "forwards_preflight",
        "preflight_chain",
        "steps",
        "takes_options",
    )

    def __init__(
        self,
        name: str,
        action: Callable[[Exchange], None],
        chain: Chain,
        steps: tuple[RequestStep, ...],
        check_path: Callable[[Exchange], Reply | None] | None = None,
        fast_path: FastPathPlan | None = None,
        filter_timeout: float | None = None,
        preflight_chain: Chain | None = None,
        takes_options: bool = False,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # complete chain: the listener's early filters, then the route's
        self.steps = steps  # request steps that run after routing
        self.check_path = check_path
        self.fast_path: Any = fast_path  # `FastPath` has checked that it is set
        self.filter_timeout = filter_timeout
        self.preflight_chain = preflight_chain
        self.takes_options = takes_options
        self.forwards_preflight: Callable[[Exchange], Route] | None = None
        self.fallback: Callable[[Exchange, Fault], bool] | None = None
        self.division: Division | None = None

    @property
    def links(self) -> Iterable[FilterInstance]:
        """The filters of the route, and of its variants for several upstreams."""
        if self.division is None:
            return self.chain.links
        parts = self.division.parts
        return dict.fromkeys([*self.chain.links, *(link for part in parts for link in part.chain.links)])


@final
@dataclass(frozen=True, slots=True)
class Division:
    """Traffic split: variants of a route, one for each upstream, and the choice between them."""

    parts: tuple[Route, ...]
    divider: Divider

    def part_for(self, exchange: Exchange) -> Route:
        return self.parts[self.divider(exchange)]


def pass_tests(tests: Iterable[PassTest | None]) -> tuple[PassTest, ...] | None:
    """Return tests by which a request passes without the steps that they stand for. None: a step has no test."""
    made = tuple(tests)
    return None if None in made else cast("tuple[PassTest, ...]", made)


def all_let_pass(tests: Iterable[PassTest], head: RequestHead) -> bool:
    """Whether a request that was received as a whole passes by all tests."""
    try:
        for test in tests:
            if not test(head):
                return False
    except Exception:  # the edge of a filter: its step runs, and raises again
        return False
    return True


def before_any(exchange: Exchange) -> None:
    """Marker in `Exchange.answered_by`: no request step has run."""


def by_path(exchange: Exchange) -> None:
    """Marker in `Exchange.answered_by`: the route rejects this path, and none of its steps has run."""


def run_request(steps: Iterable[RequestStep], exchange: Exchange) -> Outcome:
    """Run request steps until one answers. None: all passed. Awaitable: a step has to wait; its result is the same.

    A step that raises is answered 500; the request does not pass.
    """
    left = iter(steps)
    for step in left:
        try:
            outcome = step(exchange)
        except BaseException:  # including the CancelledError of a future that the step awaits
            return _raised(step, exchange)
        if outcome is not None:
            exchange.answered_by = step
            return outcome if type(outcome) is Reply else _wait(step, outcome, left, exchange)
    exchange.answered_by = None
    return None


async def _wait(
    step: RequestStep, outcome: Awaitable[Reply | None], left: Iterable[RequestStep], exchange: Exchange
) -> Reply | None:
    begun_at = monotonic()
    try:
        reply = checked(await outcome if isawaitable(outcome) else outcome)
    except BaseException as error:  # in a task it would end the worker or be lost
        if exchange.state is ENDED and not isinstance(error, Exception):
            return None  # cancelled: the exchange has ended
        return _raised(step, exchange)
    finally:
        if exchange.trace is not None:
            if exchange.trace.is_sampled:
                exchange.trace.waits.append(EndedWait(exchange.chain.name_of(step), begun_at, monotonic()))
        elif (now := monotonic()) - begun_at > LONG_WAIT_S and len(exchange.timeline) < MOST_TIMELINE:
            exchange.timeline = (*exchange.timeline, EndedWait(exchange.chain.name_of(step), begun_at, now))
    if reply is not None or exchange.state is ENDED:  # the step ignored its cancellation
        return reply
    later = run_request(left, exchange)
    return later if later is None or type(later) is Reply else await later


def checked(reply: Reply | None) -> Reply | None:
    """Check the result of a step, or of its awaitable.

    Raises `TypeError` if it is neither None nor a reply.
    """
    if reply is not None and type(reply) is not Reply:
        raise TypeError(f"a step of a filter returned {reply!r}; expected a Reply or None")
    return reply


def rejects_credentials(status: int, grpc_status: bytes | None) -> bool:
    """Whether a response rejects the credentials of its request. `grpc_status`: of a gRPC call that has ended, whose
    HTTP status is 200 in most cases; None: it has none.
    """
    return status in RENEWED_ON or (grpc_status is not None and parse_status(grpc_status) in _RENEWED_ON_GRPC)


def asked_to_renew(exchange: Exchange, head: ResponseHead) -> tuple[RenewStep, Awaitable[bool]] | None:
    """Return the first renew step that returns an awaitable, and that awaitable. A step that raises is skipped."""
    for step in exchange.chain.renew_steps:
        try:
            outcome = step(exchange, head)
            if outcome is not None and not isawaitable(outcome):
                raise TypeError(f"a renew step of a filter returned a {type(outcome).__name__}; expected an awaitable")
        except BaseException:  # the edge of a filter: the response is forwarded
            exchange.why = count_raised(step, "renew", exchange)
        else:
            if outcome is not None:
                return step, outcome
    return None


def abandon(outcome: Awaitable[Any]) -> None:
    """Discard the awaitable of a step before it has started."""
    if hasattr(outcome, "close"):  # a coroutine or a similar object
        frame = getattr(outcome, "cr_frame", None)
        given = [each for each in frame.f_locals.values() if iscoroutine(each)] if frame is not None else []
        outcome.close()
        for each in given:
            if getcoroutinestate(each) == CORO_CREATED:  # never awaited, which would be a warning
                abandon(each)


def stages_of(hooks: Iterable[BodyHook], exchange: Exchange, kind: str) -> BodyStages | str:
    """Make the stages of a body for the hooks that need one. `kind`: kind of the steps, for the log.

    A string: a hook has raised, and the stages made so far were cancelled; the string is for the access log.
    """
    stages: list[tuple[BodyHook, BodyStage]] = []
    raised = partial(count_raised, kind=kind, exchange=exchange)
    for hook in hooks:
        try:
            stage = hook.stage_for(exchange)
        except BaseException:  # the edge of a filter: data that it could not check is not forwarded
            why = raised(hook.step)
            BodyStages(stages, raised, exchange.client.held_body_budget).cancel()
            return why
        if stage is not None:
            stages.append((hook, stage))
            response = exchange.response
            if response is None:
                continue
            if hook.changes:
                response.encoded_forms = None  # the next stages get another body
            response.is_held = response.is_held or isinstance(stage, WholeBodyStage)
    return BodyStages(stages, raised, exchange.client.held_body_budget)


def checked_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> BodyStages | Reply | str | None:
    """Return the result of a hook for a complete request body (`Chain.whole_check`), or the stages, as `stages_of`
    does. None: the body passes as it is.
    """
    try:
        made = hook.check_whole(exchange, body)
    except BaseException:  # the edge of a filter: data that it could not check is not forwarded
        return count_raised(hook.step, "body", exchange)
    if not isinstance(made, BodyStage):
        return made
    raised = partial(count_raised, kind="body", exchange=exchange)
    return BodyStages(((hook, made),), raised, exchange.client.held_body_budget)


def changed_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> bytes | BodyStages | str:
    """Return a complete response body as a hook changes it (`Chain.whole_hook`), or the stages, as `stages_of` does."""
    step = hook.step
    assert isinstance(step, StageFactory)
    assert step.change_whole is not None
    try:
        assert exchange.response is not None
        made = step.change_whole(exchange, exchange.response, body)
    except BaseException:  # the edge of a filter: data that it could not check is not forwarded
        return count_raised(step, "response body", exchange)
    if type(made) is bytes:
        return made
    stages = () if made is None else ((hook, cast(BodyStage, made)),)
    raised = partial(count_raised, kind="response body", exchange=exchange)
    return BodyStages(stages, raised, exchange.client.held_body_budget)


def failed_stage(error: BaseException, stages: BodyStages, exchange: Exchange, kind: str, too_long: Fault) -> None:
    """End an exchange because a stage of a body has raised. Its stages are cancelled first. Called in the exception
    handler.
    """
    if isinstance(error, NoRoomForBody):
        exchange.fail(Fault.OVERLOADED, why=WHY_NOT_HELD)
        return
    hook = stages.failing
    assert hook is not None
    if isinstance(error, BodyTooLong):
        name = exchange.chain.name_of(hook.step)
        exchange.fail(too_long, why=f"filter {name} needs the whole body, which has more than {hook.bound} bytes")
    elif isinstance(error, BodyRefused):
        exchange.fail_with(error.reply, error.reply.fault or Fault.INTERNAL)
    else:
        exchange.fail(Fault.INTERNAL, why=count_raised(hook.step, kind, exchange))


def count_raised(step: object, kind: str, exchange: Exchange) -> str:
    """Log and count the exception of a step. Returns the text for the access log. Called in the exception handler.

    A step that raises for every request is logged once in `LOG_EVERY_S`, and counted each time.
    """
    chain, now = exchange.chain, exchange.begun_at
    name = chain.name_of(step)
    if chain.logged_at is None:
        chain.logged_at = {}
    if now >= chain.logged_at.get(step, -inf) + LOG_EVERY_S:
        chain.logged_at[step] = now
        log_event(OperatorEvent.FILTER_RAISED, "filter %s: its %s step raised", name, kind, error=True)
    exchange.client.counts.count_filter(name, FilterEvent.RAISED)
    return f"filter {name}: its {kind} step raised"


def _raised(step: RequestStep, exchange: Exchange) -> Reply:
    exchange.why = count_raised(step, "request", exchange)
    exchange.answered_by = step
    return problem(Fault.INTERNAL)


if not TYPE_CHECKING and (_twin := twin("fastgw.exchange._joined_fields")) is not None:
    _twin.adopt(JoinedFields, SentFields, join_found)
