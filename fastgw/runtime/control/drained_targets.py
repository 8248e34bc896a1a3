"""Drained targets: the control process keeps the list and sends it to all workers."""

from collections.abc import Container

from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.sync.drained_targets import FEED, read, written


class DrainedTargets:
    """`value`: the list at the start of this process."""

    def __init__(self, channel: Channel, value: bytes, generation: int) -> None:
        self._generation = generation
        self.names = read(value)
        self._feed = PublishedFeed(channel, FEED, lambda: self._generation, lambda: written(self.names))

    def drain(self, name: str) -> None:
        if name not in self.names:
            self.names.add(name)
            self._feed.publish()

    def restore(self, name: str) -> None:
        """Undrain a target: it gets requests again."""
        if name in self.names:
            self.names.remove(name)
            self._feed.publish()

    def retain_targets(self, there: Container[str], generation: int) -> None:
        """Keep only targets of the new generation. A target that is removed and added again is no longer drained."""
        self._generation = generation
        left = {name for name in self.names if name in there}
        if left != self.names:
            self.names = left
            self._feed.publish()
