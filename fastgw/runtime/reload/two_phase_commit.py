"""Two-phase commit of a generation over all workers: all prepare, then all commit; one refusal aborts it.

Until the last worker is prepared nothing changes. From the commit on new processes start with the new generation,
including replacements of workers that die in between. A late worker (not ready yet, or silent) is not waited for: it is
updated before it accepts again. But as long as there are workers at least one has to prepare: if all are silent, none
is killed for a configuration that no worker has tried; the first one that answers again, or replaces another, joins.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

from fastgw.cache.tiers.node_stores import NodeStore
from fastgw.runtime.ipc.channel import DESCRIPTORS_MAX, Abort, Commit, Origin, Prepare, Sockets, UseCache
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.node_state import Sealed
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint

PREPARE_S: Final = 60.0
"""Timeout of the prepare phase in seconds."""
COMMIT_S: Final = 10.0
"""Timeout of the commit phase in seconds; a commit takes one loop iteration."""


class TwoPhaseCommit:
    """One change, from the proposal to the last commit.

    `commit` is called when all workers are prepared, and `ended` at the end, with the reason of a failure or "".
    """

    def __init__(
        self,
        sealed: Sealed,
        source: Origin,
        listeners: Mapping[str, list[int]],
        opened: Mapping[int, ListeningEndpoint],
        caches: Mapping[str, NodeStore],
        now: float,
        commit: Callable[[], None],
        ended: Callable[[str], None],
    ) -> None:
        self.sealed = sealed
        self.source = source
        self.listeners = dict(listeners)
        self.opened = dict(opened)
        self.caches = dict(caches)
        self.due_at = now + PREPARE_S
        self.asked_to_prepare: set[Child] = set()
        """Workers that have to prepare."""
        self.committed: set[Child] = set()
        self.passing = False
        """Whether it failed for a transient reason."""
        self.replaced = 0
        """Workers that did not commit in time, and are replaced."""
        self._commit = commit
        self._ended = ended
        self._preparing: set[Child] = set()
        self._prepared: set[Child] = set()
        self._gone: set[Child] = set()
        self._committing: set[Child] | None = None  # None: not yet
        self._has_workers = False  # when it began

    def __repr__(self) -> str:
        stage = "preparing" if self._committing is None else "committing"
        return f"<TwoPhaseCommit to {self.sealed.generation} {stage}, {len(self._preparing)} to prepare>"

    @property
    def is_committing(self) -> bool:
        return self._committing is not None

    def start_prepare(self, children: Iterable[Child], *, silent: bool = False) -> None:
        """Begin the prepare phase with these workers. `silent`: there are others, which do not answer."""
        children = list(children)
        self._has_workers = silent or bool(children)
        for child in children:
            self.join(child)
        self._advance_phase()

    def join(self, child: Child) -> None:
        """Add a worker that serves the previous generation; it may have been silent for a while."""
        self._gone.discard(child)
        if child not in self._prepared:
            self._preparing.add(child)
        if child not in self.asked_to_prepare:
            self.asked_to_prepare.add(child)
            send_sockets(child, self.opened)
            send_caches(child, self.caches)
            send_prepare(child, self.sealed, self.listeners)
        elif child in self._prepared:
            self._advance_phase()

    def prepared(self, child: Child) -> None:
        self._preparing.discard(child)
        self._prepared.add(child)
        self._advance_phase()

    def was_committed(self, child: Child) -> None:
        self.committed.add(child)
        self.child_gone(child)

    def child_gone(self, child: Child) -> None:
        """Remove a child that is dead, silent or done from the count. It still gets the following messages."""
        self._gone.add(child)
        self._preparing.discard(child)
        if self._committing is not None:
            self._committing.discard(child)
        self._advance_phase()

    def is_late(self) -> None:
        """Handle the deadline. Before the commit nothing changes; after it, late workers are replaced."""
        if self._committing is None:
            some = self._preparing or self._prepared
            why = "not all workers were prepared in time" if some else "no worker answers"
            self.abort(why, passing=True)
            return
        self.due_at = inf
        for child in tuple(self._committing):
            child.outdated = True
            self.replaced += 1
            self.child_gone(child)

    def abort(self, why: str, *, passing: bool = False) -> None:
        self.passing = passing
        for child in self.asked_to_prepare:
            child.asked = 0
            child.send(Abort(generation=self.sealed.generation))
        self._ended(why)

    def _advance_phase(self) -> None:
        is_tried = not self._has_workers or bool(self._prepared - self._gone)
        if self._committing is None and not self._preparing and is_tried:
            self.due_at = time.monotonic() + COMMIT_S
            self._committing = self._prepared - self._gone
            self._commit()
            for child in self._prepared:
                child.send(Commit(generation=self.sealed.generation))
        if self._committing is not None and not self._committing:
            self._ended("")


def send_prepare(child: Child, sealed: Sealed, listeners: Mapping[str, list[int]]) -> None:
    child.asked = sealed.generation
    placed = [listeners[name] for name in sealed.settings.listeners]
    child.send(Prepare(generation=sealed.generation, listeners=placed), [sealed.descriptor])


def send_caches(child: Child, stores: Mapping[str, NodeStore]) -> None:
    """Send the cache stores that the child does not use, before it builds the tables that do."""
    known = child.caches
    if known is None:
        return
    for name, store in stores.items():
        if known.get(name) != store.number:
            known[name] = store.number
            message = UseCache(
                generation=child.generation,
                name=name,
                memory=store.memory.memory,
                most_bytes=store.most_bytes,
                disk=store.disk,
                redis=store.redis,
            )
            child.send(message, [store.memory.fd])


def send_sockets(child: Child, endpoints: Mapping[int, ListeningEndpoint]) -> None:
    """Send the sockets of these endpoints that the child does not have."""
    for number, endpoint in endpoints.items():
        known = child.sockets.get(number, 0)
        child.sockets[number] = len(endpoint.sockets)
        for first in range(known, len(endpoint.sockets), DESCRIPTORS_MAX):
            message = Sockets(
                generation=child.generation,
                endpoint=number,
                address=str(endpoint.address),
                shared=endpoint.shared,
                foreign=endpoint.foreign,
                first=first,
            )
            child.send(message, [each.fileno() for each in endpoint.sockets[first : first + DESCRIPTORS_MAX]])
