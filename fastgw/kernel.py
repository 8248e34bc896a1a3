"""System calls that a seccomp profile of a container, or a sandbox, may refuse.

Such a refusal lasts for the life of a process, so the required ones are tried once, before anything is opened.
"""

import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

_REFUSED: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""Errors of a seccomp filter, or of a kernel without the system call. Others are temporary."""
_PURPOSES: Final[Mapping[str, str]] = {
    "memfd_create": "for shared memory and for keys that must not be written to disk",
    "eventfd2": "for the event loop of each process",
}


_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class CallRefused(Exception):
    """The kernel refuses a system call; the text says what it is needed for, and what to do."""

    def __init__(self, call: str, error: OSError) -> None:
        super().__init__(
            f"the system call {call} is not permitted ({error.strerror}); fastgw needs it {_PURPOSES[call]}. "
            "Allow it in the seccomp profile of the container or in SystemCallFilter= of the unit"
        )


def memory_file(name: str, flags: int = os.MFD_CLOEXEC) -> int:
    """Create an anonymous file in memory and return its descriptor. Raises `CallRefused`, and `OSError`."""
    return _system_call("memfd_create", lambda: os.memfd_create(name, flags))


def verify() -> None:
    """Try each of them once. Raises `CallRefused`, and `OSError` if no descriptor is available."""
    for descriptor in (memory_file("fastgw-trial"), _system_call("eventfd2", lambda: os.eventfd(0, os.EFD_CLOEXEC))):
        os.close(descriptor)


def _system_call(call: str, ask: Callable[[], int]) -> int:
    try:
        return ask()
    except OSError as error:
        if error.errno in _REFUSED:
            raise CallRefused(call, error) from error
        raise


def when_alone(number: int) -> None:
    """Request this signal when the parent dies, if the system allows it."""
    try:
        import ctypes
    except (ImportError, MemoryError):  # some sandboxes forbid its actions on import
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
