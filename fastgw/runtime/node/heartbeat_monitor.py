"""Heartbeat monitor: detects whether the loop of a worker, or of control, is running, by its heartbeats in shared
memory.

A heartbeat is not compared with the clock but with its previous value, one check later, and each check counts for a
second at most: after a pause of the whole machine, or of the supervisor, every heartbeat looks old although nothing
hangs. Neighbours show whether that was the case: if one was never late, it has been running all the time, and a process
that lags behind it is silent as soon as the supervisor checks again. That is enough to accept for it, but not to kill
it: it may have been stopped together with the supervisor, and may continue at once.
"""

from typing import Final

LOOK_EVERY: Final = 0.5
"""Seconds between two checks of the heartbeats."""
LOOK_MAX: Final = 2 * LOOK_EVERY
"""Maximum silence, in seconds, that one check adds; if more time has passed, the supervisor was not running either.
"""
LATE_S: Final = LOOK_MAX
"""A neighbour whose loop lag exceeded this number of seconds may have been paused as well, and is not used for
comparison.
"""
SILENT_S: Final = 2.0
"""Seconds without a heartbeat after which neighbours accept for a worker, and a drain or stop no longer waits
for it.
"""
HUNG_S: Final = 10.0
"""Seconds without a heartbeat after which a worker is replaced."""
CONTROL_HUNG_S: Final = 4.0
"""Seconds without a heartbeat after which control is replaced: it serves no requests, but health checks, tokens and
secrets depend on it.
"""
SET_UP_S: Final = 60.0
"""Maximum seconds until the first heartbeat of a new worker: it builds the tables."""
STACK_S: Final = 0.2
"""Seconds that a hung worker has to write its stack."""


class HeartbeatMonitor:
    """The heartbeats of one child, from its fork on. `silence`: observed seconds since the last one."""

    def __init__(self) -> None:
        self.silence = 0.0
        self._beat = 0  # none yet

    def __repr__(self) -> str:
        return f"<HeartbeatMonitor silent for {self.silence:.1f} s>"

    def check_heartbeat(self, beat: int, elapsed: float, behind: float = 0.0) -> None:
        """Check the heartbeat, this number of seconds after the last check. `behind`: seconds by which neighbours are
        ahead, if that is known to be its own silence."""
        watched = max(min(elapsed, LOOK_MAX), min(behind, SILENT_S))
        self.silence = self.silence + watched if beat == self._beat else 0.0
        self._beat = beat
