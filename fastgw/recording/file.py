"""Recording files: encrypted with authentication, so that a changed, reordered or truncated file is detected.

The file begins with a magic word, a salt and a check of the key. Chunks follow: the length of the ciphertext (4 bytes,
big-endian) and the ciphertext of AES-256-GCM. The nonce is the number of the chunk with a flag for the last one, the
key is derived from the key file and the salt (HKDF, RFC 5869), and the header is authenticated with every chunk: the
STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015). A chunk contains entries: length (4 bytes) and content.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from hmac import compare_digest
from typing import BinaryIO, Final, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastgw.recording.records import (
    RecordedRequest,
    RecordingBegin,
    RecordingEnd,
    decode_begin,
    decode_end,
    decode_request,
    encode,
)

MAGIC: Final = b"fastgw recording 1\n"
SHORTEST_KEY: Final = 16
"""Minimum bytes of a key file, without white space at its ends."""
LONGEST_KEY: Final = 4096
CHUNK_BYTES: Final = 256 * 1024
"""Bytes of entries above which a chunk is written."""
MOST_CHUNK_BYTES: Final = 64 * 1024 * 1024
_SALT: Final = 16
_CHECK: Final = 16
_TAG: Final = 16


class UnusableRecordingKey(Exception):
    """The key file cannot be used. The text is one line for the user, without the key."""


class UnusableRecordingFile(Exception):
    """No recording can be written to this path. The text is one line for the user."""


class UnreadableRecording(Exception):
    """The recording cannot be read. The text is one line for the user."""


def read_key(path: str, *, create: bool = False) -> bytes:
    """Return the content of a key file. `create`: a missing file is created, with a random key and mode 0600.

    Raises `UnusableRecordingKey`.
    """
    try:
        if create and not os.path.exists(path):
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(made, "wb") as file:
                    file.write(os.urandom(32).hex().encode() + b"\n")
            except BaseException:  # the disk is full: an incomplete key would be used the next time
                os.unlink(path)
                raise
        with open(path, "rb") as file:
            content = file.read(LONGEST_KEY + 1).strip()
    except OSError as error:
        raise UnusableRecordingKey(f"{path}: {error.strerror}") from error
    if not SHORTEST_KEY <= len(content) <= LONGEST_KEY:
        bounds = f"from {SHORTEST_KEY} to {LONGEST_KEY} bytes"
        raise UnusableRecordingKey(f"{path}: a key has {bounds}, this one {len(content)}")
    return content


def is_exposed(path: str) -> bool:
    """Whether other users may read a file."""
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)
    except OSError:
        return False


def _derive(key: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
    """Return the cipher, and a check that distinguishes a wrong key from a changed file."""
    derived = HKDF(SHA256(), 32 + _CHECK, salt, MAGIC).derive(key)
    return AESGCM(derived[:32]), derived[32:]


def _nonce(number: int, is_last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((is_last,))


def _resolve(path: str) -> str:
    """Return the path of the regular file, existing or not, that a recording replaces: behind symbolic links.

    Raises `UnusableRecordingFile`: the complete recording is renamed to its path, which would replace a device, such as
    /dev/null, by a regular file, and fails for a directory.
    """
    try:
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        is_regular = True  # it is created
    except OSError as error:
        raise UnusableRecordingFile(f"{path}: {error.strerror}") from error
    if not is_regular:
        raise UnusableRecordingFile(f"{path}: it is not a regular file; expected a new file or one to replace")
    return os.path.realpath(path)


def _create(path: str) -> int:
    """Open a new file of mode 0600 in place of one of an earlier attempt. Raises `UnusableRecordingFile`."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UnusableRecordingFile(f"{path}: {error.strerror}") from error


@final
class RecordingWriter:
    """Writes a recording of mode 0600. It has its name only once it is complete (`finish`).

    Raises `UnusableRecordingFile`; methods raise `OSError`.
    """

    def __init__(self, path: str, key: bytes) -> None:
        self._path = _resolve(path)
        self._part, self._is_complete = f"{self._path}.part", False
        salt = os.urandom(_SALT)
        self._cipher, check = _derive(key, salt)
        self._header = MAGIC + salt + check
        self._pieces: list[bytes] = []
        self._bytes = self._number = self.requests = 0
        self._file: BinaryIO = open(_create(self._part), "wb", buffering=0)  # noqa: SIM115  # `discard` closes it
        try:
            self._write(self._header)
        except BaseException:
            self.discard()
            raise

    def __repr__(self) -> str:
        return f"<RecordingWriter {self._path} requests={self.requests}>"

    def write_begin(self, entry: RecordingBegin) -> None:
        self._add(encode(entry))

    def add(self, request: bytes) -> None:
        """Add an encoded `RecordedRequest`."""
        self.requests += 1
        self._add(request)

    def _add(self, entry: bytes) -> None:
        self._pieces += (len(entry).to_bytes(4, "big"), entry)
        self._bytes += len(entry) + 4
        if self._bytes >= CHUNK_BYTES:
            self._flush(False)

    def _flush(self, is_last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._number, is_last), b"".join(self._pieces), self._header)
        self._pieces.clear()
        self._bytes, self._number = 0, self._number + 1
        self._write(len(sealed).to_bytes(4, "big") + sealed)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, dropped: int) -> None:
        """Complete the file. `dropped`: requests that were not recorded."""
        self._add(encode(RecordingEnd(self.requests, dropped)))
        self._flush(True)
        os.fsync(self._file.fileno())
        self._is_complete = True
        try:
            os.replace(self._part, self._path)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; the complete recording is {self._part}") from error

    def discard(self) -> None:
        """Close the file, and remove it unless it is complete."""
        self._file.close()
        if not self._is_complete:
            with suppress(OSError):
                os.unlink(self._part)


class Recording(msgspec.Struct, frozen=True):
    """Content of a recording."""

    begin: RecordingBegin
    requests: list[RecordedRequest]
    end: RecordingEnd


def read_recording(path: str, key: bytes) -> Recording:
    """Read a whole recording. Raises `UnreadableRecording`."""
    try:
        with open(path, "rb") as file:
            entries = [*_entries(file, key)]
    except OSError as error:
        raise UnreadableRecording(f"{path}: {error.strerror}") from error
    except UnreadableRecording as error:
        raise UnreadableRecording(f"{path}: {error}") from None
    try:
        begin, *requests, end = entries
        return Recording(decode_begin(begin), [*map(decode_request, requests)], decode_end(end))
    except (ValueError, msgspec.MsgspecError) as error:
        raise UnreadableRecording(f"{path}: it is of another version of fastgw: {error}") from error


def _entries(file: BinaryIO, key: bytes) -> Iterator[bytes]:
    header = file.read(len(MAGIC) + _SALT + _CHECK)
    if not header.startswith(MAGIC) or len(header) < len(MAGIC) + _SALT + _CHECK:
        raise UnreadableRecording("it is not a recording of fastgw")
    cipher, check = _derive(key, header[len(MAGIC) : len(MAGIC) + _SALT])
    if not compare_digest(check, header[-_CHECK:]):
        raise UnreadableRecording("the key is not that of this recording")
    number, is_over = 0, False
    while not is_over:
        length = int.from_bytes(head := file.read(4), "big")
        if len(head) < 4:
            raise UnreadableRecording("it is truncated")
        if not _TAG <= length <= MOST_CHUNK_BYTES + _TAG:
            raise UnreadableRecording("it was changed")
        sealed = file.read(length)
        if len(sealed) < length:
            raise UnreadableRecording("it is truncated")
        plain = b""
        for is_last in (False, True):
            try:
                plain = cipher.decrypt(_nonce(number, is_last), sealed, header)
            except InvalidTag:
                continue
            is_over = is_last
            break
        else:
            raise UnreadableRecording("it was changed")
        number += 1
        at = 0
        while at < len(plain):
            end = at + 4 + int.from_bytes(plain[at : at + 4], "big")
            if end > len(plain):
                raise UnreadableRecording("it was changed")
            yield plain[at + 4 : end]
            at = end
    if file.read(1):
        raise UnreadableRecording("it was changed: bytes follow its end")
