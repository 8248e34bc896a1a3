"""Rate limit for requests to a provider that are caused by clients: a burst after a quiet period, then rarely.

Clients with invalid tokens must not make the gateway send a request each time.
"""

from typing import Final, final

AGAIN_S: Final = 10.0
"""Minimum seconds between two requests."""
BURST: Final = 4
"""Number of requests at once, if there was none lately: after one change the next one may follow soon."""


@final
class Allowance:
    """Token bucket of one source, in one process. `now`: monotonic seconds."""

    __slots__ = ("_again_s", "_burst", "_left", "_since")

    def __init__(self, now: float, burst: int = BURST, again_s: float = AGAIN_S) -> None:
        self._burst, self._again_s = float(burst), again_s
        self._left, self._since = self._burst, now

    def take_token(self, now: float) -> float:
        """Return 0.0 if a request may be sent now, which is counted; otherwise the seconds to wait."""
        self._left, self._since = min(self._burst, self._left + (now - self._since) / self._again_s), now
        if self._left < 1:
            return (1 - self._left) * self._again_s
        self._left -= 1
        return 0.0
