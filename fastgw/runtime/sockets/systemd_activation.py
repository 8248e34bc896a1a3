"""Socket activation by systemd (sd_listen_fds(3)): sockets are found once, then taken by address.

systemd owns them. Never shut one down, because clients would be refused until the socket unit is restarted; never
remove the file of a unix socket. Connections that are queued when the gateway stops wait for the next one.

The supervisor calls `inherited` at its start and `claim_sockets` before it binds an address itself. Workers share a
socket that was taken, unless `ReusePort=` gave several for the address. When its listener is removed, the socket is
given back (`take_back`): systemd passes it once, and no other socket could be bound to its address. An upgrade keeps
these sockets over its exec like the supervisor's own, and those that are `left`: the environment no longer names them.
"""

import os
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import ExitStack
from typing import Final, NamedTuple

from fastgw.config.base.value_types import Address

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
VARIABLES: Final = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")
MOST_REPORTED: Final = 32
"""Descriptors that cannot be used and have a line of their own."""
MOST_FILES: Final = 1 << 20
"""Usual maximum of a kernel for the limit of open files (fs.nr_open)."""
_MOST_DIGITS: Final = 20
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Passed(NamedTuple):
    """A listening socket, and the name that its unit gives it (`FileDescriptorName=`)."""

    socket: socket.socket
    name: str


class Inherited:
    """Sockets that systemd has passed and no listener has taken. `refused`: those that cannot be used, in words."""

    def __init__(self, passed: Iterable[Passed], refused: Iterable[str] = ()) -> None:
        self.left = tuple(passed)
        self._refused = tuple(refused)

    def __repr__(self) -> str:
        return f"<Inherited {', '.join(f'{each.name}={bound_to(each.socket)}' for each in self.left) or 'nothing'}>"

    def claim_sockets(self, address: Address) -> tuple[Passed, ...]:
        """Return the sockets bound to this address; () = there are none. The caller gives them back, or closes them at
        the end of the gateway.

        A host name means all its addresses. A socket for `[::]` that listens for IPv4 too, which is what a bare port in
        a socket unit makes, is also used for `0.0.0.0` if no other socket is bound to it, and for `:port`.
        """
        wanted = _bindings(address) if self.left else ()
        taken = [each for each in self.left if bound_to(each.socket) in wanted]
        if not taken and address.host == "0.0.0.0":
            taken = [each for each in self.left if _is_dual(each.socket, address.port)]
        self.left = tuple(each for each in self.left if each not in taken)
        return tuple(taken)

    def take_back(self, unused: Iterable[Passed]) -> None:
        """Take back sockets that no listener uses any more."""
        self.left += tuple(unused)

    def unclaimed(self) -> tuple[str, ...]:
        """Return a line for each socket that was not taken: connections to it are not answered.

        They stay open: a listener of a later generation may use them.
        """
        return (*self._refused, *map(unclaimed_line, self.left))

    def close(self) -> None:
        """Close the remaining sockets."""
        for each in self.left:
            each.socket.close()
        self.left = ()


def inherited(environ: MutableMapping[str, str] = os.environ, files: int = MOST_FILES) -> Inherited:
    """Find the sockets that systemd has passed, once: the variables are removed, so that children do not use them.

    The sockets do not block, and an exec closes them. `files`: limit of open files of this process.
    """
    environment = {name: environ.pop(name, "") for name in VARIABLES}
    pid, count = environment["LISTEN_PID"], environment["LISTEN_FDS"]
    if not pid or not count:
        return Inherited(())
    if not (pid.isdecimal() and count.isdecimal() and len(pid + count) <= _MOST_DIGITS):
        return Inherited((), [f"what systemd passes is not used: LISTEN_PID={pid} LISTEN_FDS={count} are no numbers"])
    if int(pid) != os.getpid():
        why = f"it is for process {pid}, and this is {os.getpid()}: start fastgw without a shell, or by its `exec`"
        return Inherited((), [f"what systemd passes is not used: {why}"])
    if 0 <= (most := files - FIRST_FD) < int(count):
        why = f"LISTEN_FDS={count} is more than the {most} that this process may have (ulimit -n)"
        return Inherited((), [f"what systemd passes is not used: {why}"])
    names = environment["LISTEN_FDNAMES"].split(":") if environment["LISTEN_FDNAMES"] else []
    passed: list[Passed] = []
    refused: list[str] = []
    more = 0
    for index in range(int(count)):
        fd, name = FIRST_FD + index, names[index] if index < len(names) else "unknown"
        try:
            passed.append(Passed(_listening(fd), name))
        except (OSError, ValueError) as error:
            if len(refused) >= MOST_REPORTED:
                more += 1
                continue
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
            refused.append(f"descriptor {fd} from systemd ({name}) is not used: {why}")
    if more:
        refused.append(f"{more} more descriptors from systemd are not used")
    return Inherited(passed, refused)


def unclaimed_line(passed: Passed) -> str:
    """Return the line that reports a socket without a listener."""
    advice = "no listener has that address; write a listener with this address, or change ListenStream"
    return f"systemd listens on {bound_to(passed.socket)} ({passed.name}), and {advice}"


def bound_to(listening: socket.socket) -> Address:
    """Return the address of a socket; an abstract name has an `@` in front."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return Address(path=os.fsdecode(b"@" + name[1:] if isinstance(name, bytes) else os.path.realpath(name)))
    return Address(host=name[0], port=name[1])


def _bindings(address: Address) -> frozenset[Address]:
    """Return the addresses that the sockets of a listener with this address are bound to."""
    if address.path:
        return frozenset({Address(path=os.path.realpath(address.path))})
    try:
        found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return frozenset()  # bind reports the error
    return frozenset(Address(host=str(name[0]), port=address.port) for *_, name in found)


def _is_dual(listening: socket.socket, port: int) -> bool:
    """Whether the socket listens for both, IPv4 and IPv6, on all addresses."""
    return bound_to(listening) == Address(host="::", port=port) and not listening.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def _listening(fd: int) -> socket.socket:
    """Check a descriptor. Raises `OSError` if it is not a socket, and `ValueError` if it is not a listening stream
    socket.
    """
    os.set_inheritable(fd, False)
    with ExitStack() as undo:
        passed = undo.enter_context(socket.socket(fileno=fd))
        if passed.family not in FAMILIES or passed.type != socket.SOCK_STREAM:
            raise ValueError("expected a stream socket (ListenStream=) for IP or a path")
        if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("it does not listen; expected Accept=no in the socket unit")
        passed.setblocking(False)
        if passed.family != socket.AF_UNIX:
            passed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        undo.pop_all()
    return passed
