"""A process that has imported fastgw, and forks for each command that a test runs: `tests.support.forked` asks it to.

A program of its own: the processes that it forks shall have nothing of the tests. The forked process is a child of the
one that asked, has its environment, directory, limits and descriptors, and runs the command to its end as if it had
been started by exec.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import io
import marshal
import os
import platform
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn, TextIO

# <linux/sched.h>, <linux/prctl.h>, and the number of clone(2) on the machines that the tests run on.
CLONE_PARENT = 0x00008000  # a child of the process that has asked, which waits for it
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
PR_GET_TID_ADDRESS = 40
NUMBERS = {"x86_64": 56, "aarch64": 220}

SPACE = 16_384
"""Bytes of the server's last argument, in whose place the command line of a forked process is written."""
HEADER = 8  # bytes with the length of what follows
MOST_DESCRIPTORS = 64

libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def warm_up() -> None:
    """Import what nearly every command imports by itself, and no more."""
    import fastgw.cli
    import fastgw.runtime.run  # noqa: F401  # for what is imported

    # What is there stays, in the forked ones as well: pages that no collection writes to are shared.
    gc.collect()
    gc.freeze()


def thread_address() -> int:
    """Return where the C library keeps this thread's number: a fork has to write its own there."""
    address = ctypes.c_ulong()
    if libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_GET_TID_ADDRESS is needed, to fork for another process")
    return address.value


def fork_for_parent(tid: int) -> int:
    """Fork as `os.fork` does, but make it a child of the parent. `tid`: `thread_address()`."""
    flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | signal.SIGCHLD
    machine = platform.machine()
    last = (0, tid) if machine == "aarch64" else (tid, 0)
    words = [ctypes.c_long(each) for each in (NUMBERS[machine], flags, 0, 0, *last)]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(libc.syscall(*words))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def place(received: list[int], wanted: list[int]) -> None:
    """Move the received descriptors to the numbers that are wanted, and close all others."""
    above = max([*wanted, *received]) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in received]
    for each, number in zip(moved, wanted, strict=True):
        os.dup2(each, number)
    for each in {*map(int, os.listdir("/proc/self/fd"))} - {*wanted}:
        try:
            os.close(each)
        except OSError:
            assert each not in moved  # it was that of the listing


def show_arguments(words: list[str]) -> None:
    """Overwrite the command line that other processes see. It is as long as the server's own; null bytes follow."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    first, end = map(int, fields[45:47])  # arg_start and arg_end of proc(5)
    told = b"".join(os.fsencode(each) + b"\0" for each in words)
    assert len(told) < end - first, f"a longer command line than {SPACE} bytes"
    ctypes.memmove(first, told.ljust(end - first, b"\0"), end - first)


def opened(number: int, mode: str, like: TextIO) -> TextIO:
    """Return a standard stream as Python opens it when it starts. `like`: the server's own."""
    written_at_once = isinstance(like, io.TextIOWrapper) and like.write_through
    raw = open(number, f"{mode}b", buffering=0 if written_at_once else -1, closefd=False)  # noqa: SIM115  # it stays
    return io.TextIOWrapper(
        raw,
        encoding=like.encoding,
        errors=like.errors,
        newline=None if mode == "r" else "\n",
        line_buffering=number == 2 or raw.isatty(),
        write_through=written_at_once,
    )


def import_from(path: str, before: str) -> None:
    """Search `path` for what is not imported yet, where a new program would. `before`: the server's own PYTHONPATH."""
    own = before.split(os.pathsep)
    sys.path[1:] = [path, *(each for each in sys.path[1:] if each not in own)]
    package = Path(path, "fastgw")
    if package.is_dir():
        (imported,) = sys.modules["fastgw"].__path__
        for name, module in [*sys.modules.items()]:
            if name.partition(".")[0] == "fastgw" and hasattr(module, "__path__"):
                module.__path__[:] = [each.replace(imported, str(package), 1) for each in module.__path__]


def become(asked: dict[str, Any], received: list[int]) -> None:
    """Make this process what an exec of the command by the one that asks would have made."""
    place(received, asked["descriptors"])
    os.chdir(asked["directory"])
    environment: dict[bytes, bytes] = asked["environment"]
    if (path := environment.get(b"PYTHONPATH", b"")) != (before := os.environb.get(b"PYTHONPATH", b"")):
        import_from(os.fsdecode(path), os.fsdecode(before))
    for name in [*os.environb]:
        if name not in environment:
            del os.environb[name]
    os.environb.update(environment)
    for each, limits in asked["limits"].items():
        if resource.getrlimit(each) != limits:
            resource.setrlimit(each, limits)
    os.umask(asked["umask"])
    if os.sched_getaffinity(0) != asked["processors"]:
        os.sched_setaffinity(0, asked["processors"])
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])
    if asked["group"] is not None:
        os.setpgid(0, asked["group"])
    if asked["session"]:
        os.setsid()
    sys.argv[:] = asked["arguments"]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    Path("/proc/self/comm").write_text(Path(sys.argv[0]).name)
    show_arguments(sys.orig_argv)
    sys.stdin = sys.__stdin__ = opened(0, "r", sys.stdin)
    sys.stdout = sys.__stdout__ = opened(1, "w", sys.stdout)
    sys.stderr = sys.__stderr__ = opened(2, "w", sys.stderr)


def serve(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request, and return it in the forked process. The server ends with the process that asks."""
    tid = thread_address()
    while True:
        header, received, *_ = socket.recv_fds(channel, HEADER, MOST_DESCRIPTORS)
        if not header:
            os._exit(0)
        header += channel.recv(HEADER - len(header), socket.MSG_WAITALL)
        told = channel.recv(int.from_bytes(header, "little"), socket.MSG_WAITALL)
        pid = fork_for_parent(tid)
        if pid == 0:
            return marshal.loads(told), received
        for each in received:
            os.close(each)
        channel.sendall(pid.to_bytes(HEADER, "little"))


def main() -> NoReturn:
    channel = socket.socket(fileno=int(sys.argv[1]))
    warm_up()
    asked, received = serve(channel)
    channel.detach()  # closed with all that the command shall not have
    become(asked, received)
    from fastgw.cli import main

    sys.exit(main())


if __name__ == "__main__":
    main()
