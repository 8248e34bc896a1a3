"""A network namespace of this process, as containers have, and loads that show the effect of its settings."""

import ctypes
import fcntl
import itertools
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.load import Environment
from bench.load.wrk import Wrk
from bench.peers.peer import HOST, Running
from bench.samples import Told, percentiles

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
SYSCTL = Path("/proc/sys/net")
ANSWERED_WITHIN = 15.0  # seconds: a lost SYN is retransmitted three times (after 1, 3 and 7 s)


class NotIsolated(Exception):
    """This machine allows no network namespaces. The text has the reason."""


def enter_own_network() -> None:
    """Move this process and its children to a new network namespace with a loopback interface only.

    Needs root, or user namespaces. Raises `NotIsolated`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET):
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise NotIsolated(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))  # netdevice(7)


@contextmanager
def sysctl(name: str, value: str) -> Iterator[None]:
    """Set `name`, such as core/somaxconn, to this value within the `with`."""
    file = SYSCTL / name
    before = file.read_text()
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


@dataclass(frozen=True)
class FewPorts(Wrk):
    """wrk with only `ports` ephemeral ports for connections, unused before each run; a closed one stays 60 s in
    TIME_WAIT.

    The default range has 28,232 ports; with 60 s each, that is 470 connections per second.
    """

    ports: int = 1000
    _windows: Iterator[int] = field(default_factory=lambda: itertools.count(33_000, 1000), compare=False)

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        first = next(self._windows)
        with ExitStack() as turned:
            turned.enter_context(sysctl("ipv4/ip_local_port_range", f"{first} {first + self.ports - 1}"))
            # By default, unlike others, loopback connections may reuse ports in TIME_WAIT.
            turned.enter_context(sysctl("ipv4/tcp_tw_reuse", "0"))
            return super().run(name, running, environment, seconds)


@dataclass(frozen=True)
class Burst:
    """`connections` clients that connect at the same time and send one request each. Latency is measured from then."""

    name: str
    connections: int

    @property
    def cut_off(self) -> int:
        return 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        request = b"GET /svc7/v1/items/7 HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
        durations: list[float] = []
        right = 0
        begun = time.monotonic()
        with ExitStack() as opened, selectors.DefaultSelector() as selector:
            for _ in range(self.connections):
                client = opened.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", running.port))
                selector.register(client, selectors.EVENT_WRITE, client)
            while selector.get_map() and time.monotonic() < begun + ANSWERED_WITHIN:
                for key, events in selector.select(1.0):
                    client = key.data
                    if events & selectors.EVENT_WRITE:
                        client.send(request)
                        selector.modify(client, selectors.EVENT_READ, client)
                    else:  # a response arrives in one piece; the next event is the end
                        right += client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
                        durations.append((time.monotonic() - begun) * 1e6)
                        selector.unregister(client)
        faults = {"wrong status": len(durations) - right, "lost": self.connections - len(durations)}
        return Told(len(durations), max(durations) / 1e6, percentiles(durations), faults)
