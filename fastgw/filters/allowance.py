"""How often a provider is asked because of what requests show: some times at once after a quiet while, then seldom.

Whoever shows nonsense to the gateway must not have it ask somebody each time.
"""

from typing import Final, final

AGAIN_S: Final = 10.0
"""How often at most."""
BURST: Final = 4
"""So often at once, if it was not asked for that lately: after one change the next one may follow soon."""


@final
class Allowance:
    """Of one source, in one process. `now`: monotonic seconds."""

    __slots__ = ("_left", "_since")

    def __init__(self, now: float) -> None:
        self._left, self._since = float(BURST), now

    def take(self, now: float) -> float:
        """0.0: it may be asked now, and this counts; else how many seconds to wait."""
        self._left, self._since = min(float(BURST), self._left + (now - self._since) / AGAIN_S), now
        if self._left < 1:
            return (1 - self._left) * AGAIN_S
        self._left -= 1
        return 0.0
