"""Places for child processes, the children in them, and when a place is filled again after its child died."""

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
"""Seconds a child must live for its death to count as the first again."""
DISMISSED_S: Final = 3.0
"""Seconds to go in, for a child whose place is to be filled anew: it answers what was asked."""
LOOP_DEATHS: Final = 5
"""Deaths in a row, none of them settled, that are called a crash loop."""

Work = Callable[[Channel], None]
"""The main function of a child process, given its end of the channel."""


def restart_delay(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row: none, then 0.1, doubling up to 5."""
    return min(5.0, 0.1 * 2 ** (deaths - 2)) if deaths > 1 else 0.0


class Child:
    """A process of ours. `column`: the words of shared memory that it alone writes; None for one that is no worker.

    `outdated`: another is to take its place: it runs the program before this one, or cannot follow the others.
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
        self.beats = column is not None  # in our memory; a worker of a program with other memory beats there
        self.hung_s = HUNG_S  # seconds without a beat after which it is killed
        self.generation = 0  # of the configuration that it serves; 0: it is not set up yet
        self.asked = 0  # the generation that it was told last to prepare
        self.ready = False
        self.silent = False  # it has not beaten for a while; neighbours accept for it
        self.leaving = False  # another has its place, or nobody will
        self.lost = False  # it takes no more messages, so it does not know what it should
        self.heartbeat = HeartbeatMonitor()
        self.kill_at = inf  # when it is killed, if it has not ended by then
        self.sockets: dict[int, int] = {}  # by endpoint: of how many slots it has them

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
        """Tell it to go: its place is to be filled anew."""
        self.leaving = True
        self.kill_at = time.monotonic() + DISMISSED_S
        self.send(Stop(generation=self.generation))

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Tell the child, now or with a later `flush`. Its death is told by the kernel, not here."""
        try:
            self.outbox.send(message, descriptors)
        except ChannelClosed:
            self.lost = True

    def flush(self) -> None:
        """Tell it what it could not be told before."""
        try:
            self.outbox.flush()
        except ChannelClosed:
            self.lost = True

    def close(self) -> None:
        """Close the outbox and the channel of a dead child."""
        self.outbox.close()
        self.channel.close()


def cut_off(child: Child, why: str) -> None:
    """Kill it at once, as it is: it must not go on for a moment more. The kernel closes its connections."""
    notice(OperatorEvent.PROCESS_KILLED, f"{child} {why}: killing it")
    child.kill_at = time.monotonic() + LOOK_EVERY  # again, if it waits for a disk by then
    os.kill(child.pid, signal.SIGKILL)


class Slot:
    """Holds a child, or waits to hold the next. `index`: of the worker slot; None for a process that is no worker."""

    def __init__(self, name: str, index: int | None, work: Work | None = None) -> None:
        self.name = name
        self.index = index
        self.work = work
        """The main function of a child that is no worker."""
        self.child: Child | None = None
        self.successor: Child | None = None
        """The child that takes the place once it is ready."""
        self.retired = False  # nobody is born here any more; neighbours accept
        self.deaths = 0  # in a row
        self.due_at = 0.0  # when to fork, if there is no child

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
        """Whether it is ready and goes round."""
        return self.child is not None and self.child.ready and not self.child.silent

    def failed(self, lived: float, now: float) -> None:
        """A child died after so many seconds, or could not be forked. Sets when the next one is due."""
        self.deaths = 1 if lived >= SETTLED else self.deaths + 1
        self.due_at = now + restart_delay(self.deaths)
