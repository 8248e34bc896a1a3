"""Lifecycle of the gateway: its phases and its shutdown.

SIGTERM: readiness is off; after `timeouts.drain.delay` a drain; then the end, when all workers have finished or the
timeout expires. SIGINT, or a second SIGTERM: immediate end.
"""

import os
import signal
import time
from enum import Enum
from math import inf
from typing import Final

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import Drain, Drained, Stop
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.node.systemd_notify import Notifier
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.worker.worker import FLUSH_S

STOP_GRACE: Final = 2.0
"""Seconds that a child may take for an immediate stop."""
FLUSH_GRACE: Final = 2 * FLUSH_S + STOP_GRACE
"""Seconds that a worker may take after a drain: for its spans, and for its logs."""
REPEATED: Final = 0.5
"""Seconds after a SIGTERM in which another one is ignored: some senders signal the process and then its process
group.
"""


class LifecyclePhase(Enum):
    STARTING = "not every child has been ready yet; one that dies ends the start"
    SERVING = "a child that dies is replaced"
    DRAINING = "workers finish requests in flight"
    STOPPING = "everybody was told to stop now"


class Lifecycle:
    """The lifecycle of the gateway. `phase` changes here only."""

    def __init__(self, node_state: NodeState, children: Children, notifier: Notifier) -> None:
        self.phase = LifecyclePhase.STARTING
        self._node_state = node_state
        self._children = children
        self._notifier = notifier
        self._end_began_at = 0.0
        self._terminated_at = 0.0
        self._drain_at = inf  # readiness is off, and the drain begins then
        self._kill_at = inf
        self._drained = self._cut = 0

    @property
    def due_at(self) -> float:
        """When to `do_what_is_due`, monotonic seconds."""
        return min(self._drain_at, self._kill_at)

    @property
    def goes_on(self) -> bool:
        """Whether the gateway serves and no shutdown was requested."""
        return self.phase is LifecyclePhase.SERVING and self._drain_at == inf

    def do_what_is_due(self, now: float) -> None:
        """Perform the actions that are due."""
        if now >= self._drain_at:
            self._drain()
        elif now >= self._kill_at:
            self._kill_at = inf
            for child in self._children.that_work() or self._children:  # the others write what workers have counted
                notice(OperatorEvent.PROCESS_KILLED, f"{child} did not stop in time: killing it")
                os.kill(child.pid, signal.SIGKILL)

    def serve(self) -> None:
        """Record that all children are ready."""
        self.phase = LifecyclePhase.SERVING
        node_state = self._node_state
        node_state.words.commit(node_state.shared, node_state.sealed.generation)
        node_state.words.set_ready(node_state.shared, True)

    def terminate(self, asked_by: str) -> None:
        """Drain, then stop: requests in flight are finished."""
        now = time.monotonic()
        if self.phase is LifecyclePhase.STARTING:
            self.stop()
        elif not self._terminated_at:
            self._terminated_at = now
            self.start_shutdown(asked_by)
        elif now - self._terminated_at >= REPEATED:
            self.stop()

    def start_shutdown(self, asked_by: str) -> None:
        """Turn readiness off, and continue to serve until load balancers have noticed; then drain."""
        if not self.goes_on:
            return
        drain = self._node_state.sealed.settings.timeouts.drain
        later = f", readiness is off, drain begins in {drain.delay:g} s" if drain.delay else ""
        notice(OperatorEvent.DRAINING, f"asked by {asked_by}{later}")
        self._end_began_at = time.monotonic()
        self._drain_at = self._end_began_at + drain.delay
        self._node_state.words.set_ready(self._node_state.shared, False)
        self._notifier.stopping(drain.delay + max(drain.requests, drain.tunnels) + FLUSH_GRACE + STOP_GRACE)

    def stop(self) -> None:
        """Stop now."""
        if not self._end_began_at:  # otherwise `start_shutdown` has reported it
            self._notifier.stopping(STOP_GRACE)
        self._begin_end(LifecyclePhase.STOPPING, STOP_GRACE)
        for child in self._children:
            child.send(Stop(generation=child.generation))

    def has_drained(self, message: Drained) -> None:
        """Handle the end of a worker's drain: in a shutdown it counts, also of a worker that was replaced before."""
        if self._end_began_at:
            self._drained += message.drained
            self._cut += message.cut

    def has_died(self) -> None:
        """Handle the end of a child during the shutdown. Companions serve the workers, so they end last."""
        if not self._children.that_work():
            self._kill_at = time.monotonic() + STOP_GRACE
            for child in self._children:
                child.send(Stop(generation=child.generation))

    def log_end(self) -> str:
        """Log how it ended, and return the text."""
        text = "at once, without draining"
        if self.phase is not LifecyclePhase.STOPPING:
            took = time.monotonic() - self._end_began_at
            text = f"drained {self._drained} requests in {took:.1f} s, {self._cut} cut"
        notice(OperatorEvent.STOPPED, text)
        return text

    def _drain(self) -> None:
        drain = self._node_state.sealed.settings.timeouts.drain
        self._begin_end(LifecyclePhase.DRAINING, max(drain.requests, drain.tunnels) + FLUSH_GRACE)
        for child in self._children.that_work():
            if not child.leaving:
                child.send(Drain(generation=child.generation, requests_s=drain.requests, tunnels_s=drain.tunnels))
        self.has_died()  # in case there was no worker

    def _begin_end(self, phase: LifecyclePhase, within: float) -> None:
        now = time.monotonic()
        self._end_began_at = self._end_began_at or now
        self._drain_at = inf
        self._kill_at = min(self._kill_at, now + within)  # a repeated request does not extend the wait
        self.phase = phase
        self._node_state.words.set_ready(self._node_state.shared, False)
