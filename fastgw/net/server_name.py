"""Server name and protocols of a ClientHello (RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3,
RFC 7301 section 3.1).

`HelloReader` is strict, because the server name decides the route, and the target must not read another one: every
length must fit exactly, duplicates are rejected, and so are other records between those of the message. It buffers at
most `LONGEST_MESSAGE` bytes in at most `MOST_RECORDS` records. It reads at most `MOST_EXTENSIONS` extensions and
`MOST_PROTOCOLS` protocols: while it reads, all other connections of the worker wait.
"""

import re
from enum import IntEnum
from typing import Final, NamedTuple, final

from fastgw.net.client_hello import HANDSHAKE, LONGEST_RECORD, MOST_RECORDS
from fastgw.net.first_bytes import not_begun_with

LONGEST_MESSAGE: Final = 65_536
"""Maximum size of a ClientHello in bytes, with its header. Clients send 300 to 2,000, some 10,000 with ML-KEM keys."""
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
_BYTES_FOLLOW: Final = "bytes follow the ClientHello in its record"


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


@final
class HelloReader:
    """Collects the first bytes of a client until they contain its ClientHello. `received`: all of them, unchanged."""

    __slots__ = ("_message", "_record_at", "_records", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._record_at = 0  # offset of the first incomplete record
        self._records = 0
        self._message = bytearray()

    def feed(self, chunk: bytes | memoryview) -> ClientHello | None:
        """Take the next bytes. None: more are needed. Raises `InvalidHello`."""
        received, message = self.received, self._message
        received += chunk
        while len(received) > self._record_at:
            start = self._record_at + _RECORD_HEADER
            begun_with = b"" if self._records else bytes(received)
            size = _record_size(bytes(received[self._record_at : start]), begun_with)
            if size is None or len(received) < start + size:
                return None
            self._records += 1
            message += received[start : start + size]
            self._record_at = start + size
            if len(message) >= _MESSAGE_HEADER:
                length = _MESSAGE_HEADER + _message_length(bytes(message[:_MESSAGE_HEADER]))
                if len(message) > length:
                    raise InvalidHello(_BYTES_FOLLOW, Alert.UNEXPECTED_MESSAGE)
                if len(message) == length:
                    return _parse(bytes(message[_MESSAGE_HEADER:]))
            if self._records == MOST_RECORDS:
                raise InvalidHello(f"the ClientHello is cut into more than {MOST_RECORDS} records")
        return None


def hello_of(message: bytes) -> ClientHello | None:
    """Return the ClientHello in the first message of a client, with the message's header. None: it is not a whole one,
    which OpenSSL will reject. Raises `InvalidHello`: OpenSSL could find another server name in it.
    """
    end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
    if len(message) < end or message[0] != _CLIENT_HELLO:
        return None
    if len(message) > end:
        raise InvalidHello(_BYTES_FOLLOW, Alert.UNEXPECTED_MESSAGE)
    return _parse(message[_MESSAGE_HEADER:])


def _record_size(header: bytes, begun_with: bytes) -> int | None:
    """Return the length of a record's content; None: its header is incomplete. The available part is validated at
    once. `begun_with`: of the first record, the bytes received so far.
    """
    if header[0] != HANDSHAKE or header[1:2] not in (b"", b"\x03"):
        if begun_with:
            raise InvalidHello(not_begun_with("a TLS handshake", begun_with), alert=None)
        raise InvalidHello("a record of another type interrupts the ClientHello", Alert.UNEXPECTED_MESSAGE)
    if len(header) < _RECORD_HEADER:
        return None
    size = int.from_bytes(header[3:])
    if size > LONGEST_RECORD:
        raise InvalidHello(f"a record is longer than {LONGEST_RECORD} bytes", Alert.RECORD_OVERFLOW)
    if not size:
        raise InvalidHello("a record of the ClientHello is empty", Alert.UNEXPECTED_MESSAGE)
    return size


def _message_length(header: bytes) -> int:
    if header[0] != _CLIENT_HELLO:
        raise InvalidHello("the first message is not a ClientHello", Alert.UNEXPECTED_MESSAGE)
    length = int.from_bytes(header[1:])
    if length > LONGEST_MESSAGE - _MESSAGE_HEADER:
        raise InvalidHello(f"the ClientHello is longer than {LONGEST_MESSAGE} bytes")
    return length


def _parse(body: bytes) -> ClientHello:
    reader = _Reader(body)
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
    extensions = _Reader(reader.vector(2, 0, 65_535) if reader.remaining else b"")  # optional before TLS 1.3
    reader.end()
    while extensions.remaining:
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


def _server_name(content: "_Reader") -> str:
    names = _Reader(content.vector(2, 1, 65_535))
    content.end()
    if names.number(1) != _HOST_NAME:
        raise InvalidHello("a server name of an unknown type", Alert.ILLEGAL_PARAMETER)
    name = names.vector(2, 1, 65_535)
    if names.remaining:
        raise InvalidHello("several server names", Alert.ILLEGAL_PARAMETER)
    name = _PORT.sub(b"", name)  # RFC 6066 section 3 has none, but some clients send one, and peers ignore it
    if len(name) > _LONGEST_NAME or _NAME.fullmatch(name) is None:
        raise InvalidHello("the server name is not a host name", Alert.ILLEGAL_PARAMETER)
    return name.decode().lower().removesuffix(".")


def _protocols(content: "_Reader") -> tuple[bytes, ...]:
    names = _Reader(content.vector(2, 2, 65_535))
    content.end()
    found: list[bytes] = []
    while names.remaining:
        if len(found) == MOST_PROTOCOLS:
            raise InvalidHello(f"the client offers more than {MOST_PROTOCOLS} protocols by ALPN")
        found.append(names.vector(1, 1, 255))
    return tuple(found)


@final
class _Reader:
    """Reader of a message's bytes. Raises `InvalidHello` if a length exceeds the available bytes."""

    __slots__ = ("_at", "_held")

    def __init__(self, held: bytes) -> None:
        self._held = held
        self._at = 0

    @property
    def remaining(self) -> int:
        return len(self._held) - self._at

    def read(self, count: int) -> bytes:
        if self.remaining < count:
            raise InvalidHello("a length in the ClientHello goes beyond its end")
        self._at += count
        return self._held[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.read(size))

    def vector(self, size: int, least: int, most: int) -> bytes:
        """Read bytes with a length prefix of this many bytes."""
        length = self.number(size)
        if not least <= length <= most:
            raise InvalidHello("a length in the ClientHello is out of bounds")
        return self.read(length)

    def end(self) -> None:
        if self.remaining:
            raise InvalidHello("a length in the ClientHello leaves bytes over")
