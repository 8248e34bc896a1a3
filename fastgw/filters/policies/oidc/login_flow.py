"""Login flow in the browser: redirect to the provider, callback with a code, session, and logout.

Rule 1: a callback counts only together with the cookie that was encrypted for this browser at the redirect. Rule 2:
sessions continue while the provider is unreachable; requests that need the provider are answered with an error. Rule 3:
a refresh token is used only once (`refresh_coordinator`).
Rule 4: when a session ends, all copies of its cookie are invalid, whenever and wherever they were written.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hmac import compare_digest
from math import inf
from typing import Final, NamedTuple, final

from msgspec.structs import replace

from fastgw.consumers.index import Consumer, Roster
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Outcome, Reply
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.filters.api import Feed, Fetcher
from fastgw.filters.authentication.revocation_keys import Marks, mark_of_subject, mark_of_token
from fastgw.filters.authentication.token_policy import consumer_of, explain_token
from fastgw.filters.outbound.client_authentication import ClientAuth
from fastgw.filters.policies.oidc.cookies import (
    LONGEST,
    OWN,
    PREFIX,
    AmbiguousCookie,
    Jar,
    attempt_name,
    clear,
    set_cookies,
    stored_name,
)
from fastgw.filters.policies.oidc.form_body import NotRead, read_form
from fastgw.filters.policies.oidc.id_token import MOST_ID_TOKEN, IdTokens
from fastgw.filters.policies.oidc.provider import Away, Denied, Provider, Tokens
from fastgw.filters.policies.oidc.refresh_coordinator import KEPT_S
from fastgw.filters.policies.oidc.same_origin import came_from
from fastgw.filters.policies.oidc.session import LoginAttempt, LoginSession, SealedSession, SessionTicket
from fastgw.filters.policies.oidc.settings import Login
from fastgw.filters.policies.oidc.stored_sessions import StoredSessions
from fastgw.filters.policies.oidc.urls import local, parameters_of, with_query
from fastgw.forwarded_headers import client_scheme
from fastgw.jose import ClaimPath, Claims, TokenRefused, find_claim
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis.availability import Unreachable
from fastgw.sync.credential_cache import TokenCache
from fastgw.sync.revocations import event_of, mark_of, record_of
from fastgw.upstream.targets.tls import ClientTls

MOST_ATTEMPTS: Final = 16
"""Maximum number of concurrent login attempts of a browser, such as in several tabs; the oldest are dropped first."""
MOST_ATTEMPT_BYTES: Final = 8192
"""Maximum bytes of their cookies: together with the longest session they fit into the default `header_bytes`."""
AGAIN_S: Final = 10.0
"""Seconds that a session continues before an unreachable provider is asked again."""
LONGEST_HINT: Final = 4096
"""Maximum bytes of an ID token that is sent to the provider in the URL of a logout."""
MOST_KNOWN: Final = 2_000
"""Maximum number of decrypted sessions that are cached."""
_IDLE_SHARE: Final = 0.25
"""Share of the idle time after which the cookie is renewed."""
_REPLAYED_S: Final = 600.0
"""Seconds after its expiry for which a logout token is remembered: more than clocks differ."""
_ATTRIBUTES: Final = b"; Path=/; HttpOnly; SameSite=Lax"
_NO_STORE: Final = (b"Cache-Control", b"no-store")
_CALLBACK: Final = ("code", "state", "iss", "error")

_UNKNOWN: Final = "This login is unknown or has expired. Please log in again."
_TOO_LARGE: Final = (
    "The session data from the identity provider is too large for cookies. Request fewer scopes or claims, or configure"
    " `state`."
)
_TOO_LARGE_TO_STORE: Final = (
    "The session data from the identity provider is too large to be stored. Request fewer scopes or claims."
)
_NOT_STORED: Final = "The session cannot be stored at the moment. Please log in again later."
_LOGOUT_PAGE: Final = b"""<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Log out</title>
<p>Another site may have sent you here. Do you want to log out?
<form><input type="hidden" name="token" value="%b"><button>Log out</button></form>
"""
_LOGOUT_FIELDS: Final = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (b"Content-Security-Policy", b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    (b"X-Content-Type-Options", b"nosniff"),
    _NO_STORE,
)
_UNAVAILABLE: Final = "Login is temporarily unavailable: the identity provider is unreachable. Try again later."


class _TooLarge(Exception):
    """A session does not fit where sessions are kept. The text is for the log."""


class PolicyIdentity(NamedTuple):
    """Identity of a policy, which separates its logins from others'."""

    issuer: str
    cookie: str
    """Name of the session cookie, without a prefix."""
    provider: Provider
    id_tokens: IdTokens
    sealed: SealedSession
    authenticate: ClientAuth
    tls: ClientTls
    roster: Roster
    consumer_claim: ClaimPath
    written: frozenset[bytes]
    """Lower-case names of the headers that forward data of a session to the upstream."""
    lines: Callable[[LoginSession], bytes]
    """Returns the serialized identity headers. Raises `TokenRefused`."""


@final
class KnownLogin:
    """Cached session from a cookie."""

    __slots__ = (
        "claims",
        "consumer",
        "ended",
        "is_unstored",
        "lines",
        "retry_date",
        "sealed",
        "session",
        "stamp",
        "store_date",
        "ticket_key",
    )

    def __init__(self) -> None:
        self.session: LoginSession
        self.ticket_key = b""
        """Key of its ticket; b"": it is in cookies."""
        self.is_unstored = False
        """Whether it was refreshed, and is not kept anywhere else yet."""
        self.store_date = 0.0
        """Date when that is tried again."""
        self.claims: Claims
        self.lines: bytes
        """Identity headers for the upstream."""
        self.consumer: Consumer | None = None
        self.stamp: object = None
        """Stamp of the roster at the last lookup of the consumer and the revocation list."""
        self.sealed: bytes | None = None
        """New value of the cookie; None: it is up to date."""
        self.ended = ""
        """Reason why the session has ended."""
        self.retry_date = 0.0


class _Site(NamedTuple):
    """Gateway's address as a browser sees it."""

    origin: str
    cookie: bytes
    attributes: bytes


@final
class Flow:
    """Login flow of one policy, in one worker."""

    def __init__(
        self,
        login: Login,
        trust: PolicyIdentity,
        realm: bytes,
        others: tuple[tuple[bytes, bytes], ...] = (),
        store: StoredSessions | None = None,
    ) -> None:
        """`others`: challenges of the other authentication methods. `store`: of sessions that are too large for
        cookies.
        """
        self._store = store
        self._login = login
        self._trust = trust
        self._provider = trust.provider
        self._callback = login.callback.encode()
        self._begins = (login.login or "").encode()
        self._ends = (login.logout or "").encode()
        self._ends_elsewhere = (login.backchannel_logout or "").encode()
        self._name = trust.cookie.encode()
        own = rb"(?:%b)?(?:%b[0-9a-f]+|%b)(?:\..*)?" % (PREFIX, OWN.encode(), re.escape(self._name))
        self._is_ours = re.compile(own, re.DOTALL).fullmatch
        cookie = (b"WWW-Authenticate", b'Cookie realm="%b", cookie-name="%b"' % (realm, self._name))
        self._challenges = (*others, cookie)
        self._known: TokenCache[KnownLogin] = TokenCache(MOST_KNOWN)
        self._renewals: dict[str, asyncio.Task[LoginSession | Away | None]] = {}
        self._passed: dict[Exchange, list[bytes]] = {}
        """Values of `Set-Cookie` to write, of each request that has passed and has no response yet."""
        self._complaint = ""
        self._users = 0

    def start(self, feed: Feed, fetcher: Fetcher) -> None:
        """Start the flow in a worker, for each filter that shares it."""
        self._users += 1
        self._provider.start(feed, fetcher)
        if self._store is not None:
            self._store.open()

    def stop(self) -> None:
        """Stop the flow, once for each `start`."""
        self._users -= 1
        self._provider.stop()
        if self._store is not None:
            self._store.close()
        if not self._users:
            for renewal in self._renewals.values():
                renewal.cancel()

    # steps

    def pass_without_session(self, exchange: Exchange) -> None:
        """Let a request pass that another method authenticates: the gateway's cookies do not."""
        self._hide(exchange)
        self._passed[exchange] = []

    def _hide(self, exchange: Exchange) -> Jar:
        """Remove the gateway's cookies from the request for the upstream."""
        jar = Jar(exchange.head.values(b"cookie"), self._is_ours)
        if jar.ours:
            exchange.headers.remove(b"cookie")
            if jar.others:
                exchange.headers.add(b"Cookie", jar.others)
        return jar

    def request(self, exchange: Exchange) -> Outcome:
        jar = self._hide(exchange)
        site = self._site(exchange)
        path = exchange.path
        if path == self._callback:
            return self._return(exchange, jar, site)
        if path == self._ends_elsewhere:
            return self._hear_of_logout(exchange)
        try:
            known = self._session(jar, site)
        except AmbiguousCookie:
            return self._refuse(exchange, Fault.CREDENTIALS_INVALID, "the session cookie is sent more than once")
        if known is None or type(known) is KnownLogin:
            return self._serve(exchange, jar, site, known)
        return self._serve_stored(exchange, jar, site, known)

    async def _serve_stored(
        self, exchange: Exchange, jar: Jar, site: _Site, loading: Awaitable[KnownLogin | None]
    ) -> Reply | None:
        try:
            known = await loading
        except Unreachable as error:
            return exchange.refuse(Fault.SESSIONS_UNAVAILABLE, fields=[_NO_STORE], why=str(error))
        return await _awaited(self._serve(exchange, jar, site, known))

    def _serve(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin | None) -> Outcome:
        path = exchange.path
        if path == self._ends:
            return self._log_out(exchange, known, jar, site)
        if path == self._begins:
            wanted = parameters_of(exchange.query, ("return_to",)) or {}
            return self._start_login(exchange, jar, site, local(wanted.get("return_to", "/").encode()))
        if known is None:
            return self._require_login(exchange, jar, site, "")
        return self._use_session(exchange, jar, site, known)

    @property
    def own_path(self) -> bytes:
        return self._callback

    def expects(self, name: bytes, value: bytes) -> bool:
        """Whether it is the name of the provider in its callback (RFC 9207): a URL, maybe of a private host."""
        return name == b"iss" and value == self._trust.issuer.encode()

    def response(self, exchange: Exchange) -> None:
        """Remove the gateway's cookies that a service sets: it could put another user's session into a browser."""
        values = self._passed.pop(exchange, None)
        if values is None:
            return
        response = exchange.response
        assert response is not None
        given = response.values(b"set-cookie")
        if any(self._is_ours(stored_name(line)) for line in given):
            response.headers.remove(b"set-cookie")
            for line in given:
                if not self._is_ours(stored_name(line)):
                    response.headers.add(b"Set-Cookie", line)
        if values:
            response.headers.set(*_NO_STORE)  # otherwise a cache could give the session to other clients
            exchange.add_response_fields(b"".join(b"Set-Cookie: %b\r\n" % value for value in values))

    def finish(self, exchange: Exchange) -> None:
        self._passed.pop(exchange, None)

    def explain(self, exchange: Exchange) -> str:
        """Describe the authenticated client."""
        return explain_token(exchange) if exchange.consumer is None else f"a session of {exchange.consumer.name}"

    # requests with a session

    def _session(self, jar: Jar, site: _Site) -> KnownLogin | Awaitable[KnownLogin | None] | None:
        """Return the session of a request. It has to be waited for if it is stored, and not known here yet; then
        `Unreachable` may be raised. Raises `AmbiguousCookie`.
        """
        value = jar.value(site.cookie)
        if value is None:
            return None
        known = self._known.get(value)
        if known is not None:
            return known
        session = self._trust.sealed.session(value)
        if session is not None:
            return self._know(value, session)
        ticket = None if self._store is None else self._trust.sealed.ticket(value)
        return None if ticket is None else self._load(value, ticket)

    async def _load(self, value: bytes, ticket: SessionTicket) -> KnownLogin | None:
        assert self._store is not None
        session = await self._store.session(ticket.key)
        known = self._known.get(value)  # another request may have loaded it
        if session is None or known is not None:
            return known
        return self._know(value, replace(session, used_date=ticket.used_date), ticket.key)

    def _know(self, value: bytes, session: LoginSession, ticket_key: bytes = b"") -> KnownLogin | None:
        known = KnownLogin()
        known.ticket_key = ticket_key
        try:
            self._set_session(known, session)
        except TokenRefused:  # the settings have changed since it began
            return None
        self._known.store(value, known, time.monotonic() + self._left_s(session))
        return known

    def _left_s(self, session: LoginSession) -> float:
        return session.begun_date + self._login.session.lifetime - time.time()

    def _use_session(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin) -> Outcome:
        session, now = known.session, time.time()
        limits = self._login.session
        over = self._why_over(known, now)
        if over:
            return self._require_login(exchange, jar, site, over)
        if limits.idle is not None and now >= session.used_date + limits.idle * _IDLE_SHARE:
            self._note_use(known, now)
        if known.is_unstored and now >= known.store_date and not isinstance(exchange, ShadowExchange):
            return self._store_again(exchange, jar, site, known)
        is_due = session.due_date and now >= max(session.due_date, known.retry_date)
        if is_due and not isinstance(exchange, ShadowExchange):
            renewal = self._renewals.get(session.refresh_token)
            if renewal is None or renewal.done() or now >= session.ends_date:
                return self._renew(exchange, jar, site, known)
        self._pass(exchange, jar, site, known)
        return None

    def _why_over(self, known: KnownLogin, now: float) -> str:
        """Return the reason why a session is over; "": it is valid."""
        session, limits = known.session, self._login.session
        if known.stamp is not self._trust.roster.stamp:
            self._look_again(known, now)
        if known.ended:
            return known.ended
        if now >= session.begun_date + limits.lifetime:
            return "the session has reached its lifetime"
        if limits.idle is not None and now >= session.used_date + limits.idle:
            return "the session was idle for too long"
        if self._login.pass_access_token and not session.refresh_token and 0 < session.ends_date <= now:
            return "the access token has expired"
        return ""

    def _pass(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin) -> None:
        exchange.claims, exchange.consumer = known.claims, known.consumer
        exchange.request_dropped |= self._trust.written
        exchange.request_added += known.lines
        sealed = known.sealed
        self._passed[exchange] = [] if sealed is None else set_cookies(site.cookie, sealed, site.attributes, jar.ours)

    def _look_again(self, known: KnownLogin, now: float) -> None:
        """Whether the session is revoked; updates its consumer."""
        roster, claims = self._trust.roster, known.claims
        if roster.revoked and roster.revoked.covers(self._marks(known), now):
            known.ended = known.ended or "the session was ended"
        known.stamp = roster.stamp
        subject = find_claim(claims, self._trust.consumer_claim)
        known.consumer = consumer_of(roster, self._trust.issuer, subject)

    def _marks(self, known: KnownLogin) -> Marks:
        """Return the revocation keys of a session. Its time of issue is the login: a refresh does not change it."""
        session, subject = known.session, known.claims["sub"]
        began, issuer = session.begun_date, self._trust.issuer
        marks = [
            (self._mark(known), 0.0),
            (mark_of_subject(issuer, subject), began),
            (mark_of("logins", issuer, self._login.client_id, subject), began),
        ]
        if session.sid:
            marks.append((mark_of("sid", issuer, self._login.client_id, session.sid), 0.0))
        if session.access_token:
            marks.append((mark_of_token(session.access_token.encode()), 0.0))
        return tuple(marks)

    def _mark(self, known: KnownLogin) -> bytes:
        """Return the revocation key of the session, the same in all its cookies: no user begins two sessions in the
        same microsecond.
        """
        begun = f"{known.session.begun_date:.6f}"
        return mark_of("session", self._trust.issuer, self._login.client_id, known.claims["sub"], begun)

    def _note_use(self, known: KnownLogin, now: float) -> None:
        """Renew the cookie of a session that is in use. A stored session stays as it is."""
        known.session = session = replace(known.session, used_date=now)
        if known.is_unstored:
            return
        if known.ticket_key:
            known.sealed = self._trust.sealed.seal_ticket(SessionTicket(known.ticket_key, now))
        else:
            known.sealed = self._trust.sealed.seal_session(session)

    async def _replace_session(self, known: KnownLogin, session: LoginSession) -> None:
        """Continue with a refreshed session. If it cannot be stored, this worker has it until it can."""
        self._set_session(known, session)
        former, known.sealed, known.is_unstored = known.ticket_key, None, True
        known.store_date, may_be_stored = inf, True  # other requests neither wait for it nor store it twice
        try:
            known.sealed, known.ticket_key = await self._kept(session)
        except (_TooLarge, Unreachable) as error:
            log_event(OperatorEvent.SESSION_UNREFRESHED, "oidc: a refreshed session is not kept: %s", error)
            may_be_stored = isinstance(error, Unreachable)
            return
        finally:  # also if the client has disconnected meanwhile
            if may_be_stored:
                known.store_date = time.time() + AGAIN_S
        known.is_unstored = False
        if former and self._store is not None:
            self._store.retire(former, KEPT_S)

    async def _store_again(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin) -> Reply | None:
        await self._replace_session(known, known.session)
        return await self._pass_after_wait(exchange, jar, site, known)

    async def _kept(self, session: LoginSession) -> tuple[bytes, bytes]:
        """Return the value of a session's cookie, and the key of its ticket if it does not fit there and is stored.
        Raises `_TooLarge` and `Unreachable`.
        """
        sealed = self._trust.sealed.seal_session(session)
        if len(sealed) <= LONGEST:
            return sealed, b""
        if self._store is None:
            raise _TooLarge(f"{len(sealed)} bytes do not fit in cookies")
        subject, issuer, client_id = session.claims["sub"], self._trust.issuer, self._login.client_id
        marks = [mark_of("logins", issuer, client_id, subject)]
        if session.sid:
            marks.append(mark_of("sid", issuer, client_id, session.sid))
        key = await self._store.store(session, self._left_s(session), marks)
        if key is None:
            raise _TooLarge(f"{len(sealed)} bytes are too many to be stored")
        return self._trust.sealed.seal_ticket(SessionTicket(key, session.used_date)), key

    def _set_session(self, known: KnownLogin, session: LoginSession) -> None:
        known.session, known.claims, known.lines = session, session.claims, self._trust.lines(session)

    # refresh

    async def _renew(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin) -> Reply | None:
        session = known.session
        renewal = self._renewals.get(session.refresh_token)
        if renewal is None:
            renewal = self._begin_renewal(session)
        try:
            renewed = await asyncio.shield(renewal)
        except asyncio.CancelledError:
            if not renewal.cancelled():
                raise  # the client has disconnected
            renewed = Away("the configuration has changed meanwhile")
        if isinstance(renewed, Away):
            if str(renewed) != self._complaint:
                self._complaint = str(renewed)
                log_event(OperatorEvent.SESSION_UNREFRESHED, "oidc: sessions are not refreshed: %s", renewed)
            known.retry_date = time.time() + AGAIN_S
        elif renewed is None:
            known.ended = "the provider has ended the session"
            if known.ticket_key and self._store is not None:
                self._store.delete(known.ticket_key)
            return await _awaited(self._require_login(exchange, jar, site, known.ended))
        elif known.session is session:
            try:
                await self._replace_session(known, replace(renewed, used_date=time.time()))
            except TokenRefused as refusal:
                known.ended = str(refusal)
                return exchange.refuse(Fault.FORBIDDEN, fields=[_NO_STORE], why=known.ended)
        return await self._pass_after_wait(exchange, jar, site, known)

    async def _pass_after_wait(self, exchange: Exchange, jar: Jar, site: _Site, known: KnownLogin) -> Reply | None:
        if known.stamp is not self._trust.roster.stamp:
            self._look_again(known, time.time())
        if known.ended:  # meanwhile
            return await _awaited(self._require_login(exchange, jar, site, known.ended))
        self._pass(exchange, jar, site, known)
        return None

    def _begin_renewal(self, session: LoginSession) -> asyncio.Task[LoginSession | Away | None]:
        """Refresh in a separate task: if the client disconnects, the new tokens still belong to the session."""
        loop, token = asyncio.get_running_loop(), session.refresh_token
        renewal = self._renewals[token] = loop.create_task(self._renewed(session))

        def done(renewal: asyncio.Task[LoginSession | Away | None]) -> None:
            if renewal.cancelled() or isinstance(renewal.result(), Away):
                self._renewals.pop(token, None)
            else:
                loop.call_later(KEPT_S, self._renewals.pop, token, None)

        renewal.add_done_callback(done)
        return renewal

    async def _renewed(self, session: LoginSession) -> LoginSession | Away | None:
        """Return the refreshed session. None: the provider has rejected the refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": session.refresh_token}
        try:
            token = session.refresh_token
            tokens = await self._provider.tokens(form, self._trust.authenticate, self._trust.tls, once=token)
            if tokens.id_token:
                await self._trust.id_tokens.verify_refreshed(tokens, session.claims)
        except (Denied, TokenRefused) as refusal:
            log_event(OperatorEvent.SESSION_ENDED, "oidc: session ended: %s", refusal)
            return None
        except Away as away:
            return away
        self._complaint = ""
        return self._renewed_session(tokens, session)

    def _renewed_session(self, tokens: Tokens, session: LoginSession) -> LoginSession:
        now = time.time()
        return replace(
            session,
            id_token=tokens.id_token.encode() or session.id_token,
            access_token=tokens.access_token if self._login.pass_access_token else "",
            refresh_token=tokens.refresh_token or session.refresh_token,
            got_date=now,
            ends_date=now + tokens.expires_in if tokens.expires_in else 0.0,
        )

    # requests without a session

    def _require_login(self, exchange: Exchange, jar: Jar, site: _Site, why: str) -> Outcome:
        """Redirect a browser that loads a page to the login; answer 401 to any other request."""
        sent = site.cookie in jar.ours
        if _wants_page(exchange):
            target = exchange.raw_path if exchange.query is None else b"%b?%b" % (exchange.raw_path, exchange.query)
            begun = self._start_login(exchange, jar, site, local(target))
            return begun if sent else _inviting(begun)
        fault = Fault.CREDENTIALS_INVALID if sent else Fault.CREDENTIALS_MISSING
        return self._refuse(exchange, fault, why or ("the session cookie is not valid here" if sent else ""))

    def _refuse(self, exchange: Exchange, fault: Fault, why: str) -> Reply:
        return exchange.refuse(fault, fields=[*self._challenges, _NO_STORE], why=why)

    async def _start_login(self, exchange: Exchange, jar: Jar, site: _Site, return_to: bytes) -> Reply:
        if not exchange.authority and self._login.public_url is None:
            return exchange.refuse(Fault.BAD_REQUEST, "The Host header is missing.")
        metadata = await self._provider.heard_of_late()
        if metadata is None or not metadata.authorization_endpoint:
            return self._unavailable(exchange, self._provider.away or "it has no authorization_endpoint")
        attempt = LoginAttempt.new_attempt(return_to, site.origin + self._login.callback)
        parameters = {
            **self._login.parameters,
            "response_type": "code",
            "client_id": self._login.client_id,
            "redirect_uri": attempt.redirect_uri,
            "scope": " ".join(self._login.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        attributes = site.attributes + b"; Max-Age=%d" % self._login.timeout
        name, sealed = attempt_name(site.cookie, attempt.state), self._trust.sealed.seal_attempt(attempt)
        cookies = _cleared(self._surplus_attempts(jar, site, len(name) + len(sealed)), site, jar)
        cookies += set_cookies(name, sealed, attributes, {})
        return _sent(302, with_query(metadata.authorization_endpoint, parameters).encode(), cookies)

    def _unavailable(self, exchange: Exchange, why: str) -> Reply:
        return exchange.refuse(
            Fault.AUTH_UNAVAILABLE, _UNAVAILABLE, fields=[_NO_STORE], why=f"the provider is unreachable: {why}"
        )

    def _attempts(self, jar: Jar, site: _Site) -> tuple[bytes, ...]:
        """Return the names of the cookies of login attempts."""
        return tuple(name for name in jar.ours if name.startswith(attempt_name(site.cookie, "")))

    def _surplus_attempts(self, jar: Jar, site: _Site, added: int) -> list[bytes]:
        """Return the cookies of login attempts that make way for a new one of `added` bytes, the oldest first: each tab
        has its own attempt. Attempts that cannot be read count as the oldest.
        """
        begin = len(attempt_name(site.cookie, ""))
        sizes: Counter[bytes] = Counter()
        for name in self._attempts(jar, site):
            sizes[name[:begin] + name[begin:].partition(b".")[0]] += len(name) + len(jar.ours[name])
        surplus: list[bytes] = []
        count, size = len(sizes) + 1, sizes.total() + added
        for name in sorted(sizes, key=lambda name: self._begun_date(name, jar)):
            if count <= MOST_ATTEMPTS and size <= MOST_ATTEMPT_BYTES:
                break
            surplus.append(name)
            count, size = count - 1, size - sizes[name]
        return surplus

    def _begun_date(self, name: bytes, jar: Jar) -> float:
        attempt = self._unsealed_attempt(name, jar)
        return 0.0 if attempt is None else attempt.begun_date

    async def _return(self, exchange: Exchange, jar: Jar, site: _Site) -> Reply:
        """Handle the callback from the provider."""
        if exchange.method != b"GET":
            return exchange.refuse(Fault.METHOD_NOT_ALLOWED, fields=[(b"Allow", b"GET")])
        given = parameters_of(exchange.query, _CALLBACK)
        if given is None or "state" not in given:
            return exchange.refuse(Fault.BAD_REQUEST, _UNKNOWN, [_NO_STORE], why="the callback has no state")
        attempt = self._attempt(given["state"], jar, site)
        if attempt is None:
            return await self._return_without_attempt(exchange, jar, site)
        over = _cleared((attempt_name(site.cookie, attempt.state),), site, jar)
        if not self._is_from_provider(given):
            return exchange.refuse(Fault.BAD_REQUEST, _UNKNOWN, _fields(over), why="the callback has another issuer")
        if "error" in given or "code" not in given:
            why = f"the provider refused the login: {given.get('error', 'no code')[:80]!r}"
            return exchange.refuse(Fault.FORBIDDEN, "The identity provider refused the login.", _fields(over), why=why)
        if isinstance(exchange, ShadowExchange):  # a code can be redeemed only once
            return _sent(303, attempt.return_to, over)
        form = {
            "grant_type": "authorization_code",
            "code": given["code"],
            "redirect_uri": attempt.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        try:
            tokens = await self._provider.tokens(form, self._trust.authenticate, self._trust.tls)
            if len(tokens.id_token) > MOST_ID_TOKEN:
                return self._too_large(exchange, f"an ID token of {len(tokens.id_token)} bytes", over)
            claims = await self._trust.id_tokens.verify(tokens, attempt.nonce)
        except Away as away:
            return self._unavailable(exchange, str(away))  # the attempt is kept: the page may be reloaded
        except (Denied, TokenRefused) as refusal:
            return exchange.refuse(Fault.BAD_REQUEST, _UNKNOWN, _fields(over), why=str(refusal))
        now = time.time()
        sid = claims.get("sid")
        begun = LoginSession(b"", begun_date=now, used_date=now, sid=sid if isinstance(sid, str) else "")
        session = self._renewed_session(tokens, begun)
        try:
            self._trust.lines(session)
            sealed, _ = await self._kept(session)
        except TokenRefused as refusal:
            return exchange.refuse(Fault.FORBIDDEN, fields=_fields(over), why=str(refusal))
        except _TooLarge as error:
            return self._too_large(exchange, str(error), over)
        except Unreachable as error:
            return exchange.refuse(Fault.SESSIONS_UNAVAILABLE, _NOT_STORED, _fields(over), why=str(error))
        cookies = set_cookies(site.cookie, sealed, site.attributes, jar.ours)
        return _sent(303, attempt.return_to, over + cookies)

    def _too_large(self, exchange: Exchange, why: str, over: list[bytes]) -> Reply:
        detail = _TOO_LARGE if self._store is None else _TOO_LARGE_TO_STORE
        return exchange.refuse(Fault.SESSION_TOO_LARGE, detail, _fields(over), why=f"the session: {why}")

    async def _return_without_attempt(self, exchange: Exchange, jar: Jar, site: _Site) -> Reply:
        """Answer a callback that belongs to no pending login. Its code is never used, because it may be that of another
        browser (login CSRF). A browser with a session has gone back to a callback or reloaded it: it stays logged in,
        and is redirected to the start page, since the page that it wanted is known to the attempt alone.
        """
        exchange.why = "the callback belongs to no pending login"
        try:
            found = self._session(jar, site)
            known = found if found is None or type(found) is KnownLogin else await found
        except AmbiguousCookie:
            known = None
        except Unreachable as error:
            return exchange.refuse(Fault.SESSIONS_UNAVAILABLE, fields=[_NO_STORE], why=str(error))
        if known is not None and not self._why_over(known, time.time()):
            return _sent(303, b"/", [])
        return exchange.refuse(Fault.BAD_REQUEST, _UNKNOWN, [_NO_STORE], why=exchange.why)

    def _unsealed_attempt(self, name: bytes, jar: Jar) -> LoginAttempt | None:
        try:
            sealed = jar.value(name)
        except AmbiguousCookie:
            return None
        return None if sealed is None else self._trust.sealed.attempt(sealed)

    def _attempt(self, state: str, jar: Jar, site: _Site) -> LoginAttempt | None:
        attempt = self._unsealed_attempt(attempt_name(site.cookie, state), jar)
        if attempt is None or not compare_digest(attempt.state.encode(), state.encode()):
            return None
        return attempt if time.time() < attempt.begun_date + self._login.timeout else None

    def _is_from_provider(self, given: Mapping[str, str]) -> bool:
        """Whether the response is from the provider: one that sends `iss` sends it in every response (RFC 9207)."""
        metadata = self._provider.metadata
        must = metadata is not None and metadata.authorization_response_iss_parameter_supported
        return given["iss"] == self._trust.issuer if "iss" in given else not must

    # --- out ---

    def _log_out(self, exchange: Exchange, known: KnownLogin | None, jar: Jar, site: _Site) -> Reply:
        """Log out: all copies of the session, then at the provider (OpenID Connect RP-Initiated Logout 1.0 section
        2).
        """
        is_wanted = came_from(exchange, site.origin) or self._has_token(exchange, known)
        if known is not None and not is_wanted:
            return self._ask_first(exchange, known)
        cookies: list[bytes] = []
        if is_wanted:
            cookies = clear(site.cookie, site.attributes, jar.ours) + _cleared(self._attempts(jar, site), site, jar)
        if known is not None and not isinstance(exchange, ShadowExchange):
            self._end(known)
        metadata, place = self._provider.metadata, self._login.post_logout_redirect_uri
        if place.startswith("/"):
            place = site.origin + place
        if known is None or metadata is None or not metadata.end_session_endpoint:
            return _sent(303, place.encode(), cookies)
        parameters = {"client_id": self._login.client_id, "post_logout_redirect_uri": place}
        if len(known.session.id_token) <= LONGEST_HINT:  # otherwise the URL would be too long for servers
            parameters["id_token_hint"] = known.session.id_token.decode()
        return _sent(303, with_query(metadata.end_session_endpoint, parameters).encode(), cookies)

    def _has_token(self, exchange: Exchange, known: KnownLogin | None) -> bool:
        """Whether the request was sent by the button of `_ask_first`, for this session."""
        given = (parameters_of(exchange.query, ("token",)) or {}).get("token")
        if known is None or not given:
            return False
        return self._trust.sealed.is_logout(given.encode(), self._mark(known))

    def _ask_first(self, exchange: Exchange, known: KnownLogin) -> Reply:
        """Ask the user to confirm, because another site may have caused the request."""
        exchange.why = "the logout request has another origin"
        page = _LOGOUT_PAGE % self._trust.sealed.seal_logout(self._mark(known))
        return Reply(403, page, _LOGOUT_FIELDS, Fault.FORBIDDEN)

    def _end(self, known: KnownLogin) -> None:
        known.ended = "logged out"
        if known.ticket_key and self._store is not None:
            self._store.delete(known.ticket_key)
        expires = known.session.begun_date + self._login.session.lifetime
        about = event_of("session", expires, issuer=self._trust.issuer, subject=known.claims["sub"])
        self._trust.roster.revoke(record_of(self._mark(known), expires), about)

    async def _hear_of_logout(self, exchange: Exchange) -> Reply:
        """Handle a logout reported by the provider (OpenID Connect Back-Channel Logout 1.0 section 2)."""
        if exchange.method != b"POST":
            return exchange.refuse(Fault.METHOD_NOT_ALLOWED, fields=[(b"Allow", b"POST")])
        issuer, client_id, roster = self._trust.issuer, self._login.client_id, self._trust.roster
        try:
            token = (await read_form(exchange)).get("logout_token", "")
            claims = await self._trust.id_tokens.verify_logout(token)
            now, seen = time.time(), mark_of("logout", issuer, client_id, claims["jti"])
            if roster.revoked.covers([(seen, 0.0)], now):
                raise TokenRefused("the token was used before")
        except (NotRead, TokenRefused) as refusal:
            return exchange.refuse(Fault.BAD_REQUEST, "The logout token is invalid.", [_NO_STORE], why=str(refusal))
        except Away as away:
            return self._unavailable(exchange, str(away))
        ends, sid, subject = now + self._login.session.lifetime, claims.get("sid", ""), claims.get("sub", "")
        if sid:
            records = record_of(mark := mark_of("sid", issuer, client_id, sid), ends)
        else:
            records = record_of(mark := mark_of("logins", issuer, client_id, subject), ends, before_date=now)
        records += record_of(seen, claims["exp"] + _REPLAYED_S)
        if not isinstance(exchange, ShadowExchange):
            roster.revoke(records, event_of("session", ends, issuer=issuer, subject=subject))
            if self._store is not None:
                self._store.delete_all(mark)
        return Reply(200, fields=(_NO_STORE,))

    # URLs and destination of a request

    def _site(self, exchange: Exchange) -> _Site:
        origin = self._login.public_url
        if origin is None:
            scheme = client_scheme(exchange.head, exchange.peer)
            origin = f"{scheme.decode()}://{exchange.authority.decode('latin-1')}"
        if origin.startswith("https:"):
            return _Site(origin, PREFIX + self._name, _ATTRIBUTES + b"; Secure")
        return _Site(origin, self._name, _ATTRIBUTES)


def _cleared(names: Iterable[bytes], site: _Site, jar: Jar) -> list[bytes]:
    return [value for name in names for value in clear(name, site.attributes, jar.ours)]


def _fields(cookies: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [_NO_STORE, *((b"Set-Cookie", value) for value in cookies)]


def _sent(status: int, location: bytes, cookies: list[bytes]) -> Reply:
    return Reply(status, fields=((b"Location", location), (b"Referrer-Policy", b"no-referrer"), *_fields(cookies)))


async def _inviting(begun: Awaitable[Reply]) -> Reply:
    reply = await begun
    reply.invites = True
    return reply


def _wants_page(exchange: Exchange) -> bool:
    """Whether the request loads a page for a person: a posted form, or a request of a script, would be lost by a
    redirect.
    """
    if exchange.method not in (b"GET", b"HEAD") or exchange.field(b"x-requested-with") is not None:
        return False
    mode = exchange.field(b"sec-fetch-mode")
    if mode is not None and mode != b"navigate":
        return False
    return b"text/html" in (exchange.field(b"accept") or b"").lower()


async def _awaited(outcome: Outcome) -> Reply | None:
    if outcome is None or isinstance(outcome, Reply):
        return outcome
    return await outcome
