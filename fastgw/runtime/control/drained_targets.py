"""Drained targets: the control process keeps the list and sends it to all workers."""

import asyncio
import os
from collections.abc import Container

from fastgw.runtime.ipc.channel import Channel, ChannelClosed, ChannelFull, FeedUpdate
from fastgw.runtime.ipc.feed_values import RETRY_S, write_memfd
from fastgw.sync.drained_targets import FEED, read, written


class DrainedTargets:
    """`value`: the list at the start of this process."""

    def __init__(self, channel: Channel, value: bytes, generation: int) -> None:
        self._channel = channel
        self._generation = generation
        self.names = read(value)
        self._unsent = False

    def drain(self, name: str) -> None:
        if name not in self.names:
            self.names.add(name)
            self._send_to_workers()

    def restore(self, name: str) -> None:
        """Undrain a target: it gets requests again."""
        if name in self.names:
            self.names.remove(name)
            self._send_to_workers()

    def retain_targets(self, there: Container[str], generation: int) -> None:
        """Keep only targets of the new generation. A target that is removed and added again is no longer drained."""
        self._generation = generation
        left = {name for name in self.names if name in there}
        if left != self.names:
            self.names = left
            self._send_to_workers()

    def _send_to_workers(self) -> None:
        if not self._unsent:
            self._unsent = True
            self._send()

    def _send(self) -> None:
        descriptor = write_memfd(written(self.names))
        try:
            self._channel.send(FeedUpdate(generation=self._generation, key=FEED), [descriptor])
            self._unsent = False
        except ChannelFull:
            asyncio.get_running_loop().call_later(RETRY_S, self._send)
        except ChannelClosed:
            pass  # the supervisor has ended, so this process ends too
        finally:
            os.close(descriptor)
