"""Bounded child: runs work in a child process with limits on time and memory, such as checks of documents from the
admin API.

Control forks it as it is, so a small document costs a few milliseconds and is checked against the active configuration.
If a thread of control holds a lock of a C library at the fork, it stays locked in the child; the time limit ends that
too. The child first closes all descriptors except the standard ones and its end of a pipe, so it holds no listening
socket, connection or channel.
"""

import asyncio
import os
import resource
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final, NoReturn

from msgspec import Struct

from fastgw.kernel import when_alone
from fastgw.operator_log import call_ourselves
from fastgw.runtime.process.signals import outcome

NAME: Final = "fastgw check"
"""Name of the child process."""
NO_MEMORY: Final = 75
"""Exit status of a child that has exceeded its memory limit (EX_TEMPFAIL of sysexits.h)."""
CRASHED: Final = 70
CLOCK_FACTOR: Final = 4
GRACE_S: Final = 2.0
"""Seconds that a child has to end by itself after its time limit."""
REAP_S: Final = 0.002
"""Seconds between two checks whether a child that has closed its pipe has ended."""
READ_BYTES: Final = 256 * 1024
_OVER: Final = (signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU)


class Bounds(Struct, frozen=True):
    """Limits. `seconds`: CPU time; `bytes`: memory beyond that of control."""

    seconds: float
    bytes: int

    @property
    def clock_s(self) -> float:
        """Limit of the elapsed time in seconds: the child may wait for the CPU, or for something else forever."""
        return self.seconds * CLOCK_FACTOR


class OutOfTime(Exception):
    """The time limit was exceeded."""


class OutOfMemory(Exception):
    """The memory limit was exceeded."""


class Died(Exception):
    """The child has sent no result without exceeding a limit. The text says how it has ended."""


class BoundedCheck:
    """A child that runs `work` and sends its result; a `MemoryError` is reported as exceeded memory.

    Fork on the loop's thread, while no other thread uses state that `work` needs. Raises `OSError`.
    """

    def __init__(self, work: Callable[[], bytes], bounds: Bounds) -> None:
        self._bounds = bounds
        self._status: int | None = None
        self._result = bytearray()
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(self._reader, False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about forks with threads: see above
                self.pid = os.fork()
            if self.pid == 0:
                _run_child(work, bounds, writer)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def __repr__(self) -> str:
        return f"<BoundedCheck pid={self.pid} status={self._status}>"

    async def result(self) -> bytes:
        """Return the result of the work. Raises `OutOfTime`, `OutOfMemory` or `Died`. Cancellation kills the child."""
        late = False
        try:
            try:
                async with asyncio.timeout(self._bounds.clock_s + GRACE_S):
                    await self._read()
                    await self._reaped()
            except TimeoutError:
                late = True
                os.kill(self.pid, signal.SIGKILL)
                await self._reaped()
        finally:
            os.close(self._reader)
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)
                self._status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self._status)
        if late or -code in _OVER:
            raise OutOfTime
        if code == NO_MEMORY:
            raise OutOfMemory
        if code:
            raise Died(outcome(code))
        return bytes(self._result)

    async def _read(self) -> None:
        """Read until the child closes its end."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                piece = os.read(self._reader, READ_BYTES)
            except BlockingIOError:
                return
            self._result += piece
            if not piece:
                loop.remove_reader(self._reader)
                ended.set_result(None)

        loop.add_reader(self._reader, read)
        try:
            await ended
        finally:
            loop.remove_reader(self._reader)

    async def _reaped(self) -> None:
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
                return
            await asyncio.sleep(REAP_S)


def _run_child(work: Callable[[], bytes], bounds: Bounds, pipe: int) -> NoReturn:
    """Run the work in the child process."""
    code = CRASHED
    try:
        signal.set_wakeup_fd(-1)  # otherwise control's loop would receive our signals
        os.closerange(3, pipe)
        os.closerange(pipe + 1, _most_descriptors())
        when_alone(signal.SIGKILL)
        call_ourselves(NAME)  # the child never outlives control
        _bind(bounds)
        result = memoryview(work())
        while result:
            result = result[os.write(pipe, result) :]
        code = 0
    except MemoryError:
        code = NO_MEMORY
    finally:
        os._exit(code)


def _most_descriptors() -> int:
    return max(int(each) for each in os.listdir("/proc/self/fd")) + 1


def _bind(bounds: Bounds) -> None:
    """Set the limits in the child, so that they apply without control."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to be killed if the machine is out of memory
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # memory contains secrets
    for number in _OVER:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OVER)
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)
    signal.setitimer(signal.ITIMER_REAL, bounds.clock_s)
    seconds = ceil(bounds.seconds) + 1  # rounded up: threads of an extension may delay the signal
    _lower(resource.RLIMIT_CPU, seconds, seconds + 1)
    in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _lower(resource.RLIMIT_DATA, in_use + bounds.bytes, in_use + bounds.bytes)


def _lower(limit: int, soft: int, hard: int) -> None:
    """Lower a limit, at most to what this process may have already."""
    most = resource.getrlimit(limit)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(limit, (soft, hard))
