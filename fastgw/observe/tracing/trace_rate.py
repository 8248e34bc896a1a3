"""Rate of sampled traces."""

from typing import final


@final
class TraceRate:
    """Token bucket for sampled traces: `rate` per second, and at most one second's worth at once."""

    __slots__ = ("_at", "_most", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = self._tokens = max(rate, 1.0)
        self._at = 0.0

    def try_take(self, now: float) -> bool:
        if self._at:
            self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
