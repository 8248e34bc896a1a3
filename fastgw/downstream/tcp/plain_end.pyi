"""The end of a relay on a plain socket, and what both kinds of ends have in common with it."""

from typing import Final, final

from fastgw.downstream.tcp.end import ByteSink, End
from fastgw.eventloop.timer_wheel import Timed
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.net.proxy_protocol import Address
from fastgw.upstream.targets.dns import TargetAddress

RELAY_BYTES: Final[int]
"""Maximum bytes per read for the other end."""
DROP: Final[ByteSink]
"""It drops data."""

class EndOwner(Timed):
    """Owner of both ends."""

    def dialed(self, end: PlainEnd, error: int) -> None:
        """Handle the end of a connect. `error`: its errno, or 0."""

    def touched(self) -> None:
        """Handle that bytes were moved."""

    def ended(self, end: End) -> None:
        """Handle the end of data from the peer."""

    def lost(self, end: End, error: Exception | None) -> None:
        """Handle the loss of the connection, by a reset or another error."""

    def drained(self, end: End) -> None:
        """Handle that all buffered bytes were sent."""

def can_dial(address: TargetAddress | None) -> bool:
    """Whether `dial` takes this address: it is one of TCP without a zone."""

def dial(address: TargetAddress) -> int:
    """Begin to connect, and return the socket's descriptor. Raises `OSError`."""

def local_address(fd: int) -> Address | None:
    """Return the local address of a socket; None for a unix socket."""

@final
class PlainEnd(End):
    """End on a plain socket, which it closes. Reading is paused at first."""

    fd: int
    peer: ByteSink
    received: int
    has_ended: bool
    resting: bool
    read_since_rest: int

    def __init__(self, worker_loop: WorkerLoop, fd: int, owner: EndOwner, is_dialing: bool = False) -> None:
        """`is_dialing`: `dialed` is called when the connect is over. Raises `OSError`: the socket cannot be watched."""

    @property
    def is_truncated(self) -> bool: ...
    @property
    def is_buffering(self) -> bool: ...
    @property
    def local(self) -> Address | None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def end_rest(self) -> None: ...
    def send(self, chunk: memoryview) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end_sending(self) -> None: ...
    def has_sent_all(self) -> bool: ...
    def unsent(self) -> int: ...
    def is_done(self) -> bool: ...
    def close(self) -> None: ...
    def truncate(self) -> None: ...
    def reset(self) -> None: ...
