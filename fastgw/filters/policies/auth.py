"""auth: several authentication methods, tried in order."""

from collections.abc import Awaitable, Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, Final, final

from msgspec import Meta
from msgspec.structs import replace

from fastgw.config.base.problems import format_value, nearest
from fastgw.config.base.value_types import Identity
from fastgw.config.settings.gateway import FilterUse, Inner
from fastgw.consumers.index import Index, Roster
from fastgw.exchange.body_stages import BodyHook
from fastgw.exchange.filter_steps import checked
from fastgw.filters.api import (
    BodyHead,
    BodyStage,
    Consumer,
    Env,
    Exchange,
    Fault,
    FeedSource,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    Services,
    StageFactory,
    WarningContext,
)
from fastgw.filters.api.credential_locations import NOWHERE, CredentialLocations
from fastgw.filters.api.warning_context import ClientIdentity, identity_by, warnings_by
from fastgw.filters.authentication.identity_headers import CREDENTIALS
from fastgw.filters.authentication.request_state import RequestState, restore_attributes, state_of
from fastgw.http.fields import folded

REJECT: Final = "reject"
Ways = Annotated[tuple[Annotated[FilterUse, Inner("AUTHENTICATE")], ...], Meta(min_length=1, max_length=16)]


class Auth(Filter, name="auth", phase=Phase.AUTHENTICATE):
    """Try several authentication methods in order.

    The first method that accepts the client decides; changes that the others would have made to the request are
    discarded. If none accepts it: a client without credentials, or with credentials that are not accepted, is answered
    401 with the challenges of all methods; a client that is authenticated but not allowed, 403; and if a method could
    not be tried (`auth_unavailable`), 503. If one of the methods would redirect the client to a login, a client without
    rejected credentials is redirected; with `anonymous` only if it asks for the login itself.

    Credentials of the methods that did not decide are removed before the request is forwarded, because nothing has
    verified them.
    """

    any_of: Ways
    """The methods: filters, each as an object with one key, its type, such as `{key_auth: {}}`."""
    anonymous: Identity = REJECT
    """Handling of a client without any credentials. `reject`: it is answered 401.
    Anything else: the name of the consumer that it is treated as, without groups unless `consumers` has it, and without
    a redirect to a login: for a login, link to the path `login` of `oidc`, or to a route with `forward_auth` alone. A
    client whose credentials are not accepted is never anonymous, for example with an expired session, or with an
    `Authorization` that no method understands. With `forward_auth`, any cookie may be a credential."""

    def __post_init__(self) -> None:
        if any(isinstance(use.settings, Auth) for use in self.any_of):
            raise ValueError("`auth` within `auth` is not allowed; list its methods here")

    def credential_places(self) -> CredentialLocations:
        places = NOWHERE
        for use in self.any_of:
            places |= use.settings.credential_places()
        return places

    def feeds(self) -> Iterable[FeedSource]:
        for use in self.any_of:
            yield from use.settings.feeds()

    def written_fields(self) -> Iterable[str]:
        for use in self.any_of:
            yield from use.settings.written_fields()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        for use in self.any_of:
            yield from warnings_by(use, replace(context, instance=use.name, alternative=True))
        known = {consumer.name for consumer in context.consumers}
        # It may be a name of its own, without groups: only a name similar to a consumer's is a mistake.
        if self.anonymous not in (REJECT, *known) and not context.consumer_files:
            meant = nearest(self.anonymous, known)
            if meant is not None:
                yield f"`anonymous` is an unknown consumer; did you mean {format_value(meant)}?"

    def client_identity(self) -> ClientIdentity:
        ways = [identity_by(use.settings) for use in self.any_of]
        return ClientIdentity(known=True, foreign_groups=any(way.foreign_groups for way in ways))

    def build(self, env: Env) -> Hooks:
        places = self.credential_places()
        verified = {folded(name) for name in places.fields | CREDENTIALS}
        written = dict.fromkeys(name.lower().encode() for name in self.written_fields())
        late = CredentialLocations(tuple(name for name in written if folded(name) in verified))
        ways = [
            _Way(name, use.settings.build(env.inner(name, use.settings)), _places_beside(use, places, late))
            for name, use in named_methods(self.any_of)
        ]
        anonymous = None if self.anonymous == REJECT else _Anonymous(self.anonymous, env.roster)
        any_of = _AnyOf(
            tuple(ways), anonymous, tuple(name for name in written if name not in late.fields), places | late
        )
        hooks = [way.hooks for way in ways]
        for way in ways:
            body = way.hooks.request_body
            changes = isinstance(body, BodyHead) or (body is not None and body.changes)
            if changes or way.hooks.response_body is not None or way.hooks.trailers is not None:
                raise ValueError(f"{way.name} changes bodies or trailers; expected a filter that only authenticates")
        reads = any(h.request_body is not None for h in hooks)
        follows = reads or any(h.response or h.finish for h in hooks)
        starts = any(h.start is not None for h in hooks)
        stops = any(h.stop is not None for h in hooks)
        return Hooks(
            request=RequestHook(
                any_of.request_followed if follows else any_of.request,
                asks=" or ".join(h.request.asks for h in hooks if h.request is not None and h.request.asks),
            ),
            response=any_of.response if any(h.response is not None for h in hooks) else None,
            request_body=StageFactory(any_of.body_stage, reads_only=True) if reads else None,
            finish=any_of.finish if follows else None,
            start=any_of.start if starts else None,
            stop=any_of.stop if stops else None,
            explain=any_of.explain,
        )


def named_methods(uses: Iterable[FilterUse]) -> Iterator[tuple[str, FilterUse]]:
    """Yield a name for each method: its type, with a number if it is not the first of its type."""
    met: dict[str, int] = {}
    for use in uses:
        met[use.type] = number = met.get(use.type, 0) + 1
        yield use.type if number == 1 else f"{use.type}_{number}", use


def _places_beside(way: FilterUse, places: CredentialLocations, late: CredentialLocations) -> CredentialLocations:
    """Return the locations in `places` with credentials of the other methods, except those that this method reads or
    writes.

    `late`: headers that another method writes and upstreams trust; clients' values are removed even if this method
    reads them.
    """
    own: CredentialLocations = way.settings.credential_places()
    return ((places - own) | late) - CredentialLocations(
        tuple(name.lower().encode() for name in way.settings.written_fields())
    )


@final
class _Way:
    """One of the methods. `beside`: locations of the other methods' credentials."""

    __slots__ = ("hooks", "name", "request", "tidy")

    def __init__(self, name: str, hooks: Hooks, beside: CredentialLocations) -> None:
        if hooks.request is None:
            raise ValueError(f"`{name}` does not authenticate: it has no request step")
        self.name, self.hooks, self.request = name, hooks, hooks.request.step
        self.tidy = beside.hide if beside else None
        """Removes unverified credentials from an admitted request; None: there are none."""


@final
class _Anonymous:
    """Consumer for clients without credentials."""

    __slots__ = ("_consumer", "_index", "_name", "_roster")

    def __init__(self, name: str, roster: Roster) -> None:
        self._name, self._roster = name, roster
        self._index: Index | None = None
        self._consumer = Consumer(name)

    @property
    def consumer(self) -> Consumer:
        if self._index is not self._roster.index:  # consumers have changed since the lookup
            self._index = self._roster.index
            self._consumer = self._roster.called(self._name)
        return self._consumer


@final
class _AuthCase:
    """State of one exchange: the methods that were tried, and the one that has accepted it."""

    __slots__ = ("accepted", "tried")

    def __init__(self) -> None:
        self.tried: list[_Way] = []
        self.accepted: _Way | None = None


@final
class _AnyOf:
    """The methods of one use of the filter."""

    __slots__ = ("_anonymous", "_cases", "_first", "_latest", "_places", "_ways", "_written")

    def __init__(
        self,
        ways: tuple[_Way, ...],
        anonymous: _Anonymous | None,
        written: tuple[bytes, ...],
        places: CredentialLocations,
    ) -> None:
        self._ways = ways
        self._first = ways[0].request
        self._written = written
        """Headers that a method writes: clients' values are removed, whichever method accepts them. Headers in which a
        method looks for credentials are removed after a method has accepted.
        """
        self._anonymous = anonymous
        self._places = places
        """Locations that are removed for anonymous clients."""
        self._cases: dict[Exchange, _AuthCase] = {}
        """Cases from the request step to the end of the exchange, for methods with further steps."""
        self._latest: _Way | None = None
        """The method that accepted last, for `explain`, which reads it at once. None: anonymous."""

    # request

    def request(self, exchange: Exchange) -> Outcome:
        # PERF: 0.35 us more than the first method alone if that accepts, 1.0 by `_Attempts` (CPython 3.11,
        # micro/filters).
        if self._written:
            self._remove_written(exchange)
        before = state_of(exchange)
        outcome = self._first(exchange)
        if outcome is None:
            self._latest = way = self._ways[0]
            if way.tidy is not None:
                way.tidy(exchange)
            return None
        return _Attempts(self, self._ways, exchange, _AuthCase(), before).resume_after_outcome(outcome)

    def request_followed(self, exchange: Exchange) -> Outcome:
        self._remove_written(exchange)
        case = self._cases[exchange] = _AuthCase()
        attempts = _Attempts(self, self._ways, exchange, case, state_of(exchange))
        return attempts.resume_after_outcome(self._first(exchange))

    def _remove_written(self, exchange: Exchange) -> None:
        for name in self._written:
            exchange.headers.remove(name)

    def accept(self, way: _Way) -> None:
        self._latest = way

    def decide(self, exchange: Exchange, refusals: list[tuple[_Way, Reply, str]]) -> Reply | None:
        """Return the outcome for a client that no method has accepted."""
        exchange.why = "; ".join(f"{way.name}: {_detail(why) or reply.status}" for way, reply, why in refusals)
        replies = [reply for _, reply, _ in refusals if self._anonymous is None or not reply.invites]
        for kind in (_is_failure, _is_denial):
            for reply in replies:
                if kind(reply):
                    return reply
        challenges = dict.fromkeys(
            (name, value) for reply in replies for name, value in reply.fields if name.lower() == b"www-authenticate"
        )
        if any(reply.fault is Fault.CREDENTIALS_INVALID for reply in replies):
            return exchange.refuse(Fault.CREDENTIALS_INVALID, fields=challenges, why=exchange.why)
        for reply in replies:
            if reply.fault is None:
                return reply
        if self._anonymous is not None:
            if exchange.field(b"authorization") is None:
                exchange.why = ""
                exchange.consumer = self._anonymous.consumer
                self._places.hide(exchange)
                self._latest = None
                return None
            exchange.why = "an Authorization header that no method supports"
            return exchange.refuse(Fault.CREDENTIALS_INVALID, fields=challenges, why=exchange.why)
        return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=challenges, why=exchange.why)

    def explain(self, exchange: Exchange) -> str:
        way = self._latest
        if way is None:
            return f"not authenticated: passes as {exchange.consumer.name if exchange.consumer else '?'}"
        why = way.hooks.explain(exchange) if way.hooks.explain is not None else ""
        return f"{way.name}: {why}" if why else way.name

    # further steps of the methods

    def response(self, exchange: Exchange) -> None:
        case = self._cases.get(exchange)
        if case is not None:
            for way in reversed(case.tried if case.accepted is None else [case.accepted]):
                if way.hooks.response is not None:
                    way.hooks.response.step(exchange)

    def body_stage(self, exchange: Exchange) -> BodyStage | None:
        case = self._cases.get(exchange)
        hook = None if case is None or case.accepted is None else case.accepted.hooks.request_body
        return hook.stage_for(exchange) if isinstance(hook, BodyHook) else None

    def finish(self, exchange: Exchange) -> None:
        case = self._cases.pop(exchange, None)
        if case is not None:
            with ExitStack() as steps:  # in reverse order; all of them, even if one raises
                for way in case.tried:
                    if way.hooks.finish is not None:
                        steps.callback(way.hooks.finish, exchange)

    # life of a worker

    def start(self, services: Services) -> None:
        for way in self._ways:
            if way.hooks.start is not None:
                way.hooks.start(services)

    def stop(self) -> None:
        with ExitStack() as steps:
            for way in self._ways:
                if way.hooks.stop is not None:
                    steps.callback(way.hooks.stop)


@final
class _Attempts:
    """The methods that are tried on one exchange."""

    __slots__ = ("_any_of", "_before", "_case", "_exchange", "_left", "_refusals", "_way")

    def __init__(
        self, any_of: _AnyOf, ways: Iterable[_Way], exchange: Exchange, case: _AuthCase, before: RequestState
    ) -> None:
        self._any_of, self._exchange, self._case, self._before = any_of, exchange, case, before
        self._left = iter(ways)
        self._refusals: list[tuple[_Way, Reply, str]] = []
        self._way = self._next()

    def _next(self) -> _Way | None:
        way = next(self._left, None)
        if way is not None:
            self._case.tried.append(way)
        return way

    def resume_after_outcome(self, outcome: Outcome) -> Outcome:
        """Continue after the outcome of the first method, or of the one that was waited for."""
        while (way := self._way) is not None:
            if outcome is None:
                self._case.accepted = way
                self._any_of.accept(way)
                if way.tidy is not None:
                    way.tidy(self._exchange)
                return None
            if type(outcome) is not Reply:
                return _Waiting(self, outcome)
            self._refused(way, outcome)
            self._way = self._next()
            if self._way is not None:
                outcome = self._way.request(self._exchange)
        return self._any_of.decide(self._exchange, self._refusals)

    async def wait(self, outcome: Awaitable[Reply | None]) -> Reply | None:
        later = self.resume_after_outcome(checked(await outcome))
        return later if later is None or type(later) is Reply else await later

    def _refused(self, way: _Way, reply: Reply) -> None:
        """Restore the state of the exchange before the attempt."""
        exchange = self._exchange
        self._refusals.append((way, reply, exchange.why))
        restore_attributes(exchange, self._before)
        head, (_, edited) = exchange.head, self._before
        if head.edited() is not None:
            if edited is None:
                edited = head.received_fields()
            head.fields().replace_with(edited)


@final
class _Waiting:
    """Awaitable for a method that waits, and for the methods after it. It is closed if it is never awaited."""

    __slots__ = ("_attempts", "_outcome")

    def __init__(self, attempts: _Attempts, outcome: Awaitable[Reply | None]) -> None:
        self._attempts, self._outcome = attempts, outcome

    def __await__(self) -> Generator[Any, None, Reply | None]:
        return self._attempts.wait(self._outcome).__await__()

    def close(self) -> None:
        if hasattr(self._outcome, "close"):
            self._outcome.close()


def _detail(why: str) -> str:
    """Return a sentence for clients as part of another one; other text unchanged."""
    is_sentence = why.endswith(".") and why[:1].isupper() and not why[1:2].isupper()
    return f"{why[0].lower()}{why[1:-1]}" if is_sentence else why


def _is_failure(reply: Reply) -> bool:
    """Whether the reply is a failure: it is unknown whether this method would have accepted the client."""
    return reply.status >= 500


def _is_denial(reply: Reply) -> bool:
    """Whether the reply denies access: the client is known, or the request was understood."""
    return reply.fault is not None and reply.status != 401
