"""Memory budget of held bodies, shared by all workers: of requests for retries, of answers that a response is made of,
and of made responses that their clients have not read.
"""

from collections.abc import Callable, Sequence
from typing import Final, final

MOST_BYTES: Final = 64 * 1024**2
"""Maximum bytes per node."""


@final
class HeldBodyBudget:
    """Budget, in bytes, for all held bodies together, beyond the free allowance of each.

    Exact for the node, like `NodeLimit`: the bytes are added to this process's own word, all words are summed, and the
    bytes are subtracted again if the sum is too high. The word of a worker that dies is cleared.
    """

    __slots__ = ("_fence", "_views", "_word", "_words", "limit")

    def __init__(
        self, word: int, words: memoryview, views: Sequence[memoryview], fence: Callable[[], None], limit: int
    ) -> None:
        """`word`: a gauge in `words`, the column of this process; `views`: all columns."""
        self._word = word
        self._words = words
        self._views = views
        self._fence = fence
        self.limit = limit

    @classmethod
    def single_process(cls, limit: int = MOST_BYTES) -> "HeldBodyBudget":
        """Return the budget of a single process."""
        words = memoryview(bytearray(8)).cast("Q")
        return cls(0, words, [words], lambda: None, limit)

    def __repr__(self) -> str:
        return f"<HeldBodyBudget {self.in_use} of {self.limit} bytes>"

    @property
    def in_use(self) -> int:
        """Bytes taken by all processes."""
        word = self._word
        return sum([view[word] for view in self._views])

    def try_take(self, count: int) -> bool:
        """Take bytes, which the caller has to return. False: not enough left."""
        self._words[self._word] += count
        self._fence()
        if self.in_use <= self.limit:
            return True
        self._words[self._word] -= count
        return False

    def give_back(self, count: int) -> None:
        """Return bytes to the budget."""
        self._words[self._word] -= count
