"""Datagrams on a listening socket: which address each was sent to, and answers from that same address.

A socket that is bound to every address of the machine would answer from whichever the route to the client has, which
the client would not take for an answer. IP_PKTINFO tells and sets it (ip(7), RFC 3542 section 6).
"""

import socket
import struct
from typing import Any, Final, NamedTuple

LONGEST: Final = 65_535
"""Bytes of the longest datagram."""
_IP_PKTINFO: Final = 8  # linux/in.h; the module socket does not have it
_V4: Final = struct.Struct("=I4s4s")
_V6: Final = struct.Struct("=16sI")
_ANCILLARY: Final = socket.CMSG_SPACE(_V4.size) + socket.CMSG_SPACE(_V6.size)

Ancillary = list[tuple[int, int, bytes]]


class Datagram(NamedTuple):
    payload: bytes
    client: tuple[Any, ...]
    """Address of the client, as the socket has it."""
    answer_from: Ancillary
    """Ancillary data that sends an answer from the address that the client has sent to."""


def tell_destinations(listening: socket.socket) -> None:
    """Have the kernel tell to which address of ours each datagram was sent."""
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        listening.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def receive(listening: socket.socket) -> Datagram:
    """Take the next datagram. Raises `BlockingIOError` where there is none, `OSError`."""
    payload, ancillary, _, client = listening.recvmsg(LONGEST, _ANCILLARY)
    return Datagram(payload, client, [found for each in ancillary if (found := _answer_from(*each)) is not None])


def _answer_from(level: int, kind: int, content: bytes) -> tuple[int, int, bytes] | None:
    if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
        _, _, destination = _V4.unpack(content[: _V4.size])
        return level, kind, _V4.pack(0, destination, bytes(4))
    if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        return level, kind, _V6.pack(content[:16], 0)
    return None
