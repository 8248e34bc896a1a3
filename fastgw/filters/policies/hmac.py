"""hmac: authenticate consumers by a signature of the request (RFC 9421)."""

import hashlib
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from hmac import compare_digest
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, cast, final

import http_sf
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Meta

from fastgw.config.base.value_types import Delay, Duration, Realm
from fastgw.config.settings.gateway import Some
from fastgw.consumers.credentials import signature_algorithms
from fastgw.consumers.index import Roster
from fastgw.exchange.body_stages import BodyRefused
from fastgw.filters.api import (
    BodyStage,
    Consumer,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    StageFactory,
    WarningContext,
)
from fastgw.filters.api.credential_locations import CredentialLocations
from fastgw.filters.api.warning_context import CONSUMERS, ClientIdentity
from fastgw.filters.policies.key_auth import explain_consumer
from fastgw.http.fields import folded, twins_of

if TYPE_CHECKING:
    from http_message_signatures import HTTPSignatureKeyResolver

REMEMBERED: Final = 4096
"""Maximum number of signing keys that are cached."""
LONGEST: Final = 8192
"""Maximum bytes of the signature headers."""
_SIGNATURE, _INPUT, _DIGEST = b"signature", b"signature-input", b"content-digest"
_HASHES: Final[dict[str, Callable[[], Any]]] = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


class Hmac(Filter, name="hmac", phase=Phase.AUTHENTICATE):
    """Authenticate the consumer with an HTTP Message Signature (RFC 9421) by one of the keys in its `hmac`.

    The signature must have `created` and `keyid`, and cover all `components`. The body is covered by `Content-Digest`
    (RFC 9530): the end of the body is forwarded only after the digest of the whole has been verified. The signature
    protects the content of a request, but not against replay: within `max_age` the same request can be sent again.

    The scheme in `@scheme` and `@target-uri` is the client's: behind a trusted proxy that terminates TLS, that of its
    `X-Forwarded-Proto`. The host in `@authority` and `@target-uri` is that of `Host`, unless `forwarded_host` is set.
    """

    components: Annotated[Some[str], Meta(max_length=32)] = ("@method", "@authority", "@path", "@query")
    """Components that a signature must cover, at least: derived components, and header names in lower case."""
    body: bool = True
    """Whether `Content-Digest` must be present and covered for requests with a body. Then the request must have a
    `Content-Length`, too. A digest that the signature covers is verified in any case; it must be SHA-256 or SHA-512."""
    max_age: Duration = 300.0
    """Maximum age of a signature."""
    clock_skew: Delay = 5.0
    """Clock skew of consumers that is tolerated."""
    tag: str | None = None
    """`tag` of the signature for this gateway, to tell it from others, which are not verified. null = a request has
    only one signature."""
    forwarded_host: bool = False
    """Whether `@authority` and `@target-uri` have the host of a trusted proxy's `X-Forwarded-Host`, if it sends one:
    for a proxy that replaces `Host`. The proxy must set the header itself: if it forwards the header of clients, a
    request that was signed for one host can be sent to another one."""
    hide_credentials: bool = False
    """Whether to strip the signature before forwarding."""
    realm: Realm = "fastgw"
    """Realm in `WWW-Authenticate: Signature`. `Accept-Signature` says what has to be signed."""

    def __post_init__(self) -> None:
        if self.tag is not None and not (self.tag.isascii() and self.tag.isprintable()):
            raise ValueError("a `tag` that is not printable ASCII; expected another one")
        for name in self.components:
            if name.startswith("@") and name not in _DERIVED:
                raise ValueError(
                    f"`{name}` is not a component of a request; expected one of {', '.join(sorted(_DERIVED))}"
                )
            if name != name.lower() or not name.isascii() or not name.removeprefix("@").replace("-", "a").isalnum():
                raise ValueError(f"`{name}` is not a component name; expected a header name in lower case")

    def credential_places(self) -> CredentialLocations:
        return CredentialLocations((b"signature", b"signature-input"))

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return context.no_consumer_with("hmac")

    def client_identity(self) -> ClientIdentity:
        return CONSUMERS

    def build(self, env: Env) -> Hooks:
        use = _HmacUse(self, env)
        return Hooks(
            request=use.request,
            request_body=StageFactory(use.body_stage, reads_only=True),
            finish=use.finish,
            explain=explain_consumer,
        )


_DERIVED: Final = frozenset(("@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query"))


class SigningKey(NamedTuple):
    """Verification key of a consumer."""

    consumer: Consumer
    algorithm: str
    key: Any


@final
class SigningKeys:
    """Cache from key ids to keys: the key resolver of the library's verifiers. All filters of a worker share one."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._index = roster.index
        self._found: dict[str, SigningKey] = {}

    def find(self, key_id: str) -> SigningKey | None:
        if self._index is not self._roster.index:
            self._index, self._found = self._roster.index, {}
        held = self._found.get(key_id)
        if held is None:
            known = self._roster.by_key_id(key_id)
            if known is None:
                return None
            consumer, signer = known
            key = signer.key if signer.algorithm == "hmac-sha256" else load_pem_public_key(signer.key)
            if len(self._found) >= REMEMBERED:
                self._found = {}
            held = self._found[key_id] = SigningKey(consumer, signer.algorithm, key)
        return held

    def resolve_public_key(self, key_id: str) -> Any:
        held = self.find(key_id)
        return None if held is None else held.key


class Unsigned(Exception):
    """The request has no valid signature. The text is the reason, without signed content."""


class ChosenSignature(NamedTuple):
    """The signature for this gateway, without those for others."""

    key: SigningKey
    fields: dict[str, str]
    """`Signature-Input` and `Signature` with this signature alone."""


@final
class _SignedBody(BodyStage):
    """Verification of a body as it arrives, against its expected digest.

    The last part of a body of known length waits for it. One of unknown length fails at its end, without which the
    upstream has no complete request.
    """

    keeps_length = True
    changed = False
    takes_empty = True  # one of unknown length may be

    def __init__(self, digest: Any, wanted: bytes, use: "_HmacUse", exchange: Exchange) -> None:
        self._digest, self._wanted, self._use, self._exchange = digest, wanted, use, exchange
        self._left = exchange.body_length

    def feed(self, payload: bytes) -> bytes:
        self._digest.update(payload)
        if self._left is not None:
            self._left -= len(payload)
            if self._left == 0:
                self._verify()
        return payload

    def end(self) -> bytes:
        self._verify()
        return b""

    def _verify(self) -> None:
        if not compare_digest(self._digest.digest(), self._wanted):
            raise BodyRefused(self._use.refuse_body(self._exchange))


@final
class _HmacUse:
    """HTTP message signatures: one use of the filter."""

    def __init__(self, settings: Hmac, env: Env) -> None:
        # Where no signatures are verified, it is not imported: a start would take 15 ms longer.
        from http_message_signatures import HTTPMessageSignaturesException, HTTPMessageVerifier

        from fastgw.filters.authentication.signed_components import SignedComponents, SignedMessage

        self._invalid, self._message = HTTPMessageSignaturesException, SignedMessage
        self._keys = env.shared(("hmac", env.namespace), lambda: SigningKeys(env.roster))
        keys = cast("HTTPSignatureKeyResolver", self._keys)
        self._verifiers = {
            name: HTTPMessageVerifier(
                signature_algorithm=each, key_resolver=keys, component_resolver_class=SignedComponents
            )
            for name, each in signature_algorithms().items()
        }
        for verifier in self._verifiers.values():
            verifier.max_clock_skew = timedelta(seconds=settings.clock_skew)
        self._components = settings.components
        self._with_body = (*dict.fromkeys((*settings.components, "content-digest")),)
        self._body = settings.body
        self._max_age = timedelta(seconds=settings.max_age)
        self._tag = settings.tag
        self._forwarded_host = settings.forwarded_host
        self._hidden = frozenset((_SIGNATURE, _INPUT)) if settings.hide_credentials else frozenset()
        # If the signature is forwarded, the upstream might read another one from a header that differs only in
        # punctuation; hidden headers are removed with all variants.
        self._twins = None if self._hidden else twins_of((_SIGNATURE, _INPUT))
        wanted = " ".join(f'"{name}"' for name in settings.components)
        tagged = "" if settings.tag is None else ';tag="' + settings.tag.replace("\\", "\\\\").replace('"', '\\"') + '"'
        self._challenge = (
            (b"WWW-Authenticate", f'Signature realm="{settings.realm}"'.encode()),
            (b"Accept-Signature", f"sig=({wanted});created;keyid{tagged}".encode()),
        )
        self._bodies: dict[Exchange, _SignedBody] = {}

    def request(self, exchange: Exchange) -> Outcome:
        values = exchange.head.values
        signatures, inputs = values(_SIGNATURE), values(_INPUT)
        if not signatures and not inputs:
            return exchange.refuse(Fault.CREDENTIALS_MISSING, fields=self._challenge, why="the signature is missing")
        has_body = exchange.request_body is not None and exchange.has_body
        if has_body and self._body and exchange.body_length is None:
            return exchange.refuse(Fault.LENGTH_REQUIRED, "The body of a signed request needs a Content-Length.")
        try:
            if sum(map(len, signatures + inputs)) > LONGEST:
                raise Unsigned("the signature is too long")
            if self._twins is not None and exchange.head.any_line(self._twins.search):
                raise Unsigned(
                    "a header name imitates a signature header: it has another character in place of a hyphen"
                )
            chosen = self._choose(b", ".join(inputs), b", ".join(signatures))
            algorithms = self._verify(
                exchange, chosen, self._with_body if has_body and self._body else self._components
            )
            if algorithms:
                self._expect(exchange, values(_DIGEST), algorithms)
        except Unsigned as unsigned:
            return exchange.refuse(Fault.CREDENTIALS_INVALID, fields=self._challenge, why=str(unsigned))
        exchange.consumer = chosen.key.consumer
        if self._hidden:
            exchange.request_dropped |= self._hidden
        return None

    def _choose(self, inputs: bytes, signatures: bytes) -> ChosenSignature:
        """Return the only signature for this gateway. Of the others only the syntax is looked at: they are those of
        other parties. Raises `Unsigned`.
        """
        described, repeated = _members_of(inputs, "Signature-Input")
        made, made_twice = _members_of(signatures, "Signature")
        ours = [label for label, (_, parameters) in described.items() if self._tag in (None, parameters.get("tag"))]
        if len(ours) != 1:
            raise Unsigned(f"there are {len(ours) or 'no'} signatures with the expected tag")
        label = ours[0]
        if label in repeated or label in made_twice:
            raise Unsigned("the label of the signature is used twice")
        if label not in made or (self._tag is None and len(made) > 1):
            raise Unsigned("Signature and Signature-Input have different labels")
        key_id = described[label][1].get("keyid")
        key = self._keys.find(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise Unsigned("the keyid is unknown")
        fields = {"Signature-Input": described, "Signature": made}
        return ChosenSignature(key, {name: http_sf.ser({label: each[label]}) for name, each in fields.items()})

    def _verify(self, exchange: Exchange, chosen: ChosenSignature, required: Iterable[str]) -> Collection[str]:
        """Verify the signature, and return the algorithms of the digests in `Content-Digest` that it covers; none if
        it does not cover the header. Raises `Unsigned`.
        """
        verifier = self._verifiers[chosen.key.algorithm]
        try:
            (verified,) = verifier.verify(
                self._message(exchange, chosen.fields, self._forwarded_host),
                max_age=self._max_age,
                expect_tag=self._tag,
                require_components=tuple(required),
            )
        except self._invalid as error:
            if isinstance(error.__cause__, InvalidSignature):  # it has no text, or one about a digest
                raise Unsigned("the signature does not match") from error
            raise Unsigned(f"{type(error).__name__}: {error}"[:200]) from error
        # A component is written `"name"`, with parameters `"name";parameters`.
        names = {name.split('"')[1].encode() for name in verified.covered_components}
        fields = {folded(name): name for name in names if not name.startswith(b"@")}
        if any(fields.get(folded(name), name.lower()) != name.lower() for name, _ in exchange.headers):
            raise Unsigned("a header name imitates a signed header: it has another character in place of a hyphen")
        return _digests_in(verified.covered_components) if _DIGEST in names else ()

    # body

    def _expect(self, exchange: Exchange, lines: list[bytes], algorithms: Collection[str]) -> None:
        """Start to verify the body by its digest. An empty body is verified at once. Raises `Unsigned`."""
        digest, wanted = _digest_in(b", ".join(lines), algorithms)
        if exchange.request_body is not None and exchange.has_body:
            self._bodies[exchange] = _SignedBody(digest, wanted, self, exchange)
        elif not compare_digest(digest.digest(), wanted):
            raise Unsigned("Content-Digest does not match the empty body")

    def body_stage(self, exchange: Exchange) -> BodyStage | None:
        return self._bodies.pop(exchange, None)

    def refuse_body(self, exchange: Exchange) -> Reply:
        return exchange.refuse(
            Fault.CREDENTIALS_INVALID, fields=self._challenge, why="the body does not match Content-Digest"
        )

    def finish(self, exchange: Exchange) -> None:
        self._bodies.pop(exchange, None)


def _members_of(field: bytes, name: str) -> tuple[dict[str, Any], set[str]]:
    """Return the members of a dictionary, and the labels that it has more than once. Raises `Unsigned`."""
    repeated: set[str] = set()

    def note(label: str, context: str) -> None:
        if context == "dictionary":
            repeated.add(label)

    try:
        return cast(dict[str, Any], http_sf.parse(field, tltype="dictionary", on_duplicate_key=note)), repeated
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Unsigned(f"{name} is malformed") from error


def _digests_in(covered: Iterable[str]) -> Collection[str]:
    """Return the algorithms of the digests that are signed: all of the header, or members of it (`;key="sha-256"`)."""
    signed = []
    for component in covered:
        name, parameters = cast(tuple[str, dict[str, Any]], http_sf.parse(component.encode(), tltype="item"))
        if name == "content-digest":
            if "key" not in parameters:
                return _HASHES
            signed.append(parameters["key"])
    return signed


def _digest_in(field: bytes, algorithms: Collection[str]) -> tuple[Any, bytes]:
    """Return the first digest of `Content-Digest` with a known algorithm (RFC 9530 section 2), which is one of these.
    Raises `Unsigned`.
    """
    try:
        parsed: Any = http_sf.parse(field, tltype="dictionary")
        for name, make in _HASHES.items():
            if name in parsed and name in algorithms:
                wanted = parsed[name][0]
                if isinstance(wanted, bytes):
                    return make(), wanted
    except (ValueError, TypeError, LookupError) as error:
        raise Unsigned("Content-Digest is malformed") from error
    raise Unsigned("Content-Digest has neither SHA-256 nor SHA-512")
