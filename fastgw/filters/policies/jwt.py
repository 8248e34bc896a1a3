"""jwt: authenticate by a JSON Web Token, verified with the issuer's keys (RFC 7519, RFC 8725, RFC 6750)."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, final

import re2
from msgspec import Meta

from fastgw.config.base.route_patterns import re2_problem
from fastgw.config.base.value_types import (
    AlgorithmName,
    Delay,
    EndpointUrl,
    FieldName,
    Notation,
    ReadableFile,
    Realm,
    Size,
    is_far_in_the_clear,
)
from fastgw.config.settings.gateway import NONE, Settings, Some, UpstreamTls
from fastgw.config.settings.secrets import Secret
from fastgw.exchange import RequestStep
from fastgw.filters.api import Env, Exchange, FeedSource, Filter, Hooks, Outcome, Phase, RequestHook, WarningContext
from fastgw.filters.api.credential_locations import CredentialLocations
from fastgw.filters.api.warning_context import ANYBODY, CONSUMERS, ClientIdentity
from fastgw.filters.authentication.bearer import canonical
from fastgw.filters.authentication.identity_headers import check_written
from fastgw.filters.authentication.jwks import JwksSource, Keyring
from fastgw.filters.authentication.token_policy import (
    Rule,
    TokenPolicy,
    TokenRequirements,
    consumers_without_issuer,
    explain_token,
    is_one_of,
    same,
    values_of,
)
from fastgw.filters.outbound.tls_settings import check_tls, client_tls
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import twins_of
from fastgw.jose import (
    ALGORITHMS,
    ClaimPath,
    Claims,
    Expected,
    KeySet,
    TokenRules,
    UnusableKey,
    claim_path,
    find_claim,
    key_from_secret,
    keys_from_pem,
    read_keys,
    secret_from_base64,
)

_NO_TLS: Final = UpstreamTls()
_PEM: Final = b"-----BEGIN "
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?: +(.*))?", re.DOTALL).fullmatch
_UNUSABLE: Final = WRITTEN_HERE | {b"cookie"}


def parse_claim(text: str) -> str:
    claim_path(text)
    return text


def parse_scope(text: str) -> str:
    """Validate a scope-token of RFC 6749 section 3.3."""
    if re.fullmatch(r"[!#-\[\]-~]+", text) is None:
        raise ValueError(f'"{text}" is not a scope')
    return text


def parse_pattern(text: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(text, options)
    except re2.error as error:
        raise ValueError(f'"{text}": {re2_problem(error)}') from error
    return text


def parse_parameter(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", text) is None:
        raise ValueError(f'"{text}" is not a plain name')
    return text


_TEXT: Final = {"type": "string"}
ClaimName = Annotated[str, Notation('a claim path such as "sub" or "realm_access.roles"', parse_claim, _TEXT)]
Scope = Annotated[str, Notation('a scope such as "read"', parse_scope, _TEXT)]
Pattern = Annotated[str, Notation("a regular expression in RE2 syntax", parse_pattern, _TEXT)]
ParameterName = Annotated[str, Notation('a name such as "access_token"', parse_parameter, _TEXT)]
Scalar = str | int | bool


class ClaimRule(Settings):
    """Rule for one claim. If the claim is a list, its values are the members of the list.

    `any_of`, `all_of`, `none_of` and `matches` check the values, `equals` checks the claim as a whole. All conditions
    that are set must hold. Values of different types are different: `true` is not `"true"`.
    """

    claim: ClaimName
    """Name of the claim. Dots separate nested names (`realm_access.roles`). A URL is a single name. In a path that
    begins with a slash, slashes separate nested names (`/a.b/c`, RFC 6901)."""
    equals: Scalar | None = None
    """Value that the claim must equal. null = not checked; the same holds for the other conditions."""
    any_of: Some[Scalar] | None = None
    """Values of which the claim must have at least one."""
    all_of: Some[Scalar] | None = None
    """Values that the claim must have, all of them."""
    none_of: Some[Scalar] | None = None
    """Values of which the claim must have none. A missing claim meets this."""
    matches: Pattern | None = None
    """Regular expression (RE2) that one of the values, a string, must match as a whole."""

    def __post_init__(self) -> None:
        if all(each is None for each in (self.equals, self.any_of, self.all_of, self.none_of, self.matches)):
            raise ValueError("the claim has no rule; expected `equals`, `any_of`, `all_of`, `none_of` or `matches`")


class TokenCacheSettings(Settings):
    """Cache of verified tokens in each worker, so that each token is verified only once."""

    ttl: Delay = 300.0
    """Maximum time for which a verified token is cached; never longer than it is valid. 0 = nothing is cached."""
    entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Maximum number of tokens; the oldest are evicted. Each takes about as much memory as its claims, 1 to 4 KiB."""


class Jwt(Filter, name="jwt", phase=Phase.AUTHENTICATE):
    """Authenticate clients with a JSON Web Token (JWT) that the issuer has signed.

    A client without a token, with an invalid token or with more than one token is answered 401; one whose token lacks a
    scope, 403 (RFC 6750). Exactly one of `jwks_uri`, `jwks_file`, `secret` and
    `consumer_keys` is the source of keys.

    A token that is bound to a client certificate (RFC 8705) is valid only on connections with this certificate; a token
    that is bound to anything else is refused.

    The consumer is the one whose `jwt` has the `issuer` of the filter and the subject of the token. If there is none,
    the consumer is named after the subject, without groups; but if `consumers` has another consumer with this name, the
    client has no consumer, so that a token cannot impersonate one.
    """

    algorithms: Some[AlgorithmName]
    """Accepted algorithms, such as `[RS256]`; a key is used only for algorithms of its own type and curve."""
    jwks_uri: EndpointUrl | None = None
    """URL of the issuer's keys (a JWK set). The gateway fetches them in the background, once per node, and again when
    the `Cache-Control` of the response says so (every 1 to 60 minutes; default 10) and when a token has an unknown key
    id. While the issuer is unreachable, the last keys stay valid. Over `http` an attacker in between can replace the
    keys."""
    tls: UpstreamTls = _NO_TLS
    """TLS settings for `jwks_uri`."""
    jwks_file: ReadableFile | None = None
    """File with keys: a JWK set, a JWK, or public keys and certificates in PEM. It is read again when it changes."""
    secret: Secret | None = None
    """Shared secret for `HS256` (at least 32 bytes), `HS384` (48) and `HS512` (64). For other algorithms, a public key
    in PEM. A secret that is not text has to be in a `jwks_file`, as `kty: oct`, or written in base64."""
    secret_is_base64: bool = False
    """Whether `secret` is the shared secret in base64 or base64url, whose padding may be left out."""
    consumer_keys: ClaimName | None = None
    """Verify tokens with the keys in `jwt` of `consumers`: the name in a token that leads to the key by its `key_id`.
    `kid`: that of the header; else a claim, such as `iss`. The consumer is the one that the key belongs to, whatever
    the subject. null = keys are those of the issuer."""
    issuer: Annotated[str, Meta(min_length=1)] | None = None
    """Required `iss` of the token, compared character by character. null = not checked: every holder of an accepted key
    can write any issuer, so that no consumer is found by `issuer` and `subject` of its `jwt`."""
    audiences: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Audiences, one of which must be in the token's `aud`. `"*"` = not checked. Without any, a token with an audience
    is refused (RFC 7519 section 4.1.3).
    """
    leeway: Delay = 1.0
    """Clock skew of the issuer that is tolerated for `exp`, `nbf` and `iat`."""
    required_claims: tuple[ClaimName, ...] = ("exp",)
    """Claims that must be there and not be null."""
    require_kid: bool = False
    """Whether tokens must name their key (`kid`). If not, a token without `kid` is verified with the keys of its
    algorithm, 4 at most."""
    types: Some[Annotated[str, Meta(min_length=1)]] = ("JWT", "at+jwt")
    """Valid values of `typ` in the header, if it is present. With only `at+jwt`, ID tokens are refused if the issuer
    distinguishes the two (RFC 9068)."""
    foreign_keys: Literal["refuse", "ignore"] = "ignore"
    """Handling of a token whose header contains a key, or a URL of one (`jwk`, `jku`, `x5c`, `x5u`). `ignore`: the
    token is verified with the configured keys, like any other; the header's key is neither fetched nor trusted.
    `refuse`: answered 401."""
    scopes: tuple[Scope, ...] = ()
    """Scopes that the token must have, all of them, in its `scope` or `scp`."""
    claim_rules: tuple[ClaimRule, ...] = ()
    """Rules for claims; a token that is valid but does not meet them is answered 403."""
    claims_to_headers: Mapping[ClaimName, FieldName] = NONE
    """Claims that are forwarded to the upstream, and their headers. Headers with these names from the client are always
    removed. A string is sent as it is, a list as its values joined by commas, anything else as JSON. A token is refused
    if a claim is not allowed in a header: if it has control characters, or commas in values of a list."""
    consumer_claim: ClaimName = "sub"
    """Claim that identifies the consumer."""
    header: FieldName | None = "Authorization"
    """Header with the token: in `Authorization` after `Bearer`, in other headers also without it. null = no header."""
    cookie: ParameterName | None = None
    """Cookie with the token. null = no cookie."""
    query: ParameterName | None = None
    """Query parameter with the token; URLs are kept in logs and browser histories. null = no parameter."""
    hide_credentials: bool = False
    """Whether to strip the token before forwarding."""
    max_token_bytes: Size = 8192
    """Maximum size of a token; a longer one is refused."""
    cache: TokenCacheSettings = TokenCacheSettings()
    """Cache of verified tokens."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate`."""

    def __post_init__(self) -> None:
        sources = ("jwks_uri", "jwks_file", "secret", "consumer_keys")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            wrong = f"there are `{'` and `'.join(given)}`" if given else "there are no keys"
            raise ValueError(f"{wrong}; expected one of `jwks_uri`, `jwks_file`, `secret` and `consumer_keys`")
        if self.secret_is_base64 and self.secret is None:
            raise ValueError("`secret_is_base64` is set, but there is no `secret`")
        if self.jwks_uri is None:
            if self.tls != _NO_TLS:
                raise ValueError("`tls` is set, but there is no `jwks_uri`")
        else:
            check_tls(self.jwks_uri, self.tls)
            if shared := [name for name in self.algorithms if name.startswith("HS")]:
                raise ValueError(f"`{shared[0]}` needs a shared `secret`; a `jwks_uri` has public keys only")
        if self.header is None and self.cookie is None and self.query is None:
            raise ValueError("no source for the token; expected `header`, `cookie` or `query`")
        if self.header is not None and self.header.lower().encode() in _UNUSABLE:
            raise ValueError(f"`{self.header}` is a connection header; expected another header for the token")
        check_written(self.claims_to_headers.values())

    def secret_names(self) -> Iterable[str]:
        return [name for name in (self.header, self.cookie, self.query) if name is not None]

    def credential_places(self) -> CredentialLocations:
        return CredentialLocations(
            () if self.header is None else (self.header.lower().encode(),),
            frozenset() if self.query is None else frozenset((self.query.encode(),)),
            frozenset() if self.cookie is None else frozenset((self.cookie.encode(),)),
        )

    def written_fields(self) -> Iterable[str]:
        return self.claims_to_headers.values()

    def feeds(self) -> Iterable[FeedSource]:
        return () if self.jwks_uri is None else (JwksSource.of(self.jwks_uri, self.tls),)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if self.jwks_uri is not None and is_far_in_the_clear(self.jwks_uri.origin):
            yield "`jwks_uri` is http: an attacker in between can replace the keys and forge tokens"
        if self.consumer_keys is not None and not (
            context.alternative or context.consumer_files or _has_keys(context.consumers)
        ):
            yield "no consumer has a key in its `jwt`: every request is refused"
        if self.consumer_keys is None and self.issuer is None:
            yield from consumers_without_issuer(context)

    def client_identity(self) -> ClientIdentity:
        return ANYBODY if self.consumer_keys is None else CONSUMERS

    def build(self, env: Env) -> Hooks:
        keyring = self._keyring(env)
        policy = env.shared(("jwt", env.policy), lambda: TokenPolicy(self._token_requirements(), keyring(), env.roster))
        use = _JwtUse(self, policy)
        live = self.jwks_uri is not None
        return Hooks(
            request=RequestHook(
                use.request_in_authorization if use.only_authorization else use.request,
                asks="" if self.jwks_uri is None else str(self.jwks_uri.origin),
            ),
            start=policy.keyring.start if live else None,
            stop=policy.keyring.stop if live else None,
            explain=explain_token,
        )

    def _keyring(self, env: Env) -> Callable[[], Keyring]:
        """Return the function that makes the keys of this policy; all files are read now. Raises `ValueError`."""
        if self.jwks_uri is not None:
            client_tls(env.read, self.tls)  # raises for invalid files
            feed = JwksSource.of(self.jwks_uri, self.tls).key
            shared = env.shared(("jwks", feed), lambda: Keyring(KeySet(), feed))
            return lambda: shared
        if self.consumer_keys is not None:
            return lambda: Keyring(KeySet())
        if self.jwks_file is not None:
            where, raw = self.jwks_file, env.read(self.jwks_file)
            return lambda: self._read(where, lambda: read_keys(raw, symmetric=True))
        assert self.secret is not None
        where, text = "the secret", env.secret(self.secret).encode()
        if self.secret_is_base64:
            return lambda: self._read(where, lambda: KeySet([key_from_secret(secret_from_base64(text))]))
        if text.lstrip().startswith(_PEM):
            return lambda: self._read(where, lambda: KeySet(keys_from_pem(text)))
        return lambda: self._read(where, lambda: KeySet([key_from_secret(text)]))

    def _read(self, where: str, read: Callable[[], KeySet]) -> Keyring:
        try:
            keys = read()
        except UnusableKey as problem:
            raise ValueError(f"{where}: {problem}") from problem
        if not any(key.algorithms.intersection(self.algorithms) for key in keys.keys):
            why = "".join(f"; key {each.place}: {each.reason}" for each in keys.passed_over[:3])  # no file name
            wanted = " or ".join(dict.fromkeys(ALGORITHMS[each].expected_key for each in self.algorithms))
            held = dict.fromkeys(", ".join(name for name in ALGORITHMS if name in key.algorithms) for key in keys.keys)
            holds = f"has keys for {' and for '.join(held)}" if held else "has no usable key"
            none = f"it contains no key for {' or '.join(self.algorithms)}"
            raise ValueError(f"{where}: {none}; expected {wanted}; it {holds}{why}")
        return Keyring(keys)

    def _token_requirements(self) -> TokenRequirements:
        types = frozenset(each.lower().removeprefix("application/") for each in self.types)
        return TokenRequirements(
            rules=TokenRules(
                algorithms=frozenset(self.algorithms),
                types=types,
                require_kid=self.require_kid,
                foreign_keys_refused=self.foreign_keys == "refuse",
                max_bytes=self.max_token_bytes,
            ),
            expected=Expected(
                self.issuer,
                frozenset(self.audiences),
                tuple(claim_path(each) for each in self.required_claims),
                self.leeway,
            ),
            scopes=frozenset(self.scopes),
            claim_rules=tuple((each.claim, compiled_rule(each)) for each in self.claim_rules),
            consumer_claim=claim_path(self.consumer_claim),
            fields=tuple((name.encode(), claim, claim_path(claim)) for claim, name in self.claims_to_headers.items()),
            realm=self.realm,
            key_name=None if self.consumer_keys is None else _key_name(self.consumer_keys),
            ceiling=self.cache.ttl,
            most=self.cache.entries,
        )


def _key_name(text: str) -> ClaimPath:
    return () if text == "kid" else claim_path(text)


def _has_keys(consumers: Iterable[Any]) -> bool:
    return any(token.key is not None for consumer in consumers for token in consumer.jwt)


@final
class _JwtUse:
    """JWT authentication: one use of the filter."""

    def __init__(self, settings: Jwt, policy: TokenPolicy) -> None:
        self._policy = policy
        self._recall = policy.recall
        header = b"" if settings.header is None else settings.header.lower().encode()
        parameters = frozenset((settings.query.encode(),)) if settings.query else frozenset()
        cookies = frozenset((settings.cookie.encode(),)) if settings.cookie else frozenset()
        self._header = header
        self._bare_allowed = header != b"authorization"
        self._others = CredentialLocations((), parameters, cookies)
        self._all = CredentialLocations((header,) if header else (), parameters, cookies)
        self._hides = settings.hide_credentials
        # If the token is forwarded, the upstream might read another one from a header that differs only in punctuation;
        # a hidden header is removed with all variants.
        self._twins = None if self._hides else twins_of(self._all.fields)
        self._written = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self.only_authorization = header == b"authorization" and not parameters and not cookies

    @property
    def request_in_authorization(self) -> RequestStep:
        """Request step if the token can only be in `Authorization`."""
        written, recall, roster = self._written, self._policy.recall_shown, self._policy.roster
        admit, verify, hide = self._policy.admit, self._verify, self._all.hide if self._hides else None

        def request(exchange: Exchange) -> Outcome:
            # PERF: 0.28 us for a cached token, all included; 0.1 more if it is cut out of the head, and as much for a
            # call of `admit` or for attributes of `self` (CPython 3.11, micro/tokens).
            if written:
                exchange.request_dropped |= written
            verdict = recall(exchange.head)
            if verdict is None:
                return verify(exchange, exchange.head.values(b"authorization"), [])
            if verdict.stamp is roster.stamp and verdict.refusal is None and not verdict.certificate:
                exchange.consumer, exchange.claims = verdict.consumer, verdict.claims
                if verdict.lines:
                    exchange.request_added += verdict.lines
            else:
                reply = admit(exchange, verdict)
                if reply is not None:
                    return reply
            if hide is not None:
                hide(exchange)
            return None

        return request

    def request(self, exchange: Exchange) -> Outcome:
        exchange.request_dropped |= self._written
        values = exchange.head.values(self._header) if self._header else []
        return self._verify(exchange, values, self._others.values(exchange))

    def _verify(self, exchange: Exchange, values: list[bytes], others: list[bytes]) -> Outcome:
        """Verify the token. `values`: of the header; `others`: tokens in other places."""
        tokens = [token for value in values if (token := self._token_in(value)) is not None]
        if not tokens and not others:
            return self._policy.absent(exchange)
        if len(tokens) + len(others) > 1 or (tokens and len(values) > 1):
            return self._policy.unclear(exchange, "there is more than one token")
        if self._twins is not None and exchange.head.any_line(self._twins.search):
            return self._policy.unclear(
                exchange, ("a header name imitates that of the token: it has another character in place of a hyphen")
            )
        token = tokens[0] if tokens else others[0]
        credential = token if self._bare_allowed else canonical(token)
        if not self.only_authorization or values[0] != credential:  # otherwise it was looked up already
            verdict = self._recall(credential)
            if verdict is not None:
                reply = self._policy.admit(exchange, verdict)
                if reply is None:
                    self._passed(exchange)
                return reply
        return self._policy.verify(exchange, credential, token, self._passed)

    def _passed(self, exchange: Exchange) -> None:
        if self._hides:
            self._all.hide(exchange)

    def _token_in(self, value: bytes) -> bytes | None:
        """Return the token in a value of the header; None: it has another form."""
        match = _BEARER(value)
        if match is not None:
            return match[1] or b""
        return value if self._bare_allowed else None


def compiled_rule(rule: ClaimRule) -> Rule:
    """Return a function that checks the claims by a rule."""
    path: ClaimPath = claim_path(rule.claim)
    checks: list[Callable[[Any], bool]] = []
    equals, any_of, all_of, none_of = rule.equals, rule.any_of, rule.all_of, rule.none_of
    if equals is not None:
        checks.append(lambda claim: same(claim, equals))
    if any_of is not None:
        checks.append(lambda claim: any(is_one_of(each, any_of) for each in values_of(claim)))
    if all_of is not None:
        checks.append(lambda claim: all(is_one_of(each, values_of(claim)) for each in all_of))
    if none_of is not None:
        checks.append(lambda claim: not any(is_one_of(each, none_of) for each in values_of(claim)))
    if rule.matches is not None:
        matches = re2.compile(rule.matches).fullmatch
        checks.append(
            lambda claim: any(isinstance(each, str) and matches(each) is not None for each in values_of(claim))
        )

    def holds(claims: Claims) -> bool:
        claim = find_claim(claims, path)
        return all(check(claim) for check in checks)

    return holds
