"""Bounded queue of encoded spans between the requests of a worker, which add them, and its exporter."""

from collections import deque
from collections.abc import Callable
from typing import Final, final

MOST_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the queue of a worker."""
MOST_IN_BATCH: Final = 512
MOST_BATCH_BYTES: Final = 1024 * 1024


@final
class SpanQueue:
    """Queue of encoded spans. `wake`: called when a whole batch has come together; `drop`: counts spans that did not
    fit.
    """

    def __init__(self, wake: Callable[[], None], drop: Callable[[int], None], most_bytes: int = MOST_BYTES) -> None:
        self._spans: deque[bytes] = deque()
        self._wake, self._drop = wake, drop
        self._most = most_bytes
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._spans)

    def add(self, spans: list[bytes]) -> None:
        """Queue the spans of a request; if there is no space for all of them, they are dropped."""
        length = sum(map(len, spans))
        if self.bytes + length > self._most:
            self._drop(len(spans))
            return
        before = len(self._spans)
        self._spans.extend(spans)
        self.bytes += length
        if before < MOST_IN_BATCH <= len(self._spans):
            self._wake()

    def pop_batch(self) -> list[bytes]:
        """Remove and return the oldest spans, as many as one batch may have."""
        batch: list[bytes] = []
        length = 0
        spans = self._spans
        while spans and len(batch) < MOST_IN_BATCH and (not batch or length + len(spans[0]) <= MOST_BATCH_BYTES):
            span = spans.popleft()
            length += len(span)
            batch.append(span)
        self.bytes -= length
        return batch
