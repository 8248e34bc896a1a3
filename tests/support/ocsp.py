"""OCSP for tests: an authority whose certificates name a responder, the responder of OpenSSL, and a client that asks
for stapled responses.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from tests.support.certificates import SIGNS

Key = ec.EllipticCurvePrivateKey | RSAPrivateKey
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


class OcspAuthority:
    """A CA, the index of its certificates, and files for the responder."""

    def __init__(self, folder: Path, responder: str = "http://127.0.0.1:9/", name: str = "OCSP CA") -> None:
        self.folder, self.responder = folder, responder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(name, self.key, authority=True)
        self.ca = self._write("ca.pem", self.certificate.public_bytes(PEM))
        self._write("ca.key", _key_pem(self.key))
        self._index: dict[int, str] = {}
        self._write_index()

    def issue(
        self, *names: str, rsa: bool = False, must_staple: bool = False, chain: bool = True, responder: bool = True
    ) -> tuple[str, str]:
        """Issue a certificate, with its chain, and its key; each call writes them again."""
        key: Key = generate_rsa_key(65537, 2048) if rsa else ec.generate_private_key(ec.SECP256R1())
        made = self._signed(names[0], key, names=names, must_staple=must_staple, responder=responder)
        self._index[made.serial_number] = "V"
        self._write_index()
        stem = f"{names[0]}-{'rsa' if rsa else 'ec'}"
        key_file = self._write(f"{stem}.key", _key_pem(key))
        content = made.public_bytes(PEM) + (self.certificate.public_bytes(PEM) if chain else b"")
        return self._write(f"{stem}.pem", content), key_file

    def delegate(self, *, may_sign: bool = True) -> tuple[x509.Certificate, Key]:
        """Issue the certificate of a responder."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._signed("responder", key, signs=may_sign), key

    def revoke(self, certificate: str) -> None:
        """Revoke a certificate: the next answers of the responder say so."""
        serial = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).serial_number
        self._index[serial] = "R"
        self._write_index()

    def answer(self, certificate: bytes, **changes: Any) -> bytes:
        """Return a response to the question for a certificate. `changes`: what is other than in a usual one."""
        now = changes.get("now", datetime.datetime.now(datetime.UTC))
        status = changes.get("status", ocsp.OCSPCertStatus.GOOD)
        issuer = changes.get("issuer", self.certificate)
        made = ocsp.OCSPResponseBuilder().add_response(
            cert=x509.load_pem_x509_certificate(certificate),
            issuer=issuer,
            algorithm=changes.get("algorithm", hashes.SHA1()),
            cert_status=status,
            this_update=changes.get("since", now - DAY),
            next_update=changes.get("until", now + DAY),
            revocation_time=now - DAY if status is ocsp.OCSPCertStatus.REVOKED else None,
            revocation_reason=None,
        )
        signer, key = changes.get("signer", (issuer, self.key))
        made = made.responder_id(ocsp.OCSPResponderEncoding.NAME, signer)
        if signer is not issuer:
            made = made.certificates([signer])
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def _signed(self, name: str, key: Key, **about: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        is_authority = about.get("authority", False)
        made = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        made = made.issuer_name(subject if is_authority else self.certificate.subject)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - 2 * DAY)
        made = made.not_valid_after(now + 30 * DAY)
        made = made.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        if is_authority:
            made = made.add_extension(SIGNS, critical=True)
        else:
            made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        if names := about.get("names"):
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), False)
        if about.get("responder"):
            place = x509.UniformResourceIdentifier(self.responder)
            access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)
            made = made.add_extension(x509.AuthorityInformationAccess([access]), False)
        if about.get("must_staple"):
            made = made.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), False)
        if about.get("signs"):
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
        return made.sign(self.key, hashes.SHA256())

    def _write(self, name: str, content: bytes) -> str:
        new = self.folder / f".{name}.new"
        new.write_bytes(content)
        new.replace(self.folder / name)
        return str(self.folder / name)

    def _write_index(self) -> None:
        """Write the database of `openssl ca`, from which the responder answers."""
        ends = (datetime.datetime.now(datetime.UTC) + 30 * DAY).strftime("%y%m%d%H%M%SZ")
        begun = (datetime.datetime.now(datetime.UTC) - DAY).strftime("%y%m%d%H%M%SZ")
        rows = []
        for serial, status in self._index.items():
            text = f"{serial:x}".upper()
            text = "0" * (len(text) % 2) + text
            rows.append(f"{status}\t{ends}\t{begun if status == 'R' else ''}\t{text}\tunknown\t/CN={text}\n")
        self._write("index.txt", "".join(rows).encode())


def _key_pem(key: Key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Responder:
    """`openssl ocsp` as a responder for an authority. It listens on all addresses: it knows no other way."""

    def __init__(self, folder: Path, port: int = 0, days: int = 4) -> None:
        files = ["-index", "index.txt", "-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem"]
        command = ["openssl", "ocsp", "-port", str(port), *files, "-ndays", str(days)]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        line = b""
        while (found := re.search(rb"ACCEPT \S*:(\d+)", line)) is None:
            line = self.process.stdout.readline()
            assert line, "the responder has ended"
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Responder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Stapled(NamedTuple):
    """A handshake as a client has seen it. `status`: of the certificate in the response; "": there was none."""

    status: str
    serial: int
    """Serial number in the response."""
    shown: int
    """Serial number of the certificate."""
    is_resumed: bool


def ask_stapled(address: str, name: str, *options: str) -> Stapled:
    """Return what a client of OpenSSL gets that asks for a stapled response."""
    command = ["openssl", "s_client", "-connect", address, "-servername", name, "-status", *options]
    made = subprocess.run(command, capture_output=True, input=b"", check=False, env={**os.environ}, timeout=60)
    text = made.stdout.decode("latin-1")
    assert "BEGIN CERTIFICATE" in text or "Reused" in text, text + made.stderr.decode("latin-1")
    _, _, shown = text.partition("\nServer certificate\n")  # a response has certificates too, before it
    status = re.search(r"Cert Status: (\w+)", text)
    about = re.search(r"Serial Number: (\w+)", text)
    is_sent = re.search(r"OCSP responses?:(?! no )", text)
    assert (status is None) == (is_sent is None), text
    return Stapled(
        status[1] if status else "",
        int(about[1], 16) if about else 0,
        x509.load_pem_x509_certificate(shown.encode()).serial_number if "BEGIN" in shown else 0,
        "Reused, TLS" in text,
    )
