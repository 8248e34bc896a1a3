"""Ports for programs that cannot choose one themselves, and the wait until a program listens."""

import random
import socket
import time

from bench.processes import Pinned

READY_SECONDS = 20.0
BELOW_EPHEMERAL = range(20_000, 32_000)  # below 32768, where ephemeral ports begin


class NotReady(Exception):
    """A program ended, or did not listen in time. The text has its output."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that is currently free."""
    for port in random.sample(BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotReady("none of 100 ports tried is free")


def wait_until_open(port: int, program: Pinned) -> None:
    """Wait until `port` accepts a connection. Raises `NotReady` if `program` ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if program.process.poll() is not None:
                break
            time.sleep(0.02)
    raise NotReady(f"{program.name}: nothing listens on port {port}: {program.last_words()}")
