"""Runs a command for which the kernel rejects one system call, as a container's seccomp profile does.

python -m tests.support.refusing memfd_create fastgw run
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final

NUMBERS: Final = {
    "x86_64": (0xC000003E, {"memfd_create": 319, "eventfd2": 290, "prlimit64": 302}),
    "aarch64": (0xC00000B7, {"memfd_create": 279, "eventfd2": 19, "prlimit64": 261}),
}
"""`AUDIT_ARCH` and the system call numbers of each machine (linux/audit.h, asm/unistd.h)."""
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # load a 32-bit word, jump if equal, return (linux/bpf_common.h)
NUMBER_AT, MACHINE_AT = 0, 4  # in struct seccomp_data
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2


def refuse(call: str, error: int = errno.EPERM) -> None:
    """Reject the call from now on, for this process and its children. Raises `OSError`."""
    machine, numbers = NUMBERS[platform.machine()]
    steps = [
        (LOAD, 0, 0, MACHINE_AT),
        (EQUAL, 0, 3, machine),
        (LOAD, 0, 0, NUMBER_AT),
        (EQUAL, 0, 1, numbers[call]),
        (RETURN, 0, 0, ERRNO | error),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    for arguments in (
        (SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none),
        (SET_SECCOMP, ctypes.c_ulong(FILTER), program, none, none),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "prctl")


if __name__ == "__main__":
    refuse(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
