from asyncio import WriteTransport

def send(fd: int, message: bytes, transport: WriteTransport, waiting: bool) -> None:
    """Send a message: on the socket as much as it accepts at once, the rest by its transport.

    `fd` is -1 if only the transport can send (TLS). `waiting`: the transport has queued data, which would be overtaken.
    """

def send_parts(fd: int, head: bytes, body: bytes, transport: WriteTransport, waiting: bool) -> None:
    """Send a message in two parts, as `send` does, without joining them."""

def send_at_once(fd: int, message: bytes) -> int:
    """Send as much of a message as a socket accepts without waiting, and return the number of bytes.

    0 also on an error: the transport then reports it. Only while the transport has no queued data.
    """

def room(fd: int) -> int:
    """Return the approximate number of bytes that a socket accepts without waiting; 0 also on an error.

    The kernel grows the buffer of TCP (`tcp_wmem`) as its peer reads.
    """
