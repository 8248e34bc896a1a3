"""The supervisor: opens all sockets, forks the workers and control, replaces those that die, passes signals on.

It has no event loop and no thread: one `poll` over a pipe of signal numbers and the children's channels. Everything is
imported, checked and compiled before it forks, so a child that is forked at any time begins as the first ones did.

A slot without a worker keeps its sockets, and a neighbour adopts them until the next worker is ready: what is queued
there does not wait on a dead process. The same is done for a worker that does not beat (`pulse`); if that lasts, it is
made to write its stack, killed and replaced.

SIGTERM and SIGQUIT drain, then stop; SIGINT stops at once, and so does a second SIGTERM. All end with exit status 0,
for what was asked for was done. SIGUSR1 reopens the logs. SIGHUP and SIGUSR2 change nothing, and say so.
"""

import gc
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import inf
from typing import Final, NoReturn

from fastgw import compiled
from fastgw.admin.metrics import Exposition
from fastgw.compile import Gateway
from fastgw.config.values import Address
from fastgw.node.shared import Shared
from fastgw.observe.sink import why_not
from fastgw.runtime.capacity import file_limit_warning, raise_file_limit
from fastgw.runtime.channel import (
    GENERATION,
    Adopt,
    Channel,
    ChannelClosed,
    Drain,
    Drained,
    Ready,
    Release,
    Reopen,
    Stop,
)
from fastgw.runtime.control import run_control
from fastgw.runtime.notices import described, notice, notice_logs
from fastgw.runtime.pulse import HUNG_S, LOOK_EVERY, SILENT_S, STACK_S
from fastgw.runtime.slots import LOOP_DEATHS, SETTLED, Slot
from fastgw.runtime.sockets import open_endpoints
from fastgw.runtime.words import Words
from fastgw.runtime.worker import FLUSH_S, Listening, run_worker

STOP_GRACE: Final = 2.0
"""Seconds a child may take to stop when it is told to stop now, and beyond the limits of a drain."""
REPEATED: Final = 0.5
"""Seconds after a SIGTERM before another means impatience: some senders signal the process and then its whole group."""
CRASHED: Final = 70
"""Exit status of a child after an error that nobody caught (EX_SOFTWARE of sysexits.h)."""


class CannotStart(Exception):
    """Why the gateway could not start, for the one line the user sees."""


class Phase(Enum):
    STARTING = "not every child has been ready yet; one that dies ends the start"
    SERVING = "a child that dies is replaced"
    DRAINING = "workers finish what is under way"
    STOPPING = "everybody was told to stop now"


@dataclass(frozen=True)
class Bound:
    """Where the gateway listens, once all workers accept."""

    listeners: Mapping[str, Sequence[Address]]
    status: Address | None
    workers: int

    @property
    def urls(self) -> list[str]:
        """`http://127.0.0.1:8080`, `unix:/path`."""
        addresses = [address for each in self.listeners.values() for address in each]
        return [str(address) if address.path else f"http://{address}" for address in addresses]

    def __str__(self) -> str:
        return f"{', '.join(self.urls)} ({self.workers} worker{'s' if self.workers > 1 else ''})"


Work = Callable[[Channel], None]


class Supervisor:
    """Runs a compiled gateway until a signal ends it. Raises `CannotStart` if its memory cannot be had.

    `announce` is called once, when all workers accept. Then `ready_fd`, if given, gets the addresses as a line of JSON
    and is closed. `companions`, by name, are processes that live as long as the gateway: each gets its channel, says
    `Ready`, and returns when told to stop.
    """

    def __init__(
        self,
        gateway: Gateway,
        announce: Callable[[Bound], None],
        ready_fd: int | None = None,
        companions: Mapping[str, Work] = {},
    ) -> None:
        self._gateway = gateway
        self._config = gateway.config
        self._announce = announce
        self._ready_fd = ready_fd
        self._words = Words(gateway)
        self._shared = self._map()
        self._listenings: list[Listening] = []
        self._workers = [Slot(f"worker {index + 1}", index, self._worker(index)) for index in range(gateway.workers)]
        self._companions = [Slot(name, None, work) for name, work in companions.items()]
        self._adopters: dict[int, Slot] = {}  # index of a slot without an able worker -> who accepts for it
        self._phase = Phase.STARTING
        self._selector = selectors.PollSelector()
        self._signals, self._signals_in = socket.socketpair()
        self._actions: Mapping[int, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: self._terminate,
            signal.SIGQUIT: self._terminate,
            signal.SIGINT: self._stop,
            signal.SIGUSR1: self._reopen,
            signal.SIGHUP: lambda: notice("SIGHUP: nothing was read again; restart fastgw to change its configuration"),
            signal.SIGUSR2: lambda: notice("SIGUSR2: nothing was upgraded; restart fastgw to change its version"),
        }
        self._stop_began_at = 0.0
        self._kill_at = inf
        self._looked_at = 0.0  # at the beats
        self._drained = self._cut = 0

    def run(self) -> None:
        """Raises `CannotListen` and `CannotStart`, with everything closed and every child gone."""
        with ExitStack() as opened:
            self._open_sockets(opened)
            self._catch_signals(opened)
            notice_logs()
            gc.collect()
            gc.freeze()  # what is here now stays in pages that the children share
            try:
                for slot in self._slots:
                    self._fork(slot)
                while self._phase in (Phase.STARTING, Phase.SERVING) or any(slot.pid for slot in self._slots):
                    self._turn()
            except CannotStart:
                self._end_all()
                raise
        self._say_stopped()

    @property
    def _slots(self) -> list[Slot]:
        return self._workers + self._companions

    # --- before the children ---

    def _map(self) -> Shared:
        workers, limits = self._gateway.workers, self._config.limits
        try:
            return Shared(self._gateway.layout, workers)
        except (MemoryError, OverflowError, OSError) as error:
            raise CannotStart(
                f"cannot have the shared memory that workers: {workers} and limits.connections: {limits.connections} "
                "need; lower them"
            ) from error

    def _open_sockets(self, opened: ExitStack) -> None:
        for access_log in self._config.access_logs:
            if reason := why_not(access_log.sink):
                raise CannotStart(f"cannot write the access log: {reason}")
        workers = len(self._workers)
        files = raise_file_limit()
        for warning in (file_limit_warning(self._config.limits.connections, workers, files), compiled.warning()):
            if warning is not None:
                notice(f"fastgw: warning: {warning}")
        for listener in self._gateway.listeners:
            endpoints = open_endpoints(listener.address, workers)
            for endpoint in endpoints:
                opened.callback(endpoint.close)
            self._listenings.append(Listening(listener, endpoints))
        self._status: Address | None = None
        if self._config.status is not None:
            endpoint, *_ = open_endpoints(self._config.status.address, 1)
            opened.callback(endpoint.close)
            self._status = endpoint.address
            exposition = Exposition(self._gateway.series, self._shared, self._words, time.time())
            work = partial(run_control, endpoint.of_slot(0), self._is_ready, exposition)
            self._companions.append(Slot("control", None, work))

    def _catch_signals(self, opened: ExitStack) -> None:
        """Each signal becomes a byte in a pipe: none can come between looking and waiting."""
        opened.callback(self._selector.close)
        for end in (self._signals, self._signals_in):
            end.setblocking(False)
            opened.callback(end.close)
        signal.set_wakeup_fd(self._signals_in.fileno(), warn_on_full_buffer=False)
        opened.callback(signal.set_wakeup_fd, -1)
        for number in self._actions:
            signal.signal(number, lambda number, frame: None)
        self._selector.register(self._signals, selectors.EVENT_READ, self._act)

    def _is_ready(self) -> bool:
        """The start is over, the stop has not begun, and a worker accepts. Known to all processes."""
        return self._shared.supervisor.words[self._words.ready] == 1 and self._words.accepting(self._shared) > 0

    # --- the turns of the loop ---

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fd in self._selector.get_map():  # else one before it in this turn has ended it
                key.data()
        now = time.monotonic()
        if self._phase is not Phase.STARTING:
            self._watch(now)
        if self._phase is Phase.SERVING:
            for slot in self._slots:
                if not slot.pid and slot.due_at <= now:
                    self._fork(slot)
        elif now >= self._kill_at:
            self._kill_at = inf
            self._kill()

    def _patience(self) -> float | None:
        """Seconds until something is due by time; None: nothing is."""
        due = [self._kill_at, *(slot.kill_at for slot in self._workers)]
        if self._phase is Phase.SERVING:
            due += [slot.due_at for slot in self._slots if not slot.pid]
        if self._phase is not Phase.STARTING:
            due.append(self._looked_at + LOOK_EVERY)
        first = min(due)
        return None if first == inf else max(0.0, first - time.monotonic())

    def _act(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(4096):
                if action := self._actions.get(number):
                    action()

    # --- children ---

    def _worker(self, index: int) -> Work:
        return partial(run_worker, index, self._gateway, self._shared, self._words, self._listenings)

    def _fork(self, slot: Slot) -> None:
        ours, theirs = Channel.pair()
        # A signal that reached the child before it is itself would be written into the supervisor's pipe.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._actions)
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            slot.empty(time.monotonic())
            self._lost(slot, f"{slot.name} cannot be started: {error.strerror}")
        else:
            if pid == 0:
                ours.close()
                self._become(slot, theirs, unblocked)
            slot.fill(pid, ours, time.monotonic())
            self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, slot, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            theirs.close()

    def _become(self, slot: Slot, channel: Channel, unblocked: set[int | signal.Signals]) -> NoReturn:
        """We are the child: forget what is the supervisor's, work, and exit without coming back."""
        code = CRASHED
        try:
            signal.set_wakeup_fd(-1)
            for number in self._actions:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            self._selector.close()
            self._signals.close()
            self._signals_in.close()
            for other in self._slots:
                if other.channel is not None:
                    other.channel.close()  # else its child would not see that the supervisor is gone
            if self._ready_fd is not None:
                os.close(self._ready_fd)
            slot.work(channel)
            code = 0
        except Exception as error:
            notice(f"{slot.name}: {error if isinstance(error, OSError) else described(error)}")
        finally:
            os._exit(code)

    def _hear(self, slot: Slot, channel: Channel) -> None:
        try:
            while (message := channel.receive()) is not None:
                match message:
                    case Ready():
                        slot.ready = True
                        self._settle()
                    case Drained():
                        self._drained += message.drained
                        self._cut += message.cut
                        slot.kill_at = time.monotonic() + FLUSH_S + STOP_GRACE  # no beats while its logs are written
        except ChannelClosed:
            with suppress(KeyError):
                self._selector.unregister(channel)  # the child is dead or dying: SIGCHLD follows

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                # As process 1 of a container we also inherit children that nobody else waits for: no slot has those.
                for slot in self._slots:
                    if slot.pid == pid:
                        self._died(slot, os.waitstatus_to_exitcode(status))

    def _died(self, slot: Slot, code: int) -> None:
        assert slot.channel is not None
        self._hear(slot, slot.channel)  # its last words
        with suppress(KeyError):
            self._selector.unregister(slot.channel)
        how = f"killed by {_name_of(-code)}" if code < 0 else f"exit status {code}"
        what = f"{slot.child} ended: {how}"
        slot.empty(time.monotonic())
        if slot.index is not None:
            self._shared.supervisor.words[self._words.silent + slot.index] = 0
            self._shared.clear_gauges(slot.index)
        if code and self._phase is Phase.DRAINING:
            notice(what)  # whoever it served was not drained
        self._lost(slot, what)

    def _lost(self, slot: Slot, what: str) -> None:
        """The slot is empty. What follows depends on the phase."""
        match self._phase:
            case Phase.STARTING:
                raise CannotStart(f"could not start: {what}")
            case Phase.SERVING:
                delay = slot.due_at - time.monotonic()
                notice(f"{what}; the next starts " + (f"in {delay:.1f} s" if delay > 0 else "now"))
                if slot.deaths >= LOOP_DEATHS:
                    notice(f"CRASH LOOP: {slot.name} died {slot.deaths} times, never {SETTLED:.0f} s after its start")
                self._shared.supervisor.words[self._words.deaths] += 1
                self._settle()
            case _:
                self._stop_companions()

    def _settle(self) -> None:
        """Let each slot without an able worker be accepted for by one that is; and tell, once, that all are ready."""
        if self._phase is Phase.STARTING and all(slot.ready for slot in self._slots):
            self._begin_serving()
        if self._phase is not Phase.SERVING:
            return
        able = [slot for slot in self._workers if slot.able]
        for index, slot in enumerate(self._workers):
            adopter = self._adopters.get(index)
            if adopter is not None and (slot.able or not adopter.able):
                adopter.send(Release(generation=GENERATION, slot=index))
                del self._adopters[index]
            if able and not slot.able and index not in self._adopters:
                adopter = self._adopters[index] = able[index % len(able)]
                adopter.send(Adopt(generation=GENERATION, slot=index))

    def _begin_serving(self) -> None:
        self._phase = Phase.SERVING
        self._shared.supervisor.words[self._words.ready] = 1
        bound = Bound(
            {each.listener.name: [endpoint.address for endpoint in each.endpoints] for each in self._listenings},
            self._status,
            len(self._workers),
        )
        self._announce(bound)
        if self._ready_fd is not None:
            line = {
                "listeners": {name: [str(address) for address in each] for name, each in bound.listeners.items()},
                "status": None if bound.status is None else str(bound.status),
                "pid": os.getpid(),
            }
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(self._ready_fd, json.dumps(line).encode() + b"\n")
            os.close(self._ready_fd)
            self._ready_fd = None

    # --- workers that hang ---

    def _watch(self, now: float) -> None:
        elapsed = now - self._looked_at
        self._looked_at = now
        for slot, column in zip(self._workers, self._shared.columns, strict=False):  # the last column is our own
            if slot.pid:
                slot.pulse.feel(column.words[self._words.beat], elapsed)
                self._judge(slot, now)

    def _judge(self, slot: Slot, now: float) -> None:
        """What follows from a worker's silence, or from the end of it."""
        serving = self._phase is Phase.SERVING
        if slot.kill_at < inf:
            if now >= slot.kill_at:
                os.kill(slot.pid, signal.SIGKILL)
                slot.kill_at = now + LOOK_EVERY  # not gone by then: it waits for a disk, beyond all signals
        elif serving and not slot.ready:
            pass  # it begins to beat when it is set up, which takes as long as it takes
        elif slot.pulse.silence >= (HUNG_S if serving else SILENT_S):
            self._condemn(slot, now)
        elif serving and slot.silent is not (slot.pulse.silence >= SILENT_S):
            self._hush(slot, not slot.silent)

    def _hush(self, slot: Slot, silent: bool) -> None:
        """Count the worker out, or in again."""
        assert slot.index is not None
        slot.silent = silent
        self._shared.supervisor.words[self._words.silent + slot.index] = silent
        self._settle()
        if not silent:
            notice(f"{slot.child} beats again: it is ready")
        elif adopter := self._adopters.get(slot.index):
            notice(f"{slot.child} has not beaten for {SILENT_S:.0f} s: not ready; {adopter.name} accepts for it")
        else:
            notice(f"{slot.child} has not beaten for {SILENT_S:.0f} s: not ready; nobody is left to accept for it")

    def _condemn(self, slot: Slot, now: float) -> None:
        """It is killed in a moment. Until then it may say where it hangs; if it was stopped, only once it goes on."""
        notice(f"{slot.child} has not beaten for {slot.pulse.silence:.0f} s: it is killed; where it hangs:")
        slot.kill_at = now + STACK_S
        os.kill(slot.pid, signal.SIGUSR2)
        os.kill(slot.pid, signal.SIGCONT)

    # --- the end ---

    def _terminate(self) -> None:
        match self._phase:
            case Phase.STARTING:
                self._stop()
            case Phase.SERVING:
                self._drain()
            case Phase.DRAINING if time.monotonic() - self._stop_began_at >= REPEATED:
                self._stop()

    def _drain(self) -> None:
        drain = self._config.timeouts.drain
        self._begin_end(Phase.DRAINING, max(drain.requests, drain.tunnels) + STOP_GRACE)
        for slot in self._workers:
            slot.send(Drain(generation=GENERATION, requests_s=drain.requests, tunnels_s=drain.tunnels))
        self._stop_companions()

    def _stop(self) -> None:
        self._begin_end(Phase.STOPPING, STOP_GRACE)
        for slot in self._slots:
            slot.send(Stop(generation=GENERATION))

    def _begin_end(self, phase: Phase, within: float) -> None:
        now = time.monotonic()
        self._stop_began_at = self._stop_began_at or now
        self._kill_at = now + within
        self._phase = phase
        self._shared.supervisor.words[self._words.ready] = 0

    def _stop_companions(self) -> None:
        """They are there for the workers, so they go last."""
        if not any(slot.pid for slot in self._workers):
            self._kill_at = time.monotonic() + STOP_GRACE
            for slot in self._companions:
                slot.send(Stop(generation=GENERATION))

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.pid:
                notice(f"{slot.child} did not stop in time and is killed")
                os.kill(slot.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """The start failed: nobody has been served, so nobody is waited for."""
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, signal.SIGKILL)
                os.waitpid(slot.pid, 0)

    def _reopen(self) -> None:
        for slot in self._workers:
            slot.send(Reopen(generation=GENERATION))

    def _say_stopped(self) -> None:
        if self._phase is Phase.STOPPING:
            notice("stopped")
        else:
            took = time.monotonic() - self._stop_began_at
            notice(f"stopped: drained {self._drained} requests in {took:.1f} s, {self._cut} cut")


def _name_of(number: int) -> str:
    """Of a signal; most of the real-time ones have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
