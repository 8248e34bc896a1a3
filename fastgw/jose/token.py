"""Parsing and verification of tokens: JWS compact serialization (RFC 7515 sections 3, 4, 5.2 and 7.1)."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

from fastgw.jose.algorithms import ALGORITHMS
from fastgw.jose.keys import Key, KeySet
from fastgw.jose.strict import TokenRefused, members, unencoded

MAX_BYTES: Final = 8192
"""Default maximum size of a token in bytes."""
_MAX_HEADER: Final = 4096  # in characters
_MAX_SIGNATURE: Final = 1366  # in characters, for an RSA key of `MOST_RSA_BITS`
_MAX_TRIED: Final = 4  # keys to try for a token without `kid`
FOREIGN_KEYS: Final = ("jku", "jwk", "x5u", "x5c")
"""Header parameters by which a token contains its key, or a URL of it (RFC 7515 section 4.1).

Never fetched and never trusted. SAP and Cloud Foundry send `jku` in every token, so they are ignored by default.
"""


class TokenRules(NamedTuple):
    """Rules of a policy for a token's form and header."""

    algorithms: frozenset[str]
    types: frozenset[str] = frozenset({"jwt", "at+jwt"})
    """Accepted values of `typ` if present, in lower case and without `application/` (RFC 7515 section 4.1.9)."""
    require_type: bool = False
    require_kid: bool = False
    foreign_keys_refused: bool = False
    """Whether tokens with one of `FOREIGN_KEYS` are rejected. Their values are ignored in any case."""
    max_bytes: int = MAX_BYTES


@final
class Signed:
    """A parsed token; nothing is verified yet."""

    __slots__ = ("alg", "header", "kid", "payload", "signature", "signed")

    def __init__(self, header: Mapping[str, Any], signed: bytes, payload: bytes, signature: bytes) -> None:
        self.header = header
        self.alg: str = header["alg"]
        self.kid: str | None = header.get("kid")
        self.signed = signed
        self.payload = payload  # as encoded
        self.signature = signature

    def __repr__(self) -> str:
        return f"<Signed {len(self.signed)} bytes>"

    def claims(self) -> dict[str, Any]:
        """Return the claims of the token. Use them only after verification."""
        return members(unencoded(self.payload, "the payload"), "the payload")


def read_token(token: bytes, rules: TokenRules) -> Signed:
    """Parse a token, and check everything that needs no key. Raises `TokenRefused`."""
    if len(token) > rules.max_bytes:
        raise TokenRefused(f"the token has more than {rules.max_bytes} bytes")
    segments = token.split(b".", 5)
    if len(segments) != 3:
        raise TokenRefused("the token is encrypted" if len(segments) == 5 else "the token is not a signed JWT")
    encoded_header, payload, encoded_signature = segments
    if len(encoded_header) > _MAX_HEADER:
        raise TokenRefused("the token's header is too long")
    if len(encoded_signature) > _MAX_SIGNATURE:
        raise TokenRefused("the signature is too long")
    signature = unencoded(encoded_signature, "the signature")
    if not signature:
        raise TokenRefused("the token is not signed")
    header = members(unencoded(encoded_header, "the header"), "the header")
    _check_header(header, rules)
    return Signed(header, token[: len(encoded_header) + 1 + len(payload)], payload, signature)


def _check_header(header: Mapping[str, Any], rules: TokenRules) -> None:
    alg = header.get("alg")
    if not isinstance(alg, str):
        raise TokenRefused("the header has no `alg`, or it is not a string")
    if alg not in rules.algorithms:
        if alg.lower() == "none":
            raise TokenRefused("the token is not signed: its `alg` is none")
        raise TokenRefused("the token's `alg` is not among the allowed algorithms")
    if "crit" in header:  # RFC 7515 section 4.1.11: extensions that must be understood; none are supported
        raise TokenRefused("the header has `crit`: extensions are not supported")
    if "b64" in header:  # RFC 7797 section 6: only with `crit`, and not for a JWT
        raise TokenRefused("the header has `b64`, which is not allowed in a JWT")
    if "enc" in header or "zip" in header:
        raise TokenRefused("the header is that of an encrypted token (JWE)")
    if rules.foreign_keys_refused:
        for name in FOREIGN_KEYS:
            if name in header:
                raise TokenRefused(f"the header has `{name}`; keys from the token itself are not accepted")
    kid = header.get("kid")
    if not isinstance(kid, str) and "kid" in header:
        raise TokenRefused("the header's `kid` is not a string")
    if kid is None and rules.require_kid:
        raise TokenRefused("the header has no `kid`")
    _check_type(header, rules)


def _check_type(header: Mapping[str, Any], rules: TokenRules) -> None:
    """Check `typ`: tokens for other purposes are rejected (RFC 8725 section 3.11)."""
    if "typ" in header:
        typ = header["typ"]
        if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in rules.types:
            raise TokenRefused("the token's `typ` is not among the allowed types")
    elif rules.require_type:
        raise TokenRefused("the header has no `typ`")
    cty = header.get("cty", "")
    if not isinstance(cty, str) or cty.lower().removeprefix("application/") == "jwt":  # RFC 7519 section 5.2
        raise TokenRefused("the header has `cty`: nested tokens are not accepted")


class UnknownKey(TokenRefused):
    """No key has this name, or none of the keys without a name fits: there may be a new one."""


def verify(token: Signed, keys: KeySet) -> Key:
    """Return the key that signed the token. Raises `UnknownKey`, or `TokenRefused`."""
    named = keys.named(token.kid)
    if not named:
        raise UnknownKey("the token is signed with an unknown key")
    fitting = [key for key in named if token.alg in key.algorithms]
    if not fitting:
        raise TokenRefused("the token's `alg` does not match its key")
    if len(fitting) > _MAX_TRIED:
        raise TokenRefused("the header has no `kid`, and there are too many keys to try")
    algorithm = ALGORITHMS[token.alg]
    for key in fitting:
        if algorithm.verify(key.material, token.signature, token.signed):
            return key
    if token.kid is None or fitting[0].kid is None:
        raise UnknownKey("the signature is invalid")
    raise TokenRefused("the signature is invalid")
