"""Issuer of tokens for tests: valid ones, and arbitrary bytes."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CURVES: Mapping[str, tuple[str, ec.EllipticCurve]] = {
    "ES256": ("P-256", ec.SECP256R1()),
    "ES384": ("P-384", ec.SECP384R1()),
    "ES512": ("P-521", ec.SECP521R1()),
    "ES256K": ("secp256k1", ec.SECP256K1()),
}
_MADE: dict[str, Signer] = {}


def b64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def number(value: int, length: int | None = None) -> str:
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8)).decode()


def compact(header: bytes, payload: bytes, signature: bytes) -> bytes:
    return b".".join((b64(header), b64(payload), b64(signature)))


class Signer:
    """A key with its algorithm."""

    def __init__(self, alg: str, kid: str | None = None, secret: bytes = b"s" * 64, bits: int = 2048) -> None:
        self.alg = alg
        self.kid = kid
        self.secret = secret
        self._bits = bits

    @cached_property
    def key(self) -> Any:
        """The private key; None = a shared secret."""
        if self.alg[:2] in ("RS", "PS"):
            return rsa.generate_private_key(65537, self._bits)
        if self.alg in CURVES:
            return ec.generate_private_key(CURVES[self.alg][1])
        return ed25519.Ed25519PrivateKey.generate() if self.alg in ("EdDSA", "Ed25519") else None

    @property
    def jwk(self) -> dict[str, Any]:
        """Public key; for a shared secret, the secret."""
        named = {} if self.kid is None else {"kid": self.kid}
        if self.key is None:
            return {"kty": "oct", "k": b64(self.secret).decode(), **named}
        public = self.key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **named}
        if isinstance(public, ec.EllipticCurvePublicKey):
            point, length = public.public_numbers(), (public.key_size + 7) // 8
            x, y = number(point.x, length), number(point.y, length)
            return {"kty": "EC", "crv": CURVES[self.alg][0], "x": x, "y": y, **named}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()).decode(), **named}

    @property
    def pem(self) -> bytes:
        made: bytes = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return made

    def sign(self, signed: bytes, alg: str | None = None) -> bytes:
        alg = alg or self.alg
        bits = alg[2:5]
        if self.key is None:
            return hmac.digest(self.secret, signed, f"sha{bits}")
        made: bytes
        if alg in ("EdDSA", "Ed25519"):
            made = self.key.sign(signed)
            return made
        chosen = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[bits]
        if alg[:2] == "RS":
            made = self.key.sign(signed, padding.PKCS1v15(), chosen)
            return made
        if alg[:2] == "PS":
            made = self.key.sign(signed, padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
            return made
        length = (self.key.key_size + 7) // 8
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(chosen)))
        return r.to_bytes(length) + s.to_bytes(length)

    def raw(self, header: bytes, payload: bytes, alg: str | None = None) -> bytes:
        """Return a token of exactly these bytes, signed."""
        signed = b64(header) + b"." + b64(payload)
        return signed + b"." + b64(self.sign(signed, alg))

    def token(self, claims: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None) -> bytes:
        """Return a token with these claims, and further header parameters. None removes one."""
        named = {} if self.kid is None else {"kid": self.kid}
        head = {"alg": self.alg, "typ": "JWT", **named, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        body = claims_of(**(claims or {}))
        return self.raw(json.dumps(head).encode(), json.dumps(body).encode())


def claims_of(**more: Any) -> dict[str, Any]:
    """Return the claims of an ordinary token, with these added. None removes one."""
    now = int(time.time())
    claims = {"iss": "https://idp.example", "sub": "alice", "aud": "api", "iat": now, "exp": now + 3600, **more}
    return {name: value for name, value in claims.items() if value is not None}


def signer(alg: str, name: str = "") -> Signer:
    """Return the signer for an algorithm and name, always the same: RSA keys take long to create."""
    made = _MADE.get(f"{alg} {name}")
    if made is None:
        made = _MADE[f"{alg} {name}"] = Signer(alg, name or None)
    return made


def key_set(*signers: Signer | Mapping[str, Any]) -> bytes:
    """Return a JWK set."""
    return json.dumps({"keys": [each.jwk if isinstance(each, Signer) else each for each in signers]}).encode()


def told(token: bytes) -> str:
    """Return a short name of a token, for the output of failing tests."""
    return hashlib.sha256(token).hexdigest()[:8]
