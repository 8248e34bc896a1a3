"""Streams in Redis, in which the control processes of all nodes announce changes to each other.

Rule: nothing waits for Redis. While it is unreachable, announcements wait here, and the node does without those of
the others; after that each subclass catches up in `_join`.
"""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from fastgw.admin.node_interface import RevokedEverywhere
from fastgw.config.settings.secrets import SecretError, secret_in
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.operator_log import notice
from fastgw.redis.error_messages import in_words
from fastgw.redis.url import server_of
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.process.lasting_tasks import keep_running

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe

AGAIN_S: Final = 0.5
"""Seconds until a reconnect."""
BLOCK_S: Final = 1.0
"""Seconds for which a read of new entries blocks."""
TIMEOUT_S: Final = 3.0
"""Seconds for an answer; longer than `BLOCK_S`."""
LOG_MOST: Final = 10_000
"""Approximate length of a stream."""
PIECE: Final = 1000
"""Maximum number of items that are written at once."""
FIRST: Final = b"0-0"
"""Number before those of all entries."""

Item = TypeVar("Item")


class WrongAnswer(Exception):
    """Redis, or another service at its address, has sent an unexpected response."""


def shared_state(accepted: ConfigSnapshot) -> tuple[str, str] | None:
    """Return URL and prefix of the Redis of `state`; None: there is none, or its URL cannot be read."""
    state = accepted.settings.state
    if state is None:
        return None
    file = state.url.file
    try:
        return (secret_in(file, accepted.captured[file]) if file else state.url.value()), state.prefix
    except SecretError as error:
        notice(OperatorEvent.REVOCATIONS_NOT_SHARED, f"revocations and purges are not shared: {error}")
        return None


class SharedStream(Generic[Item]):
    """A stream as one node uses it. `topic`: of the log lines. `back`, `alone`: what they say about the time after and
    during an outage. `defect`: event for a defect that interrupts it.
    """

    def __init__(self, topic: str, back: str, alone: str, defect: OperatorEvent) -> None:
        self._topic, self._back, self._alone, self._defect = topic, back, alone, defect
        self._source: tuple[str, str] | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._unsent: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._stream = b""
        self.is_there = False
        self.trouble = ""
        """Reason why Redis is not used; "" = it is used, or not known yet."""

    def use_state(self, source: tuple[str, str] | None) -> None:
        """Share over this Redis: its URL, and the prefix of names. None: this node is alone."""
        if source != self._source:
            self.stop()
            self._source = source
            if source is not None:
                self._sharing = asyncio.get_running_loop().create_task(
                    keep_running(self._topic, partial(self.replicate, *source), event=self._defect)
                )

    def stop(self) -> None:
        if self._sharing is not None:
            self._sharing.cancel()
            self._sharing = None

    @property
    def server(self) -> str:
        """Return the address of Redis; "": there is none."""
        return "" if self._source is None else server_of(self._source[0])

    @property
    def is_alone(self) -> bool:
        """Whether this node shares with no other."""
        return self._source is None

    @property
    def scope(self) -> RevokedEverywhere:
        """Return which nodes an announcement reaches."""
        if self.is_alone:
            return "node"
        return "shared" if self.is_there else "away"

    @abstractmethod
    async def replicate(self, url: str, prefix: str) -> None:
        """Announce and receive until cancelled. `prefix`: of names in Redis."""

    @abstractmethod
    async def _join(self, redis: "Pipe") -> bytes:
        """Catch up after a connect, set `is_there`, and return the number of the entry after which to read."""

    @abstractmethod
    async def _write(self, redis: "Pipe", items: list[Item]) -> None:
        """Write items to the stream."""

    @abstractmethod
    def _receive(self, number: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Handle an entry of the stream. `LookupError`, `TypeError` and `ValueError`: it is an unexpected response."""

    async def _pass_time(self, redis: "Pipe") -> None:
        """Do what has to be done from time to time; called after each read of the stream."""
        return

    async def run(self, url: str, stream: bytes) -> None:
        """Announce and receive until cancelled. `stream`: its name in Redis."""
        from fastgw.redis.pipelined_connection import ERRORS

        server = server_of(url)
        self._stream, self.trouble = stream, ""
        try:
            while True:
                try:
                    async with _connected(url) as redis:
                        latest = await self._join(redis)
                        if self.trouble:
                            log_event(
                                OperatorEvent.STATE_BACK,
                                "%s: the Redis at %s is reachable again; %s",
                                self._topic,
                                server,
                                self._back,
                            )
                        self.trouble = ""
                        await self._exchange(redis, url, latest)
                except (*ERRORS, WrongAnswer) as error:
                    is_wrong, is_known = isinstance(error, WrongAnswer), bool(self.trouble)
                    self.trouble = "it sent an unexpected response" if is_wrong else in_words(error)
                    if not is_known:
                        log_event(
                            OperatorEvent.STATE_UNREACHABLE,
                            "%s: the Redis at %s is unreachable: %s; %s",
                            self._topic,
                            server,
                            self.trouble,
                            self._alone,
                        )
                self.is_there = False
                await asyncio.sleep(AGAIN_S)
        finally:
            self.is_there = False

    async def _exchange(self, redis: "Pipe", url: str, latest: bytes) -> None:
        """Announce and receive, until Redis fails."""
        tasks = {asyncio.create_task(self._publish(url)), asyncio.create_task(self._read(redis, latest))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _publish(self, url: str) -> None:
        """Write items, on a connection of its own: a blocking read would delay later commands."""
        await self._wake.wait()
        async with _connected(url) as redis:
            while True:
                self._wake.clear()
                while self._unsent:
                    items = [self._unsent.popleft() for _ in range(min(len(self._unsent), PIECE))]
                    try:
                        await self._write(redis, items)
                    except BaseException:
                        self._unsent.extendleft(reversed(items))
                        self._wake.set()
                        raise
                await self._wake.wait()

    async def _read(self, redis: "Pipe", latest: bytes) -> None:
        waiting = b"COUNT", b"100", b"BLOCK", b"%d" % (BLOCK_S * 1000)
        while True:
            answer = await run_command(redis, b"XREAD", *waiting, b"STREAMS", self._stream, latest)
            with wrong_answers():
                news = [_entry(number, fields) for _, entries in answer or () for number, fields in entries]
                for latest, fields in news:
                    self._receive(latest, fields)
            await self._pass_time(redis)

    async def _latest(self, redis: "Pipe") -> bytes:
        """Return the number of the last entry: later entries may be missing in the data that is read next."""
        entries = await run_command(redis, b"XREVRANGE", self._stream, b"+", b"-", b"COUNT", b"1")
        with wrong_answers():
            return bytes(memoryview(entries[0][0])) if entries else FIRST

    async def _earliest(self, redis: "Pipe") -> bytes:
        """Return the number of the first entry."""
        entries = await run_command(redis, b"XRANGE", self._stream, b"-", b"+", b"COUNT", b"1")
        with wrong_answers():
            return bytes(memoryview(entries[0][0])) if entries else FIRST

    def _adding(self, *fields: bytes) -> Sequence[bytes]:
        """Return the command that adds an entry."""
        return (b"XADD", self._stream, b"MAXLEN", b"~", b"%d" % LOG_MOST, b"*", *fields)


async def run_command(redis: "Pipe", *words: bytes) -> Any:
    """Return the response to a command. Raises errors of the connection, also after a timeout."""
    async with asyncio.timeout(TIMEOUT_S):
        return await redis.execute(*words)


async def run_transaction(redis: "Pipe", commands: Sequence[Sequence[bytes]]) -> Sequence[Any]:
    """Run commands in one transaction, and return their responses. Raises errors of the connection, also after a
    timeout, and `WrongAnswer`.
    """
    with wrong_answers():
        async with asyncio.timeout(TIMEOUT_S):
            return await redis.execute_transaction(*commands)


@contextmanager
def wrong_answers() -> Iterator[None]:
    """Raise `WrongAnswer` for errors in parsing an unexpected response."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WrongAnswer(str(error)) from error


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["Pipe"]:
    """Connect to Redis. Raises errors of the connection."""
    from fastgw.redis.pipelined_connection import opened

    with closing(await opened(url, TIMEOUT_S, lambda why: None)) as redis:
        yield redis


def _entry(number: bytes, fields: Sequence[bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """Decode an entry of the stream. Raises the errors that `wrong_answers` converts."""
    held = dict(zip(fields[::2], fields[1::2], strict=True))
    return bytes(memoryview(number)), {name: bytes(memoryview(value)) for name, value in held.items()}
