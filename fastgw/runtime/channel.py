"""Messages between the supervisor and its children: one `SOCK_SEQPACKET` pair per child, one packet per message.

Each message names the generation of the configuration that its sender runs. Nobody waits: a packet that cannot be sent
at once means that the other side has stopped reading, and its death, or the want of its heartbeat, tells the rest.
"""

import socket
from typing import Final

import msgspec

MESSAGE_MAX: Final = 64 * 1024
GENERATION: Final = 1
"""Of the configuration that the gateway starts with."""


class Message(msgspec.Struct, kw_only=True, tag=True):
    generation: int


class Ready(Message):
    """Child: everything is set up, connections are being accepted."""


class Adopt(Message):
    """Supervisor: this slot has no worker that accepts; accept from its sockets too."""

    slot: int


class Release(Message):
    """Supervisor: the slot has a worker again, or another neighbour."""

    slot: int


class Drain(Message):
    """Supervisor: take nothing new, finish what is under way in so many seconds, say `Drained` and exit."""

    requests_s: float
    tunnels_s: float


class Drained(Message):
    """Worker: so many requests and tunnels came to their end, so many had to be cut."""

    drained: int
    cut: int


class Stop(Message):
    """Supervisor: exit now."""


class Reopen(Message):
    """Supervisor: open the log files anew."""


AnyMessage = Ready | Adopt | Release | Drain | Drained | Stop | Reopen

_decoder: Final[msgspec.msgpack.Decoder[AnyMessage]] = msgspec.msgpack.Decoder(AnyMessage)
_encoder: Final = msgspec.msgpack.Encoder()


class ChannelClosed(Exception):
    """The other side is gone, or takes no more messages."""


class Channel:
    """One end of a pair. It never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    def send(self, message: AnyMessage) -> None:
        """Raises `ChannelClosed`."""
        try:
            self._end.send(_encoder.encode(message))
        except OSError as error:
            raise ChannelClosed from error

    def receive(self) -> AnyMessage | None:
        """The next message, or None when there is none yet. Raises `ChannelClosed`."""
        try:
            packet = self._end.recv(MESSAGE_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed from error
        if not packet:
            raise ChannelClosed
        return _decoder.decode(packet)
