"""Credentials of consumers: each credential belongs to exactly one consumer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import cache
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import normalize

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from fastgw.config.base.problems import Path
from fastgw.config.settings.gateway import Consumer, ConsumerSigningKey, ConsumerSubject
from fastgw.config.settings.secrets import Secret, secret_in
from fastgw.jose import ALGORITHMS as EXPECTED_KEYS
from fastgw.jose import Key, UnusableKey, key_from_secret, read_keys, secret_from_base64

if TYPE_CHECKING:
    from http_message_signatures import HTTPSignatureAlgorithm

LONGEST_KEY: Final = 1024
"""Maximum length in bytes of a key or password."""
SHORTEST_SECRET: Final = 16
"""Minimum length in bytes of a secret that requests are signed with."""
Read = Callable[[str], bytes]
"""Function that returns the content of a file named in the configuration."""


class CredentialKind(IntEnum):
    """Kind of a mark."""

    NAME, KEY, USERNAME, JWT_SUBJECT, SUBJECT, SAN, FINGERPRINT, KEY_ID, TOKEN_KEY = range(9)


NOUNS: Final = (
    "the name",
    "the key",
    "the username",
    "the subject of a token",
    "the subject of a certificate",
    "the alternative name of a certificate",
    "the fingerprint",
    "the key_id",
    "the key_id of a token key",
)
"""Nouns for the kinds of marks."""


class Mark(NamedTuple):
    """Mark: a credential in the form that a request presents."""

    kind: CredentialKind
    value: bytes
    path: Path
    """Path of the credential in the consumer's settings."""
    secret: bytes = b""
    """Secret of the credential: of a username its password; of a key_id the packed `Signer` or `TokenSigner`."""
    wrong: str = ""
    """Reason why no request can present it; "": none."""


def marks_of(consumer: Consumer, read: Read) -> Iterator[Mark]:
    """Return all credentials of a consumer. Raises `SecretError`."""
    yield Mark(CredentialKind.NAME, consumer.name.encode(), ("name",))
    for place, key in enumerate(consumer.key_auth):
        if key.key_sha256 is not None:
            yield Mark(CredentialKind.KEY, key.key_sha256, ("key_auth", place, "key_sha256"))
        elif key.key is not None:
            text = _value(key.key, read)
            digest = sha256(text.encode()).digest()
            yield Mark(CredentialKind.KEY, digest, ("key_auth", place, "key"), wrong=_why_not_a_key(text))
    for place, login in enumerate(consumer.basic_auth):
        text = _value(login.password, read)
        wrong = why_not_a_password(text)
        name = login.username.encode()
        if wrong:
            yield Mark(CredentialKind.USERNAME, name, ("basic_auth", place, "password"), wrong=wrong)
        else:
            yield Mark(
                CredentialKind.USERNAME, name, ("basic_auth", place, "username"), normalize("NFC", text).encode()
            )
    for place, signing in enumerate(consumer.hmac):
        yield _signing(signing, place, read)
    for place, token in enumerate(consumer.jwt):
        if token.key is not None:
            yield _token_key(token, place, read)
        else:
            subject = subject_of(token.issuer or "", token.subject or "")
            yield Mark(CredentialKind.JWT_SUBJECT, subject, ("jwt", place, "subject"))
    for place, mark in enumerate(consumer.certificates):
        at = "certificates", place
        if mark.subject is not None:
            yield Mark(CredentialKind.SUBJECT, mark.subject.encode(), (*at, "subject"))
        elif mark.san is not None:
            yield Mark(CredentialKind.SAN, mark.san.encode(), (*at, "san"))
        elif mark.fingerprint_sha256 is not None:
            yield Mark(CredentialKind.FINGERPRINT, mark.fingerprint_sha256, (*at, "fingerprint_sha256"))


def scope_of(kind: CredentialKind, consumer: Consumer) -> str:
    """Return the namespace within which a credential of a consumer is unique; "" = everywhere, as names are."""
    return "" if kind is CredentialKind.NAME else consumer.namespace or ""


class Signer(msgspec.Struct, frozen=True, array_like=True):
    """Verification key for signatures of a consumer."""

    algorithm: str
    key: bytes
    """The shared secret, or a public key in PEM."""


class TokenSigner(msgspec.Struct, frozen=True, array_like=True):
    """Verification key for tokens of a consumer."""

    algorithm: str
    key: bytes
    """The shared secret, a public key in PEM, or a JWK."""
    is_secret: bool
    """Whether it is a shared secret as it is."""

    def parsed(self) -> Key:
        """Return the key. Raises `UnusableKey`."""
        if self.is_secret:
            key = key_from_secret(self.key)
        else:
            keys = read_keys(self.key, symmetric=True)
            if len(keys) != 1:
                reasons = [each.reason for each in keys.passed_over[:1]]  # without the key id: the file may be any
                raise UnusableKey("".join(reasons) or "expected exactly one key")
            key = keys.keys[0]
        if self.algorithm not in key.algorithms:
            raise UnusableKey(f"not a key for {self.algorithm}; expected {EXPECTED_KEYS[self.algorithm].expected_key}")
        return key


def _token_key(token: ConsumerSubject, place: int, read: Read) -> Mark:
    assert token.key is not None
    assert token.key_id is not None
    algorithm, key, wrong = token.algorithm or "", _value(token.key, read).encode(), ""
    is_secret = token.secret_is_base64 or (algorithm.startswith("HS") and not key.lstrip().startswith(b"{"))
    try:
        signer = TokenSigner(algorithm, secret_from_base64(key) if token.secret_is_base64 else key, is_secret)
        signer.parsed()
    except UnusableKey as unusable:
        signer, wrong = TokenSigner(algorithm, b"", True), str(unusable)
    path: Path = ("jwt", place, "key" if wrong else "key_id")
    value = token.key_id.encode("utf-8", "surrogatepass")
    return Mark(CredentialKind.TOKEN_KEY, value, path, msgspec.msgpack.encode(signer), wrong)


def _signing(signing: ConsumerSigningKey, place: int, read: Read) -> Mark:
    key, wrong = _value(signing.key, read).encode(), ""
    if signing.algorithm == "hmac-sha256":
        if signing.encoding == "base64":
            try:
                key = b64decode(key, validate=True)
            except ValueError:
                wrong = "not base64"
        if not wrong and len(key) < SHORTEST_SECRET:
            wrong = f"a secret shorter than {SHORTEST_SECRET} bytes"
    else:
        wrong = why_not_a_public_key(signing.algorithm, key)
    path: Path = ("hmac", place, "key" if wrong else "key_id")
    return Mark(
        CredentialKind.KEY_ID,
        signing.key_id.encode(),
        path,
        msgspec.msgpack.encode(Signer(signing.algorithm, key)),
        wrong,
    )


@cache
def signature_algorithms() -> Mapping[str, type[HTTPSignatureAlgorithm]]:
    """Return the algorithms of message signatures, by name.

    Imports the library: most gateways verify no signatures, and it takes 15 ms of each start.
    """
    from http_message_signatures import algorithms

    classes = (
        algorithms.HMAC_SHA256,
        algorithms.ED25519,
        algorithms.ECDSA_P256_SHA256,
        algorithms.ECDSA_P384_SHA384,
        algorithms.RSA_PSS_SHA512,
    )
    return MappingProxyType({each.algorithm_id: each for each in classes})


def why_not_a_public_key(algorithm: str, pem: bytes) -> str:
    """Return the reason why it cannot verify signatures of this algorithm; "" if it can."""
    from http_message_signatures import HTTPMessageSignaturesException

    try:
        signature_algorithms()[algorithm](public_key=pem)
    except (ValueError, UnsupportedAlgorithm, HTTPMessageSignaturesException):
        return f"not a PEM public key for {algorithm}"
    return ""


def subject_of(issuer: str, subject: str) -> bytes:
    """Return the mark of a token's subject, which is unique for each pair of issuer and subject."""
    said = issuer.encode("utf-8", "surrogatepass")
    return b"%d:%b%b" % (len(said), said, subject.encode("utf-8", "surrogatepass"))


def why_not_a_password(text: str) -> str:
    """Return the reason why no client can send it; "" if one can."""
    if len(text.encode()) > LONGEST_KEY:
        return f"a password longer than {LONGEST_KEY} bytes"
    return (
        "" if not any(each < " " or "\x7f" <= each <= "\x9f" for each in text) else "a control character in a password"
    )


def _why_not_a_key(text: str) -> str:
    if len(text) > LONGEST_KEY:
        return f"a key longer than {LONGEST_KEY} bytes"
    return "" if text.isascii() and text.isprintable() and " " not in text else "not printable ASCII"


def _value(secret: Secret, read: Read) -> str:
    return secret_in(secret.file, read(secret.file)) if secret.file else secret.value()
