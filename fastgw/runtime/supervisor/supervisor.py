"""The supervisor: opens all sockets, forks the workers and control, replaces those that die, and forwards signals.

It has no event loop and no threads: one `poll` over a pipe with signal numbers and the children's channels. Everything
is imported, validated and compiled before the fork, so children forked at any time start alike.

A slot without a ready worker keeps its sockets, and a neighbour accepts from them (`slot_adoption`). A worker without a
heartbeat is taken out of service, and replaced if that persists (`hang_detection`). New configurations are distributed
to all workers (`reload.coordinator`); workers (`worker_replacement`) and the program (`upgrade`) are replaced without
downtime.

SIGTERM and SIGQUIT drain, then stop; SIGINT stops at once, and so does a second SIGTERM (`lifecycle`). All of these end
with exit status 0. SIGHUP reloads the configuration, SIGUSR1 reopens the logs, SIGUSR2 upgrades.
"""

import gc
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Any, Final

from fastgw import VERSION
from fastgw.audit.chain import AuditEntry
from fastgw.audit.log import AuditLog
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, call_ourselves, notice
from fastgw.runtime.control import statsd
from fastgw.runtime.control.control import import_admin
from fastgw.runtime.ipc.channel import (
    AnnouncePurge,
    AnyMessage,
    Capture,
    CertificateRequest,
    ChannelClosed,
    ControlAway,
    DrainAll,
    Drained,
    EndSession,
    FeedRefreshRequest,
    FeedUpdate,
    GenerationCommitted,
    Prepared,
    Propose,
    ProposeTargets,
    PurgesAnnounced,
    PurgesSeen,
    Ready,
    Rejected,
    ReloadRefused,
    ReloadRequest,
    ReloadResult,
    Reopen,
    Revoke,
    Watch,
    close_descriptors,
)
from fastgw.runtime.ipc.feed_values import read_memfd
from fastgw.runtime.ipc.outbox import AGAIN_S
from fastgw.runtime.node.bound_addresses import Bound, write_ready
from fastgw.runtime.node.cache_stores import column_of
from fastgw.runtime.node.child_slots import LOOP_DEATHS, SETTLED, Child, Slot, Work, cut_off
from fastgw.runtime.node.gateway_registration import is_entry_due, own_addresses, write_entry
from fastgw.runtime.node.heartbeat_monitor import SILENT_S
from fastgw.runtime.node.node_state import NodeState, ReloadRecord
from fastgw.runtime.node.purge_persistence import keep_waiting
from fastgw.runtime.node.quota_persistence import file_of
from fastgw.runtime.node.startup import CannotStart, close_unused, enough_files
from fastgw.runtime.node.systemd_notify import Notifier
from fastgw.runtime.process.signals import Signals, outcome
from fastgw.runtime.reload.coordinator import Reloading
from fastgw.runtime.reload.two_phase_commit import send_caches, send_sockets
from fastgw.runtime.sockets.listening_sockets import CannotListen, ListeningEndpoint
from fastgw.runtime.supervisor.capture_relay import CaptureRelay
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.handover_state import HandoverState
from fastgw.runtime.supervisor.hang_detection import HangDetector
from fastgw.runtime.supervisor.lifecycle import FLUSH_GRACE, Lifecycle, LifecyclePhase
from fastgw.runtime.supervisor.orphaned_journals import OrphanedJournals
from fastgw.runtime.supervisor.slot_adoption import SlotAdoption
from fastgw.runtime.supervisor.upgrade import Upgrade
from fastgw.runtime.supervisor.worker_replacement import Succession
from fastgw.sync import (
    acme_challenges,
    debugging,
    drained_targets,
    known_addresses,
    ocsp_responses,
    on_demand,
    recordings,
)
from fastgw.sync.cache_purges import identified
from fastgw.sync.revocations import MOST

_LASTING: Final = {
    acme_challenges.FEED,
    debugging.FEED,
    drained_targets.FEED,
    known_addresses.FEED,
    ocsp_responses.FEED,
    on_demand.FEED,
    recordings.FEED,
    statsd.FEED,
}
"""Feeds of the gateway itself, which no configuration names."""
_OF_CONTROL: Final = {statsd.FEED}
"""Feeds that no worker needs."""


class Supervisor:
    """Runs a compiled gateway until a signal ends it. Raises `CannotStart`.

    `announce` is called once, when all workers accept. Then the addresses are written to `ready_fd`, if given, as a
    line of JSON, and it is closed. `companions`, by name, are further processes of the gateway: each gets its channel,
    sends `Ready`, and returns when requested to stop. `past`: handover state of the previous program.
    """

    def __init__(
        self,
        node_state: NodeState,
        announce: Callable[[Bound], None],
        ready_fd: int | None = None,
        companions: Mapping[str, Work] = MappingProxyType({}),
        past: HandoverState | None = None,
    ) -> None:
        self._node_state = node_state
        self._announce = announce
        self._ready_fd = ready_fd
        self._actions: Mapping[int, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: lambda: self._terminate("SIGTERM"),
            signal.SIGQUIT: lambda: self._terminate("SIGQUIT"),
            signal.SIGINT: self._interrupt,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: self._begin_upgrade,
        }
        self._replies: Mapping[type[AnyMessage], Callable[[Child, Any], None]] = {
            Ready: self._is_ready,
            Prepared: lambda child, message: self._reloading.prepared(child, message.generation),
            ReloadRefused: lambda child, message: self._reloading.refused(
                child, message.generation, message.why, message.passing
            ),
            GenerationCommitted: self._has_committed,
            Drained: self._has_drained,
            Propose: self._was_proposed,
            ProposeTargets: self._targets_were_proposed,
            Rejected: self._was_rejected,
            FeedUpdate: self._was_fed,
            FeedRefreshRequest: self._was_asked,
            CertificateRequest: self._was_asked,
            Revoke: self._was_revoked,
            EndSession: self._session_ended,
            AnnouncePurge: self._has_purged,
            PurgesAnnounced: lambda child, message: self._node_state.purges.confirm(message.ids, time.monotonic()),
            PurgesSeen: self._has_seen_purges,
            Capture: lambda child, message: self._captures.pass_on(
                message, child.channel.take_descriptors(), self._children.that_work()
            ),
            DrainAll: lambda child, message: self._life.start_shutdown("the admin API"),
        }
        self._complain = RareNotice()
        self._captures = CaptureRelay()
        self._orphans = OrphanedJournals([] if past is None else past.orphaned_journals)
        self._selector = selectors.EpollSelector()  # poll fails for more than the limit of descriptors
        self._signals = Signals(tuple(self._actions))
        self._children = Children(node_state, companions, self._signals, self._forget)
        self._notifier = Notifier.from_environment()
        self._life = Lifecycle(node_state, self._children, self._notifier)
        self._adoption = SlotAdoption()
        self._overseer = HangDetector(self._beat_of, self._lateness_of, self._silence_changed)
        self._succession = Succession(node_state, self._children, self._fork, self._settle)
        self._reloading = Reloading(
            node_state, self._is_serving, self._children.present, self._answer, self._changed, self._record_reload
        )
        self._upgrade = Upgrade()
        self._audit = AuditLog(self._audit_path)
        self._watchdog_at = inf if self._notifier.watchdog_interval is None else 0.0
        self._watching: Child | None = None  # the worker that answers the probes
        self._control_is_away = True  # as last sent to the workers
        self._is_replacing = False  # replacing the workers of the previous program
        self._reload_due_at = inf  # when a signal has requested a reload that control has not begun since
        self._asked: Child | None = None  # the control process that was sent the request
        if past is not None:
            self._inherit(past)

    def run(self) -> None:
        """Run until the end of all children. Raises `CannotStart`."""
        self._signals.catch()
        call_ourselves("fastgw")  # after an upgrade it has the interpreter's name
        self._selector.register(self._signals, selectors.EVENT_READ, self._handle_signals)
        if "admin" in self._node_state.own:
            with enough_files():
                import_admin()
        gc.collect()
        gc.freeze()  # keeps these objects in pages shared with the children
        try:
            if self._life.phase is LifecyclePhase.STARTING:
                for slot in self._children.slots:
                    slot.child = self._fork(slot)
            while self._life.phase in (LifecyclePhase.STARTING, LifecyclePhase.SERVING) or any(self._children):
                self._run_once()
        except CannotStart:
            self._end_all()
            raise
        finally:
            self._selector.close()
            self._signals.close()
        is_kept = keep_waiting(self._node_state.purges, self._node_state.run_key)
        if waiting := len(self._node_state.purges.waiting):
            then = "the next start announces them" if is_kept else "repeat them on another node"
            notice(OperatorEvent.PURGES_NOT_SHARED, f"{waiting} purges of caches have not reached Redis: {then}")
        self._orphans.log_end()
        self._record("gateway", "stop", self._life.log_end())
        self._audit.close()

    def _inherit(self, past: HandoverState) -> None:
        """Take over the children of the previous program; they are replaced one by one."""
        node_state = self._node_state
        self._life.serve()
        self._reload_due_at = time.monotonic() if past.reload_due else inf
        for living in past.children:
            child = living.child()
            child.beats = node_state.words.is_of(node_state.shared, child.column, child.pid)
            if child.beats:
                child.heartbeat.check_heartbeat(self._beat_of(child), 0.0)
                child.heartbeat.silence = living.silence
            self._listen_to(child)
            for index in living.accepts_for:
                self._adoption.record(index, child)
            if living.slot is not None:
                self._children.workers[living.slot].child = child
            elif child.column is not None:
                self._children.leaving.append(child)
            else:
                self._children.control.child = child
                child.dismiss()
        self._children.resize(node_state.workers)
        self._is_replacing = True
        notice(
            OperatorEvent.UPGRADED,
            f"fastgw {VERSION} takes over from the previous version and replaces its workers one by one",
        )
        self._record("gateway", "upgrade", f"fastgw {VERSION} has taken over from the previous version")
        self._notifier.ready("upgraded")
        if self._is_reload_due:
            self._notifier.reloading()  # the previous notification ended with the exec

    def _end_all(self) -> None:
        """End all children after a failed start: nothing was served, so nothing is waited for."""
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)

    # main loop

    def _run_once(self) -> None:
        for key, _ in self._selector.select(self._select_timeout()):
            if key.fd in self._selector.get_map():  # otherwise an earlier event has closed it
                key.data()
        for child in self._children:
            child.flush()
        self._node_state.tickets.advance(time.time())
        now = time.monotonic()
        serving = self._life.phase is LifecyclePhase.SERVING
        if self._life.phase is not LifecyclePhase.STARTING and now >= self._overseer.next_look_at:
            self._overseer.check_children(list(self._children), now, serving=serving)
        if self._life.phase is not LifecyclePhase.STARTING and now >= self._watchdog_at:
            self._watchdog_at = now + (self._notifier.watchdog_interval or inf)
            self._notifier.watchdog()
        if serving:
            self._reloading.check_deadline(now)
            self._upgrade.poll(now)
            if self._upgrade.has_passed:
                self._take_over()
            if self._is_reload_due:
                self._ask_to_reload()
            for slot in self._children.slots:
                if slot.is_vacant and slot.due_at <= now:
                    slot.child = self._fork(slot)
            self._succession.start_next_change(now)
            if self._is_replacing and self._succession.is_over:
                self._is_replacing = False
                workers = self._node_state.workers
                notice(
                    OperatorEvent.UPGRADED,
                    f"all {workers} workers are new" if workers > 1 else "the only worker is new",
                )
        if not self._life.goes_on:
            self._upgrade.give_up()
        self._life.do_what_is_due(now)
        if now >= self._audit.due_at:
            self._audit.write()

    def _select_timeout(self) -> float | None:
        """Return the seconds until the next timed action; None: there is none."""
        due = [self._life.due_at, self._audit.due_at, *(child.kill_at for child in self._children)]
        if self._life.phase is LifecyclePhase.SERVING:
            due += [slot.due_at for slot in self._children.slots if slot.is_vacant]
            due += [self._reloading.due_at, self._upgrade.due_at, self._succession.due_at]
        if self._life.phase is not LifecyclePhase.STARTING:
            due += [self._overseer.next_look_at, self._watchdog_at]
        if any(child.outbox for child in self._children):
            due.append(time.monotonic() + AGAIN_S)
        first = min(due)
        return None if first == inf else max(0.0, first - time.monotonic())

    def _handle_signals(self) -> None:
        for number in self._signals.read_pending():
            if action := self._actions.get(number):
                action()

    # --- births ---

    def _fork(self, slot: Slot) -> Child | None:
        """Fork a child for this slot; None: the fork has failed, and the slot schedules the next attempt."""
        try:
            child = self._children.fork(slot)
        except OSError as error:
            slot.failed(0.0, time.monotonic())
            self._slot_lost(slot, f"{slot.name} cannot be started: {error.strerror}")
            return None
        self._listen_to(child)
        return child

    def _listen_to(self, child: Child) -> None:
        self._selector.register(child.channel, selectors.EVENT_READ, partial(self._receive_messages, child))

    def _forget(self) -> None:
        """Close the supervisor's own resources, in a child."""
        self._selector.close()
        self._orphans.close()
        self._reloading.forget()
        if self._ready_fd is not None:
            os.close(self._ready_fd)
        for held in (self._node_state.quota_claim, self._node_state.registration):
            if held is not None:
                held.close()

    # messages of children

    def _receive_messages(self, child: Child) -> None:
        try:
            while (message := child.channel.receive()) is not None:
                self._replies[type(message)](child, message)
        except ChannelClosed:
            self._stop_listening_to(child)  # it is dead or dying: SIGCHLD follows

    def _stop_listening_to(self, child: Child) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)

    def _is_ready(self, child: Child, message: Ready) -> None:
        child.generation = message.generation
        if child.column is not None:
            send_sockets(child, self._node_state.endpoints)
            if child.generation != self._node_state.sealed.generation:
                self._reloading.catch_up(child)  # it is ready after its commit
                return
        child.ready = True
        if child is self._children.control.child:
            self._node_state.purges.restored.clear()  # it carries them out
        slot = self._children.slot_of(child)
        if slot is not None and slot.successor is child:
            self._succession.is_ready(slot)
        if child.column is not None:
            self._reloading.is_ready(child)
            child.send(ControlAway(generation=child.generation, away=self._control_is_away))
            self._captures.catch_up(child)
        self._settle()

    def _has_committed(self, child: Child, message: GenerationCommitted) -> None:
        child.generation = message.generation
        if child.ready:
            self._reloading.was_committed(child)
        else:
            self._is_ready(child, Ready(generation=message.generation))

    def _has_drained(self, child: Child, message: Drained) -> None:
        self._life.has_drained(message)
        if child.leaving and message.cut:
            notice(
                OperatorEvent.REQUESTS_CUT,
                f"{child} stopped with {message.cut} requests or tunnels in flight, which were closed",
            )
        child.kill_at = time.monotonic() + FLUSH_GRACE  # no heartbeats meanwhile

    def _was_proposed(self, child: Child, message: Propose) -> None:
        self._file_was_read(message)
        descriptors = child.channel.take_descriptors()
        if not descriptors:
            self._reloading.postpone_proposal(message, "the supervisor may have no more files open (ulimit -n)")
        elif self._upgrade.holds_reloads:
            close_descriptors(descriptors)
            self._reloading.postpone_proposal(message, "an upgrade is in progress")
        else:
            self._reloading.propose(message, *descriptors)

    def _targets_were_proposed(self, child: Child, message: ProposeTargets) -> None:
        descriptors = child.channel.take_descriptors()
        if len(descriptors) == 2:
            self._reloading.propose_targets(message, descriptors[0], descriptors[1], self._children.that_work())
        else:  # too many open files
            close_descriptors(descriptors)
            self._reloading.targets_lost()

    def _was_rejected(self, child: Child, message: Rejected) -> None:
        self._file_was_read(message)
        self._reloading.rejected(message)
        self._notifier.ready(f"generation {message.generation}")

    def _file_was_read(self, message: Propose | Rejected) -> None:
        """Consider a requested reload as done if the file was read after the request. A transient failure is retried by
        control, or by the next control process.
        """
        if message.read_at >= self._reload_due_at:
            self._reload_due_at = inf

    def _was_fed(self, child: Child, message: FeedUpdate) -> None:
        descriptors = child.channel.take_descriptors()
        for worker in () if message.key in _OF_CONTROL else self._children.that_work():
            worker.send(FeedUpdate(generation=worker.generation, key=message.key), descriptors)
        for descriptor in descriptors:
            if value := read_memfd(descriptor):
                self._node_state.feeds[message.key] = value  # for later workers

    def _was_asked(self, child: Child, message: FeedRefreshRequest | CertificateRequest) -> None:
        if self._children.control.child is not None:
            self._children.control.child.send(message)

    def _has_purged(self, child: Child, message: AnnouncePurge) -> None:
        """Keep a purge for the next control process, and pass a worker's on to the present one."""
        now, order, control = time.monotonic(), identified(message.order), self._children.control.child
        self._node_state.purges.forget_old(now)
        self._node_state.purges.add(order, now)
        if control is not None and control is not child:
            control.send(AnnouncePurge(generation=control.generation, order=order))

    def _has_seen_purges(self, child: Child, message: PurgesSeen) -> None:
        """Remember for the next control process up to where purges of other nodes are carried out."""
        self._node_state.purges.seen, self._node_state.purges.seen_at = message.number, message.at

    def _was_revoked(self, child: Child, message: Revoke) -> None:
        """Store a revocation for later children, and send it to the others."""
        node_state = self._node_state
        before = node_state.revoked.dropped
        fresh = node_state.revoked.add(message.records, time.time())
        if node_state.revoked.dropped > before:
            self._complain(
                OperatorEvent.REVOCATIONS_FORGOTTEN,
                f"more than {MOST} revocations: those that would end first are forgotten",
            )
        if not fresh:
            return
        node_state.revocation_events.extend(message.events)
        for other in (*self._children.that_work(), self._children.control.child):
            if other is not None and other is not child:
                other.send(Revoke(generation=other.generation, records=fresh, events=message.events))

    def _session_ended(self, child: Child, message: EndSession) -> None:
        self._node_state.ended_sessions.add(message.record, time.time())

    # --- deaths ---

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                code = os.waitstatus_to_exitcode(status)
                if pid == self._upgrade.preflight:
                    self._upgrade.decide(code)
                    if not self._upgrade.has_passed:
                        self._record("gateway", "upgrade", "refused: the installed version cannot serve; see the log")
                # As process 1 of a container we also inherit orphans, which have to be reaped.
                for child in [child for child in self._children if child.pid == pid]:
                    self._died(child, code)

    def _died(self, child: Child, code: int) -> None:
        self._receive_messages(child)  # its last messages
        self._stop_listening_to(child)
        child.close()
        self._adoption.forget(child)
        if self._watching is child:
            self._watching = None
        if child.name == self._children.control.name:
            self._captures.forget_all()
        if child.column is not None:
            self._node_state.words.worker_reaped(self._node_state.shared, child.column)
        if child.column is not None or child.name == self._children.control.name:
            self._node_state.caches.clean_up(column_of(child.column), self._node_state.wakers)
        self._orphans.worker_gone(child)
        if child.journal >= 0:
            self._orphans.add(child.journal)
        slot, now, what = self._children.slot_of(child), time.monotonic(), f"{child} ended: {outcome(code)}"
        if slot is None:
            self._children.leaving.remove(child)
            if code:
                notice(OperatorEvent.PROCESS_ENDED, what)  # its requests were not drained
        elif slot.successor is child:
            slot.successor = None
            slot.failed(now - child.began_at, now)
            notice(
                OperatorEvent.PROCESS_ENDED,
                f"{what}; {slot.child} goes on, and the next to follow it starts in {slot.due_at - now:.1f} s",
            )
        else:
            slot.child = None
            if child.leaving and not code:  # it was replaced
                slot.due_at = now
            else:
                slot.failed(now - child.began_at, now)
                self._slot_lost(slot, what, well=not code)
        self._reloading.child_gone(child)
        self._settle()
        if self._life.phase in (LifecyclePhase.DRAINING, LifecyclePhase.STOPPING):
            self._life.has_died()

    def _slot_lost(self, slot: Slot, what: str, *, well: bool = False) -> None:
        """Handle a slot that has lost its child unexpectedly; the action depends on the phase. `well`: the child has
        completed its task.
        """
        match self._life.phase:
            case LifecyclePhase.STARTING:
                raise CannotStart(f"could not start: {what}")
            case LifecyclePhase.SERVING:
                delay = slot.due_at - time.monotonic()
                notice(
                    OperatorEvent.PROCESS_ENDED,
                    f"{what}; the next starts " + (f"in {delay:.1f} s" if delay > 0 else "now"),
                )
                if slot.deaths >= LOOP_DEATHS:
                    notice(
                        OperatorEvent.CRASH_LOOP,
                        f"{slot.name} died {slot.deaths} times, never {SETTLED:.0f} s after its start",
                    )
                self._node_state.words.died(self._node_state.shared)
            case LifecyclePhase.DRAINING if not well:
                notice(OperatorEvent.PROCESS_ENDED, what)  # its requests were not drained

    # slots

    def _settle(self) -> None:
        """Assign each slot and the probes to a worker; report once that all are ready."""
        self._tell_of_control()  # first, because workers may need feeds as soon as they are ready
        if self._life.phase is LifecyclePhase.STARTING and all(slot.is_ready for slot in self._children.slots):
            self._adoption.settle(self._children.workers)
            self._begin_serving()
        elif self._life.phase is LifecyclePhase.SERVING:
            self._adoption.settle(self._children.workers)
            self._orphans.hand_over(self._children.serving())
            self._watch_probes()
        elif self._life.phase is LifecyclePhase.DRAINING:
            self._watch_probes()

    def _begin_serving(self) -> None:
        self._life.serve()
        bound = Bound.of(self._node_state)
        self._announce(bound)
        self._tell_own_addresses()
        self._record(
            f"uid {os.getuid()}",
            "start",
            f"fastgw {VERSION} serves generation {self._node_state.sealed.generation}",
            configuration=self._node_state.sealed.accepted.file,
            hash=self._node_state.sealed.accepted.hash,
        )
        self._notifier.ready(f"listening on {bound}")
        if self._is_reload_due:
            self._notifier.reloading()
        if self._ready_fd is not None:
            write_ready(self._ready_fd, bound)
            self._ready_fd = None

    def _tell_of_control(self) -> None:
        """Tell workers to fetch by themselves while control is unavailable."""
        if self._control_is_away is self._children.control.answers:
            self._control_is_away = not self._control_is_away
            for worker in self._children.that_work():
                worker.send(ControlAway(generation=worker.generation, away=self._control_is_away))

    def _watch_probes(self) -> None:
        """Have a worker serve the status listener while control is dead or hangs."""
        endpoint = self._node_state.own.get("status")
        if endpoint is None:
            return
        wanted = None if self._children.control.answers else next(self._children.serving(), None)
        if wanted is self._watching:
            return
        if self._watching is not None:
            self._watching.send(Watch(generation=self._watching.generation))
        if wanted is not None:
            wanted.send(Watch(generation=wanted.generation), [endpoint.of_slot(0).fileno()])
        self._watching = wanted

    # hanging children

    def _beat_of(self, child: Child) -> int:
        if child.column is None:
            return self._node_state.words.beat_of_control(self._node_state.shared)
        return self._node_state.words.beat_of(self._node_state.shared, child.column)

    def _lateness_of(self, child: Child) -> float:
        if child.column is None:
            return inf  # control does not report it
        return self._node_state.words.lag_s(self._node_state.shared.columns[child.column])

    def _silence_changed(self, child: Child) -> None:
        """Record that a child is silent, or has recovered."""
        if child.column is None:
            self._settle()
            if child.silent:
                notice(
                    OperatorEvent.PROCESS_SILENT,
                    f"{child} has sent no heartbeat for {SILENT_S:.0f} s: workers keep serving",
                )
            else:
                notice(OperatorEvent.PROCESS_BACK, f"{child} sends heartbeats again")
            return
        node_state = self._node_state
        node_state.words.set_silent(node_state.shared, child.column, child.silent)
        if child.silent:
            self._reloading.child_gone(child)
            if child.ready and child.generation != node_state.sealed.generation:
                cut_off(child, "hangs with an old configuration")
        elif child.able:
            self._reloading.is_ready(child)
        self._settle()
        slot = self._children.slot_of(child)
        adopter = None if slot is None or slot.index is None else self._adoption.accepting_child(slot.index)
        if not child.silent:
            notice(
                OperatorEvent.PROCESS_BACK, f"{child} sends heartbeats again" + (": it is ready" if child.able else "")
            )
        elif slot is None:
            notice(OperatorEvent.PROCESS_SILENT, f"{child} has sent no heartbeat for {SILENT_S:.0f} s while stopping")
        elif adopter is not None and adopter is not child:
            notice(
                OperatorEvent.PROCESS_SILENT,
                f"{child} has sent no heartbeat for {SILENT_S:.0f} s: not ready; "
                f"{adopter.name} accepts its connections",
            )
        else:
            notice(
                OperatorEvent.PROCESS_SILENT,
                (
                    f"{child} has sent no heartbeat for {SILENT_S:.0f} s: not ready; no other worker is left to "
                    f"accept its connections"
                ),
            )

    def _terminate(self, signal_name: str) -> None:
        went_on = self._life.goes_on
        self._life.terminate(signal_name)
        if went_on:
            self._record(f"signal {signal_name}", "drain", "no new connections, then stop")

    def _interrupt(self) -> None:
        self._record("signal SIGINT", "stop", "at once")
        self._life.stop()

    # --- reload ---

    def _reload(self) -> None:
        if not self._node_state.sealed.accepted.file:
            notice(
                OperatorEvent.RELOAD_REFUSED,
                "SIGHUP: nothing to reload: the configuration came from the command line",
            )
        elif self._life.phase is LifecyclePhase.STARTING:
            self._reload_due_at = time.monotonic()  # the file may have changed since it was read
        elif not self._life.goes_on:  # control would stop them as soon as readiness is off
            drains = self._life.phase is LifecyclePhase.SERVING
            notice(
                OperatorEvent.RELOAD_REFUSED,
                f"SIGHUP: not possible now: the gateway {'is about to drain' if drains else 'is not serving'}",
            )
        else:
            self._notifier.reloading()
            self._reload_due_at, self._asked = time.monotonic(), None

    @property
    def _is_reload_due(self) -> bool:
        return self._reload_due_at < inf

    def _ask_to_reload(self) -> None:
        """Request a reload from control, or wait for the next control process and for workers that can follow."""
        control = self._children.control.child
        if self._upgrade.has_passed or self._upgrade.holds_reloads or self._succession.goes_well:
            return
        if control is not None and control.able and self._asked is not control:
            self._asked = control
            control.send(ReloadRequest(generation=self._node_state.sealed.generation))

    def _is_serving(self) -> bool:
        return self._life.phase is LifecyclePhase.SERVING

    def _answer(self, outcome: ReloadResult) -> None:
        if self._children.control.child is not None:
            self._children.control.child.send(outcome)
        self._notifier.ready(f"generation {outcome.generation}")

    def _changed(self, own: Mapping[str, ListeningEndpoint]) -> None:
        """Apply another active generation, except for the parts of workers."""
        self._resize()
        node_state = self._node_state
        accepted = node_state.sealed.accepted
        for key in node_state.feeds.keys() - accepted.feeds.keys() - accepted.lazy_feeds.keys() - _LASTING:
            del node_state.feeds[key]
        now, before = node_state.sealed.settings, node_state.kept[-1].settings
        if node_state.quota_claim is not None and node_state.quota_claim.path != file_of(now):
            node_state.quota_claim.close()
            node_state.quota_claim = None
        if (control := self._children.control.child) is not None:
            send_caches(control, node_state.caches.stores)
        has_moved = own or (now.status, now.admin) != (before.status, before.admin)
        if has_moved:
            replaced = [name for name in node_state.own if name in own or getattr(now, name) is None]
            close_unused(node_state, map(node_state.own.pop, replaced))
            node_state.own |= own
        if has_moved or is_entry_due(node_state):
            write_entry(node_state)
            self._tell_own_addresses()
            if has_moved and self._children.control.child is not None:
                self._children.control.child.dismiss()  # it listens on the addresses of its start

    def _tell_own_addresses(self) -> None:
        for line in own_addresses(self._node_state):
            notice(OperatorEvent.LISTENING, line)

    def _resize(self) -> None:
        node_state, wanted = self._node_state, self._node_state.sealed.accepted.workers
        try:
            for endpoint in node_state.endpoints.values():
                endpoint.grow(wanted)
        except CannotListen as error:
            notice(OperatorEvent.WORKERS_UNCHANGED, f"the number of workers stays {node_state.workers}: {error}")
            return
        node_state.workers = wanted
        self._children.resize(wanted)
        node_state.slots = len(self._children.workers)
        for child in self._children.serving():
            send_sockets(child, node_state.endpoints)
        self._settle()

    # --- audit log ---

    @property
    def _audit_path(self) -> str | None:
        audit = self._node_state.sealed.settings.audit
        return None if audit is None else audit.path

    def _record(self, actor: str, action: str, result: str, **detail: str) -> None:
        """Add an entry. The supervisor may block on the disk here; workers and control go on."""
        self._audit.record(AuditEntry(time.time(), actor, action, result, detail))
        self._audit.write()

    def _record_reload(self, reload: ReloadRecord, changes: str) -> None:
        detail = {"subject": reload.subject, "changes": changes}
        result = reload.summary if reload.ok else f"refused: {reload.summary}"
        self._record(reload.source, "reload", result, **{name: value for name, value in detail.items() if value})
        path = self._audit_path
        if path == self._audit.path:
            return
        if self._audit.path is not None:
            self._record("configuration", "audit", "ends here" if path is None else f"continued in {path}")
        self._audit.path = path
        if path is not None:
            self._record("configuration", "audit", f"begins with generation {reload.generation}")

    # --- upgrade ---

    def _begin_upgrade(self) -> None:
        if not self._life.goes_on or len(self._children.companions) > 1:
            notice(OperatorEvent.UPGRADE_REFUSED, "SIGUSR2: not possible now: the gateway is not serving, or not alone")
        elif self._upgrade.under_way:
            notice(OperatorEvent.UPGRADE_REFUSED, "SIGUSR2: not possible now: an upgrade is in progress")
        else:
            self._upgrade.start_preflight(self._handover_state())
            self._record("signal SIGUSR2", "upgrade", "the installed version is tried")

    def _handover_state(self) -> HandoverState:
        return HandoverState.of(
            self._node_state, self._children, self._adoption, self._is_reload_due, self._orphans.descriptors
        )

    def _take_over(self) -> None:
        """Exec the new version after its preflight, once no other change is in progress."""
        if not self._life.goes_on or self._reloading.under_way or self._succession.has_successor:
            return
        if self._upgrade.generation != self._node_state.sealed.generation:
            self._upgrade.start_preflight(self._handover_state())  # the tested configuration is no longer active
            return
        with self._signals.held_back():
            if self._signals.some_wait:
                return  # pending signals would be lost: handle them first
            self._notifier.reloading()
            self._upgrade.exec_new_version(self._handover_state())  # returns only after a failure
        self._notifier.ready("not upgraded")

    def _reopen(self) -> None:
        for child in self._children.that_work():
            child.send(Reopen(generation=child.generation))
