"""Owner of a port that is in use: found in /proc, if permissions allow it."""

import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from fastgw.config.base.value_types import Address

PROC: Final = Path("/proc")
_LISTEN: Final = "0A"  # TCP_LISTEN (proc(5))


def holder_of(address: Address) -> str | None:
    """Return the process that uses an address: `another fastgw, pid 12` or `nginx, pid 12`; None if it cannot be
    determined.

    If several processes have the socket open, their common ancestor is named.
    """
    inodes = set(_unix_inodes(address.path) if address.path else _tcp_inodes(address))
    if not inodes:
        return None
    pids = {pid for pid in _pids() if inodes & _socket_inodes(pid)}
    eldest = min((pid for pid in pids if _parent(pid) not in pids), default=None)
    if eldest is None:
        return None
    with suppress(OSError):  # it has just ended
        name = "another fastgw" if _is_fastgw(eldest) else (PROC / str(eldest) / "comm").read_text().strip()
        return f"{name}, pid {eldest}"
    return None


def _tcp_inodes(address: Address) -> Iterator[str]:
    found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
    wanted = {ipaddress.ip_address(name[0]) for *_, name in found}
    for table in ("tcp", "tcp6"):
        for line in _lines(PROC / "net" / table):
            _, local, _, state, *_, inode = line.split()[:10]
            if state != _LISTEN:
                continue
            hexadecimal, port = local.split(":")
            bound = _proc_address(hexadecimal)
            overlap = bound in wanted or bound.is_unspecified or any(host.is_unspecified for host in wanted)
            if int(port, 16) == address.port and overlap:
                yield inode


def _proc_address(hexadecimal: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address as in /proc: 32-bit words in the machine's byte order (proc(5))."""
    words = re.findall("." * 8, hexadecimal)
    return ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))


def _unix_inodes(path: str) -> Iterator[str]:
    for line in _lines(PROC / "net" / "unix"):
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path:
            yield fields[6]


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text().splitlines()[1:]
    except OSError:
        return []


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    with suppress(OSError):  # a process of another user, or one that has ended
        for file in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                link = os.readlink(file)
                if link.startswith("socket:["):
                    inodes.add(link[len("socket:[") : -1])
    return inodes


def _parent(pid: int) -> int | None:
    with suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("PPid:"):
                return int(line.split()[1])
    return None


def _is_fastgw(pid: int) -> bool:
    words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    return any(os.path.basename(word) == b"fastgw" for word in words[:3])
