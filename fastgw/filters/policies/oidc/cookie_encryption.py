"""Encryption of cookies: a browser can neither read nor change what it keeps for us.

AES-256-GCM, with keys that are derived from a secret (HKDF, RFC 5869) for one purpose and one policy: what was sealed
for another does not open. A sealed text is `base64url(key id | nonce | ciphertext and tag)`.
"""

import os
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastgw.jose.strict import TokenRefused, unencoded

SHORTEST_SECRET: Final = 32
"""Fewest characters of a secret."""
_ID: Final = 4
_NONCE: Final = 12
_TAG: Final = 16


@final
class Seal:
    """Seals with the first secret, and opens what was sealed with any of them.

    Nonces are random: a secret is good for some 2**32 texts.
    """

    __slots__ = ("_first", "_keys")

    def __init__(self, secrets: Sequence[str], purpose: bytes, policy: bytes) -> None:
        """`policy`: tells apart who may use what was sealed."""
        keys = [_derive(secret, purpose, policy) for secret in secrets]
        self._keys = {key_id: AESGCM(key) for key_id, key in reversed(keys)}
        self._first = keys[0][0]

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        sealed = self._keys[self._first].encrypt(nonce, plain, self._first)
        return urlsafe_b64encode(self._first + nonce + sealed).rstrip(b"=")

    def open(self, sealed: bytes) -> bytes | None:
        """None: it was not sealed here, or not like this."""
        try:
            raw = unencoded(sealed, "a sealed text")
        except TokenRefused:
            return None
        key_id, nonce = raw[:_ID], raw[_ID : _ID + _NONCE]
        key = self._keys.get(key_id)
        if key is None or len(raw) < _ID + _NONCE + _TAG:
            return None
        try:
            return key.decrypt(nonce, raw[_ID + _NONCE :], key_id)
        except InvalidTag:
            return None


def _derive(secret: str, purpose: bytes, policy: bytes) -> tuple[bytes, bytes]:
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(f"a session secret of {len(secret)} characters; expected at least {SHORTEST_SECRET}")
    derived = b"fastgw oidc 1\0" + purpose + b"\0" + sha256(policy).digest()
    made = HKDF(SHA256(), _ID + 32, salt=None, info=derived).derive(secret.encode())
    return made[:_ID], made[_ID:]
