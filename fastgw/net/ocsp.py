"""OCSP messages (RFC 6960): the request about a server certificate, and the checks of its response.

Rule: a response is used only if it is signed for the certificate's issuer, is about this certificate, and is current.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import ocsp

MOST_BYTES: Final = 16 * 1024
"""Maximum size of a response: each handshake sends it."""
MOST_CERTIFICATES: Final = 16
"""Maximum number of certificates of a chain, of a response, and of statuses in it, that are looked at."""
SKEW_S: Final = 300.0
"""Seconds that the clock of a responder may be ahead."""
_CANNOT_VERIFY: Final = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)


class InvalidOcspResponse(Exception):
    """A response that cannot be used. Its text says why."""


class Subject(NamedTuple):
    """A certificate whose status a responder knows."""

    certificate: "x509.Certificate"
    issuer: "x509.Certificate"
    digest: bytes
    """SHA-256 digest of the certificate."""
    responder: str
    """URL of the responder, as the certificate names it."""


class VerifiedResponse(NamedTuple):
    """A response that was verified. Dates are epoch seconds."""

    is_revoked: bool
    """Whether the certificate is revoked; otherwise it is good."""
    since: float
    until: float
    """When it is no longer valid."""


def subject_in(content: bytes) -> Subject | str:
    """Return the certificate of a file to ask about; or the reason why its status cannot be asked for. Raises
    `ValueError` for a file without a certificate.
    """
    from cryptography import x509  # takes 14 ms of each start, and only certificates need it

    certificate, *chain = x509.load_pem_x509_certificates(content)
    responder = responder_of(certificate)
    if not responder:
        return "it names no OCSP responder that is reached by http"
    for each in chain[:MOST_CERTIFICATES]:
        if _is_issued_by(certificate, each):
            return Subject(certificate, each, certificate.fingerprint(hashes.SHA256()), responder)
    return "its issuer's certificate is not in the file, after it"


def responder_of(certificate: "x509.Certificate") -> str:
    """Return the URL of the OCSP responder that a certificate names; "": there is none. Responses are signed, so
    responders are reached without TLS.
    """
    from cryptography import x509
    from cryptography.x509.oid import AuthorityInformationAccessOID

    with suppress(x509.ExtensionNotFound, ValueError):
        for each in certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value:
            place = each.access_location
            is_responder = each.access_method == AuthorityInformationAccessOID.OCSP
            is_url = isinstance(place, x509.UniformResourceIdentifier)
            if is_responder and is_url and place.value.lower().startswith("http://"):
                return str(place.value)
    return ""


def demands_response(content: bytes) -> bool:
    """Whether clients reject the certificate of a file without a stapled response ("must-staple", RFC 7633). Raises
    `ValueError` for a file without a certificate.
    """
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(content)
    with suppress(x509.ExtensionNotFound):
        return (
            x509.TLSFeatureType.status_request in certificate.extensions.get_extension_for_class(x509.TLSFeature).value
        )
    return False


def request_for(subject: Subject) -> bytes:
    """Return the request about a certificate. SHA-1 names it: all responders know that (RFC 5019)."""
    return _request(subject, hashes.SHA1()).public_bytes(Encoding.DER)


def _request(subject: Subject, algorithm: hashes.HashAlgorithm) -> "ocsp.OCSPRequest":
    from cryptography.x509 import ocsp

    return ocsp.OCSPRequestBuilder().add_certificate(subject.certificate, subject.issuer, algorithm).build()


def verify_response(content: bytes, subject: Subject, now: float) -> VerifiedResponse:
    """Verify a response about a certificate. `now`: epoch seconds. Raises `InvalidOcspResponse`."""
    from cryptography.x509 import ocsp

    if len(content) > MOST_BYTES:
        raise InvalidOcspResponse(f"the response is longer than {MOST_BYTES} bytes")
    try:
        response = ocsp.load_der_ocsp_response(content)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise InvalidOcspResponse(f"the responder answers {response.response_status.name.lower()}")
        single = _single_about(subject, response)
        signer = _signer_of(response, subject.issuer, now)
        since, until = single.this_update_utc, single.next_update_utc
        status = single.certificate_status
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidOcspResponse("the response is not one of OCSP") from error
    if until is None:
        raise InvalidOcspResponse("the response does not say until when it is valid (nextUpdate)")
    if since.timestamp() > now + SKEW_S:
        raise InvalidOcspResponse(f"the response is not valid before {since:%Y-%m-%d %H:%M} UTC")
    if until.timestamp() <= now:
        raise InvalidOcspResponse(f"the response was valid until {until:%Y-%m-%d %H:%M} UTC")
    if status is ocsp.OCSPCertStatus.UNKNOWN:
        raise InvalidOcspResponse("the responder does not know the certificate")
    ends = until if signer == subject.issuer else min(until, signer.not_valid_after_utc)
    return VerifiedResponse(status is ocsp.OCSPCertStatus.REVOKED, since.timestamp(), ends.timestamp())


def _single_about(subject: Subject, response: "ocsp.OCSPResponse") -> "ocsp.OCSPSingleResponse":
    """Return the part of a response that is about a certificate."""
    for single in islice(response.responses, MOST_CERTIFICATES):
        asked = _request(subject, single.hash_algorithm)
        names = single.serial_number, single.issuer_name_hash, single.issuer_key_hash
        if names == (asked.serial_number, asked.issuer_name_hash, asked.issuer_key_hash):
            return single
    raise InvalidOcspResponse("the response is about another certificate")


def _signer_of(response: "ocsp.OCSPResponse", issuer: "x509.Certificate", now: float) -> "x509.Certificate":
    """Return the certificate that has signed a response: the issuer's, or one that the issuer has issued for it."""
    for each in (issuer, *_delegates(response, issuer, now)):
        with suppress(*_CANNOT_VERIFY):
            _verify_signature(each.public_key(), response)
            return each
    raise InvalidOcspResponse("the response is signed neither by the issuer nor by a responder that it has authorized")


def _delegates(response: "ocsp.OCSPResponse", issuer: "x509.Certificate", now: float) -> Iterator["x509.Certificate"]:
    """Yield the certificates of a response that the issuer has issued for signing responses."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    date = datetime.fromtimestamp(now, UTC)
    for each in response.certificates[:MOST_CERTIFICATES]:
        with suppress(x509.ExtensionNotFound, ValueError):
            uses = each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            is_valid = each.not_valid_before_utc <= date < each.not_valid_after_utc
            if ExtendedKeyUsageOID.OCSP_SIGNING in uses and is_valid and _is_issued_by(each, issuer):
                yield each


def _is_issued_by(certificate: "x509.Certificate", issuer: "x509.Certificate") -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except _CANNOT_VERIFY:
        return False
    return True


def _verify_signature(key: Any, response: "ocsp.OCSPResponse") -> None:
    """Raises one of `_CANNOT_VERIFY` if a response is not signed by this key."""
    signature, signed = response.signature, response.tbs_response_bytes
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        key.verify(signature, signed)
        return
    algorithm = response.signature_hash_algorithm
    if algorithm is None:
        raise InvalidSignature
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(algorithm))
    else:
        raise InvalidSignature
