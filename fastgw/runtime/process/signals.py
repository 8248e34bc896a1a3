"""Signals as bytes in a pipe: none can be missed between a check and a wait."""

import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

AT_START: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals for a gateway that runs. Others end one that is starting, which is what their senders want."""


def hold_signals_of_start() -> None:
    """Block the signals for a running gateway until `Signals.catch`: by default they would end a starting one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AT_START)


class Signals:
    """Catches some signals. `fileno` is readable while there are signals to read."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._out, self._in = socket.socketpair()
        for end in (self._out, self._in):
            end.setblocking(False)

    def fileno(self) -> int:
        return self._out.fileno()

    def catch(self) -> None:
        """Catch signals from now on. Signals that are pending because they were blocked, during a start or an
        upgrade, are delivered now.
        """
        signal.set_wakeup_fd(self._in.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    @property
    def some_wait(self) -> bool:
        """Whether there are signals to read. If the program is replaced now they are lost; signals that arrive while
        they are blocked reach the next program."""
        try:
            return bool(self._out.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def read_pending(self) -> bytes:
        """Return the numbers of the received signals in order."""
        with suppress(BlockingIOError):
            return self._out.recv(4096)
        return b""

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Block signals until the end of the block, here and in a child that is forked in it."""
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    def close(self) -> None:
        """Ignore further signals: they must not change how the process ends."""
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        self._out.close()
        self._in.close()

    def forget(self) -> None:
        """Restore the default handling in a child, which was forked while signals were blocked: they are for its
        parent.
        """
        self.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)


def name_of(number: int) -> str:
    """Return the name of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def outcome(code: int) -> str:
    """Describe how a process ended, from the result of `os.waitstatus_to_exitcode`."""
    return f"killed by {name_of(-code)}" if code < 0 else f"exit status {code}"
