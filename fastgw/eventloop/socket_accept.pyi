"""Accepting connections from a listening socket."""

class AcceptedSocket:
    """Socket of an accepted connection, for a transport of the event loop: it does not block. `ip`, `port`: of the
    client; an IPv4-mapped IPv6 address, as dual-stack sockets have it, is the IPv4 address; `unix:` and 0 for a unix
    socket.
    """

    @property
    def family(self) -> int: ...
    @property
    def ip(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def type(self) -> int: ...
    def fileno(self) -> int:
        """Return its descriptor; -1: it is another's, or closed."""

    def close(self) -> None:
        """Note that the transport which has it has closed it."""

    def discard(self) -> None:
        """Close it, if no transport has."""

    def as_number(self) -> int:
        """Return its descriptor, which is to be closed; this object is of no use then."""

def accept(listening: int) -> AcceptedSocket | None:
    """Accept a connection. None: none is queued. Raises `OSError`."""
