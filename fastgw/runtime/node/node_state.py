"""State of the node, kept by the supervisor and inherited by every child: sockets, shared memory, the active
configuration.
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
from fastgw.cache.tiers.node_stores import NodeStores
from fastgw.config import Problem
from fastgw.config.base.value_types import Address
from fastgw.config.settings.gateway import Config, Listener
from fastgw.gateway.tables import Gateway
from fastgw.net.session_tickets import TicketKeySeeds
from fastgw.routing.table import at_once
from fastgw.runtime.ipc.channel import Origin, Subject
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, RollbackPoint, seal, unseal
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint, open_endpoint, open_endpoints
from fastgw.runtime.sockets.systemd_activation import Inherited, Passed
from fastgw.shm.memory import SharedMemory
from fastgw.shm.quota_store import Claim
from fastgw.sync.purge_backlog import PurgeBacklog
from fastgw.sync.revocations import MOST_ENDED_SESSIONS, MOST_EVENTS, RevocationEvent, RevocationList


@dataclass
class Sealed:
    """An accepted configuration, and the memory file that contains it for later processes."""

    accepted: ConfigSnapshot
    """Snapshot without the parts for tables and feeds, which are read from the file (`whole`)."""
    descriptor: int

    @classmethod
    def of(cls, accepted: ConfigSnapshot) -> "Sealed":
        """Seal a snapshot, which is emptied."""
        descriptor = seal(accepted)
        at_once(accepted.emptying())
        return cls(accepted, descriptor)

    def whole(self) -> ConfigSnapshot:
        """Return the complete snapshot from the file."""
        return unseal(self.descriptor)

    @property
    def generation(self) -> int:
        return self.accepted.generation

    @property
    def settings(self) -> Config:
        return self.accepted.settings


@dataclass
class ReloadRecord:
    """One attempt to change the configuration, for the status."""

    generation: int
    date: float
    """Epoch seconds."""
    ok: bool
    source: Origin
    summary: str
    problems: tuple[Problem, ...] = ()
    """The first errors, as long as the control process that has found them runs."""
    subject: Subject = "file"
    again: bool = False
    """Whether the file is read again later: the failure was transient. Unknown to older versions."""


@dataclass
class NodeState:
    """State changed only by the supervisor; a child has a copy as of its fork, and gets changes by messages."""

    shared: SharedMemory
    words: ShmLayout
    sealed: Sealed
    """The active configuration."""
    gateway: Gateway
    """Tables that were compiled before the first fork."""
    compiled: int
    """Generation of these tables: a child of a later generation builds its own."""
    workers: int
    """Number of worker slots in use."""
    slots: int
    """Number of slots with sockets: those of removed workers keep theirs, and neighbours accept there."""
    caches: NodeStores = field(default_factory=NodeStores)
    """Stores of the response cache."""
    wakers: dict[int, int] = field(default_factory=dict)
    """Wakers of control and of the workers, by `cache_stores.column_of` (`shm.wakers`)."""
    endpoints: dict[int, ListeningEndpoint] = field(default_factory=dict)
    """Endpoints of listeners by number."""
    endpoint_number: int = 0
    """Number of the next endpoint. Numbers are not reused: a worker may still know the previous endpoint."""
    listeners: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the endpoints of each listener."""
    own: dict[str, ListeningEndpoint] = field(default_factory=dict)
    """Endpoints of the control process: `status`, `admin`."""
    former: list[RollbackPoint] = field(default_factory=list)
    """Generations of the previous program that are kept for rollback."""
    kept: list[Sealed] = field(default_factory=list)
    """Previous generations for rollback, the most recent last."""
    records: list[ReloadRecord] = field(default_factory=list)
    passed: Inherited = field(default_factory=lambda: Inherited(()))
    """Sockets from a service manager that no listener uses."""
    feeds: dict[str, bytes] = field(default_factory=dict)
    """Last values of feeds by key."""
    revoked: RevocationList = field(default_factory=RevocationList)
    """Revocation list. Each child starts with a copy as of its fork."""
    revocation_events: deque[RevocationEvent] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    """The most recent revocations, for the status."""
    ended_sessions: RevocationList = field(default_factory=lambda: RevocationList(MOST_ENDED_SESSIONS))
    """Sessions of the dashboard that have ended. Control starts with a copy as of its fork."""
    purges: PurgeBacklog = field(default_factory=PurgeBacklog)
    """Purges that other nodes may not have received. Control starts with a copy as of its fork."""
    follows_files: bool = False
    """Whether changes of the configuration's files are loaded automatically."""
    begun_date: float = 0.0
    """Start of the gateway (epoch seconds). Kept over upgrades."""
    begun_at: float = field(default_factory=time.monotonic)
    """Start of the gateway in monotonic seconds: the system's clock may be set meanwhile."""
    tickets: TicketKeySeeds = field(default_factory=lambda: TicketKeySeeds.generate(time.time()))
    """Seeds of the keys of TLS session tickets. Each child starts with a copy as of its fork."""
    run_key: bytes = field(default_factory=lambda: os.urandom(32))
    """Secret of this run of the gateway. Kept over upgrades."""
    quota_claim: Claim | None = None
    """Claim to the quota file of the start, as long as it is used."""
    name: str = ""
    """The name given by `run --name`; "": that of the configuration file."""
    admin_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Generated token of the admin API, if none is configured. Kept over upgrades."""
    registration: Registration | None = None
    """Registration in the runtime directory. None: there is no such directory."""

    def use_waker(self, column: int, descriptors: Iterable[int]) -> None:
        """Use the waker that the supervisor has sent, in a child. No descriptor: too many files are open here."""
        for descriptor in descriptors:
            self.wakers[column] = descriptor

    @property
    def documents(self) -> list[RollbackPoint]:
        """Return the previous generations for rollback, the most recent last."""
        return [*self.former, *(RollbackPoint.of(sealed.accepted) for sealed in self.kept)]

    def open(
        self, address: Address, slots: int, *, private: bool = False, for_datagrams: bool = False
    ) -> Iterable[ListeningEndpoint]:
        """Return an address with sockets for this many slots, or with those of the service manager, which passes none
        for datagrams. `private`: a unix socket is accessible to its owner only. Raises `CannotListen`.
        """
        if for_datagrams:
            return open_endpoints(address, slots, kind=socket.SOCK_DGRAM)
        taken = self.passed.claim_sockets(address)
        if not taken:
            return open_endpoints(address, slots, private=private)
        return [_endpoint_of(address, each) for each in taken]

    def open_one(self, address: Address, *, private: bool = False) -> ListeningEndpoint:
        """Open one endpoint of the control process; for a host name, at the first of its addresses. Raises
        `CannotListen`.
        """
        if not (taken := self.passed.claim_sockets(address)):
            return open_endpoint(address, private=private)
        first, *others = taken
        self.passed.take_back(others)
        return _endpoint_of(address, first)

    def close_endpoints(self, endpoints: Iterable[ListeningEndpoint]) -> list[Passed]:
        """Close these endpoints. Sockets of the service manager stay open, for a listener of a later generation; they
        are returned.
        """
        kept = []
        for endpoint in endpoints:
            if endpoint.foreign:
                kept += [Passed(each, endpoint.name) for each in endpoint.sockets]
            else:
                endpoint.close()
        self.passed.take_back(kept)
        return kept


def _endpoint_of(address: Address, passed: Passed) -> ListeningEndpoint:
    return ListeningEndpoint(address, [passed.socket], shared=True, foreign=True, name=passed.name)


def assign_endpoints(
    node_state: NodeState, listeners: Mapping[str, Listener]
) -> tuple[dict[str, list[int]], dict[int, ListeningEndpoint]]:
    """Return the endpoints of each listener, and those that had to be opened.

    An open address keeps its sockets, even if the listener's name has changed. Raises `CannotListen`.
    """
    before = node_state.sealed.settings.listeners
    held = {_key(name, before[name]): numbers for name, numbers in node_state.listeners.items()}  # none at the start
    placed: dict[str, list[int]] = {}
    opened: dict[int, ListeningEndpoint] = {}
    with ExitStack() as undo:
        for name, listener in listeners.items():
            numbers = held.get(_key(name, listener))
            if numbers is None:
                numbers = []
                is_udp = listener.protocol == "udp"
                for endpoint in node_state.open(listener.address, node_state.slots, for_datagrams=is_udp):
                    undo.callback(node_state.close_endpoints, [endpoint])
                    opened[node_state.endpoint_number] = endpoint
                    numbers.append(node_state.endpoint_number)
                    node_state.endpoint_number += 1
            placed[name] = numbers
        undo.pop_all()
    return placed, opened


def _key(name: str, listener: Listener) -> tuple[str, Address, bool]:
    """Return the key that identifies a listener: its address; for ports chosen by the system also its name."""
    address = listener.address
    return ("" if address.port or address.path else name, address, listener.protocol == "udp")
