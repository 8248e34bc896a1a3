"""Program of helper processes: the module that they run, and their limits."""

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

MOST_BYTES: Final = 32 * 1024**2
"""Maximum size of a request or a result, in bytes."""
LENGTH_BYTES: Final = 4
"""Bytes of the length before each message, big-endian."""

RESULT: Final = 0
FAILED: Final = 1
READY: Final = 2
"""First byte of a message of a helper: the result of a request, the text of an exception, or the limits that could not
be set.
"""

Work: TypeAlias = Callable[[bytes], bytes]


class Program(Struct, frozen=True, kw_only=True):
    """Program of a pool's processes.

    `name`: for `ps` and the operator log. `module`: imported by the process; it defines `start(argument: bytes)`, which
    returns the function from a request to its result. The modules and files that this function needs have to be
    imported and read by `start`: afterwards the process cannot open files, sockets or processes. Exceptions of the
    function are passed to the caller as text; the process goes on.
    """

    name: str
    module: str
    argument: bytes = b""
    processes: int = 1
    deadline_s: float = 0.05
    """Seconds after which a caller stops waiting, including the time in the queue."""
    kill_after_s: float | None = None
    """Seconds of one request after which its process is killed and replaced. None: `deadline_s`. A longer time suits a
    program that starts slowly: a late result is discarded, and the process is used again.
    """
    queue: int = 64
    """Maximum number of requests that wait for a process."""
    memory_bytes: int = 512 * 1024**2
    """Maximum address space of a process (RLIMIT_AS)."""
    start_s: float = 30.0
    """Seconds in which a process has to be ready."""

    @property
    def longest_run_s(self) -> float:
        return self.deadline_s if self.kill_after_s is None else self.kill_after_s


def frame(message: bytes) -> bytes:
    """Return a message with its length before it. Raises `ValueError` for a message of more than `MOST_BYTES`."""
    if len(message) > MOST_BYTES:
        raise ValueError(f"a message of {len(message)} bytes; expected at most {MOST_BYTES}")
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
