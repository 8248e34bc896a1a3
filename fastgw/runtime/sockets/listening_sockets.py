"""Listening sockets: the supervisor opens all of them and keeps them, independent of workers and upgrades.

A TCP listener has one `SO_REUSEPORT` socket per worker slot, so each worker has a queue of its own. A unix socket, or a
socket opened by a service manager, cannot be duplicated: all workers share it.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastgw.config.base.value_types import Address
from fastgw.runtime.sockets.port_owner import holder_of

BACKLOG: Final = 4096  # the kernel lowers it to net.core.somaxconn
CAP_NET_BIND_SERVICE: Final = 10  # capabilities(7)
UNIX_UMASK: Final = 0o117  # owner and group may connect, others may not
PRIVATE_UMASK: Final = 0o177  # the owner alone


class CannotListen(Exception):
    """A listening socket cannot be opened; the text names the address and the reason."""


class AddressInUse(CannotListen):
    """The address is in use by another process."""


@dataclass
class ListeningEndpoint:
    """One bound address of a listener, and its sockets: one per worker slot, or one that all slots share."""

    address: Address
    """Address with the actual port, if the configuration left it to the system."""
    sockets: list[socket.socket]
    shared: bool = False
    inode: int = 0
    """Inode of a unix socket's file, if the gateway has to remove it."""
    foreign: bool = False
    """Whether a service manager has opened it, and keeps it open after the end of the gateway."""
    name: str = ""
    """Name that the service manager has given to its socket."""

    def of_slot(self, slot: int) -> socket.socket:
        return self.sockets[0 if self.shared else slot]

    def grow(self, slots: int) -> None:
        """Open sockets for further slots. Raises `CannotListen`."""
        while not self.shared and len(self.sockets) < slots:
            try:
                first = self.sockets[0]
                kind = socket.SocketKind(first.type)
                self.sockets.append(_listen(first.family, (self.address.host, self.address.port), kind=kind))
            except OSError as error:
                raise CannotListen(f"cannot listen on {self.address}: {error.strerror}") from error

    def release(self) -> None:
        """Close the sockets of this process; those of other processes stay open."""
        for listening in self.sockets:
            listening.close()

    def close(self) -> None:
        """Shut it down for all processes, so that none of them accepts any more connections.

        Sockets for datagrams cannot be shut down: their port is in use until the last process has released them.
        """
        for listening in self.sockets:
            if not self.foreign and listening.type == socket.SOCK_STREAM:
                with suppress(OSError):
                    listening.shutdown(socket.SHUT_RDWR)
        self.release()
        if self.inode:
            with suppress(FileNotFoundError):
                if os.stat(self.address.path).st_ino == self.inode:  # otherwise another process has replaced the file
                    os.unlink(self.address.path)


def close_endpoints(endpoints: Iterable[ListeningEndpoint]) -> None:
    for endpoint in endpoints:
        endpoint.close()


def release_endpoints(endpoints: Iterable[ListeningEndpoint]) -> None:
    for endpoint in endpoints:
        endpoint.release()


def open_endpoints(
    address: Address, slots: int, *, private: bool = False, kind: socket.SocketKind = socket.SOCK_STREAM
) -> tuple[ListeningEndpoint, ...]:
    """Bind and listen, with a socket for each of `slots` workers. A host name is bound at all its addresses.
    `private`: only its owner may connect to a unix socket.

    Raises `CannotListen`.
    """
    try:
        return (_open_unix(address, private),) if address.path else _open_tcp(address, slots, kind)
    except OSError as error:
        raise _listen_error(error, address) from error


def _needs_capability(address: Address) -> bool:
    """Whether this process lacks the right to listen on a port of the operating system."""
    return 0 < address.port < _unprivileged_ports() and not _may_bind_low_ports()


def _low_port(port: int) -> str:
    return (
        f"port {port} needs a capability that this user lacks: CAP_NET_BIND_SERVICE (in a unit of systemd: "
        f"AmbientCapabilities), or net.ipv4.ip_unprivileged_port_start of at most {port}"
    )


def why_not_listen(address: Address) -> str:
    """Return the reason why this process could not listen there, if it can be determined without binding; "": none. It
    does not check whether the address is in use, because the running gateway usually uses it.
    """
    if address.path:
        folder = os.path.dirname(address.path)
        if not os.path.isdir(folder):
            return f"directory {folder} for the socket does not exist"
        if _is_other_file(address.path):
            return f"the file {address.path} exists and is no socket"
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"this user cannot create a socket in {folder}"
    if _needs_capability(address):
        return _low_port(address.port)
    try:
        for family, host in _resolve(address):
            _bind(family, (host, 0), shared=False).close()
    except socket.gaierror as error:
        return f"{address.host} cannot be resolved: {error.strerror}"
    except OSError as error:
        return f"cannot listen on {address}: {error.strerror}"
    return ""


def _unprivileged_ports() -> int:
    """Return the first port that does not require privileges."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    return 1024


def _may_bind_low_ports() -> bool:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_BIND_SERVICE & 1)
    return os.geteuid() == 0


def open_endpoint(address: Address, *, private: bool = False) -> ListeningEndpoint:
    """Bind and listen with one socket: of a host name at its first address, of `:port` for IPv4 and IPv6 together.
    `private`: as in `open_endpoints`.

    Raises `CannotListen`.
    """
    if address.path or address.host or not _has_ipv6():
        first, *others = open_endpoints(address, 1, private=private)
        close_endpoints(others)
        return first
    try:
        if address.port:
            _bind(socket.AF_INET6, ("::", address.port), shared=False, both=True).close()
        listening = _listen(socket.AF_INET6, ("::", address.port), both=True)
    except OSError as error:
        raise _listen_error(error, address) from error
    return ListeningEndpoint(Address(host="::", port=listening.getsockname()[1]), [listening])


def _has_ipv6() -> bool:
    return _is_ours(socket.AF_INET6, "::")


def _listen_error(error: OSError, address: Address) -> CannotListen:
    kind = AddressInUse if error.errno == errno.EADDRINUSE else CannotListen
    return kind(f"cannot listen on {address}: {_describe_error(error, address)}")


def _describe_error(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(address)
        return f"the address is in use ({holder}, has it)" if holder else "the address is in use"
    if error.errno == errno.EACCES and not address.path and _needs_capability(address):
        return f"{error.strerror}: {_low_port(address.port)}; or take a port from {_unprivileged_ports()} on"
    return str(error.strerror)


def _is_other_file(path: str) -> bool:
    """Whether a file other than a socket has the path of a unix socket, as far as this user can see it."""
    with suppress(OSError):
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def _open_tcp(address: Address, slots: int, kind: socket.SocketKind) -> tuple[ListeningEndpoint, ...]:
    endpoints = []
    port = address.port
    with ExitStack() as undo:
        for family, host in _resolve(address):
            if port:
                # Once without SO_REUSEPORT: otherwise a second fastgw would share the port unnoticed.
                _bind(family, (host, port), shared=False, kind=kind).close()
            sockets = []
            for _ in range(slots):
                listening = undo.enter_context(_listen(family, (host, port), kind=kind))
                sockets.append(listening)
                port = listening.getsockname()[1]  # a port chosen by the system is used for the others too
            endpoints.append(ListeningEndpoint(Address(host=host, port=port), sockets))
        undo.pop_all()
    return tuple(endpoints)


def _resolve(address: Address) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host, without families that this machine does not support (`::1` without IPv6)."""
    found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    hosts: list[tuple[socket.AddressFamily, str]] = list(dict.fromkeys((each[0], str(each[4][0])) for each in found))
    return [(family, host) for family, host in hosts if _is_ours(family, host)] or hosts


def _is_ours(family: socket.AddressFamily, host: str) -> bool:
    try:
        _bind(family, (host, 0), shared=False).close()
    except OSError:
        return False
    return True


def _bind(
    family: socket.AddressFamily | int,
    name: tuple[str, int] | str,
    shared: bool,
    *,
    both: bool = False,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    """Bind a socket. `both`: an IPv6 address accepts IPv4 as well."""
    with ExitStack() as undo:
        bound = undo.enter_context(socket.socket(family, kind | socket.SOCK_NONBLOCK))
        if family != socket.AF_UNIX and kind == socket.SOCK_STREAM:  # for datagrams it would share the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(name)
        undo.pop_all()
    return bound


def _listen(
    family: socket.AddressFamily | int,
    name: tuple[str, int],
    *,
    both: bool = False,
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> socket.socket:
    """Open one of the sockets that share an address."""
    with ExitStack() as undo:
        listening = undo.enter_context(_bind(family, name, shared=True, both=both, kind=kind))
        if kind == socket.SOCK_STREAM:
            listening.listen(BACKLOG)
        undo.pop_all()
    return listening


def _open_unix(address: Address, private: bool) -> ListeningEndpoint:
    if _is_other_file(address.path):
        raise CannotListen(f"cannot listen on {address}: the file exists and is no socket")
    _remove_stale(address.path)
    umask = os.umask(PRIVATE_UMASK if private else UNIX_UMASK)
    try:
        listening = _bind(socket.AF_UNIX, address.path, shared=False)
    finally:
        os.umask(umask)
    listening.listen(BACKLOG)
    return ListeningEndpoint(address, [listening], shared=True, inode=os.stat(address.path).st_ino)


def _remove_stale(path: str) -> None:
    """Remove the socket file of a gateway that was killed, if a connect to it is refused. The caller knows that it is a
    socket.
    """
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, kind) as probe:
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
