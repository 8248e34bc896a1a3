"""Counter stores: the one protocol between filters that limit and whatever counts for them.

A filter asks a `CounterStore` and knows no more. `NodeCounterStore` counts in the cells of this node and decides at
once. One that counts elsewhere (for several nodes) has to ask: its `spend` gives an awaitable, and its filter's step
waits.

What a request has spent is kept on the exchange, as a chain of records (`Exchange.limits`), so that one limit that
refuses gives back what those before it have taken, and so that clients are told of the tightest.
"""

from collections.abc import Awaitable
from time import monotonic_ns
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, final

from fastgw.errors import Fault
from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit

Algorithm = Literal["token_bucket", "fixed_window", "sliding_window", "leaky_bucket"]

LONGEST_TURN_S: Final = 10.0
"""Longest wait for a turn (leaky bucket) where nobody says how many may wait."""


class LimitSpec(NamedTuple):
    """Limit and its subject. `burst`: as `rate_limit` has it, None where it says nothing."""

    algorithm: Algorithm
    limit: int
    window: float
    """Length of the window in seconds."""
    burst: int | None = None

    @property
    def depth(self) -> int:
        """How much may be spent at once. Of a leaky bucket: its waiting places, and the turn that is due now."""
        if self.algorithm == "leaky_bucket":
            return 1 + (self.places if self.burst is None else self.burst)
        return self.limit if self.burst is None else self.burst

    @property
    def places(self) -> int:
        return min(self.limit, int(LONGEST_TURN_S * self.limit / self.window))

    @property
    def last_turn(self) -> float:
        """Seconds that whoever is admitted waits at most."""
        return (self.depth - 1) * self.step_s if self.algorithm == "leaky_bucket" else 0.0

    @property
    def step_s(self) -> float:
        """Seconds between two permits of a bucket."""
        return rate_limit_table.step_of(self.limit, self.window) / 1e9


class LimitDecision(NamedTuple):
    """Result of a `spend`."""

    wait: float
    """0.0: it was spent. Else nothing was: the seconds after which it can be."""
    mark: Any = None
    """Argument for `refund` and `left` about this spending; of the node's cells: its time, in ns."""
    turn: float = 0.0
    """Seconds until it is this request's turn, of a leaky bucket."""
    is_away: bool = False
    """Whether it was decided without those who ought to be asked."""
    fault: Fault = Fault.RATE_LIMITED
    """Reason why nothing was spent."""


Left: TypeAlias = tuple[int, float]
"""How many permits could be spent at once now, and the seconds until all are back if nothing more is spent."""


class CounterStore(Protocol):
    """The counts of one limit, for all of its keys, in one process.

    Equal keys share what they spend by counter stores of the same name, algorithm and window, in all workers, whatever
    their limit and burst are: a limit that is changed keeps what was spent.
    """

    def spend(self, key: bytes, cost: int, /) -> LimitDecision | Awaitable[LimitDecision]:
        """Spend `cost` permits (1 to `LimitSpec.depth`), or nothing."""

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        """Give back what was spent, never more than if it had not been. At once or later: nobody waits for it."""

    def charge(self, key: bytes, cost: int, mark: Any, /) -> None:
        """Spend what is known too late to be refused, if need be into debt: by as much as `LimitSpec.depth` at most."""

    def left(self, key: bytes, mark: Any, /) -> Left:
        """Return the permits left, now or right after the spending that `mark` is of. Waits for nothing."""


Record: TypeAlias = tuple[Any, CounterStore, bytes, int, Any, Any]
"""Spending of a request by one limit: how the client is told of it (`LimitHeaders`, or None: not at all), its store,
the key, the cost (0: nothing), the mark (None: it has refused), and the record of the limit before it, or None. A plain
tuple, for it is made for each request.
"""


def give_back(record: Record | None) -> None:
    """Have nothing spent of what these limits took for a request."""
    while record is not None:
        _, counter_store, key, cost, mark, record = record
        if cost:
            counter_store.refund(key, cost, mark)


@final
class NodeCounterStore:
    """Counts in the node's cells, and decides at once."""

    __slots__ = ("_step", "_turns", "limit")

    def __init__(self, cells_: Cells, name: bytes, terms: LimitSpec) -> None:
        """`name`: tells the filter that counts from all others."""
        self.limit: Limit = limit_of(cells_, name, terms)
        self._step = rate_limit_table.step_of(terms.limit, terms.window)
        self._turns = terms.algorithm == "leaky_bucket"

    def spend(self, key: bytes, cost: int, /) -> LimitDecision:
        limit, now = self.limit, monotonic_ns()
        wait = limit.spend(key, cost, now)
        if wait:
            return LimitDecision(wait)
        return LimitDecision(0.0, now, self.turn(cost, now) if self._turns else 0.0)

    def turn(self, cost: int, now: int) -> float:
        """Seconds until the turn of what was spent last."""
        return max((self.limit.renewed_at - cost * self._step - now) / 1e9, 0.0)

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        self.limit.refund(key, cost, mark, monotonic_ns)

    def charge(self, key: bytes, cost: int, mark: Any = None, /) -> None:
        self.limit.charge(key, cost, monotonic_ns())

    def left(self, key: bytes, mark: Any = None, /) -> Left:
        return self.limit.left(key, monotonic_ns())


def limit_of(table: Cells, name: bytes, terms: LimitSpec) -> Limit:
    """Raises `ValueError` for terms that do not fit into a cell."""
    match terms.algorithm:
        case "token_bucket":
            return table.token_bucket(terms.limit, terms.window, terms.depth, name)
        case "fixed_window":
            return table.fixed_window(terms.limit, terms.window, name)
        case "sliding_window":
            return table.sliding_window(terms.limit, terms.window, name)
        case "leaky_bucket":
            return table.leaky_bucket(terms.limit, terms.window, terms.depth - 1, name)
