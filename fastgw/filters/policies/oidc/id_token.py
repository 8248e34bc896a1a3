"""Verification of ID tokens (OpenID Connect Core sections 3.1.3.7 and 12.2) and logout tokens (Back-Channel Logout
section 2.6).
"""

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256, sha384, sha512
from hmac import compare_digest
from typing import Any, Final, final

from fastgw.filters.authentication.jwks import Keyring
from fastgw.filters.policies.oidc.provider import Away, Tokens
from fastgw.jose import Claims, Expected, KeySet, TokenRefused, TokenRules, UnknownKey, check_claims, read_token, verify

MOST_ID_TOKEN: Final = 64 * 1024
"""Maximum bytes of an ID token."""
_MOST_LOGOUT_TOKEN: Final = 16 * 1024
_HASHES: Final[dict[str, Callable[[bytes], Any]]] = {"256": sha256, "384": sha384, "512": sha512, "DSA": sha512}
_REQUIRED: Final = (("sub",), ("exp",), ("iat",))
_OF_LOGOUT: Final = (("iss",), ("aud",), ("exp",), ("iat",), ("jti",))
_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"


@final
class IdTokens:
    """Verifier of the ID tokens of one provider for one client."""

    __slots__ = ("_client_id", "_expected", "_expected_of_logout", "_keyring", "_rules", "_rules_of_logout")

    def __init__(
        self, keyring: Keyring, issuer: str, client_id: str, algorithms: frozenset[str], leeway: float
    ) -> None:
        self._keyring = keyring
        self._client_id = client_id
        self._rules = TokenRules(algorithms=algorithms, types=frozenset({"jwt"}), max_bytes=MOST_ID_TOKEN)
        self._rules_of_logout = self._rules._replace(
            types=frozenset({"jwt", "logout+jwt"}), max_bytes=_MOST_LOGOUT_TOKEN
        )
        self._expected = Expected(issuer, frozenset({client_id}), _REQUIRED, leeway)
        self._expected_of_logout = self._expected._replace(required=_OF_LOGOUT)

    async def verify(self, tokens: Tokens, nonce: str) -> Claims:
        """Return the claims of the ID token of a login. Raises `TokenRefused`, and `Away` if it cannot be verified
        now.
        """
        claims = await self._claims(tokens)
        said = claims.get("nonce")
        if not isinstance(said, str) or not compare_digest(said.encode(), nonce.encode()):
            raise TokenRefused("the ID token's `nonce` does not match the login")
        return claims

    async def verify_refreshed(self, tokens: Tokens, before: Claims) -> Claims:
        """Return the claims of the ID token of a refresh, which must have the same subject. Raises like `verify`."""
        claims = await self._claims(tokens)
        if claims["sub"] != before["sub"]:
            raise TokenRefused("the ID token has another subject")
        return claims

    async def verify_logout(self, token: str) -> Claims:
        """Return the claims of a logout token; replays are not detected here. Raises like `verify`."""
        return await self._with_keys(lambda keys: self._verify_logout(token, keys))

    def _verify_logout(self, token: str, keys: KeySet) -> Claims:
        signed = read_token(token.encode("utf-8", "surrogatepass"), self._rules_of_logout)
        verify(signed, keys)
        claims = signed.claims()
        check_claims(claims, self._expected_of_logout, time.time())
        events = claims.get("events")
        if not isinstance(events, Mapping) or not isinstance(events.get(_EVENT), Mapping):
            raise TokenRefused("the token has no logout event")
        if "nonce" in claims:  # otherwise an ID token could be used as one
            raise TokenRefused("the logout token has a `nonce`, which is not allowed")
        if not claims.get("sub") and not claims.get("sid"):
            raise TokenRefused("the token has neither `sub` nor `sid`")
        if not isinstance(claims.get("sid", ""), str):
            raise TokenRefused("the claim `sid` is not a string")
        return claims

    async def _claims(self, tokens: Tokens) -> Claims:
        return await self._with_keys(lambda keys: self._verify(tokens, keys))

    async def _with_keys(self, verify: Callable[[KeySet], Claims]) -> Claims:
        """Verify with the known keys, and if necessary with newer ones."""
        try:
            return await self._keyring.verify_with(verify)
        except UnknownKey:
            if not self._keyring.keys:
                raise Away("the keys of the provider have not been fetched yet") from None
            raise

    def _verify(self, tokens: Tokens, keys: KeySet) -> Claims:
        signed = read_token(tokens.id_token.encode(), self._rules)
        verify(signed, keys)
        claims = signed.claims()
        check_claims(claims, self._expected, time.time())
        if claims["aud"] not in (self._client_id, [self._client_id]) and "azp" not in claims:
            raise TokenRefused("the ID token has several audiences and no `azp`")
        if claims.get("azp", self._client_id) != self._client_id:
            raise TokenRefused("the ID token's `azp` is another client")
        if "at_hash" in claims and claims["at_hash"] != _half_hash(signed.alg, tokens.access_token):
            raise TokenRefused("the ID token's `at_hash` does not match the access token")
        return claims


def _half_hash(alg: str, token: str) -> str:
    """Return the left half of the hash (OpenID Connect Core section 3.1.3.6)."""
    digest: bytes = _HASHES[alg[-3:]](token.encode()).digest()
    return urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
