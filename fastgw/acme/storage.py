"""Storage of ACME: account keys, certificates, and what is known about each of them, all readable only by their owner.

Rule: a file is replaced as a whole, after its contents are on the disk: a killed process leaves the previous one.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from fastgw import durable_files

MOST_BYTES: Final = 1024 * 1024
"""Maximum size of a file that is read."""
SPACE_BYTES: Final = 64 * 1024
"""Free space that is required before a certificate is ordered: certificates with their chains are smaller."""

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Account(Struct, frozen=True):
    """Account with an issuer. `key`: in PEM. `uri`: its URL; "": it is not registered yet."""

    key: str
    uri: str = ""

    def __repr__(self) -> str:
        return f"<Account {self.uri}>"


class CertificateState(Struct, frozen=True):
    """State of a certificate beside its contents. Dates are in epoch seconds, 0 = none."""

    failures: int = 0
    """Number of failed attempts since the last success."""
    begun: int = 0
    """Number of attempts that were begun in a row, and whose result was not stored: the process was killed."""
    attempt_date: float = 0.0
    """Date of the last attempt."""
    retry_date: float = 0.0
    """Date before which no issuer is asked again."""
    error: str = ""
    """Reason why the last attempt has failed; "" = it has not."""
    issuer: str = ""
    """Directory of the issuer of the certificate."""
    issued_date: float = 0.0
    """Date on which the certificate was obtained."""
    early: int = 0
    """Number of renewals in a row that replaced a certificate which had just been obtained."""
    renew_date: float = 0.0
    """Date of the renewal."""
    ask_date: float = 0.0
    """Date from which the issuer is asked for the renewal date again (RFC 9773)."""
    serial: str = ""
    """Serial number of the certificate that the dates are about, in hexadecimal."""
    settings: str = ""
    """Digest of the settings that a failure may be due to."""
    name: str = ""
    """Name that it was ordered for on demand; "" = it is listed in the configuration."""
    used_date: float = 0.0
    """Date on which a client last asked for the name."""
    order_date: float = 0.0
    """Date on which the name was first ordered."""


def account_file(storage: str, directory: str, email: str, key_id: str) -> Path:
    """Return the file of the account with an issuer."""
    identity = sha256("\n".join((directory, email, key_id)).encode()).hexdigest()[:16]
    return Path(storage, "accounts", f"{identity}.json")


def state_file(certificate: str) -> Path:
    """Return the file with the state of the certificate in this file."""
    return Path(certificate).with_suffix(".json")


def read_account(file: Path) -> Account | None:
    """Return the stored account; None: there is none, or it is unreadable."""
    try:
        with file.open("rb") as opened:
            return msgspec.json.decode(opened.read(MOST_BYTES), type=Account)
    except (OSError, *_UNREADABLE):
        return None


def read_state(file: Path) -> CertificateState:
    """Return the stored state; the initial one if there is none, or it is unreadable."""
    try:
        with file.open("rb") as opened:
            return msgspec.json.decode(opened.read(MOST_BYTES), type=CertificateState)
    except (OSError, *_UNREADABLE):
        return CertificateState()


def write(file: Path, content: bytes) -> None:
    """Replace a file. Raises `OSError`."""
    _make_folder(file.parent)
    durable_files.replace(str(file), content, new=str(_new_of(file)))


def check_space(file: Path) -> None:
    """Check that a file of this name can be written: an order whose certificate cannot be stored is lost. Raises
    `OSError`.
    """
    _make_folder(file.parent)
    new = _new_of(file)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SPACE_BYTES)
        finally:
            os.close(descriptor)
    finally:
        with suppress(FileNotFoundError):
            new.unlink()


def _new_of(file: Path) -> Path:
    """Return the file in which this process writes the content that replaces it."""
    return file.with_name(f".{file.name}.{os.getpid()}.new")


def _make_folder(folder: Path) -> None:
    """Create a folder of the storage, and the storage. Raises `OSError`."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove new files of this name that killed processes have left. No other process writes a file of this name."""
    for each in folder.glob(f".{name}.*.new"):
        with suppress(OSError):
            each.unlink()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, which no other process of this machine has meanwhile. Waits. Raises `OSError`."""
    _make_folder(file.parent)
    descriptor = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
