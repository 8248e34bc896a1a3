"""A place for one child process, and when it is filled again after the child died."""

import time
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

    def filled(self, pid: int, channel: Channel) -> None:
        self.pid, self.channel, self.ready = pid, channel, False
        self._began_at = time.monotonic()

    def emptied(self) -> None:
        """The child is dead. Sets when the next one is due."""
        now = time.monotonic()
        self.pid, self.ready = 0, False
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self.deaths = 1 if now - self._began_at >= SETTLED else self.deaths + 1
        self.due_at = now + restart_delay(self.deaths)

    def send(self, message: AnyMessage) -> None:
        """Tell the child, if there is one that listens. Its death is told by the kernel, not here."""
        if self.channel is not None:
            with suppress(ChannelClosed):
                self.channel.send(message)
