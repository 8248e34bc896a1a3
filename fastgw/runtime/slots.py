"""A place for one child process, and when it is filled again after the child died."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fastgw.runtime.channel import AnyMessage, Channel, ChannelClosed

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
        self.deaths = 0  # in a row
        self.due_at = 0.0  # when to fork, if there is no child
        self._began_at = 0.0

    def __repr__(self) -> str:
        return f"<Slot {self.name} pid={self.pid} {'ready' if self.ready else 'not ready'} deaths={self.deaths}>"

    def fill(self, pid: int, channel: Channel, now: float) -> None:
        """A child was forked. `now`: monotonic seconds, as everywhere here."""
        self.pid, self.channel, self.ready = pid, channel, False
        self._began_at = now

    def empty(self, now: float) -> None:
        """The child is dead, or could not be forked. Sets when the next one is due."""
        if self.channel is not None:
            self.channel.close()
        self.pid, self.channel, self.ready = 0, None, False
        self.deaths = 1 if now - self._began_at >= SETTLED else self.deaths + 1
        self.due_at = now + restart_delay(self.deaths)
        self._began_at = now

    def send(self, message: AnyMessage) -> None:
        """Tell the child, if there is one that listens. Its death is told by the kernel, not here."""
        if self.channel is not None:
            with suppress(ChannelClosed):
                self.channel.send(message)
