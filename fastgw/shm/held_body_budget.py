"""Memory budget of held bodies, shared by all workers: of requests for retries, of bodies that filters hold until they
are complete, of answers that a response is made of, and of made responses that their clients have not read.
"""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, final

from fastgw.shm.node_limits import REMEMBERED, Cells, KeyCounts, subscriber

MOST_BYTES: Final = 64 * 1024**2
"""Maximum bytes per node."""
FREE_BYTES: Final = 4096
"""Bytes of each body held for filters that are not counted: about what its connection needs anyway."""
WHY_NOT_HELD: Final = "the node's memory for held bodies is used up"
"""Reason in the log for a body that the budget does not allow."""
CLIENT_SHARE: Final = 4
"""Part of the budget for the request bodies of one client address, as a divisor."""
WHY_NO_SHARE: Final = "the client's address has its share of the node's memory for held bodies"
"""Reason in the log for a body that this share does not allow."""


class HeldBodyBudget:
    """Budget, in bytes, for all held bodies together, beyond the free allowance of each.

    Exact for the node, like `NodeLimit`: the bytes are added to this process's own word, all words are summed, and the
    bytes are subtracted again if the sum is too high. The word of a worker that dies is cleared.
    """

    __slots__ = ("_cells", "_counts", "_fence", "_views", "_word", "_words", "limit")

    def __init__(
        self,
        word: int,
        words: memoryview,
        views: Sequence[memoryview],
        fence: Callable[[], None],
        limit: int,
        counts: KeyCounts | None = None,
    ) -> None:
        """`word`: a gauge in `words`, the column of this process; `views`: all columns. `counts`: of the node, in which
        the bytes of each client address are counted; None: addresses have no shares.
        """
        self._word = word
        self._words = words
        self._views = views
        self._fence = fence
        self.limit = limit
        self._counts = counts
        self._cells: Callable[[str], Cells] = lru_cache(REMEMBERED)(self._cells_of)

    def _cells_of(self, ip: str) -> Cells:
        assert self._counts is not None
        return self._counts.cells(b"held " + subscriber(ip))

    def share_of(self, ip: str) -> "HeldBodyBudget":
        """Return the budget of one request's body, of a client with this address. IPv6 has shares by /64; clients of
        unix sockets have none, but the whole budget.
        """
        return self if self._counts is None or not subscriber(ip) else ClientShare(self, self._counts, self._cells(ip))

    @property
    def why(self) -> str:
        """Reason of the last refusal, for the log."""
        return WHY_NOT_HELD

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


@final
class ClientShare(HeldBodyBudget):
    """Share of a client's address, for one body. A single body may take more, if it is the only one of its address."""

    __slots__ = ("_address", "_budget", "_taken", "_why")

    def __init__(self, budget: HeldBodyBudget, counts: KeyCounts, address: Cells) -> None:
        self._budget, self._counts, self._address = budget, counts, address
        self.limit = budget.limit // CLIENT_SHARE
        self._taken = 0  # by this body
        self._why = WHY_NOT_HELD

    def __repr__(self) -> str:
        return f"<ClientShare {self._taken} bytes of {self._budget!r}>"

    @property
    def why(self) -> str:
        return self._why

    @property
    def in_use(self) -> int:
        """Bytes of all bodies of this address."""
        assert self._counts is not None
        return self._counts.count(self._address)

    def try_take(self, count: int) -> bool:
        assert self._counts is not None
        self._counts.add_permits(self._address, count)
        self._taken += count
        if self._budget.try_take(count):  # with a fence after our store
            in_use = self.in_use
            if in_use <= self.limit or in_use == self._taken:
                return True
            self._budget.give_back(count)
            self._why = WHY_NO_SHARE
        else:
            self._why = WHY_NOT_HELD
        self._forget(count)
        return False

    def give_back(self, count: int) -> None:
        self._budget.give_back(count)
        self._forget(count)

    def _forget(self, count: int) -> None:
        assert self._counts is not None
        self._counts.add_permits(self._address, -count)
        self._taken -= count


UNLIMITED: Final = HeldBodyBudget.single_process(sys.maxsize)
"""Budget of exchanges that no client waits for, such as those of `explain`."""


@final
class HeldBytes:
    """Bytes of one body that is held for filters, beyond `FREE_BYTES`, which it takes from a budget.

    They are returned by `release`, or else when this object is deleted, so that none of the node's memory can be lost.
    """

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: HeldBodyBudget) -> None:
        self._budget = budget
        self._taken = 0

    def __repr__(self) -> str:
        return f"<HeldBytes {self._taken}>"

    @property
    def why(self) -> str:
        """Reason why `try_hold` was False, for the log."""
        return self._budget.why

    def __del__(self) -> None:
        self.release()

    def try_hold(self, total: int) -> bool:
        """Hold this many bytes in total, more or fewer than before. False: not enough left; nothing was changed."""
        wanted = total - FREE_BYTES if total > FREE_BYTES else 0
        more = wanted - self._taken
        if more > 0:
            if not self._budget.try_take(more):
                return False
        elif more:
            self._budget.give_back(-more)
        self._taken = wanted
        return True

    def release(self) -> None:
        """Return everything to the budget."""
        if self._taken:
            taken, self._taken = self._taken, 0
            self._budget.give_back(taken)
