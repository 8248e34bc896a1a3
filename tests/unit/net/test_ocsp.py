"""Responses of OCSP: which ones a certificate may be sent with."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from fastgw.net.ocsp import (
    MOST_BYTES,
    InvalidOcspResponse,
    Subject,
    demands_response,
    request_for,
    subject_in,
    verify_response,
)
from tests.support.certificates import Certificates
from tests.support.ocsp import DAY, OcspAuthority

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Asked:
    """A certificate that is asked about, and others."""

    def __init__(self, folder: Path) -> None:
        for each in ("own", "other"):
            (folder / each).mkdir()
        self.authority, self.other = (OcspAuthority(folder / each, name="One CA") for each in ("own", "other"))
        self.file = Path(self.authority.issue("a.test")[0])
        self.content = self.file.read_bytes()
        subject = subject_in(self.content)
        assert isinstance(subject, Subject)
        self.subject = subject


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("ocsp"))


def test_the_request_names_the_certificate_and_its_issuer(asked: Asked) -> None:
    request = ocsp.load_der_ocsp_request(request_for(asked.subject))
    assert request.serial_number == asked.subject.certificate.serial_number
    assert asked.subject.responder == "http://127.0.0.1:9/"
    assert asked.subject.issuer == asked.authority.certificate


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()])
def test_a_response_signed_by_the_issuer_is_taken(asked: Asked, algorithm: hashes.HashAlgorithm) -> None:
    content = asked.authority.answer(asked.content, algorithm=algorithm, since=NOW - DAY, until=NOW + DAY)
    found = verify_response(content, asked.subject, time.time())
    assert found == (False, (NOW - DAY).timestamp(), (NOW + DAY).timestamp())


def test_a_response_signed_by_an_authorized_responder_is_taken_as_long_as_that_is_valid(asked: Asked) -> None:
    signer = asked.authority.delegate()
    content = asked.authority.answer(asked.content, signer=signer, until=NOW + 90 * DAY)
    found = verify_response(content, asked.subject, time.time())
    assert found.until == signer[0].not_valid_after_utc.timestamp()
    with pytest.raises(InvalidOcspResponse, match="signed neither by the issuer"):
        verify_response(content, asked.subject, (NOW + 60 * DAY).timestamp())


def test_a_revoked_certificate_is_told_as_one(asked: Asked) -> None:
    content = asked.authority.answer(asked.content, status=ocsp.OCSPCertStatus.REVOKED)
    assert verify_response(content, asked.subject, time.time()).is_revoked


def of_other_certificate(asked: Asked) -> bytes:
    return asked.authority.answer(Path(asked.authority.issue("b.test")[0]).read_bytes())


def of_other_authority(asked: Asked) -> bytes:
    """An authority of the same name that has issued this serial number too."""
    return asked.other.answer(asked.content)


def signed_by_other_key(asked: Asked) -> bytes:
    return asked.authority.answer(asked.content, signer=(asked.other.certificate, asked.other.key))


def signed_by_a_certificate_for_something_else(asked: Asked) -> bytes:
    return asked.authority.answer(asked.content, signer=asked.authority.delegate(may_sign=False))


def signed_by_a_responder_of_another_authority(asked: Asked) -> bytes:
    return asked.authority.answer(asked.content, signer=asked.other.delegate())


def changed(asked: Asked) -> bytes:
    """The status of a good response is in its signed part."""
    content = asked.authority.answer(asked.content)
    signed = ocsp.load_der_ocsp_response(content).tbs_response_bytes
    assert content.count(signed) == 1
    serial = asked.subject.certificate.serial_number.to_bytes(21, "big").lstrip(b"\0")
    at = content.index(serial) + len(serial)
    assert content[at : at + 2] == b"\x80\x00"  # good: [0]
    return content[:at] + b"\x82" + content[at + 1 :]  # unknown: [2]


WRONG = {
    "no response": (lambda asked: b"<html>", "not one of OCSP"),
    "cut off": (lambda asked: asked.authority.answer(asked.content)[:-1], "not one of OCSP"),
    "bytes after it": (lambda asked: asked.authority.answer(asked.content) + b"\0", "not one of OCSP"),
    "too long": (lambda asked: b"\0" * (MOST_BYTES + 1), "longer than 16384 bytes"),
    "refused": (
        lambda asked: ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
            Encoding.DER
        ),
        "answers try_later",
    ),
    "another certificate": (of_other_certificate, "about another certificate"),
    "another authority": (of_other_authority, "about another certificate"),
    "another key": (signed_by_other_key, "signed neither by the issuer"),
    "not authorized": (signed_by_a_certificate_for_something_else, "signed neither by the issuer"),
    "authorized by another": (signed_by_a_responder_of_another_authority, "signed neither by the issuer"),
    "changed": (changed, "signed neither by the issuer"),
    "expired": (lambda asked: asked.authority.answer(asked.content, until=NOW - DAY / 2), "was valid until"),
    "of tomorrow": (
        lambda asked: asked.authority.answer(asked.content, since=NOW + DAY, until=NOW + 2 * DAY),
        "not valid before",
    ),
    "endless": (lambda asked: asked.authority.answer(asked.content, until=None), "until when it is valid"),
    "unknown": (
        lambda asked: asked.authority.answer(asked.content, status=ocsp.OCSPCertStatus.UNKNOWN),
        "does not know the certificate",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_any_other_response_is_refused(asked: Asked, case: str) -> None:
    made, why = WRONG[case]
    with pytest.raises(InvalidOcspResponse, match=why):
        verify_response(made(asked), asked.subject, time.time())


def test_a_certificate_without_responder_or_issuer_says_so(asked: Asked, tmp_path: Path) -> None:
    lone, _ = asked.authority.issue("lone.test", chain=False)
    assert subject_in(Path(lone).read_bytes()) == "its issuer's certificate is not in the file, after it"
    silent, _ = Certificates(tmp_path).issue("silent.test")
    assert subject_in(Path(silent).read_bytes()) == "it names no OCSP responder that is reached by http"
    wrong_chain = Path(lone).read_bytes() + Path(asked.other.ca).read_bytes()
    assert subject_in(wrong_chain) == "its issuer's certificate is not in the file, after it"


@pytest.mark.parametrize("url", ["https://a.test/", "ftp://a.test/", "file:///etc/passwd", "ldap://a.test"])
def test_a_responder_is_reached_by_http_only(asked: Asked, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked.authority, "responder", url)
    file, _ = asked.authority.issue("elsewhere.test")
    assert subject_in(Path(file).read_bytes()) == "it names no OCSP responder that is reached by http"


def test_must_staple_is_seen(asked: Asked) -> None:
    must, _ = asked.authority.issue("must.test", must_staple=True)
    assert demands_response(Path(must).read_bytes())
    assert not demands_response(asked.content)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_signatures_of_other_keys_are_verified_too(kind: str) -> None:
    """The key of an authority is an elliptic one in the other tests."""
    key: Any = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()
    algorithm = hashes.SHA256() if kind == "rsa" else None
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Other CA")])

    def signed(subject: x509.Name, public: Any) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(NOW - DAY)
        return made.not_valid_after(NOW + DAY).sign(key, algorithm)

    issuer = signed(name, key.public_key())
    leaf = signed(x509.Name([]), ec.generate_private_key(ec.SECP256R1()).public_key())
    good = ocsp.OCSPCertStatus.GOOD
    made = ocsp.OCSPResponseBuilder().add_response(leaf, issuer, hashes.SHA1(), good, NOW - DAY, NOW + DAY, None, None)
    made = made.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    content = made.sign(key, algorithm).public_bytes(Encoding.DER)
    subject = Subject(leaf, issuer, leaf.fingerprint(hashes.SHA256()), "http://a.test/")
    assert not verify_response(content, subject, time.time()).is_revoked
