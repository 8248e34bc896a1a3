"""Token policy: verified tokens and their cache, for filters such as `jwt`.

Rule 1: a verdict is cached while the token is valid, up to a maximum time, for the policy that has made it. Rule 2: it
ends with its key: if the key is no longer in the set, the token is verified again.
Rule 3: claims are copied into headers only as whole values on one line; a token with other values is rejected. Rule 4:
after every revocation, each cached verdict is checked against the revocation list before its next use.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from msgspec import Struct

from fastgw.consumers.index import Consumer, Roster
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Outcome, Reply
from fastgw.filters.api import WarningContext
from fastgw.filters.authentication.bearer import challenge
from fastgw.filters.authentication.jwks import Keyring
from fastgw.filters.authentication.revocation_keys import REVOKED, Marks, mark_of_token, marks_of
from fastgw.filters.authentication.templates import is_element
from fastgw.http.grammar import IS_VALUE
from fastgw.http.messages import RequestHead
from fastgw.jose import (
    ClaimPath,
    Claims,
    Expected,
    KeySet,
    Signed,
    TokenRefused,
    TokenRules,
    UnknownKey,
    check_claims,
    claim_json,
    find_claim,
    read_token,
    scopes_of,
    verify,
)
from fastgw.jose.strict import unencoded
from fastgw.sync.credential_cache import TokenCache, uncollected

LONGEST_NAME: Final = 256
"""Maximum characters of a consumer's name from a token."""
_FINGERPRINT: Final = 32
_NOT_IN_DESCRIPTION: Final = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750 section 3

Rule = Callable[[Claims], bool]
"""Function that returns whether the claims meet a rule."""


class TokenRequirements(NamedTuple):
    """Requirements of a policy for a token, and headers and cache settings."""

    rules: TokenRules
    expected: Expected
    scopes: frozenset[str] = frozenset()
    """Scopes that the token must have, all of them."""
    claim_rules: tuple[tuple[str, Rule], ...] = ()
    """Rules, each with the name of its claim as configured."""
    consumer_claim: ClaimPath = ("sub",)
    fields: tuple[tuple[bytes, str, ClaimPath], ...] = ()
    """Header names, and the claims that are forwarded in them."""
    realm: str = ""
    key_name: ClaimPath | None = None
    """Claim that names the consumer's key; (): `kid` in the header; None: keys are not those of consumers."""
    ceiling: float = 300.0
    """Maximum seconds for which a verdict is cached."""
    most: int = 10_000
    """Maximum number of cached verdicts."""


def certificate_of(claims: Claims) -> str:
    """The fingerprint of the client certificate that a token is bound to, "" for none (RFC 8705 section 3.1).

    Raises `TokenRefused` for other bindings, such as the key of RFC 9449 (DPoP): possession of such a token proves
    nothing.
    """
    bond = claims.get("cnf")
    if bond is None:
        return ""
    digest = bond.get("x5t#S256") if isinstance(bond, dict) and len(bond) == 1 else None
    if not isinstance(digest, str) or not digest.isascii():
        raise TokenRefused("the token is bound to something other than a client certificate, such as a DPoP key")
    fingerprint = unencoded(digest.encode(), "the token's `cnf` claim")
    if len(fingerprint) != _FINGERPRINT:
        raise TokenRefused("the token's `x5t#S256` is not a certificate thumbprint")
    return fingerprint.hex()


def is_bearers(exchange: Exchange, certificate: str) -> bool:
    """Whether a token may be used on this connection: it is bound to no certificate (""), or to that of the
    connection.
    """
    if not certificate:
        return True
    shown = exchange.peer.certificate
    return shown is not None and shown.fingerprint == certificate


OTHERS: Final = "the token is bound to another client certificate"


@final
class TokenVerdict(Struct, gc=False):
    """Verdict on a token.

    PERF: excluded from garbage collection, with its claims: with 10,000 verdicts a full collection, which blocks a
    worker, took 40 ms, now 1 (CPython 3.11).
    """

    claims: Claims
    mark: bytes
    """Digest of the key that it was signed with."""
    lines: bytes = b""
    """Serialized header lines for the upstream."""
    refusal: "_Refusal | None" = None
    """Refusal of a valid token."""
    consumer: Consumer | None = None
    token: bytes = b""
    """Revocation key of the token itself."""
    marks: Marks = ()
    """All its revocation keys, computed on demand; () before."""
    stamp: object = None
    """Stamp of the roster at the last lookup of the consumer and the revocation list."""
    key_id: str = ""
    """Name of the consumer's key that it was signed with; "": it is not a consumer's key."""
    certificate: str = ""
    """See `certificate_of`; checked for each request, because another connection may present the same token."""

    def __repr__(self) -> str:  # claims may be personal data
        return f"<TokenVerdict {'refused' if self.refusal else 'accepted'}>"


class _Refusal(NamedTuple):
    fault: Fault
    detail: str
    fields: tuple[tuple[bytes, bytes], ...] = ()
    why: str = ""


@final
class TokenPolicy:
    """A token policy in one worker, with its cache."""

    __slots__ = ("__weakref__", "_known", "_wanted", "keyring", "missing", "recall", "recall_shown", "roster")

    def __init__(self, wanted: TokenRequirements, keyring: Keyring, roster: Roster) -> None:
        self._wanted = wanted
        self.keyring = keyring
        self.roster = roster
        self._known: TokenCache[TokenVerdict] = TokenCache(wanted.most)
        self.recall: Callable[[bytes], TokenVerdict | None] = self._known.get
        """Returns the cached verdict of a credential. It may be out of date: see `admit`."""
        self.recall_shown: Callable[[RequestHead], TokenVerdict | None] = self._known.shown_by
        """Returns the cached verdict of the only `Authorization` header of a request."""
        self.missing = (challenge(wanted.realm, scope=" ".join(sorted(wanted.scopes))),)
        keyring.on_change(self._keys_changed)

    def __repr__(self) -> str:
        return f"<TokenPolicy {self._known!r}, {self.keyring!r}>"

    def _keys_changed(self) -> None:
        if self._wanted.key_name is not None:
            return  # keys of consumers are looked up again: see `_is_still_good`
        marks = self.keyring.keys.marks
        self._known.retain_only(lambda verdict: verdict.mark in marks)

    def absent(self, exchange: Exchange) -> Reply:
        """Return the rejection of a request without a token, which has no error code (RFC 6750 section 3.1)."""
        return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=self.missing, why="the token is missing")

    def unclear(self, exchange: Exchange, why: str) -> Reply:
        """Reject a request with an ambiguous credential."""
        return self._refuse(exchange, why, "invalid_request")

    def admit(self, exchange: Exchange, verdict: TokenVerdict) -> Reply | None:
        """Apply the cached verdict on the token to the exchange."""
        if not is_bearers(exchange, verdict.certificate):
            return self._refuse(exchange, OTHERS)
        if verdict.stamp is not self.roster.stamp and not self._is_still_good(verdict):
            return self._refuse(exchange, REVOKED)
        refusal = verdict.refusal
        if refusal is not None:
            return exchange.refuse(refusal.fault, refusal.detail, refusal.fields, refusal.why)
        exchange.consumer = verdict.consumer
        exchange.claims = verdict.claims
        if verdict.lines:
            exchange.request_added += verdict.lines
        return None

    def verify(self, exchange: Exchange, credential: bytes, token: bytes, then: Callable[[Exchange], None]) -> Outcome:
        """Verify a token without a cached verdict. `credential`: cache key.

        `then` is called when it is accepted.
        """
        try:
            signed = read_token(token, self._wanted.rules)
        except TokenRefused as refusal:
            return self._refuse(exchange, str(refusal))
        try:
            key_id = None if self._wanted.key_name is None else self._key_id(signed, self._wanted.key_name)
            keys = self.keyring.keys if key_id is None else self._keys_named(signed, key_id)
            verdict = self._verdict(signed, token, keys, key_id or "")
        except UnknownKey as refusal:
            if self.keyring.feed:
                return self._verify_later(exchange, credential, token, signed, then)
            return self._refuse(exchange, str(refusal))
        except TokenRefused as refusal:
            return self._refuse(exchange, str(refusal))
        return self._conclude(exchange, credential, verdict, then)

    @staticmethod
    def _key_id(signed: Signed, name: ClaimPath) -> str:
        """Return the name of the consumer's key in a token, whose signature is not verified yet. Raises
        `TokenRefused`.
        """
        key_id = find_claim(signed.claims(), name) if name else signed.kid
        if not isinstance(key_id, str) or not key_id:
            raise TokenRefused("the token does not name the key of a consumer")
        return key_id

    def _keys_named(self, signed: Signed, key_id: str) -> KeySet:
        """Return the key of a consumer. Raises `TokenRefused`."""
        known = self.roster.by_token_key(key_id)
        if known is None:
            raise TokenRefused("the token is signed with an unknown key")
        signer = known[1]
        if signer.algorithm != signed.alg:
            raise TokenRefused("the token's `alg` does not match its key")
        return KeySet([signer.parsed().nameless()])

    async def _verify_later(
        self, exchange: Exchange, credential: bytes, token: bytes, signed: Signed, then: Callable[[Exchange], None]
    ) -> Reply | None:
        """Verify a token with an unknown key, after fetching newer keys."""
        try:
            verdict = await self.keyring.verify_with(lambda keys: self._verdict(signed, token, keys))
        except TokenRefused as refusal:
            if not self.keyring.keys:
                why = "the keys of the provider have not been fetched yet"
                return exchange.refuse(Fault.AUTH_UNAVAILABLE, why=why)
            return self._refuse(exchange, str(refusal))
        return self._conclude(exchange, credential, verdict, then)

    def _conclude(
        self,
        exchange: Exchange,
        credential: bytes,
        verdict: tuple[TokenVerdict, float],
        then: Callable[[Exchange], None],
    ) -> Reply | None:
        made, good_for = verdict
        if self._wanted.ceiling:
            self._known.store(credential, made, time.monotonic() + min(good_for, self._wanted.ceiling))
        reply = self.admit(exchange, made)
        if reply is None:
            then(exchange)
        return reply

    def _verdict(self, signed: Signed, token: bytes, keys: KeySet, key_id: str = "") -> tuple[TokenVerdict, float]:
        """Return the verdict, and the seconds for which it is valid. Raises `TokenRefused`."""
        wanted = self._wanted
        key = verify(signed, keys)
        claims = signed.claims()
        now = time.time()
        good_for = check_claims(claims, wanted.expected, now) - now
        verdict = TokenVerdict(MappingProxyType(uncollected(claims)), key.mark)
        verdict.key_id = key_id
        verdict.certificate = certificate_of(claims)
        verdict.refusal = self._forbidden(claims)
        verdict.lines = lines_of(claims, wanted.fields)
        verdict.token = mark_of_token(token)
        return verdict, good_for

    def _forbidden(self, claims: Claims) -> _Refusal | None:
        """Return the rejection of a valid token: RFC 6750 section 3.1 for scopes."""
        wanted = self._wanted
        if wanted.scopes and (lacking := wanted.scopes - scopes_of(claims)):
            detail = "the token lacks a scope"
            fields = (challenge(wanted.realm, "insufficient_scope", detail, " ".join(sorted(wanted.scopes))),)
            why = f"the token lacks the scope {' '.join(sorted(lacking))}"
            return _Refusal(Fault.INSUFFICIENT_SCOPE, f"{detail[0].upper()}{detail[1:]}.", fields, why)
        for claim, rule in wanted.claim_rules:
            if not rule(claims):
                return _Refusal(Fault.FORBIDDEN, "", (), f"the claim {claim} does not satisfy its rules")
        return None

    def _is_still_good(self, verdict: TokenVerdict) -> bool:
        """Whether it is not revoked; updates its consumer, and its stamp for later requests."""
        roster = self.roster
        if roster.revoked:
            verdict.marks = verdict.marks or marks_of(verdict.claims, verdict.token)
            if roster.revoked.covers(verdict.marks, time.time()):
                return False
        if verdict.key_id:
            known = roster.by_token_key(verdict.key_id)
            if known is None or known[1].parsed().mark != verdict.mark:
                return False
            verdict.stamp, verdict.consumer = roster.stamp, known[0]
            return True
        verdict.stamp = roster.stamp
        subject = find_claim(verdict.claims, self._wanted.consumer_claim)
        verdict.consumer = consumer_of(roster, self._wanted.expected.issuer, subject)
        return True

    def _refuse(self, exchange: Exchange, why: str, error: str = "invalid_token") -> Reply:
        description = _NOT_IN_DESCRIPTION.sub("?", why.replace("`", "'"))
        fields = (challenge(self._wanted.realm, error, description),)
        return exchange.refuse(
            Fault.CREDENTIALS_INVALID, f"{description[0].upper()}{description[1:]}.", fields, why=why
        )


def lines_of(claims: Claims, fields: Iterable[tuple[bytes, str, ClaimPath]]) -> bytes:
    """Return serialized header lines with claims for an upstream; `fields`: as in `TokenRequirements`. Raises
    `TokenRefused`.
    """
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, text, path in fields
        if (value := field_value(text, find_claim(claims, path)))
    )


def consumer_of(roster: Roster, issuer: str | None, subject: Any) -> Consumer | None:
    """Return the consumer with this subject, otherwise one named by the token, unless a consumer has that name already.

    `issuer`: the one that the filter requires. None: any, so that every holder of an accepted key could write the name
    of another issuer; no consumer has such a subject (RFC 8725 section 3.8). Names with leading or trailing space are
    not used, because headers lose it.
    """
    if not isinstance(subject, str) or not subject:
        return None
    found = None if issuer is None else roster.by_jwt_subject(issuer, subject)
    fit = len(subject) <= LONGEST_NAME and subject.isprintable() and subject == subject.strip()
    if found is None and fit and not roster.is_named(subject):
        found = Consumer(subject)
    return found


def consumers_without_issuer(context: WarningContext) -> Iterator[str]:
    """Yield a warning if there are consumers whose tokens name an issuer; for filters that require none."""
    if any(token.issuer is not None for consumer in context.consumers for token in consumer.jwt):
        yield "no `issuer`: no client becomes a consumer by `issuer` and `subject`, as a token could name any issuer"


def explain_token(exchange: Exchange) -> str:
    """Describe the client and the remaining lifetime of the token, once it has passed."""
    exp = exchange.claims.get("exp")
    who = f"consumer {exchange.consumer.name}" if exchange.consumer is not None else "a valid token of no consumer"
    return f"{who}, expires in {exp - time.time():.0f} s" if isinstance(exp, int | float) else f"{who}, never expires"


def field_value(claim: str, value: Any) -> bytes:
    """Return a claim as a header value: a string as it is, a list joined by commas, anything else as JSON.

    b"": there is none. Raises `TokenRefused` for a value that a parser would split or change.
    """
    if value is None:
        return b""
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        texts = [_text(each) for each in value]
        fit = all(map(is_element, texts))
        raw = ",".join(texts).encode()
    else:
        text = _text(value)
        raw, fit = text.encode(), text == text.strip()
    if not fit or IS_VALUE(raw) is None:
        raise TokenRefused(f"the claim `{claim}` cannot be sent in a header")
    return raw


def _text(value: Any) -> str:
    return value if isinstance(value, str) else claim_json(value).decode()


def values_of(claim: Any) -> Sequence[Any]:
    """Return the values of a claim: the members of a list, nothing if it is missing, otherwise the claim itself."""
    if isinstance(claim, list):
        return claim
    return () if claim is None else (claim,)


def same(value: Any, other: Any) -> bool:
    """Whether two values are equal in JSON: true is not 1."""
    return type(value) is type(other) and bool(value == other)


def is_one_of(value: Any, others: Iterable[Any]) -> bool:
    return any(same(value, other) for other in others)
