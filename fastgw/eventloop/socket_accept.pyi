"""Accepting connections from a listening socket."""

class AcceptedSocket:
    """Socket of an accepted connection: it does not block, and is closed with this object. `ip`, `port`: of the client;
    an IPv4-mapped IPv6 address, as dual-stack sockets have it, is the IPv4 address; `unix:` and 0 for a unix socket.
    """

    @property
    def ip(self) -> str: ...
    @property
    def port(self) -> int: ...
    def fileno(self) -> int:
        """Return its descriptor; -1: it is another's, or closed."""

    def discard(self) -> None:
        """Close it, unless it is another's."""

    def as_number(self) -> int:
        """Return its descriptor, which the caller is to close; this object is of no use then."""

def accept(listening: int) -> AcceptedSocket | None:
    """Accept a connection. None: none is queued. Raises `OSError`."""
