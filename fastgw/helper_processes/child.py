"""Main module of a helper process: `python -P -m fastgw.helper_processes.child`, with its socket as standard input.

The process answers one request after the other. Rule 1: it has its limits before the first request. Rule 2: it ends
when its worker closes the socket or dies, also in the middle of a request.
"""

import importlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from msgspec import msgpack

from fastgw.helper_processes.program import FAILED, LENGTH_BYTES, MOST_BYTES, READY, RESULT, Program, Work, frame
from fastgw.helper_processes.turns import in_turns, prepare_turns
from fastgw.kernel import when_alone
from fastgw.operator_log import call_ourselves

_GROUP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a terminal or an init system sends to all processes of the gateway: its worker decides for a helper."""
_TEXT_CHARACTERS: Final = 2000


def main() -> NoReturn:
    """Run the program that the first message describes."""
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    when_alone(signal.SIGKILL)
    connection = socket.socket(fileno=os.dup(0))
    requests = _messages(connection)
    program = msgpack.decode(next(requests), type=Program)
    call_ourselves(f"fastgw {program.name}"[:15])
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to be killed if the machine is out of memory
    try:
        work: Work = importlib.import_module(program.module).start(program.argument)
    except BaseException as error:  # the edge of the process: its worker reports the exception
        connection.sendall(frame(bytes([FAILED]) + _text_of(error)))
        os._exit(1)
    prepare_turns()
    connection.sendall(frame(bytes([READY]) + "; ".join(_limit(program)).encode()))
    for request in requests:
        connection.sendall(_answer(work, request, program.longest_run_s))
    os._exit(0)


def _messages(connection: socket.socket) -> Iterator[bytes]:
    """Yield the messages of the worker until it closes the socket."""
    while head := _receive(connection, LENGTH_BYTES):
        length = int.from_bytes(head, "big")
        message = _receive(connection, length) if length <= MOST_BYTES else None
        if message is None:
            return
        yield message


def _receive(connection: socket.socket, size: int) -> bytes | None:
    """Return this many bytes; None: the worker has closed the socket."""
    received = bytearray()
    while len(received) < size:
        try:
            piece = connection.recv(min(size - len(received), 1 << 20))
        except ConnectionError:
            return None
        if not piece:
            return None
        received += piece
    return bytes(received)


def _answer(work: Work, request: bytes, seconds: float) -> bytes:
    # Of processor time: ends a process that its worker does not kill, because the worker itself has no time.
    signal.setitimer(signal.ITIMER_PROF, 2 * seconds + 1)
    try:
        with in_turns():
            result = work(request)
        return frame(bytes([RESULT]) + result)
    except Exception as error:  # the edge of the process: the request fails, and the process goes on
        return frame(bytes([FAILED]) + _text_of(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _text_of(error: BaseException) -> bytes:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text[:_TEXT_CHARACTERS].encode(errors="replace")


def _limit(program: Program) -> Iterator[str]:
    """Set the limits of this process, and yield those that a sandbox refuses."""
    for name, limit in (
        ("RLIMIT_AS", program.memory_bytes),
        ("RLIMIT_CORE", 0),  # memory contains requests
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", 0),  # open descriptors remain usable
        ("RLIMIT_NPROC", 0),
    ):
        try:
            _lower(getattr(resource, name), limit)
        except (OSError, ValueError) as error:
            yield f"{name}: {error}"
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _lower(limit: int, wanted: int) -> None:
    """Lower a limit, at most to what this process may have already."""
    most = resource.getrlimit(limit)[1]
    value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main()
