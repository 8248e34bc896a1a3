"""Whether the loop of a worker, or of control, still goes round, told by the beats it leaves in shared memory.

A beat is not compared with the clock but with itself, one look later, and each look counts for a second at most: after
a pause of the whole machine, or of the supervisor alone, every beat looks old and nobody has hung. What went on
meanwhile is told by the neighbours: one that was never late has gone round all the while, so who has fallen behind it
is silent as soon as the supervisor looks again. That is enough to accept for it, but not to end it: it may have been
stopped together with the supervisor, and go on in a moment.
"""

from typing import Final

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the beats."""
LOOK_MAX: Final = 2 * LOOK_EVERY
"""Upper bound, in seconds, of the silence that one look adds; if more time went by, the supervisor was not running
either.
"""
LATE_S: Final = LOOK_MAX
"""A neighbour whose loop was later than that, in seconds, may have been paused as well and tells nothing of others."""
SILENT_S: Final = 2.0
"""Seconds without a beat after which neighbours accept for a worker, and a drain or stop waits for it no longer."""
HUNG_S: Final = 10.0
"""Seconds without a beat after which a worker is replaced."""
CONTROL_HUNG_S: Final = 4.0
"""Seconds without a beat after which control is replaced: it serves nobody, and health, tokens and secrets wait."""
SET_UP_S: Final = 60.0
"""Seconds to its first beat that a newborn worker may take: it builds the tables."""
STACK_S: Final = 0.2
"""Seconds that a hung worker has to write its stack."""


class HeartbeatMonitor:
    """The beats of one child, from its fork on. `silence`: seconds since the last one, as far as they were watched."""

    def __init__(self) -> None:
        self.silence = 0.0
        self._beat = 0  # none yet

    def __repr__(self) -> str:
        return f"<HeartbeatMonitor silent for {self.silence:.1f} s>"

    def feel(self, beat: int, elapsed: float, behind: float = 0.0) -> None:
        """Look at the beat, so many seconds after the last look. `behind`: seconds by which neighbours are ahead, if
        that is known to be its own silence."""
        watched = max(min(elapsed, LOOK_MAX), min(behind, SILENT_S))
        self.silence = self.silence + watched if beat == self._beat else 0.0
        self._beat = beat
