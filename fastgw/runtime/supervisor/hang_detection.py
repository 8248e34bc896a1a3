"""Hang detection: workers and the control process are taken out of service while their heartbeat is missing, and
replaced if that persists.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from math import inf

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.heartbeat_monitor import LATE_S, LOOK_EVERY, LOOK_MAX, SET_UP_S, SILENT_S, STACK_S
from fastgw.runtime.process.stack_dump import request_stack_dump


class HangDetector:
    """Checks the heartbeats, and kills hanging processes. `hushed` is called when one becomes silent, or recovers.

    `beat_of`: nanoseconds of the monotonic clock; 0: none yet. `lateness_of`: the maximum lag of a child in the last
    seconds.
    """

    def __init__(
        self,
        beat_of: Callable[[Child], int],
        lateness_of: Callable[[Child], float],
        hushed: Callable[[Child], None],
    ) -> None:
        self._beat_of = beat_of
        self._lateness_of = lateness_of
        self._hushed = hushed
        self._looked_at = time.monotonic()

    @property
    def next_look_at(self) -> float:
        """Time of the next check (monotonic seconds)."""
        return self._looked_at + LOOK_EVERY

    def check_children(self, children: Sequence[Child], now: float, *, serving: bool) -> None:
        """Check all heartbeats. `serving`: if False, a silent worker is no longer waited for."""
        elapsed = now - self._looked_at
        self._looked_at = now
        latest = self._latest(children) if serving and elapsed > LOOK_MAX else 0
        for child in children:
            if child.beats:
                beat = self._beat_of(child)
                child.heartbeat.check_heartbeat(beat, elapsed, (latest - beat) / 1e9 if beat else 0.0)
            self._check_child(child, now, serving)

    def _latest(self, children: Sequence[Child]) -> int:
        """Return the latest heartbeat of processes that ran while the supervisor did not check; 0: none is known."""
        on_time = [child for child in children if child.beats and self._lateness_of(child) < LATE_S]
        return max(map(self._beat_of, on_time), default=0)

    def _check_child(self, child: Child, now: float, serving: bool) -> None:
        """Handle the silence or recovery of a worker."""
        if child.kill_at < inf:
            if now >= child.kill_at:
                os.kill(child.pid, signal.SIGKILL)
                child.kill_at = now + LOOK_EVERY  # blocked by a disk: signals have no effect
        elif child.lost:
            _condemn(child, now, "takes no more messages")
        elif not child.beats:
            pass  # otherwise it is not visible
        elif serving and not child.generation and child.heartbeat.silence < SET_UP_S:
            pass  # its heartbeat begins after its initialization
        elif child.heartbeat.silence >= (child.hung_s if serving else SILENT_S):
            _condemn(child, now, f"has sent no heartbeat for {int(child.heartbeat.silence)} s")
        elif serving and child.silent is not (child.heartbeat.silence >= SILENT_S):
            child.silent = not child.silent
            self._hushed(child)


def _condemn(child: Child, now: float, why: str) -> None:
    """Schedule the kill of a child. Until then it may log its stack."""
    notice(OperatorEvent.PROCESS_KILLED, f"{child} {why}: killing it; its stack:")
    child.kill_at = now + STACK_S
    request_stack_dump(child.pid)
