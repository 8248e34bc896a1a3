"""Captures that the control process has begun: the supervisor passes them to its workers, and to later ones."""

import os
from collections.abc import Iterable, Sequence
from typing import Final, final

from fastgw.runtime.ipc.channel import Capture, close_descriptors
from fastgw.runtime.node.child_slots import Child

MOST: Final = 64
"""Maximum number of captures; further ones are not passed on."""


@final
class CaptureRelay:
    """Captures by number, each with the socket for its samples."""

    def __init__(self) -> None:
        self._captures: dict[int, tuple[Capture, int]] = {}

    def pass_on(self, message: Capture, descriptors: Sequence[int], workers: Iterable[Child]) -> None:
        """Handle a message of control; the descriptors belong to it."""
        self._end(message.number)
        if descriptors and len(self._captures) >= MOST:
            close_descriptors(descriptors)
            return
        for worker in workers:
            _send(worker, message, descriptors)
        if descriptors:
            self._captures[message.number] = message, descriptors[0]
            close_descriptors(descriptors[1:])

    def catch_up(self, worker: Child) -> None:
        """Send all captures to a worker that has just started."""
        for message, descriptor in self._captures.values():
            _send(worker, message, (descriptor,))

    def forget_all(self) -> None:
        """Forget the captures of a control process that has ended: workers notice it by their sockets."""
        for number in tuple(self._captures):
            self._end(number)

    def _end(self, number: int) -> None:
        held = self._captures.pop(number, None)
        if held is not None:
            os.close(held[1])


def _send(worker: Child, message: Capture, descriptors: Sequence[int]) -> None:
    worker.send(Capture(generation=worker.generation, number=message.number, order=message.order), descriptors)
