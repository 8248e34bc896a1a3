"""Reload coordinator of the supervisor: receives proposals of control, distributes them to all workers, reports the
result.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final

from fastgw.config.settings.gateway import Config
from fastgw.config.sources.files import pattern_in
from fastgw.config.sources.virtual_files import awaits, is_derived, is_secret, is_watched, secret_in
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import configure, described, notice
from fastgw.routing.table import at_once
from fastgw.runtime.ipc.channel import (
    Commit,
    Origin,
    Propose,
    ProposeTargets,
    Rejected,
    ReloadResult,
    Subject,
    UseTargets,
)
from fastgw.runtime.node.cache_stores import store_settings
from fastgw.runtime.node.child_slots import Child, cut_off
from fastgw.runtime.node.config_snapshot import unsealing
from fastgw.runtime.node.node_state import NodeState, ReloadRecord, Sealed, assign_endpoints
from fastgw.runtime.node.startup import OWN, close_unused, open_own
from fastgw.runtime.process.transient_errors import is_passing
from fastgw.runtime.reload.rollback_history import retained_generations
from fastgw.runtime.reload.two_phase_commit import TwoPhaseCommit, send_caches, send_prepare, send_sockets
from fastgw.runtime.sockets.listening_sockets import CannotListen, ListeningEndpoint, release_endpoints

RECORDS: Final = 20
"""Maximum number of recorded attempts."""
NAMED: Final = 3
"""Maximum number of changed files that are listed by name."""


class Untimely(Exception):
    """The request is not possible now; the text says why. `passing`: it may be possible a little later."""

    def __init__(self, why: str, *, passing: bool = True) -> None:
        self.passing = passing
        super().__init__(why)


class UnreadableSnapshot(Exception):
    """The supervisor cannot decode the snapshot of control; the text says why."""


class Reloading:
    """Coordinates one change at a time. Nothing here waits.

    `workers`: those that serve, including silent ones. `answer`: sends to control. `changed`: called when another
    generation is active, with the new addresses of control. `recorded`: called after each attempt, with a
    description of the changes, before `changed`.
    """

    def __init__(
        self,
        node_state: NodeState,
        is_serving: Callable[[], bool],
        workers: Callable[[], Iterable[Child]],
        answer: Callable[[ReloadResult], None],
        changed: Callable[[Mapping[str, ListeningEndpoint]], None],
        recorded: Callable[[ReloadRecord, str], None],
    ) -> None:
        self._node_state = node_state
        self._is_serving = is_serving
        self._workers = workers
        self._answer = answer
        self._changed = changed
        self._recorded = recorded
        self._two_phase_commit: TwoPhaseCommit | None = None
        self._proposal: Propose | None = None  # proposal of this change, or of the last one
        self._present: frozenset[Child] = frozenset()  # when the change began
        self._before: Mapping[str, list[int]] = {}  # the listeners of the generation that is being replaced
        self._own: dict[str, ListeningEndpoint] = {}  # endpoints opened for control

    @property
    def due_at(self) -> float:
        """When to `check_deadline`, monotonic seconds."""
        return inf if self._two_phase_commit is None else self._two_phase_commit.due_at

    @property
    def under_way(self) -> bool:
        return self._two_phase_commit is not None

    def forget(self) -> None:
        """Release the endpoints of a change that may still fail, in a child: a worker gets them by messages."""
        if self._two_phase_commit is not None and not self._two_phase_commit.is_committing:
            release_endpoints([*self._two_phase_commit.opened.values(), *self._own.values()])

    def check_deadline(self, now: float) -> None:
        """End a change that takes too long."""
        if self._two_phase_commit is not None and now >= self._two_phase_commit.due_at:
            self._two_phase_commit.is_late()

    # messages of control

    def propose(self, message: Propose, descriptor: int) -> None:
        """Begin a change. It takes over the descriptor."""
        try:
            sealed = Sealed(at_once(unsealing(descriptor, tables=False)), descriptor)
        except (OSError, MemoryError) as error:  # mapping it requires a descriptor
            os.close(descriptor)
            self._give_up(message, f"the supervisor cannot read it: {described(error)}", is_passing(error))
            return
        listeners: Mapping[str, list[int]] = {}
        opened: dict[int, ListeningEndpoint] = {}
        own: dict[str, ListeningEndpoint] = {}
        try:
            self._check_timely(sealed)
            _check_readable(sealed)
            listeners, opened = assign_endpoints(self._node_state, sealed.settings.listeners)
            self._open_own(sealed.settings, own)
            caches = self._node_state.caches.planned(store_settings(sealed.settings))
        except (CannotListen, UnreadableSnapshot, Untimely, OSError) as error:
            self._node_state.close_endpoints([*opened.values(), *own.values()])
            passing = error.passing if isinstance(error, Untimely) else is_passing(error)
            os.close(descriptor)
            self._give_up(message, str(error), passing)
            return
        self._before, self._own = self._node_state.listeners, own
        self._proposal = message
        self._two_phase_commit = TwoPhaseCommit(
            sealed, message.source, listeners, opened, caches, time.monotonic(), self._commit, self._end
        )
        self._present = frozenset(self._workers())
        able = [child for child in self._present if child.able]
        self._two_phase_commit.start_prepare(able, silent=len(able) < len(self._present))

    def propose_targets(self, message: ProposeTargets, descriptor: int, change: int, children: Iterable[Child]) -> None:
        """Use other targets in the active generation: later processes start with them, and workers (`children`)
        replace theirs. It takes over the descriptors.
        """
        node_state = self._node_state
        why = ""
        if not self._is_serving() or self._two_phase_commit is not None:
            why = "another change is in progress"
        elif message.generation != node_state.sealed.generation:
            why = f"it is based on generation {message.generation}, but {node_state.sealed.generation} is active"
        if not why:
            try:
                sealed = Sealed(at_once(unsealing(descriptor, tables=False)), descriptor)
            except (OSError, MemoryError) as error:
                why = f"the supervisor cannot read it: {described(error)}"
        if why:
            os.close(descriptor)
        else:
            before, node_state.sealed = node_state.sealed, sealed
            node_state.compiled = 0  # later processes compile their own tables
            node_state.words.carry(node_state.shared, before.accepted.slot_table, sealed.accepted.slot_table)
            os.close(before.descriptor)
            for child in children:
                if child.outdated:
                    continue  # it is replaced, and may be of a program without this message
                if child.asked == message.generation and child.generation != message.generation:
                    child.asked = 0
                    self.catch_up(child)  # it prepares the generation with the previous targets
                else:
                    child.send(UseTargets(generation=message.generation), [change])
        os.close(change)
        self._answer_targets(why)

    def targets_lost(self) -> None:
        """Handle targets that were not received: too many open files."""
        self._answer_targets("the supervisor may have no more files open (ulimit -n)")

    def _answer_targets(self, why: str) -> None:
        """Tell control whether other targets are in use. `why`: "" = they are."""
        generation, workers = self._node_state.sealed.generation, self._node_state.workers
        self._answer(ReloadResult(generation=generation, ok=not why, why=why, workers=workers, passing=bool(why)))

    def postpone_proposal(self, message: Propose, why: str) -> None:
        """Refuse a proposal that is not possible now; control tries again what it has read itself."""
        self._give_up(message, why, passing=True)

    def rejected(self, message: Rejected) -> None:
        """Handle an invalid configuration that control has rejected itself."""
        stays = self._node_state.sealed.generation
        why = message.why if message.passing else "see the errors above"
        notice(OperatorEvent.RELOAD_REFUSED, f"not reloaded, generation {stays} stays: {why}")
        self._remember_failure(message, message.why, message.passing)  # control has recorded it

    def _check_timely(self, sealed: Sealed) -> None:
        generation = self._node_state.sealed.generation
        if not self._is_serving():
            raise Untimely("the gateway stops", passing=False)
        if self._two_phase_commit is not None:
            raise Untimely("another change is in progress")
        if sealed.generation != generation + 1:
            raise Untimely(f"it is based on generation {sealed.generation - 1}, but generation {generation} is active")

    def _open_own(self, settings: Config, opened: dict[str, ListeningEndpoint]) -> None:
        """Open the new addresses of control. Raises `CannotListen`."""
        before = self._node_state.sealed.settings
        for name in OWN:
            now, then = getattr(settings, name), getattr(before, name)
            if now is None or (then is not None and now.address == then.address and name in self._node_state.own):
                continue
            if endpoint := open_own(self._node_state, name, settings):
                opened[name] = endpoint

    # messages of workers

    def is_ready(self, child: Child) -> None:
        """Handle a worker that is ready, or has recovered."""
        if self._two_phase_commit is not None and not self._two_phase_commit.is_committing:
            self._two_phase_commit.join(child)

    def catch_up(self, child: Child) -> None:
        """Update a child to the active generation."""
        if child.asked != self._node_state.sealed.generation:
            send_sockets(child, self._node_state.endpoints)
            send_caches(child, self._node_state.caches.stores)
            send_prepare(child, self._node_state.sealed, self._node_state.listeners)

    def prepared(self, child: Child, generation: int) -> None:
        if generation == self._node_state.sealed.generation:  # too late
            child.send(Commit(generation=generation))
        elif self._two_phase_commit is not None and generation == self._two_phase_commit.sealed.generation:
            self._two_phase_commit.prepared(child)

    def refused(self, child: Child, generation: int, why: str, passing: bool = False) -> None:
        if generation == self._node_state.sealed.generation:  # too late
            notice(
                OperatorEvent.PROCESS_ENDED, f"{child} cannot change to generation {generation} and is replaced: {why}"
            )
            child.outdated = True
            self.child_gone(child)
        elif self._two_phase_commit is not None and generation == self._two_phase_commit.sealed.generation:
            self._two_phase_commit.abort(f"{child.name}: {why}", passing=passing)

    def was_committed(self, child: Child) -> None:
        if self._two_phase_commit is not None and child.generation == self._two_phase_commit.sealed.generation:
            self._two_phase_commit.was_committed(child)

    def child_gone(self, child: Child) -> None:
        """Drop a dead or silent child from the current commit."""
        if self._two_phase_commit is not None:
            self._two_phase_commit.child_gone(child)

    # change

    def _commit(self) -> None:
        """Activate the generation when all workers are prepared; later deaths of workers do not change that."""
        assert self._two_phase_commit is not None
        node_state, two_phase_commit = self._node_state, self._two_phase_commit
        for child in self._workers():
            if child.silent:  # before any message: it must not continue with the old configuration
                cut_off(child, "hangs, and would keep serving the old configuration")
        node_state.words.carry(
            node_state.shared, node_state.sealed.accepted.slot_table, two_phase_commit.sealed.accepted.slot_table
        )
        node_state.words.commit(node_state.shared, two_phase_commit.sealed.generation)
        node_state.kept.append(node_state.sealed)
        node_state.sealed = two_phase_commit.sealed
        if not awaits(node_state.sealed.accepted.captured):  # a serving gateway stays ready, even with new watches
            node_state.words.set_awaits(node_state.shared, False)
        node_state.listeners = two_phase_commit.listeners
        node_state.endpoints |= two_phase_commit.opened
        node_state.caches.use_stores(two_phase_commit.caches)

    def _end(self, why: str) -> None:
        """End the reload. `why`: reason of a failure; "": every worker serves the new generation."""
        assert self._two_phase_commit is not None
        assert self._proposal is not None
        two_phase_commit, self._two_phase_commit = self._two_phase_commit, None
        if why:
            self._node_state.close_endpoints([*two_phase_commit.opened.values(), *self._own.values()])
            os.close(two_phase_commit.sealed.descriptor)
            self._give_up(self._proposal, why, two_phase_commit.passing)
            return
        node_state, before = self._node_state, self._before
        unused = node_state.endpoints.keys() - {
            number for numbers in node_state.listeners.values() for number in numbers
        }
        # Queued connections were accepted by the workers.
        close_unused(node_state, [node_state.endpoints.pop(number) for number in unused])
        asked = {child for child in self._present | two_phase_commit.asked_to_prepare if not child.leaving}
        wanted = node_state.sealed.accepted.workers
        outcome = ReloadResult(
            generation=node_state.sealed.generation,
            ok=True,
            why="",
            committed=len(two_phase_commit.committed & asked),
            workers=len(asked),
            listeners_added=len(node_state.listeners.keys() - before.keys()),
            listeners_removed=len(before.keys() - node_state.listeners.keys()),
            workers_restarted=two_phase_commit.replaced,
            listeners_moved=sum(node_state.listeners.get(name, numbers) != numbers for name, numbers in before.items()),
            resized=None if wanted == node_state.workers else (node_state.workers, wanted),
            changed=changed_files(node_state.kept[-1].accepted.captured, node_state.sealed.accepted.captured),
        )
        configure(node_state.sealed.settings.log)
        notice(OperatorEvent.RELOADED, describe_outcome(outcome))
        proposal, summary = self._proposal, describe_outcome(outcome)
        record = self._remember(True, outcome.generation, two_phase_commit.source, summary, proposal.subject)
        self._recorded(record, proposal.changes)
        self._answer(outcome)
        self._changed(self._own)
        self._drop_kept()

    def _drop_kept(self) -> None:
        """Drop the kept configurations that are no longer needed for a rollback."""
        node_state = self._node_state
        *documents, _ = node_state.documents
        kept = retained_generations(documents, node_state.kept[-1].accepted, node_state.sealed.accepted)
        node_state.former = [each for each in node_state.former if each.generation in kept]
        for each in [each for each in node_state.kept if each.generation not in kept]:
            node_state.kept.remove(each)
            os.close(each.descriptor)

    def _give_up(self, proposal: Propose, why: str, passing: bool) -> None:
        """Abort a proposal; no state has changed."""
        stays = self._node_state.sealed.generation
        notice(OperatorEvent.RELOAD_REFUSED, f"not reloaded, generation {stays} stays: {why}")
        record = self._remember_failure(proposal, why, passing)
        self._recorded(record, proposal.changes)
        workers = self._node_state.workers
        self._answer(ReloadResult(generation=stays, ok=False, why=why, workers=workers, passing=passing))

    def _remember_failure(self, attempt: Propose | Rejected, why: str, passing: bool) -> ReloadRecord:
        stays, again = self._node_state.sealed.generation, passing and attempt.read_at > 0.0
        return self._remember(False, stays, attempt.source, why, attempt.subject, again=again)

    def _remember(
        self, ok: bool, generation: int, source: Origin, summary: str, subject: Subject, *, again: bool = False
    ) -> ReloadRecord:
        node_state, date = self._node_state, time.time()
        record = ReloadRecord(generation, date, ok, source, summary, subject=subject, again=again)
        node_state.records[:] = [*node_state.records, record][-RECORDS:]
        node_state.words.reloaded(node_state.shared, ok, date, of_contents=subject == "contents")
        return record


def _check_readable(sealed: Sealed) -> None:
    """Raise `UnreadableSnapshot` if its filters are in a package that control could import, and the supervisor
    cannot.
    """
    try:
        assert sealed.settings
    except Exception as error:  # the edge of third-party code, which must not end the supervisor
        raise UnreadableSnapshot(f"the supervisor cannot import its extensions: {described(error)}") from error


def describe_outcome(outcome: ReloadResult) -> str:
    """Describe a successful change, in a line for people."""
    text = f"reloaded: generation {outcome.generation} on {outcome.committed}/{outcome.workers} workers"
    if rest := outcome.workers - outcome.committed:
        text += f", {rest} {'does' if rest == 1 else 'do'} not answer"
    counted = [
        (outcome.listeners_added, "added"),
        (outcome.listeners_removed, "removed"),
        (outcome.listeners_moved, "moved"),
    ]
    listeners = [f"{count} listener{'s' * (count > 1)} {what}" for count, what in counted if count]
    if listeners:
        text += f", {', '.join(listeners)}, {outcome.workers_restarted} workers restarted"
    if outcome.resized is not None:
        before, after = outcome.resized
        text += f", workers {before} -> {after}"
    return f"{text}, changed: {outcome.changed}" if outcome.changed else text


def changed_files(before: Mapping[str, bytes], now: Mapping[str, bytes]) -> str:
    """Return the files with other contents, `NAMED` of them; Secrets in place of the watched objects."""
    names = [name for name, content in now.items() if before.get(name, content) != content and not pattern_in(name)]
    secrets = dict.fromkeys(f"the Secret {secret_in(name)}" for name in names if is_secret(name))
    files = [*secrets, *(name for name in names if not is_derived(name) and not (secrets and is_watched(name)))]
    return listed(files)


def listed(files: Sequence[str]) -> str:
    """Return `NAMED` of them, and the number of the others."""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more
