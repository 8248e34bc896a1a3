"""Datagrams on a listening socket: their destination address, and responses from the same address.

A socket bound to a wildcard address would respond from the address of the route to the client, which the client may not
accept. IP_PKTINFO returns and sets it (ip(7), RFC 3542 section 6).
"""

import socket
import struct
from typing import Any, Final, NamedTuple

LONGEST: Final = 65_535
"""Maximum bytes of a datagram."""
_IP_PKTINFO: Final = 8  # linux/in.h; missing in the module socket
_V4: Final = struct.Struct("=I4s4s")
_V6: Final = struct.Struct("=16sI")
_ANCILLARY: Final = socket.CMSG_SPACE(_V4.size) + socket.CMSG_SPACE(_V6.size)

Ancillary = tuple[tuple[int, int, bytes], ...]


class Datagram(NamedTuple):
    payload: bytes
    client: tuple[Any, ...]
    """Address of the client, as the socket returns it."""
    answer_from: Ancillary
    """Ancillary data that sends a response from the address that the client has used; it identifies that address."""


def tell_destinations(listening: socket.socket) -> None:
    """Request the destination address of each datagram from the kernel."""
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        listening.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def receive(listening: socket.socket) -> Datagram:
    """Receive the next datagram. Raises `BlockingIOError` if there is none, and `OSError`."""
    payload, ancillary, _, client = listening.recvmsg(LONGEST, _ANCILLARY)
    return Datagram(payload, client, tuple(found for each in ancillary if (found := _answer_from(*each)) is not None))


def _answer_from(level: int, kind: int, content: bytes) -> tuple[int, int, bytes] | None:
    if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
        _, _, destination = _V4.unpack(content[: _V4.size])
        return level, kind, _V4.pack(0, destination, bytes(4))
    if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        return level, kind, _V6.pack(content[:16], 0)
    return None
