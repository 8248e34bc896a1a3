"""What a hanging or crashed process leaves: its stack on stderr, and no core dump.

The stack of a hanging one is requested by the supervisor.
"""

import faulthandler
import os
import resource
import signal
from contextlib import suppress
from typing import Final

from fastgw.net.openssl import MISSING
from fastgw.operator_log import STDERR

_SIGNAL: Final = signal.SIGUSR2


def forbid_core_dumps() -> None:
    """Let this process and its children leave no core dump, which would contain keys and bodies.

    An operator may allow them to a running process: `prlimit --core=unlimited --pid PID`.
    """
    with suppress(OSError, ValueError):  # a seccomp profile may refuse it
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


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
