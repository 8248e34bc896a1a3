"""Ports for what tests listen on in place of an upstream: of this process alone, and none again soon.

The kernel gives a port that was just closed to the next socket. If a gateway of another test still tries to reach
what had listened there, its request comes to the wrong test.

Each process claims a block of ports when it needs the first one, by an abstract Unix socket of the block's name. So any
number of processes, and of runs on one machine, have blocks of their own, in each network namespace; a process gives
its block back by ending.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

NAME = "fastgw-tests-ports"
EACH = 512
BLOCKS: Sequence[range] = [
    range(first, first + EACH) for first in (*range(20_000, 32_768 - EACH, EACH), *range(61_000, 65_536 - EACH, EACH))
]
"""Below and above the ports that the kernel gives away (`net.ipv4.ip_local_port_range`): no connection has one of
these.
"""


class NoBlockLeft(Exception):
    """Each block of ports is another process's."""


class Block:
    """Block of ports that is this process's until `release`, or until the process has ended, however it ends."""

    def __init__(self, ports: range, claim: socket.socket) -> None:
        self.ports = ports
        self._claim = claim
        begin = os.getpid() % len(ports)  # a block that another process has given back does not begin with its ports
        self._turn = cycle([*ports[begin:], *ports[:begin]])

    def release(self) -> None:
        self._claim.close()

    def next_ports(self) -> Iterator[int]:
        """All ports of the block, beginning with the one whose turn it is."""
        return islice(self._turn, len(self.ports))


def claim_block(name: str, blocks: Sequence[range] = BLOCKS) -> Block:
    """Claim a block that no process has claimed by this name. Raises `NoBlockLeft`."""
    begin = os.getpid() % len(blocks)
    for ports in (*blocks[begin:], *blocks[:begin]):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{name}-{ports[0]}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return Block(ports, claim)
    raise NoBlockLeft(f"all {len(blocks)} blocks of ports for tests are in use: see who has @{name}-* (ss -xap)")


_block: Block | None = None


def own_block() -> Block:
    """Return the block of this process, which has it until its end."""
    global _block
    if _block is None:
        _block = claim_block(NAME)
    return _block


def _forget_block() -> None:
    """A forked process claims a block of its own, and keeps none in use for the process that it comes from."""
    global _block
    if _block is not None:
        _block.release()
        _block = None


os.register_at_fork(after_in_child=_forget_block)


def bind_own_port(listening: socket.socket, host: str = "127.0.0.1") -> None:
    """Bind a TCP socket to the next port that is free. Raises `OSError` if all are taken."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in own_block().next_ports():
        try:
            listening.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise _all_taken()


def listen_on_own_port(backlog: int = 128) -> socket.socket:
    """Return a socket that listens on 127.0.0.1."""
    listening = socket.socket()
    bind_own_port(listening)
    listening.listen(backlog)
    return listening


def own_port() -> int:
    """Return the number of a port that a program shall listen on, or none: it is free, for TCP as for UDP, and no other
    test takes it.
    """
    for port in own_block().next_ports():
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise _all_taken()


def _all_taken() -> OSError:
    ports = own_block().ports
    return OSError(errno.EADDRINUSE, f"all ports of {ports[0]} to {ports[-1]} are taken")
