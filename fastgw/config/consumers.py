"""What consumers are known by: each mark belongs to one of them alone."""

from collections.abc import Callable, Iterator
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple
from unicodedata import normalize

from fastgw.config.secret import Secret, secret_in
from fastgw.config.settings import Consumer

LONGEST_KEY: Final = 1024
"""Bytes of a key or password."""
Read = Callable[[str], bytes]
"""The contents of a file that the configuration names."""


class Kind(IntEnum):
    """What a mark is."""

    NAME, KEY, USERNAME, JWT_SUBJECT, SUBJECT, SAN, FINGERPRINT = range(7)


NOUNS: Final = (
    "the name",
    "the key",
    "the username",
    "the subject of a token",
    "the subject of a certificate",
    "the alternative name of a certificate",
    "the fingerprint",
)
"""By kind."""


class Mark(NamedTuple):
    """Something that a request may show."""

    kind: Kind
    value: bytes
    path: tuple[str | int, ...]
    """Where it stands in the consumer."""
    password: str = ""
    """Of a username."""
    wrong: str = ""
    """Why no request could show it."""


def marks_of(consumer: Consumer, read: Read) -> Iterator[Mark]:
    """All marks of a consumer. Raises `SecretError`."""
    yield Mark(Kind.NAME, consumer.name.encode(), ("name",))
    for place, key in enumerate(consumer.key_auth):
        if key.key_sha256 is not None:
            yield Mark(Kind.KEY, key.key_sha256, ("key_auth", place, "key_sha256"))
        elif key.key is not None:
            text = _value(key.key, read)
            digest = sha256(text.encode()).digest()
            yield Mark(Kind.KEY, digest, ("key_auth", place, "key"), wrong=_why_not_a_key(text))
    for place, login in enumerate(consumer.basic_auth):
        text = _value(login.password, read)
        wrong = why_not_a_password(text)
        name = login.username.encode()
        if wrong:
            yield Mark(Kind.USERNAME, name, ("basic_auth", place, "password"), wrong=wrong)
        else:
            yield Mark(Kind.USERNAME, name, ("basic_auth", place, "username"), normalize("NFC", text))
    for place, token in enumerate(consumer.jwt):
        yield Mark(Kind.JWT_SUBJECT, subject_of(token.issuer, token.subject), ("jwt", place, "subject"))
    for place, mark in enumerate(consumer.certificates):
        at = "certificates", place
        if mark.subject is not None:
            yield Mark(Kind.SUBJECT, mark.subject.encode(), (*at, "subject"))
        elif mark.san is not None:
            yield Mark(Kind.SAN, mark.san.encode(), (*at, "san"))
        elif mark.fingerprint_sha256 is not None:
            yield Mark(Kind.FINGERPRINT, mark.fingerprint_sha256, (*at, "fingerprint_sha256"))


def subject_of(issuer: str, subject: str) -> bytes:
    """Whom a token speaks of, so that no two issuers and subjects are one."""
    said = issuer.encode("utf-8", "surrogatepass")
    return b"%d:%b%b" % (len(said), said, subject.encode("utf-8", "surrogatepass"))


def why_not_a_password(text: str) -> str:
    """Why nobody could send it; "" when somebody can."""
    if len(text.encode()) > LONGEST_KEY:
        return f"a password of more than {LONGEST_KEY} bytes"
    return (
        "" if not any(each < " " or "\x7f" <= each <= "\x9f" for each in text) else "a control character in a password"
    )


def _why_not_a_key(text: str) -> str:
    if len(text) > LONGEST_KEY:
        return f"a key of more than {LONGEST_KEY} bytes"
    return "" if text.isascii() and text.isprintable() and " " not in text else "not visible ASCII alone"


def _value(secret: Secret, read: Read) -> str:
    return secret_in(secret.file, read(secret.file)) if secret.file else secret.value()
