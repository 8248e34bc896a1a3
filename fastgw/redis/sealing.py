"""Encryption of values in Redis: read access to Redis discloses nothing, and write access forges nothing."""

import os
from hashlib import sha256
from hmac import digest
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE: Final = 12


@final
class Sealer:
    """Encrypts values, each bound to its name, with a key derived from a secret that Redis never sees."""

    __slots__ = ("_cipher",)

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        """`purpose`: values of other purposes cannot be opened."""
        self._cipher = AESGCM(derived_key(secret, b"value", purpose))

    def seal(self, name: bytes, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, value, name)

    def open(self, name: bytes, sealed: bytes) -> bytes | None:
        """Return a value; None: it was not sealed for this name by a holder of the secret."""
        if len(sealed) < _NONCE:
            return None
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name)
        except InvalidTag:
            return None


def derived_key(secret: bytes, use: bytes, purpose: bytes) -> bytes:
    """Derive a separate key for each use (HKDF, RFC 5869, with one block of output)."""
    extracted = digest(b"fastgw second level", secret, sha256)
    return digest(extracted, use + b"\0" + purpose + b"\x01", sha256)
