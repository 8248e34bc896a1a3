"""Verified certificate of a client: its identity, and its form in headers for upstreams.

Its contents come from a CA, not from the gateway: they must not be able to end a header line, or a quoted string in it.
"""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ssl import cert_time_to_seconds
from typing import Any, Final, NamedTuple

SHORT_NAMES: Final[Mapping[str, str]] = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""RFC 4514 short forms of OpenSSL's long attribute names; others stay unchanged."""

LONGEST: Final = 4096
"""Maximum size of an element in bytes; a certificate may have hundreds of names."""

_SEPARATES: Final = re.compile(r"[+,;<>]")
_UNSAFE: Final = re.compile(rb'[^\x20-\x7e]|["\\]')
_NOT_PLAIN: Final = re.compile(rb'[^\x21-\x7e]|["\\]')
_NEEDS_QUOTES: Final = re.compile("[,;=]")

Decoded = Mapping[str, Any]
"""A certificate in the form of `ssl.SSLObject.getpeercert`."""


class ClientCertificate(NamedTuple):
    """Client certificate, verified against the listener's CA, and not revoked if there is a revocation list."""

    subject: str
    """Subject in the form of RFC 4514, most specific part first: `CN=alice,OU=people,O=Example`."""
    common_name: str
    """Common name of the subject; "" if it has none."""
    dns_names: tuple[str, ...]
    """DNS alternative names, unchanged from the certificate, like the other kinds below."""
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    fingerprint: str
    """SHA-256 of the certificate, in lower-case hexadecimal."""
    serial: str
    """Serial number in upper-case hexadecimal."""
    issuer: str
    """Subject of the issuing CA."""
    expires_date: float
    """Expiry in epoch seconds."""

    @classmethod
    def of(cls, der: bytes, decoded: Decoded) -> "ClientCertificate":
        names: dict[str, list[str]] = {}
        for kind, name in decoded.get("subjectAltName", ()):
            names.setdefault(kind, []).append(name)
        subject = decoded.get("subject", ())
        common = [value for part in subject for name, value in part if name == "commonName"]
        return cls(
            subject=distinguished(subject),
            common_name=common[-1] if common else "",
            dns_names=tuple(names.get("DNS", ())),
            uris=tuple(names.get("URI", ())),
            emails=tuple(names.get("email", ())),
            ip_addresses=tuple(names.get("IP Address", ())),
            fingerprint=sha256(der).hexdigest(),
            serial=decoded.get("serialNumber", ""),
            issuer=distinguished(decoded.get("issuer", ())),
            expires_date=expiry(decoded),
        )

    @property
    def sans(self) -> list[str]:
        """All alternative names, each with its kind: `DNS:host`, `URI:…`, `email:a@b`, `IP:10.0.0.1`."""
        kinds = (("DNS", self.dns_names), ("URI", self.uris), ("email", self.emails), ("IP", self.ip_addresses))
        return [f"{kind}:{name}" for kind, names in kinds for name in names]

    def element(self) -> bytes:
        """Return an element of `X-Forwarded-Client-Cert`, in Envoy's form; names beyond `LONGEST` are left out."""
        text = f'Hash={self.fingerprint};Subject="{self.subject}"'
        for kind, names in (("URI", self.uris), ("DNS", self.dns_names)):
            for name in names:
                pair = f";{kind}={_value(name)}"
                if len(text) + len(pair) > LONGEST:
                    return text.encode("ascii")
                text += pair
        return text.encode("ascii")


def expiry(decoded: Decoded) -> float:
    """Return the expiry in epoch seconds."""
    return float(cert_time_to_seconds(decoded["notAfter"]))


def distinguished(name: Iterable[Iterable[tuple[str, str]]]) -> str:
    """Return a subject or issuer in the form of RFC 4514, in ASCII: other bytes, quotes and backslashes are written as
    `\\xx`.
    """
    parts = ["+".join(f"{SHORT_NAMES.get(kind, kind)}={_escaped(value)}" for kind, value in part) for part in name]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    raw = _UNSAFE.sub(lambda match: b"\\%02X" % match[0][0], value.encode(errors="surrogatepass")).decode("ascii")
    text = _SEPARATES.sub(r"\\\g<0>", raw)
    if text[:1] in (" ", "#"):
        text = "\\" + text
    if text.endswith(" ") and text != "\\ ":
        text = text[:-1] + "\\ "
    return text


def _value(name: str) -> str:
    """Return an alternative name for the header: everything but visible ASCII is percent-encoded."""
    plain = _NOT_PLAIN.sub(lambda match: b"%%%02X" % match[0][0], name.encode(errors="surrogatepass")).decode("ascii")
    return f'"{plain}"' if _NEEDS_QUOTES.search(plain) else plain
