"""Placeholders for certificates that are not issued yet: self-signed, and expired, so that no client takes one for a
certificate, and each issued certificate replaces it.
"""

import datetime
import ssl
from collections.abc import Sequence
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastgw.net.pem import decoded

COMMON_NAME: Final = "fastgw: no certificate yet"
_SINCE: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def placeholder(domains: Sequence[str]) -> bytes:
    """Return a self-signed certificate for these names, followed by its key."""
    from cryptography import x509  # takes 14 ms of each start, and only certificates need it
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(_SINCE).not_valid_after(_SINCE + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in domains]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def is_placeholder(certificate: dict[str, Any]) -> bool:
    """Whether a decoded certificate is a placeholder."""
    return certificate.get("issuer") == ((("commonName", COMMON_NAME),),)


def holds_placeholder(content: bytes) -> bool:
    """Whether the content of a file is a placeholder, or no certificate at all."""
    try:
        return is_placeholder(decoded(content))
    except ssl.SSLError:
        return True
