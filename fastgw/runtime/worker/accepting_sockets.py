"""Accepting sockets of a worker: its endpoints, the slots that it accepts for, and the listener of each socket."""

import socket
from collections.abc import Mapping, Sequence

from fastgw.config.base.value_types import parse_address
from fastgw.downstream import Listener
from fastgw.runtime.ipc.channel import Sockets
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint, release_endpoints
from fastgw.runtime.worker.acceptor import Acceptor


class AcceptingSockets:
    """Accepting sockets by endpoint and slot. `endpoints`: by number, as in the supervisor; `placed`: the endpoint
    numbers of each listener.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        endpoints: Mapping[int, ListeningEndpoint],
        placed: Mapping[str, list[int]],
        listeners: Sequence[Listener],
    ) -> None:
        self._acceptor = acceptor
        self._endpoints = dict(endpoints)
        self._placed = placed
        self._listeners = listeners
        self._slots: set[int] = set()
        self.close_unused()  # forked during a commit, it has those of the previous generation too

    def accept_for_slot(self, slot: int) -> None:
        """Accept for this slot."""
        self._slots.add(slot)
        self._arrange()

    def leave_slot(self, slot: int) -> None:
        """Stop accepting for this slot: another worker does."""
        self._slots.discard(slot)
        self._arrange()

    def add(self, message: Sockets, descriptors: Sequence[int]) -> None:
        """Add sockets of a new endpoint, or of new slots."""
        endpoint = self._endpoints.setdefault(
            message.endpoint,
            ListeningEndpoint(parse_address(message.address), [], message.shared, foreign=message.foreign),
        )
        endpoint.sockets[message.first :] = [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def accept_queued(self, placed: Mapping[str, list[int]]) -> None:
        """Accept the queued connections of listeners that are not among these: their sockets will be closed."""
        for number in self._unused(placed):
            for listening in self._endpoints[number].sockets:
                self._acceptor.accept_queued(listening)

    def _unused(self, placed: Mapping[str, list[int]]) -> set[int]:
        return self._endpoints.keys() - {number for numbers in placed.values() for number in numbers}

    def serve(self, listeners: Sequence[Listener], placed: Mapping[str, list[int]]) -> None:
        """Accept for these listeners, and no longer for others."""
        self._listeners, self._placed = listeners, placed
        self._arrange()
        self.close_unused()

    def close_unused(self) -> None:
        """Close the sockets without a listener."""
        release_endpoints([self._endpoints.pop(number) for number in self._unused(self._placed)])

    def closable(self) -> set[socket.socket]:
        """Return the sockets that are closed with the gateway."""
        return {each for endpoint in self._endpoints.values() if not endpoint.foreign for each in endpoint.sockets}

    def _arrange(self) -> None:
        wanted = {
            self._endpoints[number].of_slot(slot): listener
            for listener in self._listeners
            for number in self._placed[listener.name]
            for slot in self._slots
        }
        self._acceptor.reserve(sum(len(endpoint.sockets) for endpoint in self._endpoints.values()))
        for listening in self._acceptor.listening - wanted.keys():
            self._acceptor.close(listening)
        for listening, listener in wanted.items():
            self._acceptor.open(listening, listener)
