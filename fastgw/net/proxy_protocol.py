"""PROXY protocol, versions 1 and 2: the client address, received from a load balancer or sent to a target (HAProxy's
proxy-protocol.txt).

`parse` returns the client's address, or None if more bytes are needed. It is strict: the sender is a configured proxy,
so an unclear header is a defect or an attack.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple
from unicodedata import category

from fastgw.http.malformed import Malformed
from fastgw.net.first_bytes import PROXY_V1, PROXY_V2, not_begun_with

Address = tuple[str, int]

V1_LENGTH_MAX: Final = 107  # of the whole line with its CRLF (section 2.1)
V2_HEADER_LENGTH: Final = 16
V2_BLOCK_MAX: Final = 4096  # addresses and TLVs; the field allows 65,535, real senders stay below 1 KiB

_V1_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|(TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_V1_FAMILIES: Final[dict[bytes, type[IPv4Address | IPv6Address]]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}

_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high half, command in the low
# Family and transport -> the type of both addresses and their size, or None if there is no IP address. Datagrams are
# missing: listeners are stream sockets.
_V2_FAMILIES: Final[dict[int, tuple[type[IPv4Address | IPv6Address] | None, int]]] = {
    0x00: (None, 0),
    0x11: (IPv4Address, 4),
    0x21: (IPv6Address, 16),
    0x31: (None, 108),
}


_V2_ALPN, _V2_AUTHORITY, _V2_CRC32C, _V2_UNIQUE_ID = 0x01, 0x02, 0x03, 0x05  # types of TLVs (section 2.2)
_V2_SSL = 0x20
_V2_SSL_VERSION, _V2_SSL_CN, _V2_SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 0x01, 0x02, 0x04  # section 2.2.5
LOCAL_V2: Final = PROXY_V2 + bytes((_LOCAL, 0, 0, 0))
"""Header of a connection that the gateway opens for itself, such as a health check."""
UNKNOWN_V1: Final = b"PROXY UNKNOWN\r\n"
"""The same header in version 1."""


_TLV_LENGTHS: Final = {
    _V2_ALPN: (0, 255),
    _V2_AUTHORITY: (0, 255),
    _V2_UNIQUE_ID: (0, 128),
    _V2_CRC32C: (4, 4),
    _V2_SSL: (5, V2_BLOCK_MAX),
}
"""Shortest and longest value of each TLV that is read. Every other type is skipped (section 2.2)."""
_SSL_TLV_LENGTHS: Final = {_V2_SSL_VERSION: (0, 255), _V2_SSL_CIPHER: (0, 255)}
"""The same of those in the TLV about the client's TLS (section 2.2.5)."""
_TLV_TYPES: Final = (_V2_ALPN, _V2_AUTHORITY, _V2_UNIQUE_ID)
"""Types of the texts in `ProxyTlvs`, in its order."""
_NOT_IN_NAMES: Final = frozenset(("Cc", "Cs", "Zs", "Zl", "Zp"))
"""Categories of characters that no server name has: control characters, surrogates and spaces."""
_DIRECTION_MARKS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")


class ProxyTlvs(NamedTuple):
    """Values of a PROXY header of version 2 about the client's connection; "" = none. Texts are visible ASCII: a
    protocol or a server name that is not is "", and an id is hexadecimal then.
    """

    alpn: str = ""
    """Protocol that the sender has negotiated with the client, such as `h2`."""
    authority: str = ""
    """Server name that the client has sent (SNI)."""
    unique_id: str = ""
    """Id of the connection, given by the sender."""
    raw_authority: bytes = b""
    """Server name as it is passed on, if it is not visible ASCII: in UTF-8."""
    raw_id: bytes = b""
    """Id as it is passed on, if it is not visible ASCII: any bytes."""
    uses_tls: bool | None = None
    """Whether the client has connected to the sender with TLS; None: the sender does not say."""
    tls_version: str = ""
    """Version of this TLS by the sender's name, such as `TLSv1.3`."""
    tls_cipher: str = ""
    """Its cipher suite, such as `TLS_AES_256_GCM_SHA384`."""


NO_TLVS: Final = ProxyTlvs()
TLV_TEXTS: Final = ("alpn", "authority", "unique_id", "tls_version", "tls_cipher")
"""Names of the texts in `ProxyTlvs`, for logs and variables."""


@dataclass(frozen=True, slots=True)
class TerminatedTls:
    """TLS session terminated by the gateway, as described in a PROXY header.

    `is_resumed`: the handshake resumed a session of an earlier connection. `has_certificate`: the client has shown a
    valid certificate, in the handshake that began the session. `common_name`: of this certificate; "" = none.
    """

    version: str
    cipher: str
    is_resumed: bool = False
    has_certificate: bool = False
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """One PROXY header. The addresses are None if the connection is the sender's own (LOCAL), or has no IP address
    (UNKNOWN, UNSPEC, unix sockets): then those of the connection apply. An IPv4-mapped IPv6 address is returned as
    IPv4.
    """

    source: Address | None
    destination: Address | None
    consumed: int
    """Length of the header: the client's data follows directly."""
    tlvs: ProxyTlvs = NO_TLVS


def parse(buffer: bytes) -> Parsed | None:
    """Parse the PROXY header at the start of `buffer`. None: more bytes are needed. Raises `Malformed`."""
    if buffer[: len(PROXY_V2)] == PROXY_V2[: len(buffer)]:
        return _parse_v2(buffer) if len(buffer) >= V2_HEADER_LENGTH else None
    if buffer[: len(PROXY_V1)] == PROXY_V1[: len(buffer)]:
        return _parse_v1(buffer)
    raise Malformed(not_begun_with("a PROXY protocol header", buffer))


def _parse_v1(buffer: bytes) -> Parsed | None:
    line_end = buffer.find(b"\n", 0, V1_LENGTH_MAX)
    if line_end < 0:
        if len(buffer) >= V1_LENGTH_MAX:
            raise Malformed("The PROXY protocol line is too long.")
        return None
    line = _V1_LINE.fullmatch(buffer, 0, line_end + 1)
    if line is None:
        raise Malformed("The PROXY protocol line is malformed.")
    family, source, destination, source_port, destination_port = line.groups()
    if family is None:
        return Parsed(None, None, line.end())
    parse_address = _V1_FAMILIES[family]
    try:
        return Parsed(
            _endpoint(parse_address(source.decode()), int(source_port)),
            _endpoint(parse_address(destination.decode()), int(destination_port)),
            line.end(),
        )
    except ValueError as error:
        raise Malformed("The PROXY protocol line has an invalid address or port.") from error


def _parse_v2(buffer: bytes) -> Parsed | None:
    command, family = buffer[12], buffer[13]
    block_length = int.from_bytes(buffer[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise Malformed("The PROXY protocol header has an unknown version or command.")
    if block_length > V2_BLOCK_MAX:
        raise Malformed("The PROXY protocol header is too long.")
    consumed = V2_HEADER_LENGTH + block_length
    if len(buffer) < consumed:
        return None
    if command == _LOCAL:  # a health check of the sender; the address block must be ignored (section 2.2)
        return Parsed(None, None, consumed)
    if family not in _V2_FAMILIES:
        raise Malformed("The PROXY protocol header has an unknown address family or transport.")
    address_type, size = _V2_FAMILIES[family]
    ports = V2_HEADER_LENGTH + 2 * size
    if block_length < 2 * size + (4 if address_type else 0):
        raise Malformed("The PROXY protocol header is too short for its addresses.")
    if address_type is None:
        return Parsed(None, None, consumed, _read_tlvs(buffer[:consumed], ports))
    return Parsed(
        _endpoint(address_type(buffer[V2_HEADER_LENGTH : V2_HEADER_LENGTH + size]), _port(buffer, ports)),
        _endpoint(address_type(buffer[V2_HEADER_LENGTH + size : ports]), _port(buffer, ports + 2)),
        consumed,
        _read_tlvs(buffer[:consumed], ports + 4),
    )


def _read_tlvs(header: bytes, start: int) -> ProxyTlvs:
    """Return the values in the TLVs, which fill the header from `start` to its end, and verify its checksum if it has
    one. Raises `Malformed` also for a second TLV of a type that is read: receivers differ in which one they believe.
    """
    if start == len(header):
        return NO_TLVS
    found = _find_tlvs(header, start, len(header), _TLV_LENGTHS)
    checksum = found.get(_V2_CRC32C)
    if checksum is not None:
        cleared = header[: checksum.start] + bytes(4) + header[checksum.stop :]
        if _crc32c(cleared) != int.from_bytes(header[checksum], "big"):
            raise Malformed("The checksum of the PROXY protocol header is wrong.")
    values = [header[found[kind]] if kind in found else b"" for kind in _TLV_TYPES]
    alpn, authority, unique_id = (value.decode("ascii") if _VISIBLE.fullmatch(value) else "" for value in values)
    raw_authority = b"" if authority or not _is_name(values[1]) else values[1]
    raw_id = b"" if unique_id else values[2]
    texts = alpn, authority, unique_id or raw_id.hex(), raw_authority, raw_id
    return ProxyTlvs(*texts, *_read_ssl(header, found[_V2_SSL])) if _V2_SSL in found else ProxyTlvs(*texts)


def _find_tlvs(header: bytes, start: int, end: int, lengths: Mapping[int, tuple[int, int]]) -> dict[int, slice]:
    """Return where the values of these types are among the TLVs between `start` and `end`."""
    found: dict[int, slice] = {}
    while start < end:
        kind, value_at = header[start], start + 3
        start = value_at + int.from_bytes(header[start + 1 : value_at], "big")
        if value_at > end or start > end:
            raise Malformed("The values behind the addresses of the PROXY protocol header do not end with it.")
        if kind in lengths:
            least, most = lengths[kind]
            if kind in found:
                raise Malformed(f"The PROXY protocol header has two values of type {kind}.")
            if not least <= start - value_at <= most:
                raise Malformed(f"A value of type {kind} in the PROXY protocol header has a wrong length.")
            found[kind] = slice(value_at, start)
    return found


def _read_ssl(header: bytes, at: slice) -> tuple[bool, str, str]:
    """Return the values of the TLV about the client's TLS: whether there is TLS, its version and its cipher suite."""
    found = _find_tlvs(header, at.start + 5, at.stop, _SSL_TLV_LENGTHS)  # behind the flags and the verification
    if not header[at.start] & _CLIENT_SSL:
        return False, "", ""
    values = [header[found[kind]] if kind in found else b"" for kind in (_V2_SSL_VERSION, _V2_SSL_CIPHER)]
    version, cipher = (value.decode("ascii") if _VISIBLE.fullmatch(value) else "" for value in values)
    return True, version, cipher


def _is_name(value: bytes) -> bool:
    """Whether a value is UTF-8 without control characters, spaces, and the marks that turn the direction of a line,
    which could make a log say something else. Other marks without a shape, such as U+200C, are legal in names (IDNA).
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not any(category(character) in _NOT_IN_NAMES or character in _DIRECTION_MARKS for character in text)


def _crc32c(content: bytes) -> int:
    """Return the checksum CRC32C (Castagnoli; RFC 9260 appendix A)."""
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder = remainder >> 8 ^ _CRC32C_TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def _crc32c_row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # the polynomial, its lowest power first
    return byte


_CRC32C_TABLE: Final = tuple(map(_crc32c_row, range(256)))


def header_v1(source: Address | None, destination: Address | None) -> bytes:
    """Return the line for a client at `source` connected to `destination`; None: it has no IP address."""
    addresses = _same_family(source, destination)
    if addresses is None or source is None or destination is None:
        return UNKNOWN_V1
    family = "TCP4" if addresses[0].version == 4 else "TCP6"
    return f"PROXY {family} {addresses[0]} {addresses[1]} {source[1]} {destination[1]}\r\n".encode()


def header_v2(
    source: Address | None,
    destination: Address | None,
    tlvs: ProxyTlvs = NO_TLVS,
    tls: TerminatedTls | None = None,
) -> bytes:
    """Return the header for a client at `source` connected to `destination`, with these values and its TLS session.

    `tls`: None = TLS was not terminated here.
    """
    addresses = _same_family(source, destination)
    family, block = 0x00, b""
    if addresses is not None and source is not None and destination is not None:
        family = 0x11 if addresses[0].version == 4 else 0x21
        ports = source[1].to_bytes(2) + destination[1].to_bytes(2)
        block = addresses[0].packed + addresses[1].packed + ports
    values = tlvs.alpn.encode(), tlvs.raw_authority or tlvs.authority.encode(), tlvs.raw_id or tlvs.unique_id.encode()
    for kind, value in zip(_TLV_TYPES, values, strict=True):
        if value:
            block += _tlv(kind, value)
    if tls is not None:
        flags = _CLIENT_SSL
        if tls.has_certificate:
            flags |= _CLIENT_CERT_SESS | (0 if tls.is_resumed else _CLIENT_CERT_CONN)
        verified = 0 if tls.has_certificate else 1  # 0: the client presented a valid certificate
        told = bytes((flags,)) + verified.to_bytes(4) + _tlv(_V2_SSL_VERSION, tls.version.encode())
        if tls.common_name:
            told += _tlv(_V2_SSL_CN, tls.common_name.encode())
        block += _tlv(_V2_SSL, told + _tlv(_V2_SSL_CIPHER, tls.cipher.encode()))
    return PROXY_V2 + bytes((_PROXY, family)) + len(block).to_bytes(2) + block


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2) + value


def _same_family(
    source: Address | None, destination: Address | None
) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None:
    """Return both addresses in one family, IPv4 as IPv4-mapped IPv6 if they differ; None if one is missing."""
    if source is None or destination is None:
        return None
    try:
        one, other = ip_address(source[0].partition("%")[0]), ip_address(destination[0].partition("%")[0])
    except ValueError:  # of a unix socket
        return None
    if one.version != other.version:
        one, other = _as_v6(one), _as_v6(other)
    return one, other


def _as_v6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address


def _port(buffer: bytes, start: int) -> int:
    return int.from_bytes(buffer[start : start + 2], "big")


def _endpoint(address: IPv4Address | IPv6Address, port: int) -> Address:
    """Parse an address and port. Raises `ValueError` for a port above 65535. IPv4-mapped addresses are converted,
    because they could bypass address rules otherwise.
    """
    if port > 0xFFFF:
        raise ValueError(f"port {port}")
    return str(getattr(address, "ipv4_mapped", None) or address), port
