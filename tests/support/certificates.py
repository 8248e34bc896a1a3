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
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.x509.oid import NameOID

from fastgw.config.settings.gateway import UpstreamTls
from fastgw.routing.table import at_once
from fastgw.upstream.targets.tls import client_tls as upstream_tls
from fastgw.upstream.targets.tls import material_of

OTHER_USES = (
    "digital_signature content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
)
SIGNS = x509.KeyUsage(**dict.fromkeys(OTHER_USES.split(), False), key_cert_sign=True, crl_sign=True)


class Certificates:
    """A CA with its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        self.ca = str(folder / "ca.pem")
        made = self._begin(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made = made.add_extension(SIGNS, critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self._certificate = made.sign(self._key, hashes.SHA256())
        Path(self.ca).write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *more: str, subject: str = "issued", stem: str = "", days: float = 1, rsa: bool = False
    ) -> tuple[str, str]:
        """Issue a certificate for names, addresses and URIs (none if the first is empty), with its key.

        `stem`: of the file names; default: the first name. `days`: validity from now.
        """
        key: ec.EllipticCurvePrivateKey | RSAPrivateKey = ec.generate_private_key(ec.SECP256R1())
        if rsa:
            key = generate_rsa_key(65537, 2048)
        made = self._begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]), key.public_key(), days)
        if name:
            alternatives = [alternative(each) for each in (name, *more)]
            made = made.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(signer, critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        files = self._folder / (stem or name.replace(":", "_").replace("*", "any"))
        certificate_file, key_file = files.with_suffix(".pem"), files.with_suffix(".key")
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(certificate_file), str(key_file)

    def sign(self, key: ec.EllipticCurvePublicKey | RSAPublicKey, names: list[str], days: float) -> bytes:
        """Issue a certificate for another's key, followed by ours."""
        made = self._begin(x509.Name([]), key, days)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=True)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = made.add_extension(signer, critical=False).sign(self._key, hashes.SHA256())
        form = serialization.Encoding.PEM
        return signed.public_bytes(form) + self._certificate.public_bytes(form)

    def revoke(self, *certificates: str, days: float = 1) -> str:
        """Create a revocation list with these certificates. `days`: validity from now."""
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        made = made.last_update(now - datetime.timedelta(days=30)).next_update(now + datetime.timedelta(days=days))
        for each in certificates:
            serial = x509.load_pem_x509_certificate(Path(each).read_bytes()).serial_number
            made = made.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
        file = self._folder / f"revoked-{len(certificates)}.pem"
        file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(file)

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey | RSAPublicKey, days: float = 1
    ) -> x509.CertificateBuilder:
        today = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=2))
            .not_valid_after(today + datetime.timedelta(days=days))
        )


def alternative(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.IPAddress(ip_address(name)) if re.fullmatch(r"[0-9.]+|.*:.*", name) else x509.DNSName(name)


def client_tls(certificates: Certificates, shown: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Return a client's TLS context that trusts this CA, with a certificate if there is one."""
    made = ssl.create_default_context(cafile=certificates.ca)
    if shown is not None:
        made.load_cert_chain(*shown)
    return made


def server_tls(issued: tuple[str, str], clients: str | None = None, highest: int | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server of HTTP/1.1, which requires a certificate of the CA `clients` if set."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*issued)
    made.set_alpn_protocols(["http/1.1"])
    if clients is not None:
        made.load_verify_locations(clients)
        made.verify_mode = ssl.CERT_REQUIRED
    if highest is not None:
        made.maximum_version = ssl.TLSVersion(highest)
    return made


def trusting(certificates: Certificates, **more: Any) -> ssl.SSLContext:
    return made_tls(UpstreamTls(ca=certificates.ca, **more))


def made_tls(tls: UpstreamTls) -> ssl.SSLContext:
    """Return the TLS configuration for targets with these settings."""
    return at_once(upstream_tls(tls, material_of(tls, {})))
