"""Default ports of `admin` and `status`, which tests run in parallel for."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import forked
from tests.support.gateway import wait_until

DEFAULT_PORTS = (9901, 9902)
FREE_S = 60.0
"""Seconds in which a test beside this one has ended that uses them."""

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1


@contextmanager
def default_ports(*, alone: bool = False) -> Iterator[None]:
    """Allow a gateway to use the default ports, or the next free ones. `alone`: without any other program. A
    process that may create networks goes to one of its own; any other process waits until the ports are free.
    """
    with ExitStack() as stack:
        if not (alone and _may_create_network()):
            lock = stack.enter_context(open(Path(tempfile.gettempdir(), "fastgw-default-ports.lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            if alone:
                wait_until(lambda: all(map(_is_free, DEFAULT_PORTS)), f"ports {DEFAULT_PORTS}: what has them?", FREE_S)
        else:
            stack.enter_context(forked.new_programs())  # forked processes would be in the network of their server
            stack.enter_context(_own_network())
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _may_create_network() -> bool:
    return os.geteuid() == 0


@contextmanager
def _own_network() -> Iterator[None]:
    """Move this thread, and the programs that it starts, to a network with 127.0.0.1 alone and no port in use."""
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    with open("/proc/thread-self/ns/net", "rb") as before:
        checked(libc.unshare(CLONE_NEWNET))
        try:
            with socket.socket() as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
            yield
        finally:
            checked(libc.setns(before.fileno(), CLONE_NEWNET))
