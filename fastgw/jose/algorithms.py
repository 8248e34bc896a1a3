"""Signature algorithms: the key that each one needs, and its verification.

RFC 7518 section 3.1, RFC 8037 (EdDSA), RFC 8812 (ES256K), RFC 9864 (Ed25519). `none` is not supported.
"""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

Verify = Callable[[Any, bytes, bytes], bool]
"""Function `(material, signature, signed)`: whether the signature of `signed` was made with the key of this
material.
"""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One value of `alg`."""

    name: str
    kty: str
    """Key type (RFC 7518 section 6.1)."""
    crv: str
    """Curve of the key; "" for types without curves."""
    least_bytes: int
    """Minimum length of a shared secret in bytes (RFC 7518 section 3.2); 0 for other keys."""
    verify: Verify

    @property
    def expected_key(self) -> str:
        """Return a description of the key that it needs, for people."""
        if self.least_bytes:
            return f"a shared secret of at least {self.least_bytes} bytes"
        return f"a public key {self.kty} {self.crv}".rstrip()


def _hs(hash_name: str) -> Verify:
    def verify(secret: bytes, signature: bytes, signed: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signed, hash_name), signature)

    return verify


def _rs(make_hash: Callable[[], hashes.HashAlgorithm]) -> Verify:
    scheme, hash_of = padding.PKCS1v15(), make_hash()

    def verify(key: Any, signature: bytes, signed: bytes) -> bool:
        return _is_good(key.verify, signature, signed, scheme, hash_of)

    return verify


def _ps(make_hash: Callable[[], hashes.HashAlgorithm]) -> Verify:
    hash_of = make_hash()
    # The salt has the length of the hash; the mask uses the same hash (RFC 7518 section 3.5).
    scheme = padding.PSS(padding.MGF1(hash_of), hash_of.digest_size)

    def verify(key: Any, signature: bytes, signed: bytes) -> bool:
        return _is_good(key.verify, signature, signed, scheme, hash_of)

    return verify


def _es(make_hash: Callable[[], hashes.HashAlgorithm], half: int) -> Verify:
    scheme = ECDSA(make_hash())

    def verify(key: Any, signature: bytes, signed: bytes) -> bool:
        if len(signature) != 2 * half:  # R and S, both at full length (RFC 7518 section 3.4)
            return False
        r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
        return _is_good(key.verify, encode_dss_signature(r, s), signed, scheme)

    return verify


def _ed25519(key: Any, signature: bytes, signed: bytes) -> bool:
    return len(signature) == 64 and _is_good(key.verify, signature, signed)


def _is_good(verify: Callable[..., None], *arguments: Any) -> bool:
    try:
        verify(*arguments)
    except InvalidSignature:
        return False
    return True


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            Algorithm("RS256", "RSA", "", 0, _rs(hashes.SHA256)),
            Algorithm("RS384", "RSA", "", 0, _rs(hashes.SHA384)),
            Algorithm("RS512", "RSA", "", 0, _rs(hashes.SHA512)),
            Algorithm("PS256", "RSA", "", 0, _ps(hashes.SHA256)),
            Algorithm("PS384", "RSA", "", 0, _ps(hashes.SHA384)),
            Algorithm("PS512", "RSA", "", 0, _ps(hashes.SHA512)),
            Algorithm("ES256", "EC", "P-256", 0, _es(hashes.SHA256, 32)),
            Algorithm("ES384", "EC", "P-384", 0, _es(hashes.SHA384, 48)),
            Algorithm("ES512", "EC", "P-521", 0, _es(hashes.SHA512, 66)),
            Algorithm("ES256K", "EC", "secp256k1", 0, _es(hashes.SHA256, 32)),
            Algorithm("EdDSA", "OKP", "Ed25519", 0, _ed25519),
            Algorithm("Ed25519", "OKP", "Ed25519", 0, _ed25519),
            Algorithm("HS256", "oct", "", 32, _hs("sha256")),
            Algorithm("HS384", "oct", "", 48, _hs("sha384")),
            Algorithm("HS512", "oct", "", 64, _hs("sha512")),
        )
    }
)
"""Algorithms by the value of `alg`, which is case-sensitive."""
