"""Client authentication of the gateway at a server, such as a token endpoint or an introspection endpoint."""

import os
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import quote_plus

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastgw.config.settings.credentials import OAuth2

LIFETIME_S: Final = 60
_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

ClientAuth = Callable[[dict[str, str]], list[tuple[bytes, bytes]]]
"""Function that adds the credentials to a form, or returns headers with them. Called for each request."""


def authenticate(settings: OAuth2, client_id: str, secret: str | None, key: bytes | None) -> Mapping[bytes, ClientAuth]:
    """Return the authentication methods of these settings by name, in the order in which they are tried while the
    server rejects the client.

    `key`: PEM. Methods that would send the same are listed once. Raises `ValueError` without secrets.
    """
    match settings.client_auth:
        case "none" | "certificate":
            return {b"id": by_id(client_id)}
        case "private_key_jwt":
            # The query is not part of the server's identity, and may contain a secret.
            audience = settings.assertion_audience or str(settings.token_url).partition("?")[0]
            return {b"key": by_key(client_id, key or b"", audience)}
    names = _TRIED.get(settings.client_auth, (settings.client_auth,))
    if quote_plus(client_id) == client_id and quote_plus(secret or "") == (secret or ""):
        names = tuple(name for name in names if name != "basic" or len(names) == 1)
    return {name.encode(): _BY_SECRET[name](client_id, secret or "") for name in names}


def by_basic(client_id: str, secret: str) -> ClientAuth:
    """Authenticate with unencoded values, which many servers expect although RFC 6749 requires encoding."""
    return _in_field(f"{client_id}:{secret}")


def by_basic_encoded(client_id: str, secret: str) -> ClientAuth:
    """Authenticate with form-encoded values (RFC 6749 section 2.3.1)."""
    return _in_field(f"{quote_plus(client_id)}:{quote_plus(secret)}")


def _in_field(pair: str) -> ClientAuth:
    return partial(_send_field, b"Basic " + b64encode(pair.encode()))


def _send_field(value: bytes, _form: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", value)]


def by_body(client_id: str, secret: str) -> ClientAuth:
    """Return the authentication in the form (RFC 6749 section 2.3.1)."""
    return partial(_send_in_form, client_id, secret)


def _send_in_form(client_id: str, secret: str, form: dict[str, str]) -> list[tuple[bytes, bytes]]:
    form.update(client_id=client_id, client_secret=secret)
    return []


_BY_SECRET: Final[Mapping[str, Callable[[str, str], ClientAuth]]] = {
    "basic": by_basic,
    "basic_encoded": by_basic_encoded,
    "body": by_body,
}
_TRIED: Final[Mapping[str, tuple[str, ...]]] = {
    "auto": ("basic_encoded", "basic", "body"),
    "auto_raw": ("basic", "basic_encoded", "body"),
}
"""Methods to try one after the other, never two at once (RFC 6749 section 2.3)."""


def by_id(client_id: str) -> ClientAuth:
    """Return the authentication by client id: of a public client, or one authenticated by its certificate (RFC 8705
    section 2).
    """

    def named(form: dict[str, str]) -> list[tuple[bytes, bytes]]:
        form.update(client_id=client_id)
        return []

    return named


def by_key(client_id: str, pem: bytes, audience: str) -> ClientAuth:
    """Return the authentication by a private key: `private_key_jwt` (RFC 7523 section 2.2). `audience`: `aud` of the
    assertion.

    Raises `ValueError` for an unusable key, without its contents.
    """
    sign = assertion_signer(pem)

    def signed_by_key(form: dict[str, str]) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        claims = {"iss": client_id, "sub": client_id, "aud": audience, "jti": os.urandom(16).hex(), "iat": now}
        assertion = sign({**claims, "exp": now + LIFETIME_S})
        form.update(client_id=client_id, client_assertion_type=_TYPE, client_assertion=assertion)
        return []

    return signed_by_key


def assertion_signer(pem: bytes, key_id: str = "") -> Callable[[dict[str, object]], str]:
    """Return the function that makes a signed JWT of claims. Raises `ValueError` for an unusable key, without its
    contents.
    """
    alg, sign = _signer(pem)
    header = _encoded({"alg": alg, "typ": "JWT", **({"kid": key_id} if key_id else {})})

    def sign_claims(claims: dict[str, object]) -> str:
        signed = header + b"." + _encoded(claims)
        return (signed + b"." + urlsafe_b64encode(sign(signed)).rstrip(b"=")).decode()

    return sign_claims


def _signer(pem: bytes) -> tuple[str, Callable[[bytes], bytes]]:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("`client_key` is not a PEM private key without a password") from None
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
    raise ValueError("`client_key` has an unsupported type; expected RSA, P-256 or Ed25519")


def _encoded(part: dict[str, object]) -> bytes:
    return urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=")
