"""Counter stores: the interface between filters that limit and the store of their counts.

A filter uses only the `CounterStore` interface. `NodeCounterStore` counts in the rate limit table of the node and
decides at once. A store shared by several nodes has to ask: its `spend` returns an awaitable, and the filter's step
waits.

The permits spent by a request are kept on the exchange as a linked list of records (`Exchange.limits`): a limit that
rejects returns what earlier limits have spent, and response headers describe the tightest limit.
"""

from collections.abc import Awaitable
from math import inf
from time import monotonic_ns
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, final

from fastgw.errors import Fault
from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit

Algorithm = Literal["token_bucket", "fixed_window", "sliding_window", "leaky_bucket"]

LONGEST_TURN_S: Final = 10.0
"""Maximum wait of a leaky bucket without a configured `burst`, in seconds."""


ROUNDED_S: Final = 1e-4
"""Seconds by which the wait for a window may be rounded up, and which an answer and the next request take at least."""


class LimitSpec(NamedTuple):
    """Limit and its subject. `burst`: as in `rate_limit`; None: the default."""

    algorithm: Algorithm
    limit: int
    window: float
    """Length of the window in seconds."""
    burst: int | None = None

    @property
    def depth(self) -> int:
        """Maximum number of permits at once. For a leaky bucket: its queue, and the request whose turn it is."""
        if self.algorithm == "leaky_bucket":
            return 1 + (self.queue_size if self.burst is None else self.burst)
        return self.limit if self.burst is None else self.burst

    @property
    def queue_size(self) -> int:
        return min(self.limit, int(LONGEST_TURN_S * self.limit / self.window))

    @property
    def last_turn(self) -> float:
        """Maximum wait of an admitted request in seconds."""
        return (self.depth - 1) * self.step_s if self.algorithm == "leaky_bucket" else 0.0

    @property
    def step_s(self) -> float:
        """Seconds between two permits of a bucket."""
        return rate_limit_table.step_of(self.limit, self.window) / 1e9

    @property
    def rounding(self) -> tuple[float, float]:
        """Return by how many seconds waits may be rounded up, and the longest wait: clients get whole seconds."""
        if self.algorithm in ("sliding_window", "fixed_window"):
            return ROUNDED_S, self.window - ROUNDED_S
        return self.depth / 1e9, inf  # the ns between two permits are rounded up


class LimitDecision(NamedTuple):
    """Result of a `spend`."""

    wait: float
    """0.0: it was spent. Otherwise nothing was spent; seconds until it can be."""
    mark: Any = None
    """Argument for `refund` and `remaining` about this spending; for the node's table its time in ns."""
    turn: float = 0.0
    """Seconds until the request's turn in a leaky bucket."""
    is_away: bool = False
    """Whether it was decided without the shared store, which is unreachable."""
    fault: Fault = Fault.RATE_LIMITED
    """Reason why nothing was spent."""


Left: TypeAlias = tuple[int, float]
"""Permits available now, and the seconds until all are replenished if nothing more is spent."""


class CounterStore(Protocol):
    """Counts of one limit for all of its keys, in one process.

    Counter stores of the same name, algorithm and window share counts of equal keys in all workers, whatever their
    limit and burst are: a limit that is changed keeps what was spent (a bucket the time until it is full).
    """

    def spend(self, key: bytes, cost: int, /) -> LimitDecision | Awaitable[LimitDecision]:
        """Spend `cost` permits (1 to `LimitSpec.depth`), or nothing."""

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        """Refund what was spent, at most once. It may take effect later: callers do not wait."""

    def charge(self, key: bytes, cost: int, mark: Any, /) -> None:
        """Spend a cost that is known only afterwards, if necessary into overdraft: at most `LimitSpec.depth`."""

    def remaining(self, key: bytes, mark: Any, /) -> Left:
        """Return the permits left, now or directly after the spending identified by `mark`. Does not wait."""


Record: TypeAlias = tuple[Any, CounterStore, bytes, int, Any, Any]
"""Spending of a request on one limit: its response headers (`LimitHeaders`; None: none), store, key, cost (0: nothing),
mark (None: rejected), and the record of the previous limit, or None. A plain tuple, because one is created for each
request.
"""


def give_back(record: Record | None) -> None:
    """Refund what these limits have spent on a request."""
    while record is not None:
        _, counter_store, key, cost, mark, record = record
        if cost:
            counter_store.refund(key, cost, mark)


@final
class NodeCounterStore:
    """Counter store in the node's rate limit table, which decides at once."""

    __slots__ = ("_step", "_turns", "limit")

    def __init__(self, cells_: Cells, name: bytes, terms: LimitSpec) -> None:
        """`name`: identifies the filter among those that count."""
        self.limit: Limit = limit_of(cells_, name, terms)
        self._step = rate_limit_table.step_of(terms.limit, terms.window)
        self._turns = terms.algorithm == "leaky_bucket"

    def spend(self, key: bytes, cost: int, /) -> LimitDecision:
        limit, now = self.limit, monotonic_ns()
        wait = limit.spend(key, cost, now)
        if wait:
            return LimitDecision(wait)
        return LimitDecision(0.0, now, self.queue_delay(cost, now) if self._turns else 0.0)

    def queue_delay(self, cost: int, now: int) -> float:
        """Return the seconds until the turn of the last spending."""
        return max((self.limit.renewed_at - cost * self._step - now) / 1e9, 0.0)

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        self.limit.refund(key, cost, mark, monotonic_ns)

    def charge(self, key: bytes, cost: int, mark: Any = None, /) -> None:
        self.limit.charge(key, cost, monotonic_ns())

    def remaining(self, key: bytes, mark: Any = None, /) -> Left:
        return self.limit.remaining(key, monotonic_ns())


def limit_of(table: Cells, name: bytes, terms: LimitSpec) -> Limit:
    """Return the limit. Raises `ValueError` for settings that do not fit into a cell."""
    match terms.algorithm:
        case "token_bucket":
            return table.token_bucket(terms.limit, terms.window, terms.depth, name)
        case "fixed_window":
            return table.fixed_window(terms.limit, terms.window, name)
        case "sliding_window":
            return table.sliding_window(terms.limit, terms.window, name)
        case "leaky_bucket":
            return table.leaky_bucket(terms.limit, terms.window, terms.depth - 1, name)
