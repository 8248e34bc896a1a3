"""OCSP stapling (RFC 6066 section 8): OCSP responses that contexts send with their certificates.

Python's `ssl` has no call for it, so a compiled module sets them in the contexts of OpenSSL. Without it there is no
stapling.
"""

import ssl
from collections.abc import Mapping
from typing import NamedTuple

from fastgw.compiled import PURE, twin

_twin = twin("fastgw.net._ocsp_stapling")


class Staple(NamedTuple):
    """An OCSP response. `until`: epoch seconds from which it is not sent any more."""

    response: bytes
    until: float


def staple(context: ssl.SSLContext, responses: Mapping[bytes, Staple]) -> None:
    """Send these responses from the next handshake on, in place of the former ones.

    `responses`: by the SHA-256 digest of the certificate (DER); those of other certificates are ignored.
    """
    if why_missing() is None and _twin is not None:
        _twin.staple(context, responses)


def why_missing() -> str | None:
    """Return why responses are not stapled here; None: they are."""
    if _twin is not None:
        why: str | None = _twin.why_missing()
        return why
    return "FASTGW_PURE_PYTHON is set" if PURE else "it needs a fastgw that was compiled"


def describe() -> str:
    """Describe the support for people, or the reason why it is missing."""
    why = why_missing()
    return f"by {ssl.OPENSSL_VERSION}" if why is None else f"not offered: {why}"
