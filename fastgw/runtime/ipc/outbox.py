"""Outbox: queued messages to a child whose channel is full, or while too many descriptors are in transit."""

import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from fastgw.runtime.ipc.channel import AnyMessage, Channel, ChannelClosed, ChannelFull, close_descriptors

MOST: Final = 65_536
"""Maximum number of queued messages. A child that has read none of so many has an outdated state."""
AGAIN_S: Final = 0.01
"""Seconds until the next attempt."""


class Outbox:
    """Keeps messages in order, and the descriptors that go with them open."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[AnyMessage, list[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Send now or later. A message equal to the last queued one is not repeated. Raises `ChannelClosed`."""
        if not self._waiting:
            try:
                self._channel.send(message, descriptors)
            except ChannelFull:
                pass
            else:
                return
        elif not descriptors and self._waiting[-1][0] == message:
            return
        if len(self._waiting) >= MOST:
            raise ChannelClosed
        try:
            self._waiting.append((message, [os.dup(descriptor) for descriptor in descriptors]))
        except OSError as error:
            raise ChannelClosed from error

    def flush(self) -> None:
        """Send as many messages as possible. Raises `ChannelClosed`."""
        while self._waiting:
            message, descriptors = self._waiting[0]
            try:
                self._channel.send(message, descriptors)
            except ChannelFull:
                return
            self._waiting.popleft()
            close_descriptors(descriptors)

    def close(self) -> None:
        """Close the outbox when its receiver is gone."""
        while self._waiting:
            close_descriptors(self._waiting.popleft()[1])
