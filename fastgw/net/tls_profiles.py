"""TLS profiles: the versions, cipher suites and groups that Mozilla recommends (Server Side TLS, version 5.7).

DHE suites of `intermediate` and `old` are left out: no client needs them, and they are slow.
"""

import ssl
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Final, Literal, NamedTuple

ProfileName = Literal["modern", "intermediate", "old"]
VersionName = Literal["1.0", "1.1", "1.2", "1.3"]
GroupName = Literal["X25519MLKEM768", "X25519", "P-256", "P-384", "P-521"]
VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
HYBRID: Final = "X25519MLKEM768"
"""Group of OpenSSL 3.5 and later: traffic recorded today cannot be decrypted by future quantum computers."""
_GROUPS: Final = ("X25519", "P-256", "P-384")
_INTERMEDIATE: Final = tuple(
    f"ECDHE-{kind}-{suite}"
    for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""All suites of TLS 1.2 with forward secrecy and authenticated encryption that OpenSSL enables. All of TLS 1.3 have
both.
"""
_OLD: Final = (
    *_INTERMEDIATE,
    *("ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA"),
    *("ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA"),
    *("AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA256", "AES256-SHA256", "AES128-SHA", "AES256-SHA"),
)


class TlsProfile(NamedTuple):
    """Versions, cipher suites and groups of a listener."""

    min_version: VersionName
    ciphers: tuple[str, ...]
    """Cipher suites of TLS 1.2 and earlier, by OpenSSL's names; the suites of TLS 1.3 are all used."""
    groups: tuple[str, ...] = _GROUPS
    prefers_own: bool = False
    """Whether the order of the suites decides, instead of that of the client."""


PROFILES: Final[Mapping[str, TlsProfile]] = {
    "modern": TlsProfile("1.3", _INTERMEDIATE),
    "intermediate": TlsProfile("1.2", _INTERMEDIATE),
    "old": TlsProfile("1.0", _OLD, prefers_own=True),
}


def set_versions(context: ssl.SSLContext, least: str, most: str | None) -> None:
    """Set the versions of a context; `most`: None = the latest."""
    with warnings.catch_warnings():
        if least < "1.2":  # Python advises against it, and so do we
            warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = VERSIONS[least]
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED if most is None else VERSIONS[most]


def cipher_text(ciphers: tuple[str, ...], least: str) -> str:
    """Return the cipher list in OpenSSL's notation. Versions before 1.2 have signatures that OpenSSL refuses unless its
    security level is 0.
    """
    return ":".join(ciphers) + (":@SECLEVEL=0" if least in ("1.0", "1.1") else "")


@cache
def is_cipher(name: str) -> bool:
    """Whether OpenSSL has a suite of TLS 1.2 or earlier of this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(f"{name}:@SECLEVEL=0")
    except ssl.SSLError:
        return False
    return any(each["name"] == name and each["protocol"] != "TLSv1.3" for each in context.get_ciphers())
