"""Messages of `websocket` connections, known in advance to both ends, so that no frame has to be parsed.

The messages of a connection repeat in a cycle. The expected bytes are then a slice of one byte string, and one
comparison checks every byte.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from bench.load import frames

MESSAGES = 251  # number of distinct ones; prime, so that connections are at different ones
SIZES = (16, 1024)  # minimum and maximum size of a message: both short forms of a frame's length
OPENING_BYTES = 6  # size of a client's frame header: length and mask, which identify a message


class Circle:
    """The frames in order, twice, so that no slice has to be split."""

    def __init__(self, each: Sequence[bytes]) -> None:
        self.count = len(each)
        self.twice = b"".join(each) * 2
        self.round_bytes = len(self.twice) // 2
        self.begins = [0, *accumulate(map(len, [*each, *each]))]
        """Offset of each frame, and the end of the last."""

    def frames(self, first: int, count: int) -> bytes:
        """Return `count` frames, at most all of them, from number `first` on."""
        return self.twice[self.begins[first] : self.begins[first + count]]


class Follower:
    """Position of one end of a connection in the cycle."""

    def __init__(self, circle: Circle, first: int) -> None:
        self._circle = circle
        self._whole = first  # complete frames received in this cycle
        self._at = circle.begins[first]

    def follow(self, data: bytes) -> int | None:
        """Return the number of frames that `data` completes; None if the bytes are not the expected ones."""
        circle, until = self._circle, self._at + len(data)
        if circle.twice[self._at : until] != data:
            return None
        whole = bisect_right(circle.begins, until) - 1
        ended = whole - self._whole
        if until >= circle.round_bytes:
            until -= circle.round_bytes
            whole -= circle.count
        self._at, self._whole = until, whole
        return ended


def conversation(seed: int = 42) -> tuple[Circle, Circle]:
    """Return the messages of clients and their echoes: the same for every contestant and round."""
    chance = random.Random(seed)
    messages = [chance.randbytes(chance.randint(*SIZES)) for _ in range(MESSAGES)]
    spoken = Circle([frames.from_client(frames.BINARY, message, chance.randbytes(4)) for message in messages])
    return spoken, Circle([frames.from_server(frames.BINARY, message) for message in messages])


def openings(spoken: Circle) -> dict[bytes, int]:
    """Number of each frame by its first bytes."""
    return {spoken.frames(number, 1)[:OPENING_BYTES]: number for number in range(spoken.count)}
