"""Encryption of cookies: browsers can neither read nor change them.

AES-256-GCM, with keys derived from a secret (HKDF, RFC 5869) for one purpose and one policy: a cookie of another
purpose or policy cannot be decrypted. The encrypted form is `base64url(key id | nonce | ciphertext and tag)`.
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
"""Minimum characters of a secret."""
_ID: Final = 4
_NONCE: Final = 12
_TAG: Final = 16


@final
class Seal:
    """Encrypts with the first secret, and decrypts with any of them.

    Nonces are random: a secret is safe for about 2**32 texts.
    """

    __slots__ = ("_first", "_keys")

    def __init__(self, secrets: Sequence[str], purpose: bytes, policy: bytes) -> None:
        """`policy`: identifies the policy that may use the cookies."""
        keys = [_derive(secret, purpose, policy) for secret in secrets]
        self._keys = {key_id: AESGCM(key) for key_id, key in reversed(keys)}
        self._first = keys[0][0]

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        sealed = self._keys[self._first].encrypt(nonce, plain, self._first)
        return urlsafe_b64encode(self._first + nonce + sealed).rstrip(b"=")

    def open(self, sealed: bytes) -> bytes | None:
        """Decrypt a text. None: it was not encrypted with these keys, or is invalid."""
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
