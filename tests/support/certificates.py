"""A certificate authority for tests."""

import datetime
import re
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastgw.config.settings import UpstreamTls
from fastgw.routing import at_once
from fastgw.upstream.tls import client_tls, material_of


class Certificates:
    """A certificate authority, in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self.ca = str(folder / "ca.pem")
        made = self._begin(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256())
        Path(self.ca).write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[str, str]:
        """A certificate for a name or an address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issued")])
        is_address = re.fullmatch(r"[0-9.]+|.*:.*", name) is not None
        alternative = x509.IPAddress(ip_address(name)) if is_address else x509.DNSName(name)
        made = self._begin(subject, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        stem = self._folder / name.replace(":", "_")
        certificate_file, key_file = stem.with_suffix(".pem"), stem.with_suffix(".key")
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(certificate_file), str(key_file)

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        today = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
        )


def server_tls(issued: tuple[str, str], clients: str | None = None, highest: int | None = None) -> ssl.SSLContext:
    """A server's side, which asks for a certificate of the authority `clients` if there is one."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*issued)
    made.set_alpn_protocols(["h2", "http/1.1"])
    if clients is not None:
        made.load_verify_locations(clients)
        made.verify_mode = ssl.CERT_REQUIRED
    if highest is not None:
        made.maximum_version = ssl.TLSVersion(highest)
    return made


def trusting(certificates: Certificates, **more: Any) -> ssl.SSLContext:
    return made_tls(UpstreamTls(ca=certificates.ca, **more))


def made_tls(tls: UpstreamTls) -> ssl.SSLContext:
    """What targets with these settings are spoken to with."""
    return at_once(client_tls(tls, material_of(tls, {})))
