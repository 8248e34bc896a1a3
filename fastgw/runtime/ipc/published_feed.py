"""Feed of the control process itself: a value that all workers get, also later ones, and later control processes."""

import asyncio
import os
from collections.abc import Callable
from typing import final

from fastgw.runtime.ipc.channel import Channel, ChannelClosed, ChannelFull, FeedUpdate
from fastgw.runtime.ipc.feed_values import RETRY_S, write_memfd


@final
class PublishedFeed:
    """`generation`: returns the active one; `value`: returns the value to send."""

    def __init__(self, channel: Channel, key: str, generation: Callable[[], int], value: Callable[[], bytes]) -> None:
        self._channel, self._key, self._generation, self._value = channel, key, generation, value
        self._unsent = False

    def __repr__(self) -> str:
        return f"<PublishedFeed {self._key}>"

    def publish(self) -> None:
        """Send the value, now or as soon as the supervisor accepts it."""
        if not self._unsent:
            self._unsent = True
            self._send()

    def _send(self) -> None:
        try:
            descriptor = write_memfd(self._value())
            try:
                self._channel.send(FeedUpdate(generation=self._generation(), key=self._key), [descriptor])
            finally:
                os.close(descriptor)
            self._unsent = False
        except (ChannelFull, OSError):  # OSError: too many open files, for example
            asyncio.get_running_loop().call_later(RETRY_S, self._send)
        except ChannelClosed:
            pass  # the supervisor has ended, so this process ends too
