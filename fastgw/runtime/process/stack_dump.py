"""The stack of a hanging process: requested by the supervisor, written to stderr by the process."""

import faulthandler
import os
import signal
from contextlib import suppress
from typing import Final

from fastgw.net.openssl import MISSING
from fastgw.operator_log import STDERR

_SIGNAL: Final = signal.SIGUSR2


def register_stack_dump() -> None:
    """Write the stack of the main thread when it is requested, even while no Python code can run.

    The stacks of other threads would be read while they run, which may crash the process.
    """
    faulthandler.register(_SIGNAL, STDERR, all_threads=False)


def request_stack_dump(pid: int) -> None:
    """Request the stack of a child process. If it was stopped, it continues."""
    _signal_main_thread(pid, _SIGNAL)
    os.kill(pid, signal.SIGCONT)


def _signal_main_thread(pid: int, number: int) -> None:
    """Send a signal to the main thread (tgkill(2)); with C libraries without the call, to the process.

    A signal to a stopped process is handled by the thread that continues first.
    """
    with suppress(*MISSING):
        import ctypes  # it allocates memory that a service manager may forbid

        if not ctypes.CDLL(None).tgkill(pid, pid, number):  # the ID of the main thread is that of the process
            return
    os.kill(pid, number)
