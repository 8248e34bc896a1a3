"""Messages between the supervisor and its children: one `SOCK_SEQPACKET` pair per child, one packet per message.

Each message names the generation of the configuration that it is about. Descriptors (sockets, sealed memory) are sent
with the message that refers to them. Sending never waits: if a packet cannot be sent at once, the other side has
stopped reading, and its death or missing heartbeat is detected separately.
"""

import errno
import os
import socket
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.revocations import RevocationEvent

MESSAGE_MAX: Final = 64 * 1024
DESCRIPTORS_MAX: Final = 128
"""Maximum number of descriptors in one message; the kernel allows 253."""
_ANCILLARY: Final = socket.CMSG_SPACE(DESCRIPTORS_MAX * array("i").itemsize)
LATER: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
"""Errors of `sendmsg` while there are too many messages or descriptors in transit (unix(7))."""
PROTOCOL: Final = 5
"""Version of these messages. A new version of fastgw takes over the workers of an old one only if the versions are
equal.
"""
FIRST_GENERATION: Final = 1


Origin = Literal["start", "signal", "api", "file", "rollback"]
"""Origin of a request for a configuration."""


Subject = Literal["file", "document", "contents"]
"""Subject of a reload: the configuration's own files; another document in their place; or new contents of referenced
files, such as certificates, secrets and targets.
"""


class Message(msgspec.Struct, kw_only=True, tag=True):
    generation: int


class Ready(Message):
    """Child: initialization for this generation is complete. A worker does not accept connections until requested."""


class Adopt(Message):
    """Supervisor: accept from this slot's sockets from now on: the worker's own slot, or one without a serving
    worker.
    """

    slot: int


class Release(Message):
    """Supervisor: another worker accepts for the slot."""

    slot: int


class Columns(Message):
    """Supervisor: number of active columns of the shared memory, before another worker is forked."""

    count: int


class UseWaker(Message):
    """Supervisor: a waker (`shm.wakers`) of another process, by its column; it is sent as a descriptor. Without it the
    process is not woken, and looks at intervals.
    """

    column: int


class Sockets(Message):
    """Supervisor: sockets of an endpoint, as descriptors: one per slot from `first` on, or a shared one."""

    endpoint: int
    address: str
    shared: bool
    foreign: bool
    first: int


class UseCache(Message):
    """Supervisor: a store of the response cache for the next generation; its memory is sent as a descriptor."""

    name: str
    memory: int
    most_bytes: int
    disk: tuple[str, str, int] | None = None
    """Path, id and size of its disk tier."""
    redis: bool = False


class Prepare(Message):
    """Supervisor: build the tables of this generation in addition to those in use. Its sealed document is sent as a
    descriptor.

    `listeners`: the endpoints of each listener, in the order of the configuration.
    """

    listeners: list[list[int]]


class Prepared(Message):
    """Worker: the tables of this generation are built."""


class ReloadRefused(Message):
    """Worker: the tables cannot be built, and nothing has changed."""

    why: str
    passing: bool = False
    """Whether the failure is transient: a later attempt may succeed."""


class Commit(Message):
    """Supervisor: every worker is prepared; serve this generation from now on."""


class Abort(Message):
    """Supervisor: a worker has refused; discard the prepared tables."""


class GenerationCommitted(Message):
    """Worker: this generation serves the next request."""


class Propose(Message):
    """Control: a fully checked document, as a descriptor, for all workers."""

    source: Origin
    subject: Subject = "file"
    changes: str = ""
    """Description of the changes, if there is an audit log."""
    read_at: float = 0.0
    """When reading the file began, monotonic seconds; 0: it was not read, or the control process is an older one."""


class ProposeTargets(Message):
    """Control: the active generation with other targets. Two descriptors: its sealed document, and the change."""


class UseTargets(Message):
    """Supervisor: use other targets in this generation. The change (`TargetChange`) is sent as a descriptor."""


class Rejected(Message):
    """Control: the requested configuration is invalid, and was not proposed. `generation`: the one that stays
    active.
    """

    source: Origin
    why: str
    subject: Subject = "file"
    passing: bool = False
    """Whether the reason is transient: no error is known, but the check could not be made."""
    read_at: float = 0.0
    """When reading the file began, monotonic seconds; 0: see `Propose`."""


class ReloadResult(Message):
    """Supervisor: result of a proposal. `generation`: the active one."""

    ok: bool
    why: str
    workers: int
    passing: bool = False
    """Whether a failure is transient: a later attempt may succeed."""
    committed: int = 0
    listeners_added: int = 0
    listeners_removed: int = 0
    workers_restarted: int = 0
    listeners_moved: int = 0
    resized: tuple[int, int] | None = None
    """The number of workers before and after."""
    changed: str = ""
    """The files with new contents, for people; without added files."""


class ReloadRequest(Message):
    """Supervisor: a signal has requested a reload."""


class Drain(Message):
    """Supervisor: drain: accept nothing new, finish requests in flight within this number of seconds, send `Drained`
    and exit.

    `handed_over`: other workers continue to accept from the same sockets.
    """

    requests_s: float
    tunnels_s: float
    handed_over: bool = False


class Drained(Message):
    """Worker: number of requests and tunnels that ended properly, and of those that were aborted."""

    drained: int
    cut: int


class DrainAll(Message):
    """Control: a client of the admin API has requested the shutdown of the gateway, as by SIGTERM."""


class Stop(Message):
    """Supervisor: exit now."""


class SendDisconnects(Message):
    """Supervisor: send `$disconnect` for the connections of a dead worker. Its journal is sent as a descriptor."""


class Reopen(Message):
    """Supervisor: reopen the log files."""


class Watch(Message):
    """Supervisor: control is unavailable: answer the probes on the status socket, which is sent as a descriptor.

    Without a descriptor: control is available again.
    """


class ControlAway(Message):
    """Supervisor: requests for sources are not answered; or, not `away`, they are again."""

    away: bool


class FeedUpdate(Message):
    """New value of a feed, which is fetched once per node; its bytes are sent as a descriptor.

    Sent by control or, while that is unavailable, by a worker that has fetched it itself; then by the supervisor.
    """

    key: str


class FeedRefreshRequest(Message):
    """Worker, then supervisor: the value of this source seems to be outdated.

    `generation`: the one that the worker serves. `seen`: the mark of the value; b"": any value.
    """

    key: str
    seen: bytes = b""


class CertificateRequest(Message):
    """Worker, then supervisor: a client asks for the certificate of a name (`acme.on_demand`), whether there is one or
    not.
    """

    name: str


class Revoke(Message):
    """Worker or control, then supervisor: these records (`node/revoked`) are new. `told`: description of the
    last one.
    """

    records: bytes
    events: list[RevocationEvent] = msgspec.field(default_factory=list, name="told")


class EndSession(Message):
    """Control: a session of the dashboard has ended; the supervisor keeps its record for the next control process."""

    record: bytes


class AnnouncePurge(Message):
    """Worker, then supervisor: a worker has purged a cache of this node; control announces it to the other nodes.

    From control: it has purged itself, and announces it; the supervisor keeps it for the next control process.
    """

    order: PurgeOrder


class PurgesAnnounced(Message):
    """Control: the Redis of `state` has these purges, or there is none."""

    ids: list[bytes]


class PurgesSeen(Message):
    """Control: it has carried out the purges of other nodes up to this entry of Redis. `at`: when everything up to then
    was read (monotonic seconds).
    """

    number: bytes
    at: float


class Capture(Message):
    """Control, then supervisor: hand over samples of requests; the socket for them is sent as a descriptor. Without a
    descriptor: the capture with this number ends.
    """

    number: int
    order: bytes = b""
    """Encoded `capture.captured_exchange.CaptureOrder`."""


AnyMessage = (
    Ready
    | Adopt
    | Release
    | Columns
    | UseWaker
    | Sockets
    | UseCache
    | Prepare
    | Prepared
    | ReloadRefused
    | Commit
    | Abort
    | GenerationCommitted
    | Propose
    | ProposeTargets
    | UseTargets
    | Rejected
    | ReloadResult
    | ReloadRequest
    | Drain
    | Drained
    | DrainAll
    | Stop
    | SendDisconnects
    | Reopen
    | Watch
    | ControlAway
    | FeedUpdate
    | FeedRefreshRequest
    | CertificateRequest
    | Revoke
    | EndSession
    | AnnouncePurge
    | PurgesAnnounced
    | PurgesSeen
    | Capture
)

_decoder: Final[msgspec.msgpack.Decoder[AnyMessage]] = msgspec.msgpack.Decoder(AnyMessage)
_encoder: Final = msgspec.msgpack.Encoder()


class ChannelClosed(Exception):
    """The other side has ended, or accepts no more messages."""


class ChannelFull(ChannelClosed):
    """The other side has not read the previous messages yet."""


class Channel:
    """One end of a pair. It never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._descriptors: list[int] = []  # of the message received last
        self.has_lost_descriptors = False
        """Some descriptors of the last received message could not be opened here: too many open files."""

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def of(cls, descriptor: int) -> "Channel":
        """Restore an end that was created before the program was replaced."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()
        close_descriptors(self.take_descriptors())

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Raises `ChannelClosed`; `ChannelFull` if it may be sent later."""
        try:
            socket.send_fds(self._end, [_encoder.encode(message)], descriptors)
        except OSError as error:
            raise (ChannelFull if error.errno in LATER else ChannelClosed) from error

    def receive(self) -> AnyMessage | None:
        """Return the next message, or None if there is none yet. Raises `ChannelClosed`.

        Descriptors of the previous message that were not taken are closed.
        """
        close_descriptors(self.take_descriptors())
        try:
            # Not `socket.recv_fds`: it drops the flags (CPython 3.11).
            packet, ancillary, flags, _ = self._end.recvmsg(MESSAGE_MAX, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed from error
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors += array("i", content)
        if not packet:
            raise ChannelClosed
        self.has_lost_descriptors = bool(flags & socket.MSG_CTRUNC)
        try:
            return _decoder.decode(packet)
        except msgspec.DecodeError as error:  # longer than `MESSAGE_MAX`, or of another program
            raise ChannelClosed from error

    def take_descriptors(self) -> list[int]:
        """Take the descriptors of the message received last; the caller closes them."""
        taken, self._descriptors = self._descriptors, []
        return taken


def close_descriptors(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
