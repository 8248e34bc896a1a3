"""Origin reachable by TCP, a unix socket, and TLS."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.origin import BODY
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render

TLS_HOST = "127.0.0.2"
LIFE = timedelta(days=1)


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Start it and yield its port. Its certificate is `origin.pem` in the folder, its unix socket `origin.sock`."""
    port = free_port()
    _write_certificate(folder)
    template = Path(__file__).with_name("origin.conf")
    config = render(template, folder / "origin.conf", folder=folder, port=port, body=BODY)
    with pinned(["nginx", "-c", config], [core], folder / "origin.out") as origin:
        wait_until_open(port, origin)
        yield port


def _write_certificate(folder: Path) -> None:
    """Write a key and a self-signed certificate: P-256 with ECDSA, as most services use."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "origin")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - LIFE, now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(TLS_HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "origin.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "origin.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
