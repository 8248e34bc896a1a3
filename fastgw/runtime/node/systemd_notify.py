"""Notifications for systemd (sd_notify(3)): one datagram per message, sent by the supervisor only.

The supervisor makes one `Notifier` when it begins, also after an exec in place: pid and environment are the same then.
It calls

- `ready` once all workers accept, after each reload regardless of its result, and after an upgrade;
- `reloading` before each reload, and before the exec of an upgrade: systemd waits for the `ready` that follows;
- `stopping` when a drain or a stop begins, with its maximum duration;
- `status` when the text of `systemctl status` changes in between;
- `watchdog` in its loop at least every `watchdog_interval`, if there is one: systemd restarts a supervisor that hangs.

Calls in workers and control have no effect: they have a copy of the parent's object, and only the parent sends
messages. Programs started by a child must not send any either: they are started without `VARIABLES`.
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Names of the environment variables of the protocol. Kept over an exec in place."""


class Notifier:
    """Sends notifications for the process that created it. Never waits and never raises: messages that systemd cannot
    accept now are lost.

    `address`: of a datagram socket, a path or, after `@`, an abstract name; "" = no receiver.
    """

    def __init__(self, address: str, watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval
        """Seconds; half of systemd's watchdog timeout. None: there is no watchdog."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._pid = os.getpid()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):  # no receiver, or one in another machine (vsock)
            return cls("")
        return cls(address, _watchdog_interval(environ))

    def ready(self, status: str) -> None:
        """Report that the gateway serves. `status`: a line for people, as in all methods."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Report that a reload has begun: the gateway continues to serve, and `ready` reports the end."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, within: float = 0.0) -> None:
        """Report that the shutdown has begun. `within`: its maximum duration in seconds, even if `TimeoutStopSec` of
        the unit is shorter.
        """
        self._send("STOPPING=1", *([f"EXTEND_TIMEOUT_USEC={within * 1e6:.0f}"] if within else []))

    def status(self, text: str) -> None:
        self._send(_status(text))

    def watchdog(self) -> None:
        """Report that the loop of the supervisor is running."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self._address or os.getpid() != self._pid:
            return
        message = "\n".join(assignments).encode(errors="backslashreplace")
        # Opened each time: systemd may have been restarted, and nothing has to be kept over an exec.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message, self._address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.splitlines())}"


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the interval by sd_watchdog_enabled(3): half of the timeout; None if it is for another process."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0 or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(usec) / 2e6
