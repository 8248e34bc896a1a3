"""Runs a program as confined as a systemd unit says, without systemd: `python confinement.py UNIT PROGRAM ARGUMENT...`

By a filter of system calls (seccomp(2)), like those of systemd for `SystemCallFilter`, `MemoryDenyWriteExecute` and
`RestrictAddressFamilies`. What the sets of system calls contain is asked of systemd-analyze, their numbers of gcc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
PROT_WRITE, PROT_EXEC = 2, 4
NUMBER, FIRST_ARGUMENT, THIRD_ARGUMENT = 0, 16, 32  # offsets in struct seccomp_data, little-endian
ALLOW, REFUSE = 0x7FFF0000, 0x00050000

Instruction = tuple[int, int, int, int]
"""Of the Berkeley packet filter: code, jumps if true and if false, operand."""


def load(offset: int) -> Instruction:
    return 0x20, 0, 0, offset


def keep_bits(bits: int) -> Instruction:
    return 0x54, 0, 0, bits


def unless(operand: int, skipped: int) -> Instruction:
    """Skip so many instructions unless what was loaded equals the operand."""
    return 0x15, 0, skipped, operand


def end(verdict: int) -> Instruction:
    return 0x06, 0, 0, verdict


def settings(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", Path(unit).read_text(), re.MULTILINE)


def printed(*command: str, told: str = "") -> str:
    return subprocess.run(command, input=told, capture_output=True, text=True, check=True, timeout=30).stdout


def system_calls(unit: str) -> set[str]:
    """Names of those that the unit allows."""
    sets: dict[str, list[str]] = {}
    for name, body in re.findall(
        r"^(@[\w-]+)\n((?: .*\n)+)", printed("systemd-analyze", "syscall-filter"), re.MULTILINE
    ):
        sets[name] = re.findall(r"^ +([@\w-]+)$", body, re.MULTILINE)

    def members(names: Iterable[str]) -> set[str]:
        return {each for name in names for each in (members(sets[name]) if name in sets else [name])}

    allowed = members(["@default"])
    for value in settings(unit, "SystemCallFilter"):
        named = members(value.removeprefix("~").split())
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def numbers() -> dict[str, int]:
    defined = printed("gcc", "-E", "-dM", "-", told="#include <sys/syscall.h>")
    return {name: int(number) for name, number in re.findall(r"^#define __NR_(\w+) (\d+)$", defined, re.MULTILINE)}


def program(unit: str) -> list[Instruction]:
    number = numbers()
    families = [getattr(socket, each) for value in settings(unit, "RestrictAddressFamilies") for each in value.split()]
    special = {"socket": [load(FIRST_ARGUMENT)]}
    for family in families:
        special["socket"] += [unless(family, 1), end(ALLOW)]
    special["socket"].append(end(REFUSE | errno.EAFNOSUPPORT))
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        for name, bits in (("mmap", PROT_WRITE | PROT_EXEC), ("mprotect", PROT_EXEC)):
            refused = [unless(bits, 1), end(REFUSE | errno.EPERM), end(ALLOW)]
            special[name] = [load(THIRD_ARGUMENT), keep_bits(bits), *refused]
    made = [load(NUMBER)]
    for name in sorted(system_calls(unit) & set(number)):
        decided = special.get(name, [end(ALLOW)])
        made += [unless(number[name], len(decided)), *decided]
    return [*made, end(REFUSE | errno.EPERM)]


def confine(unit: str) -> None:
    """From now on, this process and all that it becomes or begets. Raises `OSError`."""
    instructions = program(unit)
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for order in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0)):
        if libc.prctl(*order):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    confine(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])
