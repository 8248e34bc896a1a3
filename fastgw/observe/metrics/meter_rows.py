"""Rows of measured requests in a worker's column: a histogram, or a count, for each combination of the labels that are
chosen.

A combination takes the next free row on first use, like a cell (`series_layout`). A row is its key, which has the slots
of its labels; its *shape*, which identifies labels and buckets, so that counts of other settings are never mixed; its
buckets, and their sum in microseconds. Beyond the last rows, requests are counted with all labels `_other`.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

MOST_BOUNDS: Final = 24
"""Maximum number of upper bounds of a histogram."""
METER_ROWS: Final = 4096
RESERVED_ROWS: Final = 16
"""Last rows, for the combinations of all labels `_other`, of which there is one for each shape."""
KEY, SHAPE, KEY_HIGH, COUNTS = range(4)
SUM_US: Final = COUNTS + MOST_BOUNDS + 1
WIDTH: Final = SUM_US + 1
FOLDED: Final = COUNTS
"""Word of the first row, which is no histogram: requests that were counted with all labels `_other`."""
METER_WORDS: Final = METER_ROWS * WIDTH

LABELS: Final = ("route", "upstream", "consumer", "method", "status", "status_class", "fault")
"""Labels of histograms that can be chosen."""
REQUEST_LABELS: Final = ("listener", "method", "route", "status")
"""Labels of `fastgw_requests_total`."""
MORE_REQUEST_LABELS: Final = ("upstream", "consumer", "fault", "host")
"""Labels that it can have in addition."""
METER_NAMES: Final = {
    "route": "routes",
    "upstream": "upstreams",
    "consumer": "consumers",
    "listener": "listeners",
    "host": "hosts",
}
"""Kinds of names of the labels that are slots of names."""
_CLAIMED: Final = 1 << 63
_ROW_BITS, _FAULT_BITS, _METHOD_BITS, _STATUS_BITS = 10, 9, 4, 10
LAST_ROW: Final = (1 << _ROW_BITS) - 2
"""Highest row that a key can have."""
NO_ROW: Final = (1 << _ROW_BITS) - 1
NO_FAULT: Final = (1 << _FAULT_BITS) - 1
"""Marks of a request without upstream, consumer or host, and of one without fault."""


class MeterKey(NamedTuple):
    """Slots of the labels; 0 where a label is not chosen."""

    route: int = 0
    upstream: int = 0
    consumer: int = 0
    fault: int = 0
    method: int = 0
    status: int = 0
    """Status, or its class."""
    listener: int = 0
    host: int = 0

    def packed(self) -> int:
        """Return the key as a number of two words, of which the low one is never 0."""
        word = self.route
        for value, bits in zip(self[1:-1], _BITS[1:], strict=True):
            word = word << bits | value
        return self.host << _WORD_BITS | _CLAIMED | word


_BITS: Final = (_ROW_BITS, _ROW_BITS, _ROW_BITS, _FAULT_BITS, _METHOD_BITS, _STATUS_BITS, _ROW_BITS)
_WORD_BITS: Final = 64
ALL_OTHER: Final = MeterKey()


def unpacked(key: int) -> MeterKey:
    """Return the key of a number."""
    host, word = key >> _WORD_BITS, key & (_CLAIMED - 1)
    values = []
    for bits in reversed(_BITS):
        values.append(word & (1 << bits) - 1)
        word >>= bits
    return MeterKey(*reversed(values))._replace(host=host)


def shape_of(labels: Sequence[str], bounds: Sequence[float]) -> int:
    """Return the number of these labels and buckets, which is never 0."""
    told = f"{','.join(labels)} {','.join(map(repr, bounds))}".encode()
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "big") or 1


class MeterRows:
    """Rows of a column, for its writer. `at`: the first word of all rows."""

    def __init__(self, column: memoryview, at: int) -> None:
        self._column, self._at = column, at
        self._words = {
            (key, shape): at + number * WIDTH for number, (key, shape, _) in enumerate(claimed_rows(column, at), 1)
        }

    def word(self, key: int, shape: int) -> int | None:
        """Return the first word of a row; a new combination takes a free one. None: there is none left."""
        word = self._words.get((key, shape))
        if word is None:
            used = len(self._words) + 1
            if used >= METER_ROWS - (0 if key == ALL_OTHER.packed() else RESERVED_ROWS):
                return None
            word = self._words[key, shape] = self._at + used * WIDTH
            self._column[word + SHAPE] = shape
            self._column[word + KEY_HIGH] = key >> _WORD_BITS
            self._column[word + KEY] = key & ((1 << _WORD_BITS) - 1)  # last: it is what readers look at
        return word


def claimed_rows(column: memoryview, at: int) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Yield key, shape, and buckets with the sum of the rows in use, in order."""
    for number in range(1, METER_ROWS):
        first = at + number * WIDTH
        key = column[first + KEY]
        if not key:
            return
        words = column[first + SHAPE : first + WIDTH].tolist()
        yield words[KEY_HIGH - SHAPE] << _WORD_BITS | key, words[0], words[COUNTS - SHAPE :]
