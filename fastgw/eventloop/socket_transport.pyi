"""Connections on the worker's own poller: a socket as the transport of a protocol, with the methods of asyncio.

A `SocketTransport` reads into the protocol's buffer and sends at once; only what the socket does not take is held, and
sent when it has room. `tls_transport.TlsTransport` adds TLS.

Compared with a transport of asyncio: the protocol provides its buffer as an attribute; writing pauses as soon as one
byte is held; after a failed write the protocol may read what is left (`read_rest`), within `connection_lost`; and an
end of the peer can be noticed while reading is paused (`await_hangup`).
"""

from typing import Any, Final

from fastgw.eventloop.timer_wheel import Timed
from fastgw.eventloop.worker_loop import WorkerLoop

LEFT_BEHIND: Final[int]
"""Maximum bytes that a peer may have sent, while it is not read from, before a FIN that is still detected."""

def pending_error(fd: int) -> int:
    """Return the errno that has ended a connection, and clear it; 0: there is none."""

def reset_on_close(fd: int) -> None:
    """Let the close of a connection be a reset: a plain one would look like an end of the data."""

def unread_in_kernel(fd: int) -> int:
    """Return the number of bytes that a socket has received and nobody has read; 0 if it is closed."""

def unsent_in_kernel(fd: int) -> int:
    """Return the number of bytes written to a socket that its peer has not acknowledged; 0 if it is closed."""

def room(fd: int) -> int:
    """Return the free bytes of a socket's send buffer, including the kernel's overhead; 0: unknown."""

def send_at_once(fd: int, message: bytes) -> int:
    """Send what a socket takes of a message; return the number of bytes. After an error 0: the next call finds it."""

class StreamProtocol(Timed):
    """Protocol of a connection, as an `asyncio.BufferedProtocol`."""

    buffer: Any
    """Writable buffer, which receives the bytes of the next read."""

    def connection_made(self, transport: SocketTransport) -> None:
        """Begin. `transport` is used until `connection_lost`."""

    def buffer_updated(self, nbytes: int) -> None:
        """Handle so many bytes in `buffer`."""

    def eof_received(self) -> bool:
        """Handle the end of the peer's direction. False: the connection is closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection. None: it was closed from here."""

    def pause_writing(self) -> None:
        """Write no more than necessary: some bytes are held."""

    def resume_writing(self) -> None:
        """Write on: no bytes are held."""

    def peer_left(self) -> None:
        """Handle an end or error of a peer that is not read from (`SocketTransport.await_hangup`)."""

class SocketTransport:
    fd: int
    """Descriptor of the socket; -1 after the end."""
    plain_fd: int
    """`fd` if bytes can be sent on the socket as they are, while none are held; otherwise -1."""
    protocol: StreamProtocol | None
    """May be replaced at any time."""
    is_truncated: bool
    """Whether the peer has ended without `close_notify` of TLS, and that is accepted as an end."""

    def __init__(self, worker_loop: WorkerLoop, fd: int) -> None:
        """Take over a connected socket in non-blocking mode. Raises `OSError`: no more sockets can be watched; then the
        socket stays the caller's.
        """

    def begin(self, protocol: StreamProtocol) -> None:
        """Connect the protocol."""

    def ready(self, events: int) -> None:
        """Handle events of the socket, for `SocketPoller`."""

    def write(self, data: bytes | memoryview) -> None:
        """Send, or hold what the socket does not take. No effect after the end."""

    def write_parts(self, head: bytes, body: bytes) -> None:
        """`write` both, without joining them."""

    def write_eof(self) -> None:
        """End our direction, after all that is held. The peer's data is still read."""

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes held."""

    def unsent(self) -> int:
        """Return the number of bytes written that the peer has not acknowledged. If it decreases, the peer is alive."""

    def close(self) -> None:
        """Read no more, and close after all that is held was sent."""

    def truncate(self) -> None:
        """`close`, but over TLS so that the peer finds that data may be missing."""

    def abort(self) -> None:
        """Close at once."""

    def reset_on_close(self) -> None:
        """Let the close be a reset."""

    def detach(self) -> int:
        """End this transport alone, and return the socket's descriptor, which is the caller's. No method is called."""

    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None:
        """Read on from the next turn of the loop."""

    def has_unread(self) -> bool:
        """Whether there is received data, or over TLS an end, that was not passed on."""

    def read_rest(self, buffer: memoryview) -> int:
        """Read what is left after a failed write, within `connection_lost`. 0: the peer's end. Raises `OSError`: there
        is no more.
        """

    def await_hangup(self) -> None:
        """Call `peer_left` once on an end or reset, until `ignore_hangup`: reading is paused for long.

        The kernel then accepts `LEFT_BEHIND` bytes; otherwise a FIN after a full window would not arrive.
        """

    def ignore_hangup(self) -> None: ...

    # Overridden by `TlsTransport`; for its subclasses.

    def _take_loss(self, error: Exception | None) -> None: ...
