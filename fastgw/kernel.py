"""System calls that nothing works without. A container's seccomp profile, or a sandbox, may refuse them.

They are refused to a process for all its life, so they are tried once, before anything is opened.
"""

import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

_REFUSED: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""Errors of a seccomp filter, or of a kernel that has no such call. All else is about this one try."""
_PURPOSES: Final[Mapping[str, str]] = {
    "memfd_create": "for shared memory and for keys that must not be written to disk",
    "eventfd2": "for the event loop of each process",
}


class CallRefused(Exception):
    """The kernel refuses a system call; the text says what it is for, and what to do."""

    def __init__(self, call: str, error: OSError) -> None:
        super().__init__(
            f"the system call {call} is not permitted ({error.strerror}); fastgw needs it {_PURPOSES[call]}. "
            "Allow it in the seccomp profile of the container or in SystemCallFilter= of the unit"
        )


def memory_file(name: str, flags: int = os.MFD_CLOEXEC) -> int:
    """A file in memory, that has no name in any directory: its descriptor. Raises `CallRefused`, and `OSError`."""
    return _call("memfd_create", lambda: os.memfd_create(name, flags))


def verify() -> None:
    """Ask for each of them once. Raises `CallRefused`, and `OSError` if there is no descriptor to be had."""
    for descriptor in (memory_file("fastgw-trial"), _call("eventfd2", lambda: os.eventfd(0, os.EFD_CLOEXEC))):
        os.close(descriptor)


def _call(call: str, ask: Callable[[], int]) -> int:
    try:
        return ask()
    except OSError as error:
        if error.errno in _REFUSED:
            raise CallRefused(call, error) from error
        raise
