"""Delivery to a syslog server: RFC 5424 records over UDP (RFC 5426), TCP with octet counting (RFC 6587) or a unix
socket.
"""

import errno
import os
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, final

from fastgw.config.base.value_types import Url
from fastgw.observe.access_log.formats import second_text
from fastgw.observe.access_log.line_dates import date_ns_of
from fastgw.observe.access_log.remote_sink import Undelivered, split_by_size

FACILITIES: Final = {"user": 1, "daemon": 3, **{f"local{number}": 16 + number for number in range(8)}}
INFO: Final = 6
DATAGRAM_MAX: Final = 65_000
"""Maximum size of a record in a datagram; longer ones are cut, which syslog servers do as well."""
_AT_ONCE: Final = 64 * 1024


@final
class SyslogTransport:
    """Connection to one server, opened on first use and again after a failure."""

    refusal = ""  # syslog has no answers

    def __init__(self, address: Url, facility: str, app_name: str, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        host = re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"
        self._before = f"<{FACILITIES[facility] * 8 + INFO}>1 ".encode()
        self._after = f" {host} {app_name} {os.getpid()} access - ".encode()
        self._socket: socket.socket | None = None
        self._is_stream = False

    def deliver(self, lines: Sequence[bytes]) -> int:
        now_ns, sent = time.time_ns(), 0
        try:
            connection = self._connected()
            if self._is_stream:
                for part in split_by_size(lines, _AT_ONCE):
                    records = [self._record(line, now_ns) for line in part]
                    connection.sendall(b"".join(b"%d %b" % (len(each), each) for each in records))
                    sent += len(part)
            else:
                for line in lines:
                    connection.send(self._record(line, now_ns)[:DATAGRAM_MAX])
                    sent += 1
        except OSError as error:
            self.close()
            raise Undelivered(error.strerror or str(error), lines[sent:]) from error
        return 0

    def _record(self, line: bytes, now_ns: int) -> bytes:
        second, ns = divmod(date_ns_of(line, now_ns), 1_000_000_000)
        return b"%b%b.%03dZ%b%b" % (self._before, second_text(second), ns // 1_000_000, self._after, line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connected(self) -> socket.socket:
        """Return the connection. A server that has closed it is noticed before lines are sent into nothing."""
        if self._socket is not None and self._is_stream and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        address = self._address
        if address.scheme == "tcp":
            self._is_stream = True
            return socket.create_connection((address.host, address.port), self._timeout)
        if address.scheme == "udp":
            family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
            return self._open(family, kind, protocol, where)
        try:
            return self._open(socket.AF_UNIX, socket.SOCK_DGRAM, 0, address.socket)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # it is a stream
                raise
        self._is_stream = True
        return self._open(socket.AF_UNIX, socket.SOCK_STREAM, 0, address.socket)

    def _open(self, family: int, kind: int, protocol: int, where: object) -> socket.socket:
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(self._timeout)
            made.connect(where)  # type: ignore[arg-type]  # as getaddrinfo returns it
        except OSError:
            made.close()
            raise
        return made


def _has_ended(connection: socket.socket) -> bool:
    """Whether the server has closed the connection; what it sends otherwise is read and ignored."""
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        return not connection.recv(_AT_ONCE)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        with suppress(OSError):
            connection.settimeout(timeout)
