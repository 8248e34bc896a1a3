"""System calls that a seccomp profile of a container, or a sandbox, may refuse.

Such a refusal lasts for the life of a process, so the required ones are tried once, before anything is opened.
"""

import errno
import os
import struct
from collections.abc import Callable, Mapping
from typing import Final

_REFUSED: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
"""Errors of a seccomp filter, or of a kernel without the system call. Others are temporary."""
_PURPOSES: Final[Mapping[str, str]] = {
    "memfd_create": "for shared memory and for keys that must not be written to disk",
    "eventfd2": "for the event loop of each process",
}


_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr` of sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period. The runtime
of SCHED_OTHER is the time slice in ns."""
_SCHED_OTHER: Final = 0
_SCHED_FLAG_RESET_ON_FORK: Final = 1
_SCHED_CALLS: Final = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr, for which there is no function before glibc 2.41."""
_SHORTEST_SLICE_NS: Final = 100_000
"""The least that the kernel takes."""


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


def run_when_woken() -> bool:
    """Let this thread run as soon as it is woken, although another one, such as that of a helper process, has the
    processor and has not used up its time slice.

    It asks for the shortest slices, which do not change its share of the processor (Linux 6.12; older kernels ignore
    it). Threads and processes that it starts have usual slices. If a user has chosen another policy or a negative nice
    value, everything is left as it is. Returns whether it has them.
    """
    # PERF: half of the median latency, three quarters of the 99th percentile, with a load average of 17 on 2 cores
    # (Linux 6.18; tuning.md).
    try:
        import ctypes
    except (ImportError, MemoryError):  # as in `when_alone`
        return False
    if (calls := _SCHED_CALLS.get(os.uname().machine)) is None:
        return False
    system_call = ctypes.CDLL(None).syscall
    attributes = ctypes.create_string_buffer(_SCHED_ATTR.size)
    if system_call(calls[1], 0, attributes, _SCHED_ATTR.size, 0):
        return False
    _, policy, flags, nice, *_ = _SCHED_ATTR.unpack(attributes.raw)
    if policy == _SCHED_OTHER and nice >= 0:
        flags |= _SCHED_FLAG_RESET_ON_FORK  # it would take a negative nice value from threads and helper processes
        wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, flags, nice, 0, _SHORTEST_SLICE_NS, 0, 0)
        system_call(calls[0], 0, wanted, 0)
    if system_call(calls[1], 0, attributes, _SCHED_ATTR.size, 0):
        return False
    _, policy, _, _, _, slice_ns, *_ = _SCHED_ATTR.unpack(attributes.raw)
    return (policy, slice_ns) == (_SCHED_OTHER, _SHORTEST_SLICE_NS)
