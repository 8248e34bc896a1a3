"""A place for one child process, and when it is filled again after the child died."""

from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

from fastgw.runtime.channel import AnyMessage, Channel, ChannelClosed
from fastgw.runtime.pulse import Pulse

SETTLED: Final = 10.0
"""Seconds a child must live for its death to count as the first again."""
LOOP_DEATHS: Final = 5
"""Deaths in a row, none of them settled, that are called a crash loop."""


def restart_delay(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row: none, then 0.1, doubling up to 5."""
    return min(5.0, 0.1 * 2 ** (deaths - 2)) if deaths > 1 else 0.0


class Slot:
    """Holds a child, or waits to hold the next. `index`: of the worker slot; None for a process that is no worker."""

    def __init__(self, name: str, index: int | None, work: Callable[[Channel], None]) -> None:
        self.name = name
        self.index = index
        self.work = work
        self.pid = 0  # 0: no child
        self.channel: Channel | None = None
        self.ready = False
        self.pulse = Pulse()
        self.silent = False  # it has not beaten for a while; neighbours accept for it
        self.kill_at = inf  # when the child is killed, if it has not ended by then
        self.deaths = 0  # in a row
        self.due_at = 0.0  # when to fork, if there is no child
        self._began_at = 0.0

    def __repr__(self) -> str:
        state = "ending" if self.kill_at < inf else "silent" if self.silent else "ready" if self.ready else "not ready"
        return f"<Slot {self.name} pid={self.pid} {state} deaths={self.deaths}>"

    @property
    def child(self) -> str:
        """The child, in a line for people."""
        return f"{self.name} (pid {self.pid})"

    @property
    def able(self) -> bool:
        """The child accepts."""
        return self.ready and not self.silent

    def fill(self, pid: int, channel: Channel, now: float) -> None:
        """A child was forked. `now`: monotonic seconds, as everywhere here."""
        self.pid, self.channel, self.pulse = pid, channel, Pulse()
        self._began_at = now

    def empty(self, now: float) -> None:
        """The child is dead, or could not be forked. Sets when the next one is due."""
        if self.channel is not None:
            self.channel.close()
        self.pid, self.channel = 0, None
        self.ready = self.silent = False
        self.kill_at = inf
        self.deaths = 1 if now - self._began_at >= SETTLED else self.deaths + 1
        self.due_at = now + restart_delay(self.deaths)
        self._began_at = now

    def send(self, message: AnyMessage) -> None:
        """Tell the child, if there is one that listens. Its death is told by the kernel, not here."""
        if self.channel is not None:
            with suppress(ChannelClosed):
                self.channel.send(message)
