"""introspection: OAuth 2.0 token introspection of opaque bearer tokens at the authorization server (RFC 7662).

Rule 1: the server's response and the policy's verdict are cached separately; neither outlives the token. Rule 2: a
token is accepted only by a fresh response of the server: if the server is unreachable or its response is invalid, the
request is rejected.
"""

import re
import time
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b
from math import inf
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, final
from urllib.parse import urlencode

from msgspec import Meta

from fastgw.config.base.value_types import Delay, Duration, EndpointUrl, FieldName, Realm, is_far_in_the_clear
from fastgw.config.settings.gateway import NONE, Settings, Some, UpstreamTls
from fastgw.config.settings.secrets import RedisUrl, Secret
from fastgw.consumers.index import Roster
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import (
    Consumer,
    Env,
    Exchange,
    Fault,
    Fetcher,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    Services,
    WarningContext,
)
from fastgw.filters.api.credential_locations import AUTHORIZATION, CredentialLocations
from fastgw.filters.api.warning_context import ANYBODY, ClientIdentity
from fastgw.filters.authentication.bearer import Unclear, canonical, challenge, token_in
from fastgw.filters.authentication.identity_headers import check_written
from fastgw.filters.authentication.revocation_keys import REVOKED, Marks, mark_of_token, marks_of
from fastgw.filters.authentication.token_policy import (
    OTHERS,
    certificate_of,
    consumer_of,
    consumers_without_issuer,
    explain_token,
    is_bearers,
    lines_of,
)
from fastgw.filters.outbound.client_authentication import by_basic_encoded, by_body
from fastgw.filters.outbound.tls_settings import check_tls, client_tls
from fastgw.filters.policies.jwt import ClaimName, ClaimRule, Scope, compiled_rule
from fastgw.jose import ClaimPath, Claims, Expected, TokenRefused, check_claims, claim_path, find_claim, scopes_of
from fastgw.jose.strict import members
from fastgw.observe.tracing.tracer import Trace
from fastgw.redis.address import parse_redis
from fastgw.redis.encrypted_cache import EncryptedRedisCache, Kept
from fastgw.sync.worker_token_cache import WorkerTokenCache
from fastgw.upstream.client.http_client import FetchFailed

Word = Annotated[str, Meta(min_length=1)]
_MOST: Final = 65536
"""Maximum bytes of a response."""
_NOT_IN_DESCRIPTION: Final = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750 section 3
_SHARES: Final = 4
_INACTIVE: Final = b'{"active":false}'


class Answers(Settings):
    """Cache of the server's responses: in each worker and, for all of them together, in a second level."""

    ttl: Annotated[Delay, Meta(le=86400)] = 60.0
    """Maximum time for which a response about an active token is fresh; never longer than the token is valid. A token
    that is revoked in this time is still accepted: by some workers and not by others, for each caches for itself."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 5.0
    """Time for which a response about an inactive token is fresh."""
    entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Maximum number of cached responses about active tokens, and the same number about others; the oldest are evicted.
    """
    second_level: RedisUrl | None = None
    """Redis in which all workers and nodes share responses: `redis://:password@host:6379/0`, or `rediss://`.

    Needs `fastgw[redis]`. The entries are encrypted with a key derived from `client_secret`, so that access to Redis
    reveals nothing. While Redis is unreachable, each worker asks the server itself.
    """


class Introspection(Filter, name="introspection", phase=Phase.AUTHENTICATE):
    """OAuth 2.0 token introspection (RFC 7662): an authorization server is asked about each bearer token.

    For opaque tokens; for JWTs the filter `jwt` is cheaper. A client without a token, or with an invalid one, is
    answered 401; one whose token lacks a scope, 403 (RFC 6750). If the server cannot be asked, or its response is
    invalid, requests are answered 503.

    A token that is bound to a client certificate (RFC 8705) is valid only on connections with this certificate; a token
    that is bound to anything else is refused.

    The consumer is the one whose `jwt` has the `issuer` of the filter and the subject of the token. If there is none,
    the consumer is named after the subject, without groups; but if `consumers` has another consumer with this name, the
    client has no consumer, so that a token cannot impersonate one.
    """

    url: EndpointUrl
    """URL of the introspection endpoint."""
    client_id: Word
    """Client id of the gateway at the server."""
    client_secret: Secret
    """Client secret of the gateway."""
    client_auth: Literal["basic", "post"] = "basic"
    """Authentication of the gateway to the server (RFC 6749 section 2.3.1): in `Authorization`, or in the body."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the server, if its URL is https."""
    timeout: Duration = 5.0
    """Timeout for the whole response."""
    max_pending: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Maximum number of tokens that a worker asks about at a time; further requests are answered 503 at once. One
    client address may use a quarter of them, so that a client that tries many tokens does not block others."""
    issuer: Word | None = None
    """Issuer of the token, as the server returns it. null = any, so that no consumer is found by `issuer` and `subject`
    of its `jwt`."""
    audiences: tuple[Word, ...] = ()
    """Audiences, one of which the token must have; `*` = not checked. Empty = the token must have no audience."""
    leeway: Delay = 1.0
    """Clock skew of the server that is tolerated for `exp`, `nbf` and `iat`."""
    required_claims: tuple[ClaimName, ...] = ()
    """Claims that the server must return, such as `sub` or `exp`."""
    token_types: Some[Word] = ("Bearer",)
    """Valid values of `token_type` if the server returns it; case is ignored."""
    scopes: tuple[Scope, ...] = ()
    """Scopes that the token must have, all of them."""
    claim_rules: tuple[ClaimRule, ...] = ()
    """Rules for claims; a token that is valid but does not meet them is answered 403."""
    claims_to_headers: Mapping[ClaimName, FieldName] = NONE
    """Claims that are forwarded to the upstream, and their headers. Headers with these names from the client are always
    removed. A token is refused if a claim contains characters that are not allowed in a header."""
    consumer_claim: ClaimName = "sub"
    """Claim that identifies the consumer."""
    hide_credentials: bool = False
    """Whether to strip the token before forwarding."""
    cache: Answers = Answers()
    """Cache of responses."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate`."""

    def __post_init__(self) -> None:
        check_tls(self.url, self.tls)
        check_written(self.claims_to_headers.values())

    def credential_places(self) -> CredentialLocations:
        return AUTHORIZATION

    def written_fields(self) -> Iterable[str]:
        return self.claims_to_headers.values()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if is_far_in_the_clear(self.url.origin):
            yield "`url` is http: an attacker in between can read tokens and forge answers"
        if self.issuer is None:
            yield from consumers_without_issuer(context)

    def client_identity(self) -> ClientIdentity:
        return ANYBODY

    def build(self, env: Env) -> Hooks:
        secret = env.secret(self.client_secret)
        second = self.cache.second_level
        redis = None if second is None else parse_redis(env.secret(second))
        tls = client_tls(env.read, self.tls)

        def make() -> _Policy:
            level = None
            if redis is not None:
                purpose = f"introspection\0{self.url}\0{self.client_id}"
                level = EncryptedRedisCache(redis, secret.encode(), purpose.encode())
            return _Policy(self, _Server(self, tls, secret), level, env.roster)

        policy = env.shared(("introspection", env.policy, blake2b(secret.encode()).digest(), redis), make)
        return Hooks(
            request=RequestHook(policy.request, asks=str(self.url.origin)),
            start=policy.start,
            stop=policy.stop,
            explain=explain_token,
        )


class _InactiveToken(NamedTuple):
    """Rejection of a token."""

    fault: Fault
    why: str
    error: str = "invalid_token"
    """Error code of RFC 6750 section 3.1."""


@final
class _Known:
    """Cached verdict on a valid token. It is checked again when consumers change or something is revoked."""

    __slots__ = ("certificate", "claims", "consumer", "lines", "marks", "stamp", "token")

    def __init__(self, token: bytes, claims: Claims, lines: bytes, certificate: str) -> None:
        self.token = token
        """Revocation key of the token itself."""
        self.claims = claims
        self.lines = lines
        """Serialized header lines for the upstream."""
        self.certificate = certificate
        """See `certificate_of`."""
        self.consumer: Consumer | None = None
        self.marks: Marks = ()
        """All its revocation keys, computed on demand."""
        self.stamp: object = None
        """Stamp of the roster at the last check."""


class _Said(NamedTuple):
    """Response of the server about a token, and until when that is fresh (epoch seconds)."""

    claims: dict[str, Any]
    until_date: float


@final
class _ServerAway(Exception):
    """The server is unreachable, or its response is invalid. The text is for the log."""


@final
class _Server:
    """Client of the authorization server."""

    def __init__(self, settings: Introspection, tls: Any, secret: str) -> None:
        self._url, self._tls, self._timeout = settings.url, tls, settings.timeout
        self._fields = [
            (b"Accept", b"application/json"),
            (b"Content-Type", b"application/x-www-form-urlencoded"),
        ]
        self._form = {"token_type_hint": "access_token"}
        by = by_basic_encoded if settings.client_auth == "basic" else by_body
        self._fields += by(settings.client_id, secret)(self._form)

    async def introspect(self, fetcher: Fetcher, token: bytes, trace: Trace | None) -> bytes:
        """Return the server's response, a JSON object with `active`. Raises `_ServerAway`. `trace`: of the request that
        has asked first.
        """
        form = urlencode({"token": token.decode("ascii"), **self._form}).encode()
        try:
            answer = await fetcher.fetch(
                self._url,
                method=b"POST",
                fields=self._fields,
                body=form,
                tls=self._tls,
                timeout=self._timeout,
                most=_MOST,
                repeatable=True,  # introspection is read-only
                trace=trace,
            )
        except FetchFailed as failed:
            raise _ServerAway(failed.reason) from failed
        if answer.status != 200:
            raise _ServerAway(f"the introspection endpoint answered {answer.status}")
        return answer.body


@final
class _Policy:
    """A policy in one worker, with its cache."""

    __slots__ = (
        "__weakref__",
        "_bad",
        "_consumer_claim",
        "_expected",
        "_fetcher",
        "_fields",
        "_good",
        "_hidden",
        "_level",
        "_missing",
        "_negative_ttl",
        "_pending",
        "_roster",
        "_rules",
        "_said_scopes",
        "_scopes",
        "_server",
        "_settings",
        "_share",
        "_single_flight",
        "_ttl",
        "_types",
        "_written",
    )

    def __init__(
        self, settings: Introspection, server: _Server, level: EncryptedRedisCache | None, roster: Roster
    ) -> None:
        self._settings = settings
        self._server = server
        self._level = level
        self._roster = roster
        self._expected = Expected(
            settings.issuer,
            frozenset(settings.audiences),
            tuple(claim_path(claim) for claim in settings.required_claims),
            settings.leeway,
        )
        self._scopes = frozenset(settings.scopes)
        self._said_scopes = " ".join(settings.scopes)
        self._types = frozenset(each.lower() for each in settings.token_types)
        self._consumer_claim: ClaimPath = claim_path(settings.consumer_claim)
        self._rules = tuple((each.claim, compiled_rule(each)) for each in settings.claim_rules)
        fields = settings.claims_to_headers.items()
        self._fields = tuple((name.encode(), claim, claim_path(claim)) for claim, name in fields)
        self._written = frozenset(name.lower() for name, _, _ in self._fields)
        self._hidden = frozenset((b"authorization",)) if settings.hide_credentials else frozenset()
        self._missing = (challenge(settings.realm, scope=self._said_scopes),)
        cache = settings.cache
        self._ttl, self._negative_ttl = cache.ttl, cache.negative_ttl
        self._good: WorkerTokenCache[_Known] = WorkerTokenCache(cache.entries)
        # Separate, so that a client with many invalid tokens does not evict valid ones.
        self._bad: WorkerTokenCache[_InactiveToken] = WorkerTokenCache(
            cache.entries, counted=False, ttl=self._negative_ttl
        )
        self._single_flight: SingleFlight[_Known | _InactiveToken] = SingleFlight()
        self._pending: dict[str, int] = {}
        """Number of pending tokens by client address."""
        self._share = max(settings.max_pending // _SHARES, 1)
        self._fetcher: Fetcher | None = None

    def __repr__(self) -> str:
        return f"<introspection: {self._good!r}, {self._single_flight!r}>"

    def start(self, services: Services) -> None:
        self._fetcher = services.fetcher
        if self._level is not None:
            self._level.start()

    def stop(self) -> None:
        if self._level is not None:
            self._level.stop()

    def request(self, exchange: Exchange) -> Outcome:
        if self._written:
            exchange.request_dropped |= self._written
        # PERF: 0.4 us for a cached token, by the whole header value; 2.1 by the token in it (CPython 3.11,
        # micro/asking).
        values = exchange.head.values(b"authorization")
        if len(values) == 1:
            known = self._good.peek(values[0])
            if known is not None:
                return self._let_pass(exchange, known)
        try:
            token = token_in(values)
        except Unclear as unclear:
            return self._refuse(exchange, _InactiveToken(Fault.CREDENTIALS_INVALID, str(unclear), "invalid_request"))
        if token is None:
            return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=self._missing, why="the token is missing")
        refusal = self._bad.peek(token)
        if refusal is not None:
            return self._refuse(exchange, refusal)
        one_spelling = canonical(token)
        if values[0] != one_spelling:
            known = self._good.peek(one_spelling)
            if known is not None:
                return self._let_pass(exchange, known)
        return self._decide(exchange, token)

    async def _decide(self, exchange: Exchange, token: bytes) -> Reply | None:
        if self._single_flight.has(token):
            verdict = await self._single_flight.join(token, partial(self._introspect_token, token, exchange.trace))
        else:
            verdict = await self._ask_for(exchange.client_ip, token, exchange.trace)
        if isinstance(verdict, _Known):
            return self._let_pass(exchange, verdict)
        return self._refuse(exchange, verdict)

    async def _ask_for(self, client: str, token: bytes, trace: Trace | None) -> _Known | _InactiveToken:
        """Ask about a token without a pending request, unless too many are pending."""
        pending, asked = self._pending, self._pending.get(client, 0)
        if len(self._single_flight) >= self._settings.max_pending or asked >= self._share:
            return _InactiveToken(Fault.AUTH_UNAVAILABLE, "too many introspection requests are pending")
        pending[client] = asked + 1
        try:
            return await self._single_flight.join(token, partial(self._introspect_token, token, trace))
        finally:
            pending[client] -= 1
            if not pending[client]:
                del pending[client]

    def _let_pass(self, exchange: Exchange, known: _Known) -> Reply | None:
        if not is_bearers(exchange, known.certificate):
            return self._refuse(exchange, _InactiveToken(Fault.CREDENTIALS_INVALID, OTHERS))
        if known.stamp is not self._roster.stamp and not self._is_still_good(known):
            return self._refuse(exchange, _InactiveToken(Fault.CREDENTIALS_INVALID, REVOKED))
        exchange.consumer, exchange.claims = known.consumer, known.claims
        if known.lines:
            exchange.request_added += known.lines
        if self._hidden:
            exchange.request_dropped |= self._hidden
        return None

    def _refuse(self, exchange: Exchange, refusal: _InactiveToken) -> Reply:
        if refusal.fault is Fault.AUTH_UNAVAILABLE:
            return exchange.refuse(refusal.fault, why=refusal.why)
        if refusal.fault is Fault.FORBIDDEN:
            return exchange.refuse(refusal.fault, "", why=refusal.why)
        description = _NOT_IN_DESCRIPTION.sub("?", refusal.why.replace("`", "'"))
        scopes = self._said_scopes if refusal.fault is Fault.INSUFFICIENT_SCOPE else ""
        fields = (challenge(self._settings.realm, refusal.error, description, scopes),)
        detail = f"{description[:1].upper()}{description[1:]}."
        return exchange.refuse(refusal.fault, detail, fields, why=refusal.why)

    # tokens that are not cached

    async def _introspect_token(self, token: bytes, trace: Trace | None) -> _Known | _InactiveToken:
        """Verify a token, and cache the verdict; a positive one by the canonical form of the header."""
        try:
            said = await self._fetch_introspection(token, trace)
        except _ServerAway as away:
            return _InactiveToken(Fault.AUTH_UNAVAILABLE, str(away))
        left = said.until_date - time.time()
        try:
            verdict: _Known | _InactiveToken = self._verdict(said.claims, token)
        except TokenRefused as refused:
            verdict = _InactiveToken(Fault.CREDENTIALS_INVALID, str(refused))
        if isinstance(verdict, _InactiveToken):
            await self._bad.set(token, verdict)
        elif left > 0:
            await self._good.set(canonical(token), verdict, ttl=left)
        return verdict

    async def _fetch_introspection(self, token: bytes, trace: Trace | None) -> _Said:
        """Return the response of the server, from this node or the shared cache. Raises `_ServerAway`."""
        level = self._level
        if level is not None and (kept := await level.get(token)) is not None:
            return _Said(_read(kept.value), min(kept.until_date, time.time() + self._ttl))
        assert self._fetcher is not None
        raw = await self._server.introspect(self._fetcher, token, trace)
        claims = _read(raw)
        now = time.time()
        if claims["active"]:
            said = _Said(claims, min(now + self._ttl, _expiry(claims)))
        else:
            said = _Said(claims, now + self._negative_ttl)
            raw = _INACTIVE
        if level is not None:
            await level.set(token, Kept(raw, said.until_date))
        return said

    def _verdict(self, claims: dict[str, Any], token: bytes) -> _Known | _InactiveToken:
        """Return the verdict on a token. Raises `TokenRefused`."""
        if not claims["active"]:
            raise TokenRefused("the token is not active")
        answered = {name: value for name, value in claims.items() if name != "active"}
        kind = answered.get("token_type")
        if kind is not None and (not isinstance(kind, str) or kind.lower() not in self._types):
            raise TokenRefused("the token has the wrong type")
        check_claims(answered, self._expected, time.time())
        if self._scopes - scopes_of(answered):
            return _InactiveToken(Fault.INSUFFICIENT_SCOPE, "the token lacks a scope", "insufficient_scope")
        for claim, rule in self._rules:
            if not rule(answered):
                return _InactiveToken(Fault.FORBIDDEN, f"the claim {claim} does not satisfy its rules")
        return _Known(
            mark_of_token(token), MappingProxyType(answered), lines_of(answered, self._fields), certificate_of(answered)
        )

    def _is_still_good(self, known: _Known) -> bool:
        """Whether it is not revoked; updates its consumer, and its stamp for later requests."""
        roster, issuer = self._roster, known.claims.get("iss") or self._settings.issuer or ""
        if roster.revoked:
            known.marks = known.marks or marks_of(known.claims, known.token, issuer)
            if roster.revoked.covers(known.marks, time.time()):
                return False
        known.stamp = roster.stamp
        known.consumer = consumer_of(roster, self._settings.issuer, find_claim(known.claims, self._consumer_claim))
        return True


def _read(raw: bytes) -> dict[str, Any]:
    """Return the members of a response with a boolean `active`. Raises `_ServerAway`."""
    try:
        claims = members(raw, "the introspection response")
    except TokenRefused as refused:
        raise _ServerAway(str(refused)) from refused
    if not isinstance(claims.get("active"), bool):
        raise _ServerAway("the introspection endpoint does not say whether the token is active")
    return claims


def _expiry(claims: Claims) -> float:
    """Return when the token expires, if known; it is verified by `check_claims`."""
    exp = claims.get("exp")
    return float(exp) if isinstance(exp, int | float) else inf
