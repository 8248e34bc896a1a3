"""Stream of samples from workers to the control process: captured exchanges, and stories of requests.

Control creates a pair of sockets and sends one end to all workers; each packet is a part of one sample. The stream
ends for all workers when control closes its end, also if control dies. Rule: a worker never waits. Samples that control
has not read in time are dropped, and the number of dropped samples is sent with the next one.
"""

import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, final

PART_BYTES: Final = 32 * 1024
"""Maximum bytes of a sample in one packet."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes of a sample."""
MOST_PARTIAL: Final = 256
"""Maximum number of senders with an incomplete sample."""
BUFFER_BYTES: Final = 1024 * 1024
"""Wanted size of the kernel's buffer; the system may limit it (`net.core.wmem_max`)."""
_PREFIX: Final = struct.Struct("=QBI")  # sender, flags, dropped samples
_FIRST: Final = 1
_LAST: Final = 2


def sample_pair() -> tuple[socket.socket, socket.socket]:
    """Return the end for reading and the one for writing. Raises `OSError`."""
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (reading, writing):
        end.setblocking(False)
    writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return reading, writing


@final
class SampleWriter:
    """A worker's end. `sender`: number of the worker, different from those of all others."""

    def __init__(self, end: socket.socket, sender: int) -> None:
        end.setblocking(False)
        self._end, self._sender = end, sender
        self.dropped = 0
        """Number of samples that were not sent since the last one."""
        self.is_closed = False

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, sample: bytes) -> None:
        """Send a sample, or drop it."""
        if self.is_closed:
            return
        if len(sample) > MOST_BYTES:
            self.dropped += 1
            return
        view, flags = memoryview(sample), _FIRST
        try:
            for at in range(0, len(sample) or 1, PART_BYTES):
                part = view[at : at + PART_BYTES]
                if at + PART_BYTES >= len(sample):
                    flags |= _LAST
                self._end.sendmsg((_PREFIX.pack(self._sender, flags, self.dropped), part))
                flags = 0
        except BlockingIOError:  # the reader discards the parts of it
            self.dropped += 1
        except OSError:  # control has closed its end
            self.is_closed = True
        else:
            self.dropped = 0

    def count_dropped(self) -> None:
        """Count a sample that was not even made."""
        self.dropped += 1

    def close(self) -> None:
        self.is_closed = True
        self._end.close()


class Sample(NamedTuple):
    """A received sample. `dropped`: number of samples that its sender has dropped before."""

    content: bytes
    dropped: int


@final
class SampleReader:
    """Control's end. `receive` is called with each sample."""

    def __init__(self, end: socket.socket, receive: Callable[[Sample], None]) -> None:
        self._end, self._receive = end, receive
        self._partial: dict[int, list[bytes]] = {}

    def fileno(self) -> int:
        return self._end.fileno()

    def read(self, most: int = 64) -> None:
        """Read what is there, at most this many packets: others wait for the event loop as well."""
        for _ in range(most):
            try:
                packet = self._end.recv(_PREFIX.size + PART_BYTES)
            except (BlockingIOError, ConnectionResetError):
                return
            if len(packet) < _PREFIX.size:
                return
            self._take_packet(packet)

    def _take_packet(self, packet: bytes) -> None:
        sender, flags, dropped = _PREFIX.unpack_from(packet)
        part = packet[_PREFIX.size :]
        if flags & _FIRST:
            if len(self._partial) >= MOST_PARTIAL:
                self._partial.clear()
            parts = self._partial[sender] = [part]
        elif sender in self._partial:
            parts = self._partial[sender]
            parts.append(part)
            if len(parts) * PART_BYTES > MOST_BYTES + PART_BYTES:
                del self._partial[sender]
                return
        else:
            return
        if flags & _LAST:
            del self._partial[sender]
            self._receive(Sample(b"".join(parts), dropped))

    def close(self) -> None:
        self._end.close()
