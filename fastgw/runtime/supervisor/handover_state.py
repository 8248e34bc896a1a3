"""Handover state of an upgrade in place: state that the old program passes to the new one, which keeps pid, children
and sockets.

It is in a memory file whose descriptor is in the environment; its descriptors stay open in the new program. It contains
plain values only, because the new program may be another version of fastgw.
"""

import os
import socket
import time
from typing import Final, Self

import msgspec

from fastgw.config import Source
from fastgw.config.base.value_types import parse_address
from fastgw.kernel import memory_file
from fastgw.net.session_tickets import TicketKeySeeds
from fastgw.runtime.ipc.channel import PROTOCOL, Channel, Origin
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.config_snapshot import RollbackPoint
from fastgw.runtime.node.node_state import NodeState, ReloadRecord
from fastgw.runtime.sockets.listening_sockets import ListeningEndpoint
from fastgw.runtime.sockets.systemd_activation import Inherited, Passed
from fastgw.runtime.supervisor.children import Children
from fastgw.runtime.supervisor.slot_adoption import SlotAdoption
from fastgw.shm.slot_assignment import SlotTable
from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.revocations import RevocationEvent

TAKE_OVER: Final = "FASTGW_TAKE_OVER"
"""Environment variable for the new program: descriptor of the handover state."""
PREFLIGHT: Final = "FASTGW_PREFLIGHT"
"""Environment variable for a preflight, which only tests the takeover: descriptor of the state."""


class OpenEndpoint(msgspec.Struct):
    """A `ListeningEndpoint`, with descriptors of its sockets."""

    address: str
    sockets: list[int]
    shared: bool
    foreign: bool
    inode: int
    name: str = "unknown"
    """Name of a service manager's socket; unknown to older versions."""

    @classmethod
    def of(cls, endpoint: ListeningEndpoint) -> "OpenEndpoint":
        sockets = [each.fileno() for each in endpoint.sockets]
        return cls(str(endpoint.address), sockets, endpoint.shared, endpoint.foreign, endpoint.inode, endpoint.name)

    def endpoint(self) -> ListeningEndpoint:
        sockets = [socket.socket(fileno=descriptor) for descriptor in self.sockets]
        address = parse_address(self.address)
        return ListeningEndpoint(address, sockets, self.shared, self.inode, self.foreign, self.name)


class ChildHandover(msgspec.Struct):
    """A `Child`, with the descriptor of its channel."""

    name: str
    slot: int | None
    """None: it is not a worker, or it is leaving."""
    pid: int
    channel: int
    column: int | None
    began_at: float
    generation: int
    ready: bool
    silent: bool
    silence: float
    leaving: bool
    lost: bool
    accepts_for: list[int]
    sockets: dict[int, int]
    caches: dict[str, int] | None = None
    """None: the old version has none."""
    journal: int = -1
    """Descriptor of its connection journal; -1: the old version has none."""

    @classmethod
    def of(cls, child: Child, slot: int | None, adoption: SlotAdoption, slots: int) -> "ChildHandover":
        return cls(
            name=child.name,
            slot=slot,
            pid=child.pid,
            channel=child.channel.fileno(),
            column=child.column,
            began_at=child.began_at,
            generation=child.generation,
            ready=child.ready,
            silent=child.silent,
            silence=child.heartbeat.silence,
            leaving=child.leaving,
            lost=child.lost,
            accepts_for=[index for index in range(slots) if adoption.accepting_child(index) is child],
            sockets=child.sockets,
            caches=child.caches,
            journal=child.journal,
        )

    def child(self) -> Child:
        child = Child(self.pid, Channel.of(self.channel), self.name, self.column, self.began_at, outdated=True)
        child.generation, child.sockets, child.caches = self.generation, self.sockets, self.caches
        child.journal = self.journal
        child.ready, child.silent, child.leaving, child.lost = self.ready, self.silent, self.leaving, self.lost
        return child


class CacheHandover(msgspec.Struct):
    """A store of the response cache. `fd`: descriptor of its memory."""

    number: int
    fd: int
    memory: int
    most_bytes: int
    disk: tuple[str, str, int] | None = None
    """Path, id and size of its disk tier."""
    redis: bool = False


class HandoverState(msgspec.Struct, kw_only=True, rename={"slot_table": "places"}):
    """State that the upgraded supervisor takes over. Names in messages stay: another version reads them."""

    protocol: int
    """Version of the protocol of the children."""
    generation: int
    sources: list[Source]
    captured: dict[str, bytes]
    source: Origin
    date: float
    """Date of acceptance (epoch seconds)."""
    former: list[RollbackPoint]
    """Generations for rollback."""
    slot_table: SlotTable
    shared: int
    """Descriptor of the shared memory."""
    endpoints: dict[int, OpenEndpoint]
    endpoint_number: int
    listeners: dict[str, list[int]]
    own: dict[str, OpenEndpoint]
    slots: int
    children: list[ChildHandover]
    passed: list[tuple[int, str]]
    """Sockets of a service manager that no listener uses, with descriptors and names."""
    records: list[ReloadRecord]
    begun_date: float
    """Start of the gateway (epoch seconds)."""
    feeds: dict[str, bytes]
    """Last values of feeds by key."""
    reload_due: bool
    """Whether a signal has requested a reload that has not begun."""
    begun_at: float | None = None
    """Start of the gateway in monotonic seconds; None: the old version does not know."""
    tickets: TicketKeySeeds | None = None
    """None: the old version has none."""
    run_key: bytes = b""
    """b"": the old version has none."""
    revoked: bytes = b""
    """The revocation list, as records."""
    revocation_events: list[RevocationEvent] = msgspec.field(default_factory=list, name="revoked_told")
    ended_sessions: bytes = b""
    """Sessions of the dashboard that have ended, as records."""
    purges: list[PurgeOrder] = []
    """Purges that other nodes may not have received."""
    purges_seen: tuple[bytes, float] | None = None
    """The last entry of Redis that was read, and when; None: the old version does not know."""
    quota_claim: int = -1
    """Descriptor of its lock; -1: there is none."""
    admin_token: str = ""
    """"": the old version has none."""
    caches: dict[str, CacheHandover] = {}
    cache_claims: dict[str, int] = {}
    """Descriptors of the claims to the directories of caches, by path."""
    wakers: dict[int, int] = {}
    """Descriptors by which processes wake each other, by column."""
    registration: tuple[str, int] | None = None
    """Path and descriptor of the entry in the runtime directory."""
    orphaned_journals: list[int] = []
    """Descriptors of the connection journals of dead workers."""

    @classmethod
    def of(
        cls,
        node_state: NodeState,
        children: Children,
        adoption: SlotAdoption,
        reload_due: bool,
        orphaned_journals: list[int],
    ) -> Self:
        accepted, held = node_state.sealed.accepted, node_state.registration
        placed = [(child, slot.index) for slot in children.slots for child in slot.children]
        return cls(
            protocol=PROTOCOL,
            generation=accepted.generation,
            sources=accepted.sources,
            captured=accepted.captured,
            source=accepted.source,
            date=accepted.date,
            former=node_state.documents,
            slot_table=accepted.slot_table,
            shared=node_state.shared.fd,
            endpoints={number: OpenEndpoint.of(each) for number, each in node_state.endpoints.items()},
            endpoint_number=node_state.endpoint_number,
            listeners=node_state.listeners,
            own={name: OpenEndpoint.of(each) for name, each in node_state.own.items()},
            slots=node_state.slots,
            children=[
                ChildHandover.of(child, index, adoption, node_state.slots)
                for child, index in [*placed, *((child, None) for child in children.leaving)]
            ],
            passed=[(each.socket.fileno(), each.name) for each in node_state.passed.left],
            records=node_state.records,
            begun_date=node_state.begun_date,
            begun_at=node_state.begun_at,
            feeds=node_state.feeds,
            reload_due=reload_due,
            tickets=node_state.tickets,
            run_key=node_state.run_key,
            revoked=node_state.revoked.joined(time.time()),
            revocation_events=list(node_state.revocation_events),
            ended_sessions=node_state.ended_sessions.joined(time.time()),
            purges=[*node_state.purges.announced, *node_state.purges.waiting],
            purges_seen=(node_state.purges.seen, node_state.purges.seen_at),
            quota_claim=-1 if node_state.quota_claim is None else node_state.quota_claim.fd,
            admin_token=node_state.admin_token,
            caches={
                name: CacheHandover(
                    each.number, each.memory.fd, each.memory.memory, each.most_bytes, each.disk, each.redis
                )
                for name, each in node_state.caches.stores.items()
            },
            cache_claims=node_state.caches.claims.in_use,
            wakers=node_state.wakers,
            registration=None if held is None else (held.path, held.fd),
            orphaned_journals=orphaned_journals,
        )

    @property
    def descriptors(self) -> list[int]:
        """Return all descriptors that the new program needs, except that of the state itself."""
        return [
            self.shared,
            *(each for endpoint in (*self.endpoints.values(), *self.own.values()) for each in endpoint.sockets),
            *(child.channel for child in self.children),
            *(child.journal for child in self.children if child.journal >= 0),
            *self.orphaned_journals,
            *(descriptor for descriptor, _ in self.passed),
            *((self.quota_claim,) if self.quota_claim >= 0 else ()),
            *{each.fd for each in self.caches.values()},
            *self.cache_claims.values(),
            *self.wakers.values(),
            *((self.registration[1],) if self.registration else ()),
        ]

    def inherited(self) -> Inherited:
        return Inherited(Passed(socket.socket(fileno=descriptor), name) for descriptor, name in self.passed)

    def write(self) -> int:
        """Write the state into a memory file; return its descriptor."""
        descriptor = memory_file("fastgw-handover")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(msgspec.msgpack.encode(self))
        return descriptor

    @classmethod
    def read(cls, name: str) -> "HandoverState | None":
        """Read the state that this variable names, and remove the variable from the environment. Raises
        `IncompatibleHandover`.
        """
        text = os.environ.pop(name, None)
        if text is None:
            return None
        try:
            descriptor = int(text)
            size = os.fstat(descriptor).st_size
            handover = msgspec.msgpack.decode(os.pread(descriptor, size, 0), type=cls)
        except (ValueError, OverflowError, OSError, msgspec.DecodeError) as error:
            raise IncompatibleHandover(f"the state handed over by the other version cannot be read: {error}") from error
        os.close(descriptor)
        if handover.protocol != PROTOCOL:
            raise IncompatibleHandover(
                f"its workers speak version {handover.protocol} of the messages between processes, and not {PROTOCOL}: "
                "this upgrade needs a restart"
            )
        for each in handover.descriptors if name == TAKE_OVER else [handover.shared]:
            os.set_inheritable(each, False)
        return handover


def is_successor() -> bool:
    """Whether this program was started by an upgrade, so that it does not log its command line again."""
    return TAKE_OVER in os.environ or PREFLIGHT in os.environ


class IncompatibleHandover(Exception):
    """The state cannot be used; the text says why."""
