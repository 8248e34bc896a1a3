"""State of the node, kept by the supervisor and inherited by every child: sockets, shared memory, the configuration in
force.
"""

import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from fastgw.admin.gateway_registry import Registration
from fastgw.config import Problem
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Config, Listener
from fastgw.gateway.tables import Gateway
from fastgw.net.session_tickets import TicketKeySeeds
from fastgw.routing.table import at_once
from fastgw.runtime.ipc.channel import Origin, Subject
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, RollbackPoint, seal, unseal
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint, close_endpoints, open_endpoint, open_endpoints
from fastgw.runtime.sockets.systemd_activation import Inherited
from fastgw.shm.memory import SharedMemory
from fastgw.shm.quota_store import Claim
from fastgw.sync.revocations import MOST_EVENTS, RevocationEvent, RevocationList


@dataclass
class Sealed:
    """An accepted configuration, and the memory file that holds it for processes to come."""

    accepted: ConfigSnapshot
    """Snapshot without what tables and feeds are made from: whoever needs that reads the file (`whole`)."""
    descriptor: int

    @classmethod
    def of(cls, accepted: ConfigSnapshot) -> "Sealed":
        """Sealed now; the document is emptied."""
        descriptor = seal(accepted)
        at_once(accepted.emptying())
        return cls(accepted, descriptor)

    def whole(self) -> ConfigSnapshot:
        """The document with all that is in the file."""
        return unseal(self.descriptor)

    @property
    def generation(self) -> int:
        return self.accepted.generation

    @property
    def settings(self) -> Config:
        return self.accepted.settings


@dataclass
class ReloadRecord:
    """One attempt to change the configuration, for those who ask what happened lately."""

    generation: int
    date: float
    """Epoch seconds."""
    ok: bool
    source: Origin
    summary: str
    problems: tuple[Problem, ...] = ()
    """The first that were found, as far as the control process lives that found them."""
    subject: Subject = "file"


@dataclass
class NodeState:
    """Changed by the supervisor only; a child has what there was at its birth and is told of the rest."""

    shared: SharedMemory
    words: ShmLayout
    sealed: Sealed
    """The configuration in force."""
    gateway: Gateway
    """The tables that were compiled before the first fork."""
    compiled: int
    """The generation of these tables: a child of a later one builds its own."""
    workers: int
    """Slots that have, or wait for, a worker of their own."""
    slots: int
    """Slots that have sockets: those of retired workers keep theirs, and neighbours accept there."""
    endpoints: dict[int, ListeningEndpoint] = field(default_factory=dict)
    """Endpoints of listeners, by number."""
    endpoint_number: int = 0
    """The number of the next endpoint. None is given twice: a worker may still know the one that had it."""
    listeners: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the endpoints of each listener."""
    own: dict[str, ListeningEndpoint] = field(default_factory=dict)
    """Endpoints of the control process: `status`, `admin`."""
    former: list[RollbackPoint] = field(default_factory=list)
    """The generations that the program before this one kept, to go back to."""
    kept: list[Sealed] = field(default_factory=list)
    """The generations before the one in force, the last one last, to go back to."""
    records: list[ReloadRecord] = field(default_factory=list)
    passed: Inherited = field(default_factory=lambda: Inherited(()))
    """Sockets that a service manager has opened and no listener has taken."""
    feeds: dict[str, bytes] = field(default_factory=dict)
    """The last values of feeds, which are fetched once per node, by key."""
    revoked: RevocationList = field(default_factory=RevocationList)
    """Revocation list. Each child goes on from its state at the fork."""
    revocation_events: deque[RevocationEvent] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    """The latest of that, for people."""
    follows_files: bool = False
    """A change of the configuration's files is taken without being asked for."""
    begun_date: float = 0.0
    """Epoch seconds. An upgrade does not begin anew."""
    tickets: TicketKeySeeds = field(default_factory=lambda: TicketKeySeeds.generate(time.time()))
    """Seeds of the keys of TLS session tickets. Each child goes on from their state at the fork."""
    run_key: bytes = field(default_factory=lambda: os.urandom(32))
    """A secret of this run of the gateway. An upgrade does not make another."""
    quota_claim: Claim | None = None
    """Claim to the file that quotas were kept in at the start, as long as they are."""
    name: str = ""
    """The name given by `run --name`; "": that of the configuration file."""
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Token of the admin API where none is configured. An upgrade does not make another."""
    registration: Registration | None = None
    """Registration in the runtime directory. None: there is no such directory."""

    @property
    def documents(self) -> list[RollbackPoint]:
        """The generations before the one in force, the last one last."""
        return [*self.former, *(RollbackPoint.of(sealed.accepted) for sealed in self.kept)]

    def open(
        self, address: Address, slots: int, *, private: bool = False, for_datagrams: bool = False
    ) -> Iterable[ListeningEndpoint]:
        """An address with sockets for so many slots, or those of the service manager, which passes none for datagrams.
        `private`: a unix socket is for its owner alone. Raises `CannotListen`."""
        if for_datagrams:
            return open_endpoints(address, slots, kind=socket.SOCK_DGRAM)
        taken = self.passed.claim_sockets(address)
        if not taken:
            return open_endpoints(address, slots, private=private)
        return [ListeningEndpoint(address, [each], shared=True, foreign=True) for each in taken]

    def open_one(self, address: Address, *, private: bool = False) -> ListeningEndpoint:
        """Open one endpoint of the control process: of a host name, at the first of its addresses. Raises
        `CannotListen`.
        """
        if not (taken := self.passed.claim_sockets(address)):
            return open_endpoint(address, private=private)
        first, *others = (ListeningEndpoint(address, [each], shared=True, foreign=True) for each in taken)
        close_endpoints(others)
        return first


def place_listeners(
    node_state: NodeState, listeners: Mapping[str, Listener]
) -> tuple[dict[str, list[int]], dict[int, ListeningEndpoint]]:
    """The endpoints of each listener, and those of them that had to be opened.

    An address that is open already keeps its sockets, whatever the listener there is called. Raises `CannotListen`.
    """
    before = node_state.sealed.settings.listeners
    held = {
        _key(name, before[name]): numbers for name, numbers in node_state.listeners.items()
    }  # none yet at the start
    placed: dict[str, list[int]] = {}
    opened: dict[int, ListeningEndpoint] = {}
    with ExitStack() as undo:
        for name, listener in listeners.items():
            numbers = held.get(_key(name, listener))
            if numbers is None:
                numbers = []
                is_udp = listener.protocol == "udp"
                for endpoint in node_state.open(listener.address, node_state.slots, for_datagrams=is_udp):
                    undo.callback(endpoint.close)
                    opened[node_state.endpoint_number] = endpoint
                    numbers.append(node_state.endpoint_number)
                    node_state.endpoint_number += 1
            placed[name] = numbers
        undo.pop_all()
    return placed, opened


def _key(name: str, listener: Listener) -> tuple[str, Address, bool]:
    """Return the key by which two listeners are one: the address, but for ports that the system chooses."""
    address = listener.address
    return ("" if address.port or address.path else name, address, listener.protocol == "udp")
