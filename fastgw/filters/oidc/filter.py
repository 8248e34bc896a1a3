"""oidc: let in whom an OpenID provider vouches for, by a bearer token or by a login in the browser."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Literal

import orjson

from fastgw.config.settings import NONE, UpstreamTls
from fastgw.config.values import Delay, FieldName
from fastgw.filters.api import Env, Exchange, FeedSource, Filter, Hooks, Phase, Services
from fastgw.filters.oidc.assertion import by_key
from fastgw.filters.oidc.flow import Flow, Trust
from fastgw.filters.oidc.id_token import IdTokens
from fastgw.filters.oidc.provider import Authenticate, Provider, ProviderSource, as_public, by_basic, by_post
from fastgw.filters.oidc.session import Sealed, Session
from fastgw.filters.oidc.settings import Issuer, Login
from fastgw.jose import claim_path, find_claim
from fastgw.upstream.tls import read_tls
from fastgw.wire.grammar import IS_VALUE

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Oidc(Filter, name="oidc", phase=Phase.AUTHENTICATE):
    """Let in whom an OpenID provider vouches for."""

    issuer: Issuer
    """The provider, exactly as it calls itself. What it says of itself is fetched from below this URL."""
    tls: UpstreamTls = UpstreamTls()
    """How https to the provider is spoken."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    """What tokens may be signed with."""
    leeway: Delay = 30.0
    """By how much the clocks may differ."""
    claims_to_headers: Mapping[FieldName, str] = NONE
    """Fields in which the upstream gets claims: the field's name, and the claim's. What clients send in them is
    removed."""
    login: Login | None = None
    """Let browsers log in."""

    def feeds(self) -> Iterable[FeedSource]:
        return (self._source,)

    @property
    def _source(self) -> ProviderSource:
        told = sha256(repr(self.tls).encode()).hexdigest()[:8]
        return ProviderSource(key=f"oidc {self.issuer} {told}", issuer=self.issuer, tls=self.tls)

    def build(self, env: Env) -> Hooks:
        login = self.login
        assert login is not None
        source = self._source
        provider = env.shared(("oidc provider", source.key), Provider)
        flow = env.shared(("oidc flow", env.instance, env.policy), lambda: self._flow(login, provider, env))

        def start(services: Services) -> None:
            provider.start(services.feeds[source.key], services.fetcher)
            flow.start()

        def stop() -> None:
            provider.stop()
            flow.stop()

        def explain(exchange: Exchange) -> str:
            return "a session"

        return Hooks(
            request=flow.request,
            response=flow.response,
            finish=flow.finish,
            start=start,
            stop=stop,
            explain=explain,
        )

    def _flow(self, login: Login, provider: Provider, env: Env) -> Flow:
        secrets = [env.secret(secret) for secret in (login.session.secret, *login.session.former_secrets)]
        policy = f"{self.issuer}\n{login.client_id}".encode()
        id_tokens = IdTokens(provider, self.issuer, login.client_id, frozenset(self.algorithms), self.leeway)
        return Flow(
            login,
            Trust(
                self.issuer,
                provider,
                id_tokens,
                Sealed(secrets, policy),
                _authenticate(login, env),
                read_tls(self.tls, env.read),
                env.roster,
                self._edits(login),
            ),
            env.instance.encode(),
        )

    def _edits(self, login: Login) -> Callable[[Session], tuple[tuple[bytes, bytes | None], ...]]:
        headers = [(name.encode(), claim_path(claim)) for name, claim in self.claims_to_headers.items()]
        passed = (login.pass_access_token or "").encode()

        def edits(session: Session) -> tuple[tuple[bytes, bytes | None], ...]:
            claims = session.claims
            made = [(name, _field_value(find_claim(claims, path))) for name, path in headers]
            if passed:
                token = session.access_token.encode()
                made.append((passed, b"Bearer " + token if passed.lower() == b"authorization" else token))
            return tuple(made)

        return edits


def _field_value(claim: Any) -> bytes | None:
    """A claim as a field has it, a list with commas; None: there is none, or none that everybody reads alike."""
    values = claim if isinstance(claim, list) else [claim]
    if not all(isinstance(value, str | int) for value in values):
        return None
    words = [value if isinstance(value, str) else orjson.dumps(value).decode() for value in values]
    text = ",".join(words).encode()
    is_clear = values is not claim or not any("," in word for word in words)
    return text if text and is_clear and IS_VALUE(text) else None


def _authenticate(login: Login, env: Env) -> Authenticate:
    if login.client_key is not None:
        return by_key(login.client_id, env.read(login.client_key))
    if login.client_secret is None:
        return as_public(login.client_id)
    by = by_basic if login.client_auth == "basic" else by_post
    return by(login.client_id, env.secret(login.client_secret))
