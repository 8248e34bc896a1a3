"""How the gateway shows a provider who it is with a key of its own: `private_key_jwt` (RFC 7523 section 2.2)."""

import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastgw.filters.oidc.provider import Authenticate, Metadata

LIFETIME_S: Final = 60
_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def by_key(client_id: str, pem: bytes) -> Authenticate:
    """Raises `ValueError` for a key that cannot be used; nothing of it is told."""
    alg, sign = _signer(pem)
    header = _encoded({"alg": alg, "typ": "JWT"})

    def authenticate(metadata: Metadata, form: dict[str, str]) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        claims = {"iss": client_id, "sub": client_id, "aud": metadata.issuer, "jti": os.urandom(16).hex(), "iat": now}
        signed = header + b"." + _encoded({**claims, "exp": now + LIFETIME_S})
        assertion = signed + b"." + urlsafe_b64encode(sign(signed)).rstrip(b"=")
        form.update(client_id=client_id, client_assertion_type=_TYPE, client_assertion=assertion.decode())
        return []

    return authenticate


def _signer(pem: bytes) -> tuple[str, Callable[[bytes], bytes]]:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the client's key is not a private key in PEM, without a password") from None
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_key = key
        return "RS256", lambda text: rsa_key.sign(text, padding.PKCS1v15(), SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", key.sign
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        ec_key = key

        def sign(text: bytes) -> bytes:
            r, s = decode_dss_signature(ec_key.sign(text, ec.ECDSA(SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")  # RFC 7518 section 3.4

        return "ES256", sign
    raise ValueError("the client's key is of a kind that is not supported; expected RSA, P-256 or Ed25519")


def _encoded(part: dict[str, object]) -> bytes:
    return urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=")
