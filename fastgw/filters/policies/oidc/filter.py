"""oidc: OpenID Connect authentication, by a bearer token or by a login in the browser."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Final, Literal, final

import msgspec

from fastgw.config.base.problems import format_value
from fastgw.config.base.value_types import Delay, FieldName, Realm
from fastgw.config.settings.gateway import NONE, Some, UpstreamTls
from fastgw.exchange import RequestStep
from fastgw.filters.api import (
    Env,
    Exchange,
    FeedSource,
    Filter,
    Hooks,
    Outcome,
    Phase,
    RequestHook,
    Services,
    WarningContext,
)
from fastgw.filters.api.credential_locations import CredentialLocations
from fastgw.filters.api.warning_context import ANYBODY, ClientIdentity
from fastgw.filters.authentication.bearer import Unclear, bearer_token
from fastgw.filters.authentication.identity_headers import check_written
from fastgw.filters.authentication.jwks import Keyring
from fastgw.filters.authentication.token_policy import TokenPolicy, TokenRequirements, explain_token, field_value
from fastgw.filters.outbound.client_authentication import ClientAuth, by_basic_encoded, by_body, by_id, by_key
from fastgw.filters.outbound.tls_settings import client_tls
from fastgw.filters.policies.jwt import ClaimName, TokenCacheSettings
from fastgw.filters.policies.oidc.cookies import attempts_of, names_of, own_name
from fastgw.filters.policies.oidc.id_token import IdTokens
from fastgw.filters.policies.oidc.login_flow import Flow, PolicyIdentity
from fastgw.filters.policies.oidc.login_paths import own_paths, reached_paths
from fastgw.filters.policies.oidc.provider import KeysSource, Provider, ProviderSource
from fastgw.filters.policies.oidc.session import LoginSession, SealedSession, meaning_of
from fastgw.filters.policies.oidc.settings import Bearer, Issuer, Login
from fastgw.filters.policies.oidc.stored_sessions import StoredSessions
from fastgw.jose import Expected, KeySet, TokenRules, claim_path, find_claim
from fastgw.upstream.targets.tls import ClientTls

_AUTHORIZATION: Final = frozenset((b"authorization",))

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Oidc(Filter, name="oidc", phase=Phase.AUTHENTICATE):
    """OpenID Connect: authenticate clients with an access token of the provider, or with a login in the browser.

    With both `bearer` and `login`, a request with `Authorization: Bearer` is authenticated by this token only. The
    consumer is the one whose `jwt` has the issuer and the subject. If there is none, the consumer is named after the
    subject, without groups; but if `consumers` has another consumer with this name, the client has no consumer, so that
    a token cannot impersonate one.
    """

    issuer: Issuer
    """Issuer identifier of the provider, exactly as the provider writes it. Its metadata and keys are fetched from this
    URL in the background, once per node. While the provider is unreachable, its last metadata and keys stay valid, and
    sessions continue."""
    bearer: Bearer | None = None
    """Accept access tokens that the provider has signed (JWTs), verified as by the filter `jwt`. null = disabled."""
    login: Login | None = None
    """Login in the browser: the authorization code flow with PKCE. Requests that are not page loads are answered 401
    instead of redirected. A route with this filter has to match the paths `callback`, `logout`, `login` and
    `backchannel_logout`. null = disabled."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the provider."""
    algorithms: Some[Algorithm] = ("RS256", "PS256", "ES256", "EdDSA")
    """Accepted signature algorithms of tokens."""
    leeway: Delay = 10.0
    """Clock skew of the provider that is tolerated."""
    claims_to_headers: Mapping[ClaimName, FieldName] = NONE
    """Claims of the access token or the ID token that are forwarded to the upstream, and their headers. Headers with
    these names from the client are always removed. A token is refused if a claim contains characters that are not
    allowed in a header."""
    consumer_claim: ClaimName = "sub"
    """Claim that identifies the consumer."""
    cache: TokenCacheSettings = TokenCacheSettings()
    """Cache of access tokens."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate`."""

    def __post_init__(self) -> None:
        if self.bearer is None and self.login is None:
            raise ValueError("no authentication method; expected `bearer` or `login`")
        passed = self._passed
        own = passed.lower() == "authorization"
        check_written((*self.claims_to_headers.values(), *((passed,) if passed and not own else ())))

    def credential_places(self) -> CredentialLocations:
        login = self.login
        cookies = () if login is None else names_of(self._cookie(login))
        attempts = () if login is None else attempts_of(self._cookie(login))
        ours = self.bearer is not None or self._passed.lower() == "authorization"
        return CredentialLocations(
            (b"authorization",) if ours else (), cookies=frozenset(cookies), beginnings=frozenset(attempts)
        )

    def written_fields(self) -> Iterable[str]:
        passed = () if self._passed.lower() in ("", "authorization") else (self._passed,)
        return (*self.claims_to_headers.values(), *passed)

    def secret_names(self) -> Iterable[str]:
        passed = (self._passed,) if self._passed else ()
        return passed if self.login is None else (*passed, "state")  # the parameters of the callback

    def feeds(self) -> Iterable[FeedSource]:
        keys = KeysSource(key=f"oidc keys {self._provider_key}", issuer=self.issuer, tls=self.tls)
        about = ProviderSource(key=f"oidc {self._provider_key}", issuer=self.issuer, tls=self.tls)
        return (keys,) if self.login is None else (keys, about)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if self.login is not None and self.login.public_url is None:
            yield "no `login.public_url`: the `redirect_uri` is made from the Host header of each request"
        if self.login is not None and context.positions and not context.generated:
            reached = context.shared(
                reached_paths,
                lambda: reached_paths((each.login, route) for each, route in context.uses_of(Oidc) if each.login),
            )
            for key, path in own_paths(self.login):
                if path not in reached:
                    effect = ": no login can be completed" if key == "callback" else ""
                    yield f"`login.{key}`: no route with this filter matches {format_value(path)}{effect}"

    def client_identity(self) -> ClientIdentity:
        return ANYBODY

    @property
    def _passed(self) -> str:
        """Return the header name for the access token of a session; "": none."""
        return "" if self.login is None else self.login.pass_access_token or ""

    def _meaning(self, login: Login) -> bytes:
        cookie = login.session.cookie
        return meaning_of(self.issuer, login.client_id, cookie, login.scopes, login.parameters, self.algorithms)

    def _cookie(self, login: Login) -> str:
        return login.session.cookie or own_name(self._meaning(login))

    @property
    def _provider_key(self) -> str:
        if self.tls == UpstreamTls():
            return self.issuer
        return f"{self.issuer} {sha256(msgspec.msgpack.encode(self.tls)).hexdigest()[:16]}"

    def build(self, env: Env) -> Hooks:
        tls = client_tls(env.read, self.tls)
        keys = f"oidc keys {self._provider_key}"
        keyring = env.shared(("jwks", keys), lambda: Keyring(KeySet(), keys))
        bearer = login = None
        if self.bearer is not None:
            wanted = self._token_requirements(self.bearer)
            policy = env.shared(("oidc bearer", env.policy), lambda: TokenPolicy(wanted, keyring, env.roster))
            bearer = _Bearer(policy, self._written, self.bearer.hide_credentials)
        if self.login is not None:
            login = self._flow(self.login, keyring, tls, env, () if bearer is None else bearer.missing)
        return self._hooks(keyring, bearer, login)

    def _hooks(self, keyring: Keyring, bearer: "_Bearer | None", login: Flow | None) -> Hooks:
        if login is None:
            assert bearer is not None
            return Hooks(
                request=RequestHook(bearer.request, asks=self.issuer),
                start=keyring.start,
                stop=keyring.stop,
                explain=explain_token,
            )
        flow, feed = login, f"oidc {self._provider_key}"

        def start(services: Services) -> None:
            keyring.start(services)
            flow.start(services.feeds[feed], services.fetcher)

        def stop() -> None:
            keyring.stop()
            flow.stop()

        return Hooks(
            request=RequestHook(flow.request if bearer is None else _either(bearer, flow), asks=self.issuer),
            response=flow.response,
            finish=flow.finish,
            start=start,
            stop=stop,
            explain=flow.explain,
        )

    @property
    def _written(self) -> tuple[bytes, ...]:
        return tuple(name.lower().encode() for name in self.claims_to_headers.values())

    def _token_requirements(self, bearer: Bearer) -> TokenRequirements:
        return TokenRequirements(
            rules=TokenRules(
                algorithms=frozenset(self.algorithms),
                types=frozenset(each.lower().removeprefix("application/") for each in bearer.types),
                max_bytes=bearer.max_token_bytes,
            ),
            expected=Expected(
                self.issuer,
                frozenset(bearer.audiences),
                tuple(claim_path(each) for each in bearer.required_claims),
                self.leeway,
            ),
            scopes=frozenset(bearer.scopes),
            consumer_claim=claim_path(self.consumer_claim),
            fields=tuple((name.encode(), claim, claim_path(claim)) for claim, name in self.claims_to_headers.items()),
            realm=self.realm,
            ceiling=self.cache.ttl,
            most=self.cache.entries,
        )

    def _flow(
        self, login: Login, keyring: Keyring, tls: ClientTls, env: Env, others: tuple[tuple[bytes, bytes], ...]
    ) -> Flow:
        secrets = [env.secret(secret) for secret in (login.session.secret, *login.session.former_secrets)]
        authenticate = self._authenticate(login, env)
        trust = PolicyIdentity(
            issuer=self.issuer,
            cookie=self._cookie(login),
            provider=env.shared(("oidc provider", self._provider_key), Provider),
            id_tokens=IdTokens(keyring, self.issuer, login.client_id, frozenset(self.algorithms), self.leeway),
            sealed=SealedSession(secrets, self._meaning(login)),
            authenticate=authenticate,
            tls=tls,
            roster=env.roster,
            consumer_claim=claim_path(self.consumer_claim),
            written=frozenset((*self._written, *([self._passed.lower().encode()] if self._passed else []))),
            lines=self._lines(),
        )
        store = self._store(login, secrets, env)
        flow = env.shared(("oidc login", env.policy), lambda: Flow(login, trust, self.realm.encode(), others, store))
        env.verifiers.add(flow)
        return flow

    def _store(self, login: Login, secrets: list[str], env: Env) -> StoredSessions | None:
        state = env.state
        if state is None:
            return None
        from fastgw.redis.stored_sessions import StateSessions

        url, timeout = env.secret(state.url), state.timeout
        client = env.shared(("state sessions", url, timeout), lambda: StateSessions(url, timeout))
        return StoredSessions(client, state.prefix, secrets, self._meaning(login))

    def _authenticate(self, login: Login, env: Env) -> ClientAuth:
        if login.client_key is not None:
            return by_key(login.client_id, env.read(login.client_key), self.issuer)
        if login.client_secret is None:
            return by_id(login.client_id)  # PKCE alone proves that this client began the login
        by = by_basic_encoded if login.client_auth == "basic" else by_body
        return by(login.client_id, env.secret(login.client_secret))

    def _lines(self) -> Callable[[LoginSession], bytes]:
        fields = [(name.encode(), claim, claim_path(claim)) for claim, name in self.claims_to_headers.items()]
        passed = self._passed.encode()
        prefix = b"Bearer " if passed.lower() == b"authorization" else b""

        def lines(session: LoginSession) -> bytes:
            claims = session.claims
            values = [(name, field_value(claim, find_claim(claims, path))) for name, claim, path in fields]
            if passed and session.access_token:
                values.append((passed, prefix + session.access_token.encode()))
            return b"".join(b"%b: %b\r\n" % field for field in values if field[1])

        return lines


@final
class _Bearer:
    """Authentication of clients with a token of their own."""

    def __init__(self, policy: TokenPolicy, written: tuple[bytes, ...], hides: bool) -> None:
        self._policy = policy
        self._written = frozenset(written)
        self._hides = hides
        self.missing = policy.missing

    def request(self, exchange: Exchange) -> Outcome:
        try:
            token = bearer_token(exchange)
        except Unclear as problem:
            return self._policy.unclear(exchange, str(problem))
        exchange.request_dropped |= self._written
        if token is None:
            return self._policy.absent(exchange)
        verdict = self._policy.recall(token)
        if verdict is None:
            return self._policy.verify(exchange, token, token, self._passed)
        reply = self._policy.admit(exchange, verdict)
        if reply is None:
            self._passed(exchange)
        return reply

    def _passed(self, exchange: Exchange) -> None:
        if self._hides:
            exchange.request_dropped |= _AUTHORIZATION


def _either(bearer: _Bearer, flow: Flow) -> RequestStep:
    def request(exchange: Exchange) -> Outcome:
        try:
            shown = bearer_token(exchange) is not None
        except Unclear:
            shown = True
        if shown:
            flow.pass_without_session(exchange)
            return bearer.request(exchange)
        return flow.request(exchange)

    return request
