"""Slots for child processes, the children in them, and the restart delay after the death of a child."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import AnyMessage, Channel, ChannelClosed, Stop
from fastgw.runtime.ipc.outbox import Outbox
from fastgw.runtime.node.heartbeat_monitor import HUNG_S, LOOK_EVERY, HeartbeatMonitor

SETTLED: Final = 10.0
"""Minimum lifetime of a child in seconds after which its death counts as the first one again."""
DISMISSED_S: Final = 3.0
"""Seconds in which a replaced child finishes its requests in flight."""
LOOP_DEATHS: Final = 5
"""Number of consecutive early deaths that count as a crash loop."""

Work = Callable[[Channel], None]
"""The main function of a child process, given its end of the channel."""


def restart_delay(deaths: int) -> float:
    """Seconds to wait after this number of consecutive deaths: none, then 0.1, doubling up to 5."""
    return min(5.0, 0.1 * 2 ** (deaths - 2)) if deaths > 1 else 0.0


class Child:
    """A child process. `column`: the words of shared memory that only it writes; None for one that is not a worker.

    `outdated`: it has to be replaced, because it runs the previous program, or cannot follow the configuration.
    """

    def __init__(
        self, pid: int, channel: Channel, name: str, column: int | None, began_at: float, *, outdated: bool = False
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.outbox = Outbox(channel)
        self.name = name
        self.column = column
        self.began_at = began_at  # monotonic seconds
        self.outdated = outdated
        self.beats = column is not None  # its heartbeats are in our memory; a worker of another version has its own
        self.hung_s = HUNG_S  # seconds without a beat after which it is killed
        self.generation = 0  # generation that it serves; 0: not initialized yet
        self.asked = 0  # the last generation that it was asked to prepare
        self.ready = False
        self.silent = False  # without a recent heartbeat: neighbours accept for it
        self.leaving = False  # its slot was reassigned or removed
        self.lost = False  # it does not read messages, so its state is outdated
        self.heartbeat = HeartbeatMonitor()
        self.kill_at = inf  # time of the kill if it has not ended by then
        self.sockets: dict[int, int] = {}  # number of slots with sockets, by endpoint
        self.caches: dict[str, int] | None = {}  # numbers of its cache stores; None: it knows none, an old program
        self.journal = -1  # descriptor of its connection journal; -1: it has none

    def __repr__(self) -> str:
        state = "ending" if self.kill_at < inf else "silent" if self.silent else "ready" if self.ready else "not ready"
        return f"<Child {self} {state} generation={self.generation}>"

    def __str__(self) -> str:
        """Name the child for people."""
        return f"{self.name} (pid {self.pid})"

    @property
    def able(self) -> bool:
        """Whether the child may accept connections."""
        return self.ready and not (self.silent or self.leaving or self.lost)

    def dismiss(self) -> None:
        """Request its end, because it is replaced."""
        self.leaving = True
        self.kill_at = time.monotonic() + DISMISSED_S
        self.send(Stop(generation=self.generation))

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Send a message to the child, now or by a later `flush`. Its death is reported by the kernel, not here."""
        try:
            self.outbox.send(message, descriptors)
        except ChannelClosed:
            self.lost = True

    def flush(self) -> None:
        """Send queued messages."""
        try:
            self.outbox.flush()
        except ChannelClosed:
            self.lost = True

    def close(self) -> None:
        """Close the outbox and the channel of a dead child."""
        self.outbox.close()
        self.channel.close()


def cut_off(child: Child, why: str) -> None:
    """Kill it at once: it must not continue. The kernel closes its connections."""
    notice(OperatorEvent.PROCESS_KILLED, f"{child} {why}: killing it")
    child.kill_at = time.monotonic() + LOOK_EVERY  # retried, in case it is blocked by a disk
    os.kill(child.pid, signal.SIGKILL)


class Slot:
    """Slot with a child, or waiting for the next one. `index`: of the worker slot; None for a process that is not a
    worker.
    """

    def __init__(self, name: str, index: int | None, work: Work | None = None) -> None:
        self.name = name
        self.index = index
        self.work = work
        """The main function of a child that is not a worker."""
        self.child: Child | None = None
        self.successor: Child | None = None
        """The replacement of the present child, until it is ready."""
        self.retired = False  # without further children: neighbours accept
        self.deaths = 0  # consecutive deaths
        self.due_at = 0.0  # time of the next fork, if there is no child

    def __repr__(self) -> str:
        return f"<Slot {self.name} {self.child!r} deaths={self.deaths}>"

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.child, self.successor) if child is not None]

    @property
    def is_vacant(self) -> bool:
        """Whether a child is to be started here."""
        return self.child is None and not self.retired

    @property
    def is_ready(self) -> bool:
        return self.child is not None and self.child.ready

    @property
    def answers(self) -> bool:
        """Whether it is ready and its loop is running."""
        return self.child is not None and self.child.ready and not self.child.silent

    def failed(self, lived: float, now: float) -> None:
        """Handle the death of a child after this number of seconds, or a failed fork. Schedules the next fork."""
        self.deaths = 1 if lived >= SETTLED else self.deaths + 1
        self.due_at = now + restart_delay(self.deaths)
