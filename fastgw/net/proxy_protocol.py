"""PROXY protocol, versions 1 and 2: whom a load balancer in front of us speaks for (HAProxy's proxy-protocol.txt).

`parse` is handed what has come so far and tells the client's address, or that more must come. It is strict: the sender
is a configured proxy, so anything unclear is a defect or an attack.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from fastgw.http.malformed import Malformed

Address = tuple[str, int]

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LENGTH_MAX: Final = 107  # of the whole line with its CRLF (section 2.1)
V2_HEADER_LENGTH: Final = 16
V2_BLOCK_MAX: Final = 4096  # addresses and TLVs; the field allows 65,535, real senders stay below 1 KiB

_V1_START: Final = b"PROXY "
_V1_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|(TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_V1_FAMILIES: Final[dict[bytes, type[IPv4Address | IPv6Address]]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}

_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high half, command in the low
# Family and transport -> the type of both addresses and their size, or None where there is no IP address to tell.
# Datagrams are missing: we listen on streams.
_V2_FAMILIES: Final[dict[int, tuple[type[IPv4Address | IPv6Address] | None, int]]] = {
    0x00: (None, 0),
    0x11: (IPv4Address, 4),
    0x21: (IPv6Address, 16),
    0x31: (None, 108),
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """One PROXY header. The addresses are None where the sender speaks for itself (LOCAL), or knows no IP address
    (UNKNOWN, UNSPEC, unix sockets): the connection's own then hold. IPv4 written as IPv6 is told as IPv4.
    """

    source: Address | None
    destination: Address | None
    consumed: int
    """Bytes of the header: the client's own begin right behind."""


def parse(buffer: bytes) -> Parsed | None:
    """Parse the PROXY header that `buffer` begins with. None: more bytes are needed. Raises `Malformed`."""
    if buffer[: len(SIGNATURE)] == SIGNATURE[: len(buffer)]:
        return _parse_v2(buffer) if len(buffer) >= V2_HEADER_LENGTH else None
    if buffer[: len(_V1_START)] == _V1_START[: len(buffer)]:
        return _parse_v1(buffer)
    raise Malformed("Expected a PROXY protocol header.")


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
    if command == _LOCAL:  # a health check of the sender's; what the block says is to be ignored (section 2.2)
        return Parsed(None, None, consumed)
    if family not in _V2_FAMILIES:
        raise Malformed("The PROXY protocol header has an unknown address family or transport.")
    address_type, size = _V2_FAMILIES[family]
    ports = V2_HEADER_LENGTH + 2 * size
    if block_length < 2 * size + (4 if address_type else 0):
        raise Malformed("The PROXY protocol header is too short for its addresses.")
    if address_type is None:
        return Parsed(None, None, consumed)
    return Parsed(
        _endpoint(address_type(buffer[V2_HEADER_LENGTH : V2_HEADER_LENGTH + size]), _port(buffer, ports)),
        _endpoint(address_type(buffer[V2_HEADER_LENGTH + size : ports]), _port(buffer, ports + 2)),
        consumed,
    )


def _port(buffer: bytes, start: int) -> int:
    return int.from_bytes(buffer[start : start + 2], "big")


def _endpoint(address: IPv4Address | IPv6Address, port: int) -> Address:
    """Raises `ValueError` for a port above 65535. IPv4 in IPv6 is unwrapped, or address rules could be walked round."""
    if port > 0xFFFF:
        raise ValueError(f"port {port}")
    return str(getattr(address, "ipv4_mapped", None) or address), port
