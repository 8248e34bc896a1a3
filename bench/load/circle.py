"""What the connections of `websocket` say and hear, known beforehand on both ends, so that no frame has to be parsed.

The messages of a connection follow one another in a circle. What must come next is then a slice of one byte string, and
comparing it checks every byte.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from bench.load import frames

MESSAGES = 251  # different ones, prime so that connections do not meet at the same one
SIZES = (16, 1024)  # of a message, least and most: both of the short forms of a frame's length
OPENING_BYTES = 6  # as many as any client's frame has: length and mask, by which a message is known


class Circle:
    """Frames in their order, twice round, so that a slice never has to be cut in two."""

    def __init__(self, each: Sequence[bytes]) -> None:
        self.count = len(each)
        self.twice = b"".join(each) * 2
        self.round_bytes = len(self.twice) // 2
        self.begins = [0, *accumulate(map(len, [*each, *each]))]
        """Of each frame, where it begins; and the end of the last."""

    def frames(self, first: int, count: int) -> bytes:
        """`count` frames, no more than there are, from number `first` on."""
        return self.twice[self.begins[first] : self.begins[first + count]]


class Follower:
    """How far into the circle one end of a connection has received."""

    def __init__(self, circle: Circle, first: int) -> None:
        self._circle = circle
        self._whole = first  # frames received to their end, in this round
        self._at = circle.begins[first]

    def follow(self, data: bytes) -> int | None:
        """How many frames `data` ends; None if it is not what must come next."""
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
    """What clients say, and what they hear: the same for every contestant and round."""
    chance = random.Random(seed)
    messages = [chance.randbytes(chance.randint(*SIZES)) for _ in range(MESSAGES)]
    spoken = Circle([frames.from_client(frames.BINARY, message, chance.randbytes(4)) for message in messages])
    return spoken, Circle([frames.from_server(frames.BINARY, message) for message in messages])


def openings(spoken: Circle) -> dict[bytes, int]:
    """The number of each frame, by how it begins."""
    return {spoken.frames(number, 1)[:OPENING_BYTES]: number for number in range(spoken.count)}
