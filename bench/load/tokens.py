"""Bearer tokens for the policies: JWTs signed with RS256 (RFC 7515; RFC 7518 section 3.3) by a key of the run."""

import base64
import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ISSUER = "https://idp.example"
AUDIENCE = "api"
KEY_ID = "one"
LIFE_SECONDS = 24 * 3600  # longer than any run


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    """Return the key with that name. Contestants know `KEY_ID` only."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def token(consumer: str, number: int = 0, signer: str = KEY_ID, **claims: object) -> str:
    """Return a token that every contestant accepts. `number`: distinguishes tokens of one consumer; `claims`: replace
    the default ones.
    """
    now = int(time.time())
    own: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": consumer, "jti": f"{consumer}-{number}"}
    own |= {"iat": now, "exp": now + LIFE_SECONDS}
    signed = f"{_part({'alg': 'RS256', 'typ': 'JWT', 'kid': KEY_ID})}.{_part(own | claims)}"
    return f"{signed}.{_base64url(key(signer).sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def write_public_key(pem: Path, jwks: Path) -> None:
    """Write the public key in the two formats that gateways read."""
    public = key(KEY_ID).public_key()
    pem.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    numbers = public.public_numbers()
    about = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": KEY_ID}
    jwks.write_text(json.dumps({"keys": [about | {"n": _number(numbers.n), "e": _number(numbers.e)}]}))


def _part(members: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(members, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _base64url(octets: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
