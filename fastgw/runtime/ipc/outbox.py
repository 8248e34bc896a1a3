"""Messages to a child that wait: its end of the channel is full, or too many descriptors are on their way."""

import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from fastgw.runtime.ipc.channel import AnyMessage, Channel, ChannelClosed, ChannelFull, close_descriptors

MOST: Final = 65_536
"""Messages that wait. A child that takes none for so long does not know what it should."""
AGAIN_S: Final = 0.01
"""How soon to try again."""


class Outbox:
    """Keeps messages in order, and the descriptors that go with them open."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[AnyMessage, list[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Now or later. What was said last, and is not heard yet, is not said twice. Raises `ChannelClosed`."""
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
        """Send what can be sent. Raises `ChannelClosed`."""
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
