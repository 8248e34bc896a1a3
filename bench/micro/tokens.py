"""Tokens: cost of a request with a cached token, and of verifying a new one."""

import hmac
import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.micro.filters import CHAIN, hooks, step
from bench.micro.heads import REQUESTS
from bench.micro.timing import Room
from fastgw.config.settings.secrets import Secret
from fastgw.exchange import Exchange
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.filters.policies.jwt import Jwt, TokenCacheSettings
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.sync.credential_cache import TokenCache

TOKENS, FEW = 1000, 50
SECRET = b"a secret of the benchmark, of more than 32 bytes"
AUTHORIZATION = re.compile(rb"(?<=\n)(Authorization: )[^\r]*\r\n")
BYTES = 800
Sign = Callable[[bytes], bytes]


def rooms() -> Iterator[Room]:
    cache: TokenCache[object] = TokenCache(TOKENS)
    credentials = [(b"%d" % number).rjust(BYTES, b"x") for number in range(TOKENS)]
    for credential in credentials:
        cache.store(credential, object(), time.monotonic() + 3600)
    signers = signers_by_algorithm()
    yield Room(f"a credential of {BYTES} bytes that is remembered", cache.get, credentials)
    made = {alg: [token(alg, sign, number) for number in range(FEW)] for alg, (_, sign) in signers.items()}
    length = len(made["RS256"][0])
    # Signed with a faster algorithm of the same length: the cache does not depend on it.
    shown = [token("HS256", by_secret, number, fill=length) for number in range(TOKENS)]
    requests = [exchange(number, each) for number, each in enumerate(shown)]
    remembered = filtering("HS256", SECRET.decode())
    for each in requests:
        assert remembered(each) is None
    yield Room("jwt: a token that is remembered", remembered, requests)
    for alg, (public, _) in signers.items():
        new = filtering(alg, public, cache=TokenCacheSettings(ttl=0.0))
        requests = [exchange(number, each) for number, each in enumerate(made[alg])]
        assert new(requests[0]) is None
        yield Room(f"jwt: a new token, {alg}", new, requests)


def filtering(alg: str, secret: str, **more: Any) -> Callable[[Exchange], Any]:
    settings = {"algorithms": (alg,), "issuer": "https://idp.example", "audiences": ("api",), **more}
    return step(hooks(Jwt(secret=Secret(text=secret), **settings)).request)


def by_secret(signed: bytes) -> bytes:
    return hmac.digest(SECRET, signed, "sha256")


def signers_by_algorithm() -> dict[str, tuple[str, Sign]]:
    """Return verifier and signer by algorithm."""
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()

    def by_ec(signed: bytes) -> bytes:
        r, s = decode_dss_signature(ec_key.sign(signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    return {
        "RS256": (pem(rsa_key), lambda signed: rsa_key.sign(signed, padding.PKCS1v15(), SHA256())),
        "ES256": (pem(ec_key), by_ec),
        "EdDSA": (pem(ed_key), ed_key.sign),
    }


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def token(alg: str, sign: Sign, number: int, fill: int = 0) -> bytes:
    """Return a token. `fill`: approximate minimum length."""
    now = int(time.time())
    claims: dict[str, Any] = {"iss": "https://idp.example", "aud": "api", "sub": f"user-{number}", "iat": now}
    claims |= {"exp": now + 86_400, "jti": f"{number:032}", "scope": "openid profile read write"}
    claims |= {"azp": "app", "roles": ["staff", "admin"]}
    head = part({"alg": alg, "typ": "JWT", "kid": "one"})
    signed = head + b"." + part(claims)
    if fill > len(signed):
        signed = head + b"." + part(claims | {"fill": "x" * ((fill - len(signed)) * 3 // 4 - 40)})
    return signed + b"." + encoded(sign(signed))


def part(members: dict[str, Any]) -> bytes:
    return encoded(json.dumps(members, separators=(",", ":")).encode())


def encoded(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def exchange(number: int, shown: bytes) -> Exchange:
    nobody: Any = None
    head, several = AUTHORIZATION.subn(b"\\1Bearer " + shown + b"\r\n", REQUESTS[number % len(REQUESTS)])
    assert several == 1
    judged = parse_request(head)
    return Exchange(judged, Nobody(), nobody, Peer("192.0.2.1", 1, 80, trusted=False), CHAIN)
