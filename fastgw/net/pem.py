"""PEM files for OpenSSL, which reads keys from named files only, and checks of their contents."""

import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, cast

from cryptography.exceptions import UnsupportedAlgorithm

from fastgw.kernel import memory_file

_ENCRYPTED: Final = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
_KEY: Final = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_SWAPPED: Final = "it holds a private key: are certificate and key swapped?"
_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})


class PairProblem(NamedTuple):
    """Problem of a certificate and its key, and which of the two has it."""

    of: Literal["certificate", "key"]
    wrong: str
    expected: str
    mismatch: bool = False
    """Whether the two do not match, for example because only one was renewed so far."""


@contextmanager
def as_file(contents: bytes) -> Iterator[str]:
    """Yield the name of a file with these bytes, which is in memory and never on disk."""
    with open(memory_file("pem"), "wb") as file:
        file.write(contents)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate with its chain into a context. Raises `ssl.SSLError`; then the context may be unusable."""
    with as_file(certificate) as certificate_file, as_file(key) as key_file:
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate_file, key_file, password="")


def decoded(certificate: bytes) -> dict[str, Any]:
    """Return the first certificate of a file, in the form of `ssl.SSLObject.getpeercert`. Raises `ssl.SSLError`."""
    with as_file(certificate) as file:
        # The standard library has no other decoder for certificates that do not come from a peer.
        parsed: dict[str, Any] = ssl._ssl._test_decode_cert(file)  # type: ignore[attr-defined]
        return parsed


def dns_names(certificate: dict[str, Any]) -> list[str]:
    """Return the host names of a decoded certificate, in lower case; a leading `*.` stands for one label."""
    return [name.lower() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]


def public_key_of(certificate: bytes) -> Any:
    """Return the public key of the first certificate of a file. Raises `ValueError`, `UnsupportedAlgorithm`."""
    from cryptography import x509  # takes 14 ms of each start, and only certificates need it

    return x509.load_pem_x509_certificate(certificate).public_key()


def key_kind(certificate: bytes) -> str:
    """Return the key type of the first certificate of a file; "" = unknown. A context has one certificate of each type,
    selected by what the client can verify.
    """
    try:
        return type(public_key_of(certificate)).__name__
    except (ValueError, UnsupportedAlgorithm):
        return ""


class Together(NamedTuple):
    """Certificates of one context, each with a different key type, and the names that they are presented for."""

    names: list[str]
    indexes: list[int]


_ANY_LABELS: Final = "**"


def any_labels(name: str) -> str:
    """Return the part after `*.` of a name that stands for any number of labels; "": it is another name."""
    return name.removeprefix(_ANY_LABELS + "*.") if name.startswith(_ANY_LABELS) else ""


class Grouping:
    """Groups a listener's certificates by context. Each name has the first certificate for it of each key type."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._by_name: dict[str, list[int]] = {}
        self._first: Sequence[str] = ()

    def add(self, certificate: bytes, hosts: Sequence[str] = ()) -> Sequence[str]:
        """Add the next certificate; return its names. `hosts`: names in place of those in it. Raises `ssl.SSLError`."""
        own = dns_names(decoded(certificate))
        names = [_ANY_LABELS + each.lower() if each.startswith("*.") else each.lower() for each in hosts] or own
        kind, index = key_kind(certificate), len(self._kinds)
        self._kinds.append(kind)
        if not index:
            self._first = names
        for name in names:
            indexes = self._by_name.setdefault(name, [])
            if not indexes or (kind and all(kind != self._kinds[each] for each in indexes)):
                indexes.append(index)
        return names

    def groups(self) -> list[Together]:
        """Return the groups. The first has the first certificate, for clients without a known name, with those that are
        for all of its names; it may be for no name.
        """
        alike = [self._by_name[name] for name in self._first]
        common = tuple(index for index in alike[0] if all(index in each for each in alike)) if alike else (0,)
        found: dict[tuple[int, ...], list[str]] = {common: []}
        for name, indexes in self._by_name.items():
            found.setdefault(tuple(indexes), []).append(name)
        return [Together(names, [*indexes]) for indexes, names in found.items()]


def pair_problem(certificate: bytes, key: bytes) -> PairProblem | None:
    """Return the problem of a pair; None: it is usable."""
    try:
        decoded(certificate)
    except ssl.SSLError:
        if _KEY.search(certificate):
            return PairProblem("certificate", _SWAPPED, "expected the certificate")
        return PairProblem("certificate", "it contains no valid certificate", "expected a PEM file")
    if _ENCRYPTED.search(key):
        return PairProblem("key", "the key is encrypted", "expected a key without a password")
    if not _KEY.search(key):
        return PairProblem("key", "it contains no valid private key", "expected a PEM file")
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            wrong, expected = (
                "the private key does not match the certificate",
                "expected the private key of the certificate",
            )
            return PairProblem("key", wrong, expected, mismatch=True)
        return PairProblem("certificate", f"OpenSSL rejects it: {error.reason or error}", "expected another")
    return None


def authority_problem(authority: bytes) -> str:
    """Return the problem of a file of certificates to trust; "": none."""
    try:
        with as_file(authority) as file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return _SWAPPED if _KEY.search(authority) else "it contains no valid certificate"
    return ""


def has_authority(authority: bytes) -> bool:
    """Whether one of these certificates is a CA."""
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with as_file(authority) as file:
            trial.load_verify_locations(file)
    except ssl.SSLError:
        return False
    return trial.cert_store_stats()["x509_ca"] > 0


def revocations_problem(revocations: bytes) -> str:
    """Return the problem of a file of revocation lists; "": none."""
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with as_file(revocations) as file:
            trial.load_verify_locations(file)
    except ssl.SSLError:
        return "it contains no valid certificate revocation list (CRL)"
    return "" if trial.cert_store_stats()["crl"] else "it contains no valid certificate revocation list (CRL)"


def authority_ends(authority: bytes) -> float | None:
    """Return the earliest expiry of these certificates in epoch seconds; None: there are none."""
    return min(authority_dates(authority), default=None)


def authority_dates(authority: bytes) -> list[float]:
    """Return the expiry of each certificate in epoch seconds."""
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with as_file(authority) as file:
            trial.load_verify_locations(file)
    except ssl.SSLError:
        return []
    return [float(ssl.cert_time_to_seconds(cast(str, each["notAfter"]))) for each in trial.get_ca_certs()]


def revocations_end(revocations: bytes) -> float | None:
    """Return the earliest expiry of these revocation lists in epoch seconds; None: none expires."""
    return min(revocation_dates(revocations), default=None)


def revocation_dates(revocations: bytes) -> list[float]:
    """Return the expiry (`nextUpdate`) of each revocation list in epoch seconds; some have none."""
    from cryptography import x509  # see `public_key_of`

    ends = []
    for block in _LIST.findall(revocations):
        try:
            until = x509.load_pem_x509_crl(block).next_update_utc
        except ValueError:
            continue  # OpenSSL decides whether it is a revocation list
        if until is not None:
            ends.append(until.timestamp())
    return ends
