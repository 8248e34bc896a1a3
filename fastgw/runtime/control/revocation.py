"""Revocation in the control process: revocations of the admin API and of other nodes are sent to the supervisor, which
stores them and informs all workers; revocations of workers are sent to the other nodes.
"""

import asyncio
import time
from collections import deque
from typing import Final

from fastgw.admin.node_interface import Revocations, RevokedEverywhere
from fastgw.runtime.control.revocation_replication import RevocationReplicator
from fastgw.runtime.ipc.channel import Channel, ChannelClosed, ChannelFull, EndSession, Revoke
from fastgw.runtime.ipc.feed_values import RETRY_S
from fastgw.runtime.node.node_state import NodeState
from fastgw.sync.revocations import LENGTH, MOST, RevocationEvent

PIECE: Final = 1500 * LENGTH
"""Bytes of records in one message to the supervisor."""
EVENTS_PER_MESSAGE: Final = 4
"""Maximum number of revocations that are reported one by one."""


class Revoking:
    """Control's access to the revocation list."""

    def __init__(self, node_state: NodeState, channel: Channel) -> None:
        self._node_state = node_state
        self._channel = channel
        self._unsent: deque[Revoke] = deque()
        self._replicator = RevocationReplicator(node_state.revoked, self._add_records)

    def use_state(self, source: tuple[str, str] | None) -> None:
        """Share revocations over this Redis: its URL, and the prefix of names. None: this node is alone."""
        self._replicator.use_state(source)

    def stop(self) -> None:
        self._replicator.stop()

    @property
    def state_reach(self) -> tuple[str, bool, str]:
        """Return the address of the Redis of `state` ("": there is none), whether it is in use, and the reason why not;
        "" = not known yet.
        """
        replicator = self._replicator
        return replicator.server, replicator.is_there, replicator.trouble

    def has_session_ended(self, mark: bytes) -> bool:
        return self._node_state.ended_sessions.covers([(mark, 0.0)], time.time())

    def end_session(self, record: bytes, most: int) -> bool:
        """End a dashboard session (`Node.end_session`). The supervisor stores it first, for later control processes."""
        ended, now = self._node_state.ended_sessions, time.time()
        if not ended.has_room(most, now):
            return False
        try:
            self._channel.send(EndSession(generation=self._node_state.sealed.generation, record=record))
        except (ChannelFull, ChannelClosed):
            return False
        ended.add(record, now)
        return True

    def revoke(self, records: bytes, about: RevocationEvent) -> RevokedEverywhere:
        """Revoke on request."""
        if fresh := self._add_records(records, [about]):
            self._replicator.publish(fresh, [about])
        return self._replicator.scope

    def revocation_received(self, order: Revoke) -> None:
        """Handle a revocation of a worker."""
        if fresh := self._store_records(order.records, order.events):
            self._replicator.publish(fresh, order.events)

    def status(self) -> Revocations:
        node_state = self._node_state
        return Revocations(
            len(node_state.revoked), MOST, self._replicator.scope, list(reversed(node_state.revocation_events))
        )

    def _store_records(self, records: bytes, events: list[RevocationEvent]) -> bytes:
        fresh = self._node_state.revoked.add(records, time.time())
        if fresh:
            self._node_state.revocation_events.extend(events)
        return fresh

    def _add_records(self, records: bytes, events: list[RevocationEvent]) -> bytes:
        """Store the records and inform all workers. Returns the new ones."""
        fresh, generation = self._store_records(records, events), self._node_state.sealed.generation
        for at in range(0, len(fresh), PIECE):
            self._unsent.append(
                Revoke(generation=generation, records=fresh[at : at + PIECE], events=events[-EVENTS_PER_MESSAGE:])
            )
            events = []
            if len(self._unsent) == 1:
                self._send()
        return fresh

    def _send(self) -> None:
        while self._unsent:
            try:
                self._channel.send(self._unsent[0])
            except ChannelFull:
                asyncio.get_running_loop().call_later(RETRY_S, self._send)
                return
            except ChannelClosed:
                self._unsent.clear()  # the supervisor has ended, so this process ends too
                return
            self._unsent.popleft()
