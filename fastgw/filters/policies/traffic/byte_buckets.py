"""Token buckets of bytes: of one body, of all bodies of a key on the node, or several at once.

Bytes are taken in portions of a tenth of a second, so that a body moves evenly and a timer runs at most ten times per
second; a portion that is not complete yet is not taken.
"""

from collections.abc import Sequence
from time import monotonic, monotonic_ns
from typing import Final, NamedTuple, Protocol, final

from fastgw.shm.rate_limit_table import Cells, Limit

PORTION_S: Final = 0.1
"""Seconds' worth of bytes in one portion."""
BURST_S: Final = 0.25
"""Seconds' worth of bytes in the default burst: more than the delay of a timer, so that no bandwidth is lost."""
_LEAST_STEP: Final = 1_000_000
"""Maximum number of permits per second in the node's table, whose instants are whole nanoseconds."""


class ByteBucket(Protocol):
    @property
    def portion(self) -> int:
        """Minimum number of bytes that are taken at once, but for a rest."""

    def take_bytes(self, wanted: int) -> int:
        """Take up to `wanted` bytes, at least one portion or the rest; 0: none are available."""

    def seconds_until(self, wanted: int) -> float:
        """Seconds until `take_bytes` of this many bytes gives some."""


class ByteRateTerms(NamedTuple):
    """Bandwidth in bytes per second, and bytes that may pass at once after a pause."""

    rate: int
    burst: int

    @property
    def portion(self) -> int:
        return max(1, min(int(self.rate * PORTION_S), self.burst))


def terms_of(rate: int, burst: int | None) -> ByteRateTerms:
    return ByteRateTerms(rate, max(1, int(rate * BURST_S)) if burst is None else burst)


@final
class OwnBucket:
    """Bucket of one body."""

    __slots__ = ("_at", "_available", "_terms")

    def __init__(self, terms: ByteRateTerms) -> None:
        self._terms = terms
        self._available, self._at = float(terms.burst), monotonic()

    @property
    def portion(self) -> int:
        return self._terms.portion

    def take_bytes(self, wanted: int) -> int:
        now, terms = monotonic(), self._terms
        self._available = min(float(terms.burst), self._available + (now - self._at) * terms.rate)
        self._at = now
        taken = min(wanted, int(self._available))
        if taken < min(wanted, terms.portion):
            return 0
        self._available -= taken
        return taken

    def seconds_until(self, wanted: int) -> float:
        return max(0.0, (min(wanted, self._terms.portion) - self._available) / self._terms.rate)


@final
class NodeByteLimit:
    """Limit of all bodies of each key, in the node's rate limit table. A permit stands for `unit` bytes."""

    __slots__ = ("limit", "portion", "unit")

    def __init__(self, table: Cells, name: bytes, terms: ByteRateTerms) -> None:
        self.unit = unit = -(-terms.rate // _LEAST_STEP)
        permits = -(-terms.rate // unit)
        self.limit: Limit = table.token_bucket(permits, permits * unit / terms.rate, max(1, terms.burst // unit), name)
        self.portion = max(unit, terms.portion // unit * unit)

    def bucket(self, key: bytes) -> "NodeBucket":
        return NodeBucket(self, key)


@final
class NodeBucket:
    """Bucket of a key that bodies on all workers share."""

    __slots__ = ("_key", "_of", "_wait")

    def __init__(self, of: NodeByteLimit, key: bytes) -> None:
        self._of, self._key, self._wait = of, key, 0.0

    @property
    def portion(self) -> int:
        return self._of.portion

    def take_bytes(self, wanted: int) -> int:
        of, now, taken = self._of, monotonic_ns(), 0
        while taken < wanted:
            portion = min(wanted - taken, of.portion)
            self._wait = of.limit.spend(self._key, -(-portion // of.unit), now)
            if self._wait:
                break
            taken += portion
        return taken

    def seconds_until(self, wanted: int) -> float:
        return self._wait


@final
class CombinedBuckets:
    """Several buckets, each of which limits the same body.

    Bytes are taken in steps of the smallest portion. A body keeps the bytes that one bucket has given and another one
    has not: none are counted twice, and at most one step is withheld from other bodies.
    """

    __slots__ = ("_buckets", "_given", "_limiting", "portion")

    def __init__(self, buckets: Sequence[ByteBucket]) -> None:
        self.portion = min(bucket.portion for bucket in buckets)
        self._buckets = buckets
        self._given = [0] * len(buckets)
        self._limiting = 0  # index of the bucket that has given less than a step

    def take_bytes(self, wanted: int) -> int:
        taken = 0
        while taken < wanted:
            step = min(wanted - taken, self.portion)
            for index, bucket in enumerate(self._buckets):
                lacking = step - self._given[index]
                if lacking > 0:
                    got = bucket.take_bytes(lacking)
                    self._given[index] += got
                    if got < lacking:
                        self._limiting = index
                        return taken
            self._given = [given - step for given in self._given]
            taken += step
        return taken

    def seconds_until(self, wanted: int) -> float:
        lacking = min(wanted, self.portion) - self._given[self._limiting]
        return self._buckets[self._limiting].seconds_until(max(lacking, 1))


def combined(first: ByteBucket, second: ByteBucket) -> ByteBucket:
    """Return a bucket that gives the bytes that both give."""
    return CombinedBuckets((first, second))
