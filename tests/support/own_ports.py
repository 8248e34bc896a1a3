"""Ports for what tests listen on in place of an upstream: of this process alone, and none again soon.

The kernel gives a port that was just closed to the next socket. If a gateway of another test still tries to reach
what had listened there, its request comes to the wrong test.
"""

from __future__ import annotations

import errno
import os
import socket
from itertools import cycle, islice

FIRST, EACH, PROCESSES = 61_000, 1_120, 4
"""Above the ports that the kernel gives away (`net.ipv4.ip_local_port_range`): no connection has one of these."""

_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
_first = FIRST + _process * EACH
_begin = os.getpid() % EACH  # of several runs at the same time, each begins elsewhere
_ports = cycle([*range(_first + _begin, _first + EACH), *range(_first, _first + _begin)])


def bind_own_port(listening: socket.socket, host: str = "127.0.0.1") -> None:
    """Bind a TCP socket to the next port that is free. Raises `OSError` if all are taken."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in islice(_ports, EACH):
        try:
            listening.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, f"all ports of {_first} to {_first + EACH - 1} are taken")


def listen_on_own_port(backlog: int = 128) -> socket.socket:
    """Return a socket that listens on 127.0.0.1."""
    listening = socket.socket()
    bind_own_port(listening)
    listening.listen(backlog)
    return listening
