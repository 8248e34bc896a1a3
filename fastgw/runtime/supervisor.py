"""The supervisor: opens all sockets, forks the workers and control, replaces those that die, passes signals on.

It has no event loop and no thread: one `poll` over a pipe of signal numbers and the children's channels. Everything is
imported, checked and compiled before it forks, so a child that is forked at any time begins as the first ones did.

A slot without an able worker keeps its sockets, and a neighbour adopts them (`adoption`). A worker that does not beat
is counted out, and replaced if that lasts (`hanging`). A new configuration goes through here to all workers
(`reloading`); one worker follows another without a gap (`succession`), and one program another (`upgrade`).

SIGTERM and SIGQUIT drain, then stop; SIGINT stops at once, and so does a second SIGTERM. All end with exit status 0,
for what was asked for was done. SIGHUP reads the configuration again, SIGUSR1 reopens the logs, SIGUSR2 upgrades.
"""

import gc
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from enum import Enum
from functools import partial
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

from fastgw import VERSION
from fastgw.runtime.adoption import Adoption
from fastgw.runtime.bound import Bound, tell_ready
from fastgw.runtime.channel import (
    AnyMessage,
    Channel,
    ChannelClosed,
    Columns,
    Committed,
    Drain,
    DrainAll,
    Drained,
    Outcome,
    Prepared,
    Propose,
    Ready,
    Refused,
    Rejected,
    Reload,
    Reopen,
    Stop,
    Watch,
)
from fastgw.runtime.commons import Commons
from fastgw.runtime.control import run_control
from fastgw.runtime.estate import Estate
from fastgw.runtime.hanging import Overseer
from fastgw.runtime.notices import described, notice, notice_logs
from fastgw.runtime.notify import Notifier
from fastgw.runtime.opening import CannotStart
from fastgw.runtime.pulse import SILENT_S
from fastgw.runtime.reloading import Reloading
from fastgw.runtime.slots import LOOP_DEATHS, SETTLED, Child, Slot, Work
from fastgw.runtime.sockets import CannotListen, Endpoint
from fastgw.runtime.succession import Succession
from fastgw.runtime.turnover import tell_sockets
from fastgw.runtime.upgrade import Upgrade
from fastgw.runtime.worker import FLUSH_S, Birth, run_worker

STOP_GRACE: Final = 2.0
"""Seconds a child may take to stop when it is told to stop now, and beyond the limits of a drain."""
REPEATED: Final = 0.5
"""Seconds after a SIGTERM before another means impatience: some senders signal the process and then its whole group."""
CRASHED: Final = 70
"""Exit status of a child after an error that nobody caught (EX_SOFTWARE of sysexits.h)."""


class Phase(Enum):
    STARTING = "not every child has been ready yet; one that dies ends the start"
    SERVING = "a child that dies is replaced"
    DRAINING = "workers finish what is under way"
    STOPPING = "everybody was told to stop now"


class Supervisor:
    """Runs a compiled gateway until a signal ends it. Raises `CannotStart`.

    `announce` is called once, when all workers accept. Then `ready_fd`, if given, gets the addresses as a line of JSON
    and is closed. `companions`, by name, are processes that live as long as the gateway: each gets its channel, says
    `Ready`, and returns when told to stop. `past`: what the program before this one has left.
    """

    def __init__(
        self,
        commons: Commons,
        announce: Callable[[Bound], None],
        ready_fd: int | None = None,
        companions: Mapping[str, Work] = MappingProxyType({}),
        past: Estate | None = None,
    ) -> None:
        self._commons = commons
        self._announce = announce
        self._ready_fd = ready_fd
        self._phase = Phase.STARTING
        self._workers = [Slot(f"worker {index + 1}", index) for index in range(commons.slots)]
        self._companions = [Slot(name, None, work) for name, work in companions.items()]
        self._control = Slot("control", None, partial(run_control, commons))
        if commons.sealed.accepted.sources or commons.own:
            self._companions.append(self._control)
        self._selector = selectors.PollSelector()
        self._signals, self._signals_in = socket.socketpair()
        self._notifier = Notifier.from_environment()
        self._adoption = Adoption()
        self._overseer = Overseer(self._beat_of, self._hush)
        self._succession = Succession(commons, self._workers, self._fork, self._settle)
        self._reloading = Reloading(commons, self._serving, self._answer, self._changed)
        self._upgrade = Upgrade()
        self._watching: Child | None = None  # the worker that answers the probes
        self._actions: Mapping[int, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: self._terminate,
            signal.SIGQUIT: self._terminate,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: self._begin_upgrade,
        }
        self._replies: Mapping[type[AnyMessage], Callable[[Child, Any], None]] = {
            Ready: self._is_ready,
            Prepared: lambda child, message: self._reloading.prepared(child, message.generation),
            Refused: lambda child, message: self._reloading.refused(child, message.generation, message.why),
            Committed: self._has_committed,
            Drained: self._has_drained,
            Propose: lambda child, message: self._reloading.propose(message, *child.channel.take_descriptors()),
            Rejected: lambda child, message: self._reloading.rejected(message),
            DrainAll: lambda child, message: self._terminate(),
        }
        self._stop_began_at = 0.0
        self._drain_at = inf  # readiness is off, and the drain begins then
        self._kill_at = inf
        self._drained = self._cut = 0
        if past is not None:
            self._inherit(past)

    def run(self) -> None:
        """Raises `CannotStart`, with every child gone."""
        with ExitStack() as opened:
            self._catch_signals(opened)
            notice_logs()
            gc.collect()
            gc.freeze()  # what is here now stays in pages that the children share
            try:
                if self._phase is Phase.STARTING:
                    for slot in self._slots:
                        slot.child = self._fork(slot)
                while self._phase in (Phase.STARTING, Phase.SERVING) or any(self._children()):
                    self._turn()
            except CannotStart:
                self._end_all()
                raise
        self._say_stopped()

    def _inherit(self, past: Estate) -> None:
        """The children of the program before this one serve on, until ours follow them one by one."""
        self._enter_service()
        for living in past.children:
            child = living.child()
            self._selector.register(child.channel, selectors.EVENT_READ, partial(self._hear, child))
            for index in living.accepts_for:
                self._adoption.told(index, child)
            if living.slot is not None:
                self._workers[living.slot].child = child
            elif child.column is not None:
                self._succession.leaving.append(child)
            else:
                self._control.child = child
                self._dismiss(child)
        for slot in self._workers:
            slot.retired = slot.index is not None and slot.index >= self._commons.workers
        notice(f"upgraded: fastgw {VERSION} takes over from its predecessor, and replaces its workers one by one")
        self._notifier.ready("upgraded")

    @property
    def _slots(self) -> list[Slot]:
        return self._workers + self._companions

    def _children(self) -> Iterator[Child]:
        """All that live."""
        for slot in self._slots:
            yield from slot.children
        yield from self._succession.leaving

    def _serving(self) -> Iterator[Child]:
        """The workers that may accept."""
        return (slot.child for slot in self._workers if slot.child is not None and slot.child.able)

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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._actions)  # an upgrade has blocked them

    # --- the turns of the loop ---

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fd in self._selector.get_map():  # else one before it in this turn has ended it
                key.data()
        now = time.monotonic()
        if self._phase is not Phase.STARTING and now >= self._overseer.next_look_at:
            serving = self._phase is Phase.SERVING
            self._overseer.look([child for child in self._children() if child.column is not None], now, serving=serving)
            if self._notifier.watchdog_interval is not None:
                self._notifier.watchdog()
        if self._phase is Phase.SERVING:
            self._reloading.look(now)
            self._upgrade.look(now)
            for slot in self._slots:
                if slot.child is None and not slot.retired and slot.due_at <= now:
                    slot.child = self._fork(slot)
            self._succession.go_on(now)
            if now >= self._drain_at:
                self._drain()
        elif now >= self._kill_at:
            self._kill_at = inf
            self._kill()

    def _patience(self) -> float | None:
        """Seconds until something is due by time; None: nothing is."""
        due = [self._kill_at, self._drain_at, *(child.kill_at for child in self._children())]
        if self._phase is Phase.SERVING:
            due += [slot.due_at for slot in self._slots if slot.child is None and not slot.retired]
            due += [self._reloading.due_at, self._upgrade.due_at]
        if self._phase is not Phase.STARTING:
            due.append(self._overseer.next_look_at)
        first = min(due)
        return None if first == inf else max(0.0, first - time.monotonic())

    def _act(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(4096):
                if action := self._actions.get(number):
                    action()

    # --- births ---

    def _fork(self, slot: Slot) -> Child | None:
        """A child for this slot; None: there could be none, and the slot knows when to try again."""
        column = None
        if slot.work is None:
            column = self._free_column()
            self._commons.shared.widen(column + 1)
            self._commons.words.expect(self._commons.shared, column, self._commons.sealed.generation)
            for child in self._children():
                child.send(Columns(generation=child.generation, count=column + 1))
        ours, theirs = Channel.pair()
        now = time.monotonic()
        # A signal that reached the child before it is itself would be written into the supervisor's pipe.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._actions)
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            slot.failed(0.0, now)
            self._lost(slot, f"{slot.name} cannot be started: {error.strerror}")
            return None
        else:
            if pid == 0:
                ours.close()
                self._become(slot, column, theirs, unblocked)
            child = Child(pid, ours, slot.name, column, now)
            child.sockets = {number: len(each.sockets) for number, each in self._commons.endpoints.items()}
            self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, child))
            return child
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            theirs.close()

    def _free_column(self) -> int:
        taken = {child.column for child in self._children()}
        return next(column for column in range(len(taken) + 1) if column not in taken)

    def _become(
        self, slot: Slot, column: int | None, channel: Channel, unblocked: set[int | signal.Signals]
    ) -> NoReturn:
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
            for other in self._children():
                other.channel.close()  # else its child would not see that the supervisor is gone
            if self._ready_fd is not None:
                os.close(self._ready_fd)
            _call_ourselves(slot.name)
            if slot.work is not None:
                slot.work(channel)
            else:
                assert slot.index is not None
                assert column is not None
                run_worker(Birth(slot.index, column, self._commons), channel)
            code = 0
        except Exception as error:
            notice(f"{slot.name}: {error if isinstance(error, OSError) else described(error)}")
        finally:
            os._exit(code)

    # --- what children say ---

    def _hear(self, child: Child) -> None:
        try:
            while (message := child.channel.receive()) is not None:
                self._replies[type(message)](child, message)
        except ChannelClosed:
            with suppress(KeyError, ValueError):
                self._selector.unregister(child.channel)  # the child is dead or dying: SIGCHLD follows

    def _is_ready(self, child: Child, message: Ready) -> None:
        child.generation = message.generation
        tell_sockets(child, self._commons.endpoints)
        if child.column is not None and child.generation != self._commons.sealed.generation:
            self._reloading.catch_up(child)  # it is ready when it has committed
            return
        child.ready = True
        slot = self._slot_of(child)
        if slot is not None and slot.successor is child:
            self._succession.is_ready(slot)
        if child.column is not None:
            self._reloading.is_ready(child)
        self._settle()

    def _has_committed(self, child: Child, message: Committed) -> None:
        child.generation = message.generation
        if child.ready:
            self._reloading.was_committed(child)
        else:
            self._is_ready(child, Ready(generation=message.generation))

    def _has_drained(self, child: Child, message: Drained) -> None:
        if self._phase is not Phase.SERVING:
            self._drained += message.drained
            self._cut += message.cut
        elif message.cut:
            notice(f"{child} had to cut {message.cut} requests or tunnels as it left")
        child.kill_at = time.monotonic() + FLUSH_S + STOP_GRACE  # no beats while its logs are written

    def _slot_of(self, child: Child) -> Slot | None:
        """None: it is leaving."""
        return next((slot for slot in self._slots if child in slot.children), None)

    # --- deaths ---

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                # As process 1 of a container we also inherit children that nobody else waits for: they are not ours.
                code = os.waitstatus_to_exitcode(status)
                if pid == self._upgrade.preflight:
                    self._upgrade.decide(code, self._take_over)
                for child in [child for child in self._children() if child.pid == pid]:
                    self._died(child, code)

    def _died(self, child: Child, code: int) -> None:
        self._hear(child)  # its last words
        with suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)
        child.channel.close()
        self._adoption.forget(child)
        if self._watching is child:
            self._watching = None
        if child.column is not None:
            self._commons.words.left(self._commons.shared, child.column)
        slot, now = self._slot_of(child), time.monotonic()
        how = f"killed by {_name_of(-code)}" if code < 0 else f"exit status {code}"
        what = f"{child} ended: {how}"
        if slot is None:
            self._succession.leaving.remove(child)
            if code:
                notice(what)  # whoever it served was not drained
        elif slot.successor is child:
            slot.successor = None
            slot.failed(now - child.began_at, now)
            notice(f"{what}; {slot.child} goes on, and the next to follow it starts in {slot.due_at - now:.1f} s")
        else:
            slot.child = None
            if child.leaving and not code:  # it was sent away
                slot.due_at = now
            else:
                slot.failed(now - child.began_at, now)
                self._lost(slot, what)
        self._reloading.gone(child)
        self._settle()
        if self._phase in (Phase.DRAINING, Phase.STOPPING):
            if code and self._phase is Phase.DRAINING and slot is not None:
                notice(what)
            self._stop_companions()

    def _lost(self, slot: Slot, what: str) -> None:
        """The slot is empty, and should not be. What follows depends on the phase."""
        match self._phase:
            case Phase.STARTING:
                raise CannotStart(f"could not start: {what}")
            case Phase.SERVING:
                delay = slot.due_at - time.monotonic()
                notice(f"{what}; the next starts " + (f"in {delay:.1f} s" if delay > 0 else "now"))
                if slot.deaths >= LOOP_DEATHS:
                    notice(f"CRASH LOOP: {slot.name} died {slot.deaths} times, never {SETTLED:.0f} s after its start")
                self._commons.words.died(self._commons.shared)

    # --- who accepts ---

    def _settle(self) -> None:
        """Let each slot be accepted for, and the probes be answered; and tell, once, that all are ready."""
        if self._phase is Phase.STARTING and all(slot.is_ready for slot in self._slots):
            self._adoption.settle(self._workers)
            self._begin_serving()
        elif self._phase is Phase.SERVING:
            self._adoption.settle(self._workers)
            self._watch_probes()

    def _begin_serving(self) -> None:
        self._enter_service()
        bound = Bound.of(self._commons)
        self._announce(bound)
        self._notifier.ready(f"listening on {bound}")
        if self._ready_fd is not None:
            tell_ready(self._ready_fd, bound)
            self._ready_fd = None

    def _enter_service(self) -> None:
        self._phase = Phase.SERVING
        commons = self._commons
        commons.words.commit(commons.shared, commons.sealed.generation)
        commons.words.set_ready(commons.shared, True)

    def _watch_probes(self) -> None:
        """While control is away, a worker answers for it."""
        endpoint = self._commons.own.get("status")
        if endpoint is None:
            return
        wanted = None if self._control.is_ready else next(self._serving(), None)
        if wanted is self._watching:
            return
        if self._watching is not None:
            self._watching.send(Watch(generation=self._watching.generation))
        if wanted is not None:
            wanted.send(Watch(generation=wanted.generation), [endpoint.of_slot(0).fileno()])
        self._watching = wanted

    # --- workers that hang ---

    def _beat_of(self, child: Child) -> int:
        assert child.column is not None
        return self._commons.words.beat_of(self._commons.shared, child.column)

    def _hush(self, child: Child) -> None:
        """Count the worker out, or in again."""
        assert child.column is not None
        self._commons.words.hush(self._commons.shared, child.column, child.silent)
        if child.silent:
            self._reloading.gone(child)
        self._settle()
        slot = self._slot_of(child)
        adopter = None if slot is None or slot.index is None else self._adoption.who(slot.index)
        if not child.silent:
            notice(f"{child} beats again: it is ready")
        elif adopter is not None and adopter is not child:
            notice(f"{child} has not beaten for {SILENT_S:.0f} s: not ready; {adopter.name} accepts for it")
        else:
            notice(f"{child} has not beaten for {SILENT_S:.0f} s: not ready; nobody is left to accept for it")

    # --- reload ---

    def _reload(self) -> None:
        if self._phase is not Phase.SERVING or not self._commons.sealed.accepted.sources:
            notice("SIGHUP: nothing to read again: the configuration came from the command line")
            return
        self._notifier.reloading()
        if self._control.child is not None:
            self._control.child.send(Reload(generation=self._commons.sealed.generation))

    def _answer(self, outcome: Outcome) -> None:
        if self._control.child is not None:
            self._control.child.send(outcome)
        self._notifier.ready(f"generation {outcome.generation}")

    def _changed(self, own: Mapping[str, Endpoint]) -> None:
        """Another generation is in force: follow it in what is not the workers' own."""
        commons = self._commons
        try:
            for endpoint in commons.endpoints.values():
                endpoint.grow(commons.sealed.accepted.workers)
        except CannotListen as error:
            notice(f"the number of workers stays {commons.workers}: {error}")
            return
        commons.workers = commons.sealed.accepted.workers
        for slot in self._workers:
            assert slot.index is not None
            slot.retired = slot.index >= commons.workers
        for index in range(len(self._workers), commons.workers):
            self._workers.append(Slot(f"worker {index + 1}", index))
        commons.slots = len(self._workers)
        for child in self._serving():
            tell_sockets(child, commons.endpoints)
        self._settle()
        self._follow_own(own)

    def _follow_own(self, own: Mapping[str, Endpoint]) -> None:
        """Let control listen where the new generation says; as that is set up at its birth, by a new one."""
        commons = self._commons
        now, before = commons.sealed.settings, commons.kept[-1].settings
        if (now.status, now.admin) == (before.status, before.admin):
            return
        for name in [name for name in commons.own if name in own or getattr(now, name) is None]:
            commons.own.pop(name).close()
        commons.own |= own
        if self._control.child is not None:
            self._dismiss(self._control.child)

    def _dismiss(self, child: Child) -> None:
        """Its place is to be filled anew."""
        child.leaving = True
        child.send(Stop(generation=child.generation))

    # --- upgrade ---

    def _begin_upgrade(self) -> None:
        if self._phase is not Phase.SERVING or len(self._companions) > 1:
            notice("SIGUSR2: not now: the gateway does not serve, or not alone")
        elif self._reloading.under_way or self._succession.is_due:
            notice("SIGUSR2: not now: another change is under way")
        else:
            self._upgrade.begin(self._estate())

    def _estate(self) -> Estate:
        return Estate.of(self._commons, self._slots, self._succession.leaving, self._adoption)

    def _take_over(self) -> None:
        """The new version has shown that it can serve: become it."""
        self._notifier.reloading()
        signal.pthread_sigmask(signal.SIG_BLOCK, self._actions)
        self._upgrade.become(self._estate())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._actions)  # it could not be

    # --- the end ---

    def _terminate(self) -> None:
        match self._phase:
            case Phase.STARTING:
                self._stop()
            case Phase.SERVING if self._drain_at == inf:
                self._leave()
            case _ if time.monotonic() - self._stop_began_at >= REPEATED:
                self._stop()

    def _leave(self) -> None:
        """Say that we are not ready, and serve on until those who send clients here have noticed."""
        self._stop_began_at = time.monotonic()
        self._drain_at = self._stop_began_at + self._commons.sealed.settings.timeouts.drain.delay
        self._commons.words.set_ready(self._commons.shared, False)
        drain = self._commons.sealed.settings.timeouts.drain
        self._notifier.stopping(drain.delay + max(drain.requests, drain.tunnels) + 2 * STOP_GRACE)

    def _drain(self) -> None:
        drain = self._commons.sealed.settings.timeouts.drain
        self._begin_end(Phase.DRAINING, max(drain.requests, drain.tunnels) + STOP_GRACE)
        for child in self._children():
            if child.column is not None and not child.leaving:
                child.send(Drain(generation=child.generation, requests_s=drain.requests, tunnels_s=drain.tunnels))
        self._stop_companions()

    def _stop(self) -> None:
        self._begin_end(Phase.STOPPING, STOP_GRACE)
        for child in self._children():
            child.send(Stop(generation=child.generation))

    def _begin_end(self, phase: Phase, within: float) -> None:
        now = time.monotonic()
        self._stop_began_at = self._stop_began_at or now
        self._drain_at = inf
        self._kill_at = now + within
        self._phase = phase
        self._commons.words.set_ready(self._commons.shared, False)

    def _stop_companions(self) -> None:
        """They are there for the workers, so they go last."""
        if not any(child.column is not None for child in self._children()):
            self._kill_at = time.monotonic() + STOP_GRACE
            for child in self._children():
                child.send(Stop(generation=child.generation))

    def _kill(self) -> None:
        for child in self._children():
            notice(f"{child} did not stop in time and is killed")
            os.kill(child.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """The start failed: nobody has been served, so nobody is waited for."""
        for child in self._children():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)

    def _reopen(self) -> None:
        for child in self._children():
            if child.column is not None:
                child.send(Reopen(generation=child.generation))

    def _say_stopped(self) -> None:
        if self._phase is Phase.STOPPING:
            notice("stopped")
        else:
            took = time.monotonic() - self._stop_began_at
            notice(f"stopped: drained {self._drained} requests in {took:.1f} s, {self._cut} cut")


def _call_ourselves(name: str) -> None:
    """So that `ps -o comm` and `top` tell the processes apart."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"fastgw {name}")


def _name_of(number: int) -> str:
    """Of a signal; most of the real-time ones have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
