"""The supervisor's children: their slots, the children that are leaving, and forking."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, NoReturn

from fastgw.kernel import when_alone
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import call_ourselves, call_process, described, notice
from fastgw.runtime.control.control import run_control
from fastgw.runtime.ipc.channel import Channel, Columns, UseWaker
from fastgw.runtime.node.cache_stores import column_of
from fastgw.runtime.node.child_slots import Child, Slot, Work
from fastgw.runtime.node.heartbeat_monitor import CONTROL_HUNG_S
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.process.signals import Signals
from fastgw.runtime.sockets.listening_sockets import release_endpoints
from fastgw.runtime.worker.worker import WorkerBootstrap, run_worker
from fastgw.shm.connection_journal import ConnectionJournal
from fastgw.shm.wakers import add_waker

CRASHED: Final = 70
"""Exit status of a child after an uncaught exception (EX_SOFTWARE of sysexits.h)."""


class Children:
    """All processes that the supervisor forks. `companions`: by name, processes other than workers. `forget`: called in

    a child to close the supervisor's own resources.
    """

    def __init__(
        self, node_state: NodeState, companions: Mapping[str, Work], signals: Signals, forget: Callable[[], None]
    ) -> None:
        self._node_state = node_state
        self._signals = signals
        self._forget = forget
        self.workers = [Slot(f"worker {index + 1}", index) for index in range(node_state.slots)]
        self.companions = [Slot(name, None, work) for name, work in companions.items()]
        self.control = Slot("control", None, partial(run_control, node_state))
        if node_state.sealed.accepted.sources or node_state.own:
            self.companions.append(self.control)
        self.leaving: list[Child] = []
        """Workers that drain and will end."""

    @property
    def slots(self) -> list[Slot]:
        return self.workers + self.companions

    def __iter__(self) -> Iterator[Child]:
        """Iterate over all living children."""
        for slot in self.slots:
            yield from slot.children
        yield from self.leaving

    def that_work(self) -> list[Child]:
        """All workers, including those that are leaving."""
        return [child for child in self if child.column is not None]

    def serving(self) -> Iterator[Child]:
        """Workers that may accept."""
        return (slot.child for slot in self.workers if slot.child is not None and slot.child.able)

    def present(self) -> list[Child]:
        """Workers that serve, including silent ones."""
        children = (slot.child for slot in self.workers)
        return [child for child in children if child is not None and child.ready and not child.leaving]

    def slot_of(self, child: Child) -> Slot | None:
        """Return the slot of a child. None: it is leaving."""
        return next((slot for slot in self.slots if child in slot.children), None)

    def resize(self, workers: int) -> None:
        """Set the number of slots with a worker. Existing slots keep their sockets."""
        for slot in self.workers:
            assert slot.index is not None
            slot.retired = slot.index >= workers
        self.workers += [Slot(f"worker {index + 1}", index) for index in range(len(self.workers), workers)]

    def fork(self, slot: Slot) -> Child:
        """Fork a child for this slot. Raises `OSError`."""
        column = self._column() if slot.work is None else None
        journal = -1 if column is None else ConnectionJournal.create()
        try:
            ours, theirs = Channel.pair()
        except OSError:
            _close_journal(journal)
            raise
        try:
            # A signal to the child before its own initialization would be written to the supervisor's pipe.
            with self._signals.held_back():
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    self._run_child(slot, column, journal, theirs)
        except OSError:
            ours.close()
            _close_journal(journal)
            raise
        finally:
            theirs.close()
        child = Child(pid, ours, slot.name, column, time.monotonic())
        child.journal = journal
        if slot is self.control:
            child.beats, child.hung_s = True, CONTROL_HUNG_S
        child.caches = {name: store.number for name, store in self._node_state.caches.stores.items()}
        if column is not None:
            child.sockets = {number: len(each.sockets) for number, each in self._node_state.endpoints.items()}
        return child

    def _column(self) -> int:
        """Return a free column. All processes that sum over columns know it before a worker uses it."""
        taken = {child.column for child in self}
        column = next(column for column in range(len(taken) + 1) if column not in taken)
        node_state = self._node_state
        node_state.shared.widen(column + 1)
        node_state.words.expect(node_state.shared, column, node_state.sealed.generation)
        for child in self:
            child.send(Columns(generation=child.generation, count=column + 1))
        self._open_waker(column_of(column))
        return column

    def _open_waker(self, column: int) -> None:
        """Open the waker of this column, if there is none, for all processes."""
        wakers = self._node_state.wakers
        try:
            if not add_waker(wakers, column):
                return
        except OSError:  # too many open files: its worker looks at intervals
            return
        for child in self:
            if not child.outdated:  # otherwise it is replaced, and may be of a program without this message
                child.send(UseWaker(generation=child.generation, column=column), [wakers[column]])

    def _run_child(self, slot: Slot, column: int | None, journal: int, channel: Channel) -> NoReturn:
        """Run in the child: close the supervisor's resources, run the main function, and exit without returning."""
        code = CRASHED
        try:
            self._signals.forget()
            for other in self:
                other.channel.close()  # otherwise that child would not notice the end of the supervisor
                _close_journal(other.journal)
            self._forget()
            call_ourselves(f"fastgw {slot.name}")
            call_process(slot.name)
            when_alone(signal.SIGCONT)  # the channel closes then, which ends this process; but not while it is stopped
            if slot.work is not None:
                release_endpoints(self._node_state.endpoints.values())  # it accepts nothing there
                slot.work(channel)
            else:
                assert slot.index is not None
                assert column is not None
                run_worker(WorkerBootstrap(slot.index, column, self._node_state, journal), channel)
            code = 0
        except Exception as error:
            notice(
                OperatorEvent.PROCESS_FAILED,
                f"{slot.name}: {error if isinstance(error, OSError) else described(error)}",
            )
        finally:
            os._exit(code)


def _close_journal(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
