"""ClientHello: its server name and protocols, read before OpenSSL gets it (RFC 8446 sections 4.1.2 and 5.1, RFC 6066
section 3, RFC 7301 section 3.1).

`HelloReader` is strict, because the server name decides the route and the certificate, and neither OpenSSL nor a target
must read another one: every length must fit exactly, duplicates are rejected, and so are other records between those of
the message. It reads at most `MOST_EXTENSIONS` extensions and `MOST_PROTOCOLS` protocols: while it reads, all other
connections of the worker wait.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple

import cython

from fastgw.net.first_bytes import HANDSHAKE, not_begun_with

NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""Fatal alert (RFC 7301 section 3.2) in an unencrypted record, as the response to a ClientHello."""
LONGEST_RECORD: Final = 16_384
"""Maximum content of a TLS record in bytes (RFC 8446 section 5.1)."""
MOST_RECORDS: Final = 256
"""Maximum number of records of a ClientHello. OpenSSL uses as few as possible; some clients use a few more on
purpose.
"""
LONGEST_HELLO: Final = LONGEST_RECORD
"""Maximum size of a ClientHello that OpenSSL gets, in bytes, with its header; Envoy's limit is the same."""
LONGEST_MESSAGE: Final = 65_536
"""Maximum size of one that is passed through. Clients send 300 to 2,000, some 10,000 with ML-KEM keys."""
MOST_EXTENSIONS: Final = 128
"""Maximum number of extensions of a ClientHello. Clients send 10 to 25; IANA has some 70 registered.

PERF: 16,000 in one ClientHello took 13 ms, 32,000 protocols 20 ms (CPython 3.11).
"""
MOST_PROTOCOLS: Final = 128
"""Maximum number of protocols that a client offers by ALPN. Clients offer 1 to 3."""

_RECORD_HEADER, _MESSAGE_HEADER, _RANDOM = 5, 4, 32
_CLIENT_HELLO: Final = 1
_SERVER_NAME, _ALPN = 0, 16
_HOST_NAME: Final = 0
_PORT: Final = re.compile(rb":[0-9]{1,5}\Z")
_NAME: Final = re.compile(rb"[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?")
_LONGEST_NAME: Final = 255


class Alert(IntEnum):
    """Alert sent to the client when its connection is closed (RFC 8446 section 6)."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112

    @property
    def record(self) -> bytes:
        """Return a fatal alert in a record of its own, unencrypted, as the response to a ClientHello."""
        return b"\x15\x03\x03\x00\x02\x02%c" % self


class InvalidHello(Exception):
    """The bytes are not a ClientHello. `alert`: response; None: they are not TLS, so the peer would not understand
    one.
    """

    def __init__(self, why: str, alert: Alert | None = Alert.DECODE_ERROR) -> None:
        super().__init__(why)
        self.alert = alert


class ClientHello(NamedTuple):
    server_name: str = ""
    """Server name in lower case, without a trailing dot; "" = the client sends none."""
    protocols: tuple[bytes, ...] = ()
    """Protocols offered by ALPN, in the client's order."""


class HelloReader:
    """Collects the first bytes of a client until they contain its ClientHello. `received`: all of them, unchanged.
    `message_bytes`: those of the ClientHello in complete records.

    PERF: OpenSSL holds 46 KiB for a connection that has begun with an incomplete one (OpenSSL 3.0, CPython 3.11;
    tests/e2e/test_handshake_memory.py). Compiled, it reads a usual one in 5 us, and in 25 otherwise (CPython 3.11).
    """

    def __init__(self, longest: cython.Py_ssize_t = LONGEST_MESSAGE) -> None:
        """`longest`: maximum size of the ClientHello in bytes, with its header."""
        self.received = bytearray()
        self._longest = longest
        self._record_at = 0  # offset of the first incomplete record
        self._records = 0
        self._header = b""  # of the message
        self.message_bytes = 0  # its bytes in the complete records

    def feed(self, chunk: bytes | memoryview) -> ClientHello | None:
        """Take the next bytes. None: more are needed. Raises `InvalidHello`."""
        received = self.received
        received += chunk
        while len(received) > self._record_at:
            start: cython.Py_ssize_t = self._record_at + _RECORD_HEADER
            size: cython.Py_ssize_t = _record_size(bytes(received[self._record_at : start]), self)
            if size < 0:
                return None
            if self.message_bytes + size > self._longest:  # before the record is collected
                raise InvalidHello(f"the ClientHello is longer than {self._longest} bytes")
            if len(received) < start + size:
                return None
            self._records += 1
            self._header += received[start : min(start + size, start + _MESSAGE_HEADER - len(self._header))]
            self.message_bytes += size
            self._record_at = start + size
            if len(self._header) == _MESSAGE_HEADER:
                length: cython.Py_ssize_t = _MESSAGE_HEADER + _message_length(self._header, self._longest)
                if self.message_bytes > length:
                    raise InvalidHello("bytes follow the ClientHello in its record", Alert.UNEXPECTED_MESSAGE)
                if self.message_bytes == length:
                    return _parse(self._message())
            if self._records == MOST_RECORDS:
                raise InvalidHello(f"the ClientHello is cut into more than {MOST_RECORDS} records")
        return None

    def begun_with(self) -> bytes:
        """Return what was received if no record was complete; otherwise nothing."""
        return b"" if self._records else bytes(self.received)

    def _message(self) -> bytes:
        """Return the message without its header and those of records."""
        fragments = []
        at: cython.Py_ssize_t = 0
        while at < self._record_at:
            start: cython.Py_ssize_t = at + _RECORD_HEADER
            at = start + int.from_bytes(self.received[start - 2 : start])
            fragments.append(self.received[start:at])
        return b"".join(fragments)[_MESSAGE_HEADER:]


def _record_size(header: bytes, reader: HelloReader) -> cython.Py_ssize_t:
    """Return the length of a record's content; -1: its header is incomplete. The available part is validated at
    once.
    """
    if header[0] != HANDSHAKE or header[1:2] not in (b"", b"\x03"):
        if begun_with := reader.begun_with():
            raise InvalidHello(not_begun_with("a TLS handshake", begun_with), alert=None)
        raise InvalidHello("a record of another type interrupts the ClientHello", Alert.UNEXPECTED_MESSAGE)
    if len(header) < _RECORD_HEADER:
        return -1
    size: cython.Py_ssize_t = header[3] << 8 | header[4]
    if size > LONGEST_RECORD:
        raise InvalidHello(f"a record is longer than {LONGEST_RECORD} bytes", Alert.RECORD_OVERFLOW)
    if not size:
        raise InvalidHello("a record of the ClientHello is empty", Alert.UNEXPECTED_MESSAGE)
    return size


def _message_length(header: bytes, longest: cython.Py_ssize_t) -> cython.Py_ssize_t:
    if header[0] != _CLIENT_HELLO:
        raise InvalidHello("the first message is not a ClientHello", Alert.UNEXPECTED_MESSAGE)
    length: cython.Py_ssize_t = header[1] << 16 | header[2] << 8 | header[3]
    if length > longest - _MESSAGE_HEADER:
        raise InvalidHello(f"the ClientHello is longer than {longest} bytes")
    return length


def _parse(body: bytes) -> ClientHello:
    reader: _Reader = _Reader(body)
    version = reader.number(2)
    if version >> 8 != 3:
        raise InvalidHello("the ClientHello is of an unknown version", Alert.ILLEGAL_PARAMETER)
    reader.read(_RANDOM)
    reader.vector(1, 0, 32)  # session id
    if len(reader.vector(2, 2, 65_534)) % 2:
        raise InvalidHello("the cipher suites are cut off")
    reader.vector(1, 1, 255)  # compression
    name = ""
    protocols: tuple[bytes, ...] = ()
    met: set[int] = set()
    extensions: _Reader = _Reader(reader.vector(2, 0, 65_535) if reader.left() else b"")  # optional before TLS 1.3
    reader.end()
    while extensions.left():
        if len(met) == MOST_EXTENSIONS:
            raise InvalidHello(f"the ClientHello has more than {MOST_EXTENSIONS} extensions")
        kind = extensions.number(2)
        content = extensions.vector(2, 0, 65_535)
        if kind in met:
            raise InvalidHello(f"duplicate extension {kind}", Alert.ILLEGAL_PARAMETER)
        met.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(_Reader(content))
        elif kind == _ALPN:
            protocols = _protocols(_Reader(content))
    return ClientHello(name, protocols)


def _server_name(content: _Reader) -> str:
    names: _Reader = _Reader(content.vector(2, 1, 65_535))
    content.end()
    if names.number(1) != _HOST_NAME:
        raise InvalidHello("a server name of an unknown type", Alert.ILLEGAL_PARAMETER)
    name = names.vector(2, 1, 65_535)
    if names.left():
        raise InvalidHello("several server names", Alert.ILLEGAL_PARAMETER)
    name = _PORT.sub(b"", name)  # RFC 6066 section 3 has none, but some clients send one, and peers ignore it
    if len(name) > _LONGEST_NAME or _NAME.fullmatch(name) is None:
        raise InvalidHello("the server name is not a host name", Alert.ILLEGAL_PARAMETER)
    return name.decode().lower().removesuffix(".")


def _protocols(content: _Reader) -> tuple[bytes, ...]:
    names: _Reader = _Reader(content.vector(2, 2, 65_535))
    content.end()
    found: list[bytes] = []
    while names.left():
        if len(found) == MOST_PROTOCOLS:
            raise InvalidHello(f"the client offers more than {MOST_PROTOCOLS} protocols by ALPN")
        found.append(names.vector(1, 1, 255))
    return tuple(found)


class _Reader:
    """Reader of a message's bytes. Raises `InvalidHello` if a length exceeds the available bytes."""

    def __init__(self, held: bytes) -> None:
        self._held = held
        self._at = 0

    def left(self) -> cython.Py_ssize_t:
        return len(self._held) - self._at

    def read(self, count: cython.Py_ssize_t) -> bytes:
        if self.left() < count:
            raise InvalidHello("a length in the ClientHello goes beyond its end")
        self._at += count
        return self._held[self._at - count : self._at]

    def number(self, size: cython.int) -> cython.Py_ssize_t:
        """Read a number of at most three bytes."""
        digits: bytes = self.read(size)
        value: cython.Py_ssize_t = 0
        place: cython.int
        for place in range(size):
            value = value << 8 | digits[place]
        return value

    def vector(self, size: cython.int, least: cython.Py_ssize_t, most: cython.Py_ssize_t) -> bytes:
        """Read bytes with a length prefix of this many bytes."""
        length: cython.Py_ssize_t = self.number(size)
        if not least <= length <= most:
            raise InvalidHello("a length in the ClientHello is out of bounds")
        return self.read(length)

    def end(self) -> None:
        """Raise `InvalidHello` unless all bytes were read."""
        if self.left():
            raise InvalidHello("a length in the ClientHello leaves bytes over")
