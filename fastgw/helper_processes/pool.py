"""Pool of helper processes of one worker.

Rule 1: nothing here waits, except the start of a process for its exec. Rule 2: each process has at most one request.
Rule 3: a caller always gets a result or a `HelperError`, at the latest after its deadline. A process that has ended or
was killed is replaced, with an increasing delay as long as none answers. The request that it was working on fails, and
is not tried again: it may be the reason. Requests in the queue wait for the next process, unless none can be started:
a process that is killed from outside while it starts says nothing about the next one, unless many in a row are
(`MOST_KILLS`); any other that ends does.
"""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, final

from msgspec import msgpack

from fastgw.helper_processes.program import FAILED, LENGTH_BYTES, MOST_BYTES, READY, Program, frame
from fastgw.operator_events import OperatorEvent, log_event

READ_BYTES: Final = 256 * 1024
COMMAND: Final = (sys.executable, "-P", "-B", "-m", "fastgw.helper_processes.child")
FIRST_DELAY_S: Final = 0.1
MOST_DELAY_S: Final = 30.0
ROOM_AFTER_S: Final = 0.02
"""Seconds after which the descriptors of closed connections are free: uvloop closes them in a later turn of the event
loop, behind the timers that are due in it.
"""
REAP_S: Final = 0.005
"""Seconds until the first check whether a killed process has ended; doubled up to `MOST_REAP_S`."""
MOST_REAP_S: Final = 1.0
FIRST_LOOK_S: Final = 0.001
"""Seconds until a process that has closed its socket is looked at again; doubled until it has ended. The system closes
the sockets of a process before its status can be read.
"""
MOST_LOOK_S: Final = 0.1
MOST_KILLS: Final = 3
"""Attempts in a row, each with all processes, in which they are killed while they start, until this counts as a failure
to start: a limit of memory that is too low for the program kills each.
"""
_KILLED: Final = frozenset((-signal.SIGKILL, -signal.SIGTERM))
"""Return codes of processes that were killed from outside, such as by the kernel that is out of memory."""


class HelperError(Exception):
    """A request was not answered."""


class HelperBusy(HelperError):
    """The queue is full, no process can be started, or none starts before the deadline."""


class HelperLate(HelperError):
    """The deadline has passed."""


class HelperDied(HelperError):
    """The process has ended, or was killed, before it had answered."""


class HelperFailed(HelperError):
    """The program has raised an exception for this request; the text describes it."""


class _Process(subprocess.Popen[bytes]):
    """A process that may still be ending when its loop is closed: it was killed, and the system reaps it."""

    def __del__(self) -> None:
        super().__del__(_warn=lambda *args, **options: None)  # type: ignore[call-arg]  # not in typeshed


class _State(Enum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"
    """The process has closed its socket, and its status is not known yet."""
    ENDED = "ended"


@final
class _Job:
    """A request and the future of its caller. The future gets a `HelperError` as its result: it is still held when the
    caller has left, and the traceback of an exception would hold the caller's frames, and the body in them.
    """

    __slots__ = ("longest_run_s", "message", "result")

    def __init__(self, message: bytes, result: "asyncio.Future[bytes | HelperError]", longest_run_s: float) -> None:
        self.message, self.result, self.longest_run_s = message, result, longest_run_s

    def fail(self, error: HelperError) -> None:
        if not self.result.done():
            self.result.set_result(error)


def nothing_to_close() -> bool:
    return False


class HelperPool:
    """The processes of a program. `start` starts them, `close` kills them; both in the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        program: Program,
        make_room: Callable[[], bool] = nothing_to_close,
    ) -> None:
        """`make_room`: called if no descriptors are left for a process; True: some are free `ROOM_AFTER_S` later."""
        self._make_room = make_room
        self.program = program
        self.started: asyncio.Future[None] = loop.create_future()
        """Done once all first processes are ready, or one of them has ended."""
        self._loop = loop
        self._helpers: set[_Helper] = set()
        self._idle: list[_Helper] = []
        self._waiting: deque[_Job] = deque()
        self._open = False
        self._was_ready = False
        self._can_start = True  # the last process has started, or is starting
        self._failures = 0  # processes that have ended since one has answered
        self._kills = 0  # processes that were killed while they started since one was ready
        self._restarts: set[asyncio.TimerHandle] = set()
        self._ending: set[_Process] = set()

    def __repr__(self) -> str:
        states = " ".join(sorted(helper.state.value for helper in self._helpers)) or "no process"
        return f"<HelperPool {self.program.name}: {states}, {len(self._waiting)} waiting>"

    @property
    def pids(self) -> list[int]:
        return [helper.pid for helper in self._helpers]

    @property
    def ready(self) -> int:
        """Number of processes that answer requests."""
        return sum(helper.state in (_State.IDLE, _State.BUSY) for helper in self._helpers)

    def start(self) -> None:
        self._open = True
        for _ in range(self.program.processes):
            self._start_one()

    async def run_request(self, request: bytes, deadline_s: float | None = None) -> bytes:
        """Return the result for a request. `deadline_s`: instead of the program's, also as the time of its run, unless
        the program has `kill_after_s`. Raises `HelperError`, and `ValueError` for a request of more than `MOST_BYTES`.
        Requests before the first process is ready wait for it.

        Cancellation is safe: the process completes the request, and the result is discarded.
        """
        seconds = self.program.deadline_s if deadline_s is None else deadline_s
        longest_run_s = seconds if self.program.kill_after_s is None else self.program.kill_after_s
        if not self._was_ready:
            seconds += self.program.start_s
        job = _Job(frame(request), self._loop.create_future(), longest_run_s)
        if self._idle:
            self._idle.pop().run(job)
        elif not self._helpers and not (self._restarts and self._can_start):
            raise HelperBusy("there is no process, and none could be started")
        elif not self._helpers and self._next_start_at() - self._loop.time() > seconds:
            raise HelperBusy(f"there is no process, and none starts within {seconds:g} s")
        elif len(self._waiting) >= self.program.queue:
            raise HelperBusy(f"{len(self._waiting)} requests are waiting for {len(self._helpers)} processes")
        else:
            self._waiting.append(job)
        timer = self._loop.call_later(seconds, job.fail, HelperLate(f"no result after {seconds:g} s"))
        try:
            result = await job.result
        finally:
            timer.cancel()
            with suppress(ValueError):
                self._waiting.remove(job)  # late or cancelled in the queue
        if isinstance(result, bytes):
            return result
        raise type(result)(str(result))  # not itself: see `_Job`

    def _next_start_at(self) -> float:
        return min(timer.when() for timer in self._restarts)

    def close(self) -> None:
        """Kill the processes. Requests that wait fail."""
        self._open = False
        for timer in self._restarts:
            timer.cancel()
        self._restarts.clear()
        for helper in tuple(self._helpers):
            helper.end("was stopped")
        self._fail_waiting(HelperDied, "was stopped")
        self._has_started()

    async def ended(self) -> None:
        """Wait until all killed processes have ended."""
        while self._ending:
            await asyncio.sleep(REAP_S)

    # called by helpers

    def reap(self, process: _Process, delay: float) -> None:
        """Wait for the end of a killed process in steps; a worker that stops leaves it to the system."""
        self._ending.add(process)
        if process.poll() is not None:
            self._ending.discard(process)
        else:
            self._loop.call_later(delay, self.reap, process, min(2 * delay, MOST_REAP_S))

    def became_idle(self, helper: "_Helper", answered: bool) -> None:
        self._was_ready = self._can_start = True
        self._kills = 0
        if not self.started.done() and self.ready == self.program.processes:
            self._has_started()
        if answered and self._failures:
            self._failures = 0
            log_event(OperatorEvent.HELPER_BACK, "helper process %s answers again", self.program.name)
        while self._waiting:
            job = self._waiting.popleft()
            if not job.result.done():  # its caller still waits
                helper.run(job)
                return
        self._idle.append(helper)

    def is_ending(self, helper: "_Helper") -> None:
        """Give no requests to this process."""
        if helper in self._idle:
            self._idle.remove(helper)

    def has_ended(self, helper: "_Helper", why: str, was_ready: bool, was_killed: bool) -> None:
        """`was_ready`: this one could start, so the next one probably can. `was_killed`: from outside."""
        self._helpers.discard(helper)
        self.is_ending(helper)
        if not self._open:
            return
        self._has_started()
        delay = min(FIRST_DELAY_S * 2**self._failures, MOST_DELAY_S)
        self._failures = min(self._failures + 1, 20)
        log_event(
            OperatorEvent.HELPER_ENDED,
            "helper process %s (pid %d) %s; another one starts in %.1f s",
            self.program.name,
            helper.pid,
            why,
            delay,
        )
        if not was_ready:
            self._kills += was_killed
            if not was_killed or self._kills >= MOST_KILLS * self.program.processes:
                self._cannot_start(why)
        self._start_later(delay)

    def _cannot_start(self, why: str) -> None:
        self._can_start = False
        if not self._helpers:
            self._fail_waiting(HelperBusy, why)

    def _has_started(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _fail_waiting(self, error: type[HelperError], why: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.fail(error(f"the helper process {why}"))

    def _start_later(self, delay: float, *, again: bool = False) -> None:
        def start() -> None:
            self._restarts.discard(timer)
            self._start_one(again=again)

        timer = self._loop.call_later(delay, start)
        self._restarts.add(timer)

    def _start_one(self, *, again: bool = False) -> None:
        try:
            self._helpers.add(_Helper(self._loop, self))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not again and self._make_room():
                self._start_later(ROOM_AFTER_S, again=True)
                return
            self._has_started()
            delay = min(FIRST_DELAY_S * 2**self._failures, MOST_DELAY_S)
            self._failures = min(self._failures + 1, 20)
            log_event(
                OperatorEvent.HELPER_ENDED,
                "helper process %s cannot be started: %s; another attempt in %.1f s",
                self.program.name,
                error.strerror or error,
                delay,
            )
            self._cannot_start(f"cannot be started: {error.strerror or error}")
            self._start_later(delay)


@final
class _Helper:
    """One process and its socket. Raises `OSError` if it cannot be started."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: HelperPool) -> None:
        self._loop, self._pool = loop, pool
        self.state = _State.STARTING
        self._was_ready = False
        self._job: _Job | None = None
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._timer: asyncio.TimerHandle | None = None
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            self._process = _start_process(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self.pid = self._process.pid
        loop.add_reader(ours.fileno(), self._readable)
        self._limit_time(pool.program.start_s, "was not ready in time")
        self._send(frame(msgpack.encode(pool.program)))

    def __repr__(self) -> str:
        return f"<_Helper pid={self.pid} {self.state.value}>"

    def run(self, job: _Job) -> None:
        self._job, self.state = job, _State.BUSY
        self._limit_time(job.longest_run_s, "took too long for a request")
        self._send(job.message)

    def end(self, why: str, was_killed: bool = False) -> None:
        """Kill the process, and fail its request. `why`: what it did, or what was done to it, after "the process"."""
        if self.state is _State.ENDED:
            return
        self.state = _State.ENDED
        if self._timer is not None:
            self._timer.cancel()
        self._close_socket()
        with suppress(OSError):
            self._process.kill()
        self._pool.reap(self._process, REAP_S)
        job, self._job = self._job, None
        if job is not None:
            job.fail(HelperDied(f"the helper process {why}"))
        self._pool.has_ended(self, why, self._was_ready, was_killed)

    def _end_as_closed(self) -> None:
        """End, because the process has closed its socket, once its status is known."""
        if self.state in (_State.ENDING, _State.ENDED):
            return
        self.state = _State.ENDING
        self._pool.is_ending(self)
        self._close_socket()
        self._find_status(FIRST_LOOK_S)

    def _find_status(self, delay: float) -> None:
        """End with the status of the process, or look again after `delay`."""
        code = self._process.poll()
        if code is None and delay <= MOST_LOOK_S:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(delay, self._find_status, 2 * delay)
        elif code is None:
            self.end("has closed its socket")
        else:
            self.end(f"was killed by signal {-code}" if code < 0 else f"has ended with status {code}", code in _KILLED)

    def _close_socket(self) -> None:
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            self._socket.close()

    def _limit_time(self, seconds: float, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.end, why)

    def _send(self, message: bytes) -> None:
        self._unsent = memoryview(message)
        self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._write)
            return
        except OSError:
            self._loop.call_soon(self._end_as_closed)
        self._unsent = memoryview(b"")  # it refers to the message
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            piece = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._end_as_closed()
            return
        self._received += piece
        if len(self._received) < LENGTH_BYTES:
            return
        length = int.from_bytes(self._received[:LENGTH_BYTES], "big")
        end = LENGTH_BYTES + length
        if not 0 < length <= MOST_BYTES + 1 or len(self._received) > end:
            self.end("has sent an invalid message")
        elif len(self._received) == end:
            kind = self._received[LENGTH_BYTES]
            with memoryview(self._received) as received:  # one copy: a result may have 32 MiB
                message = bytes(received[LENGTH_BYTES + 1 :])
            self._received = bytearray()
            self._handle(kind, message)

    def _handle(self, kind: int, message: bytes) -> None:
        job, self._job = self._job, None
        if self.state is _State.STARTING:
            text = message.decode(errors="replace")
            if kind != READY:
                self.end(f"cannot start: {text}")
                return
            if text:
                log_event(
                    OperatorEvent.HELPER_UNLIMITED,
                    "helper process %s runs without some of its limits: %s",
                    self._pool.program.name,
                    text,
                )
        elif job is None:
            self.end("has sent a result without a request")
            return
        elif kind == FAILED:
            job.fail(HelperFailed(message.decode(errors="replace")))
        elif not job.result.done():
            job.result.set_result(message)
        assert self._timer is not None
        self._timer.cancel()
        self.state, self._was_ready = _State.IDLE, True
        self._pool.became_idle(self, answered=job is not None)


def try_program(program: Program) -> str:
    """Start a process of the program, and return why it cannot start; "": it can. Waits up to `Program.start_s`, so it
    is not for workers.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = _start_process(theirs)
        try:
            ours.settimeout(program.start_s)
            ours.sendall(frame(msgpack.encode(program)))
            with ours.makefile("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "big")
                message = file.read(length)
        except OSError as error:
            return f"the process has not started: {error}"
        finally:
            process.kill()
            process.wait()
    if message[:1] == bytes([READY]):
        return ""
    return message[1:].decode(errors="replace") or "the process has ended without a message"


def _paths() -> dict[str, str]:
    """Return the variable by which Python finds packages that are not installed for it (`pip install --target`)."""
    folders = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    absolute = [os.path.abspath(folder) for folder in folders.split(os.pathsep) if folder]  # it runs in another folder
    return {"PYTHONPATH": os.pathsep.join(absolute)} if absolute else {}


def _start_process(standard_input: socket.socket) -> _Process:
    """Start a helper process with nothing of this one but the folders of packages. Raises `OSError`."""
    return _Process(
        COMMAND,
        stdin=standard_input.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_paths(),
        cwd="/",
        close_fds=True,
    )
