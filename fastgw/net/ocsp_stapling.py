"""OCSP stapling (RFC 6066 section 8): OCSP responses that contexts send with their certificates.

Python's `ssl` has no call for it, so a compiled module sets them in the contexts of OpenSSL.
"""

import ssl
from collections.abc import Mapping
from typing import NamedTuple

from fastgw.net import _ocsp_stapling


class Staple(NamedTuple):
    """An OCSP response. `until`: epoch seconds from which it is not sent any more."""

    response: bytes
    until: float


def staple(context: ssl.SSLContext, responses: Mapping[bytes, Staple]) -> None:
    """Send these responses from the next handshake on, in place of the former ones.

    `responses`: by the SHA-256 digest of the certificate (DER); those of other certificates are ignored.
    """
    if why_missing() is None:
        _ocsp_stapling.staple(context, responses)


def why_missing() -> str | None:
    """Return why responses are not stapled here; None: they are."""
    return _ocsp_stapling.why_missing()


def describe() -> str:
    """Describe the support for people, or the reason why it is missing."""
    why = why_missing()
    return f"by {ssl.OPENSSL_VERSION}" if why is None else f"not offered: {why}"
