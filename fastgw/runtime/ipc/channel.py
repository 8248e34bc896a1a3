"""Messages between the supervisor and its children: one `SOCK_SEQPACKET` pair per child, one packet per message.

Each message names the generation of the configuration that it is about. Descriptors (sockets, sealed memory) travel
with the message that speaks of them. Nobody waits: a packet that cannot be sent at once means that the other side has
stopped reading, and its death, or the want of its heartbeat, tells the rest.
"""

import errno
import os
import socket
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from fastgw.sync.revocations import RevocationEvent

MESSAGE_MAX: Final = 64 * 1024
DESCRIPTORS_MAX: Final = 128
"""Most descriptors in one message; the kernel takes 253."""
_ANCILLARY: Final = socket.CMSG_SPACE(DESCRIPTORS_MAX * array("i").itemsize)
LATER: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
"""Errors of `sendmsg` while messages, or descriptors on their way, are too many (unix(7))."""
PROTOCOL: Final = 4
"""Version of these messages. A new version of fastgw takes over the workers of an old one only if it speaks the same.
"""
FIRST_GENERATION: Final = 1


Origin = Literal["start", "signal", "api", "file", "rollback"]
"""Origin of a request for a configuration."""


Subject = Literal["file", "document", "contents"]
"""Subject of a reload: what the configuration's own files say; another document in their place; or other contents of
referenced files, such as certificates, secrets and targets.
"""


class Message(msgspec.Struct, kw_only=True, tag=True):
    generation: int


class Ready(Message):
    """Child: everything is set up for this generation. A worker accepts nothing until it is told to."""


class Adopt(Message):
    """Supervisor: accept from this slot's sockets from now on: your own, or those of one without an able worker."""

    slot: int


class Release(Message):
    """Supervisor: another worker accepts for the slot."""

    slot: int


class Columns(Message):
    """Supervisor: so many columns of the shared memory count, as another worker is about to be born."""

    count: int


class Sockets(Message):
    """Supervisor: sockets of an endpoint, as descriptors: one per slot from `first` on, or the one that all share."""

    endpoint: int
    address: str
    shared: bool
    foreign: bool
    first: int


class Prepare(Message):
    """Supervisor: build the tables of this generation beside those in use. Its sealed document comes as descriptor.

    `listeners`: the endpoints of each listener, in the order of the configuration.
    """

    listeners: list[list[int]]


class Prepared(Message):
    """Worker: the tables of this generation are built."""


class ReloadRefused(Message):
    """Worker: they cannot be built, and nothing has changed."""

    why: str
    passing: bool = False
    """Whether the failure is transient: a later attempt may succeed."""


class Commit(Message):
    """Supervisor: every worker is prepared; serve this generation from now on."""


class Abort(Message):
    """Supervisor: somebody refused; forget what you have prepared."""


class GenerationCommitted(Message):
    """Worker: this generation is what the next request meets."""


class Propose(Message):
    """Control: a document that was checked in full, as descriptor. Bring it to all workers."""

    source: Origin
    subject: Subject = "file"


class Rejected(Message):
    """Control: what was asked for is wrong, and was not proposed. `generation`: the one that stays."""

    source: Origin
    why: str
    subject: Subject = "file"
    passing: bool = False
    """Whether the reason passes by itself: no error is known, the check could not be made."""


class ReloadResult(Message):
    """Supervisor: what became of a proposal. `generation`: the one that is served now."""

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
    """The files with other contents, for people; none is named whose name is new."""


class ReloadRequest(Message):
    """Supervisor: somebody has asked by signal to read the file again."""


class Drain(Message):
    """Supervisor: take nothing new, finish what is under way in so many seconds, say `Drained` and exit.

    `handed_over`: others go on accepting from the same sockets.
    """

    requests_s: float
    tunnels_s: float
    handed_over: bool = False


class Drained(Message):
    """Worker: so many requests and tunnels came to their end, so many had to be cut."""

    drained: int
    cut: int


class DrainAll(Message):
    """Control: somebody has asked for the end of the gateway, as by SIGTERM."""


class Stop(Message):
    """Supervisor: exit now."""


class Reopen(Message):
    """Supervisor: open the log files anew."""


class Watch(Message):
    """Supervisor: control is away: answer the probes on the status socket, which comes as descriptor.

    Without a descriptor: control is back.
    """


class ControlAway(Message):
    """Supervisor: nobody answers who asks a source; or, not `away`, somebody does again."""

    away: bool


class FeedUpdate(Message):
    """New value of a feed, which is fetched once per node; its bytes come as descriptor.

    Control or, while that is away, a worker that has fetched it itself; then supervisor.
    """

    key: str


class FeedRefreshRequest(Message):
    """Worker, then supervisor: what this source has said seems to be out of date.

    `generation`: the one that the worker serves. `seen`: the mark of what it has said; b"": whatever that was.
    """

    key: str
    seen: bytes = b""


class Revoke(Message):
    """Worker or control, then supervisor: these records (`node/revoked`) are new. `told`: of the last of them."""

    records: bytes
    events: list[RevocationEvent] = msgspec.field(default_factory=list, name="told")


AnyMessage = (
    Ready
    | Adopt
    | Release
    | Columns
    | Sockets
    | Prepare
    | Prepared
    | ReloadRefused
    | Commit
    | Abort
    | GenerationCommitted
    | Propose
    | Rejected
    | ReloadResult
    | ReloadRequest
    | Drain
    | Drained
    | DrainAll
    | Stop
    | Reopen
    | Watch
    | ControlAway
    | FeedUpdate
    | FeedRefreshRequest
    | Revoke
)

_decoder: Final[msgspec.msgpack.Decoder[AnyMessage]] = msgspec.msgpack.Decoder(AnyMessage)
_encoder: Final = msgspec.msgpack.Encoder()


class ChannelClosed(Exception):
    """The other side is gone, or takes no more messages."""


class ChannelFull(ChannelClosed):
    """The other side has not taken yet what was sent before."""


class Channel:
    """One end of a pair. It never blocks."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._descriptors: list[int] = []  # of the message received last
        self.has_lost_descriptors = False
        """Some of the message received last could not be opened here: no more files may be open."""

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def of(cls, descriptor: int) -> "Channel":
        """An end that was made before the program was replaced."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()
        close_descriptors(self.take_descriptors())

    def send(self, message: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        """Raises `ChannelClosed`; `ChannelFull` when it could be sent later."""
        try:
            socket.send_fds(self._end, [_encoder.encode(message)], descriptors)
        except OSError as error:
            raise (ChannelFull if error.errno in LATER else ChannelClosed) from error

    def receive(self) -> AnyMessage | None:
        """The next message, or None when there is none yet. Raises `ChannelClosed`.

        Descriptors of the message before that nobody took are closed.
        """
        close_descriptors(self.take_descriptors())
        try:
            # Not `socket.recv_fds`: it forgets the flags (CPython 3.11).
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
