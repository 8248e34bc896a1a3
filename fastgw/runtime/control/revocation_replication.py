"""Revocation replication: control processes publish revocations in Redis, and read those of the other nodes there.

A sorted set, ordered by the expiry of records, holds all of them; a stream announces new ones. Rule 1: lists are only
merged, so a node or a Redis that was unreachable catches up by reading everything and adding missing records. Rule 2:
nothing waits for Redis: while it is unreachable each node uses its own list.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis.error_messages import in_words
from fastgw.redis.url import server_of
from fastgw.sync.revocations import LENGTH, MARK, MOST, RevocationEvent, RevocationList, records_in

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe

AGAIN_S: Final = 0.5
"""Seconds until a reconnect."""
BLOCK_S: Final = 1.0
"""Seconds for which a read of new entries blocks."""
TIMEOUT_S: Final = 3.0
"""Seconds for an answer; longer than `BLOCK_S`."""
MERGE_S: Final = 60.0
"""Interval of full comparisons of both lists: a failover may have lost entries."""
LOG_MOST: Final = 10_000
"""Approximate length of the stream."""
PIECE: Final = 1000
"""Records per write."""
_READ: Final = 5000
_EXPIRES: Final = slice(MARK, MARK + 4)

Item = tuple[bytes, list[RevocationEvent]]
Keys = tuple[bytes, bytes]
"""Names in Redis of the sorted set and of the stream."""


class WrongAnswer(Exception):
    """Redis, or another service at its address, has sent an unexpected response."""


class RevocationReplicator:
    """Replication of this node. `take`: receives revocations of other nodes, and stores new ones."""

    def __init__(self, revoked: RevocationList, take: Callable[[bytes, list[RevocationEvent]], object]) -> None:
        self._revoked = revoked
        self._take = take
        self._unsent: deque[Item] = deque()
        self._wake = asyncio.Event()
        self.is_there = False

    def publish(self, records: bytes, events: list[RevocationEvent]) -> None:
        """Publish revocations that are new on this node."""
        if self.is_there:  # otherwise the merge finds them
            self._unsent.append((records, events))
            self._wake.set()

    async def run(self, url: str, prefix: str) -> None:
        """Replicate until cancelled."""
        from fastgw.redis.pipelined_connection import ERRORS

        server, complaint = server_of(url), ""
        keys = f"{prefix}:revoked".encode(), f"{prefix}:revoked:log".encode()
        try:
            while True:
                try:
                    async with _connected(url) as redis:
                        latest = await self._latest(redis, keys[1])
                        await self._merge(redis, keys)
                        if complaint:
                            log_event(
                                OperatorEvent.STATE_BACK,
                                "revocations: the Redis at %s is reachable again; the lists are merged",
                                server,
                            )
                        complaint = ""
                        await self._replicate(redis, url, keys, latest)
                except (*ERRORS, WrongAnswer) as error:
                    if not complaint:
                        is_wrong = isinstance(error, WrongAnswer)
                        complaint = "it sent an unexpected response" if is_wrong else in_words(error)
                        log_event(
                            OperatorEvent.STATE_UNREACHABLE,
                            "revocations: the Redis at %s is unreachable: %s; this node uses its own list",
                            server,
                            complaint,
                        )
                self.is_there = False
                await asyncio.sleep(AGAIN_S)
        finally:
            self.is_there = False

    async def _latest(self, redis: "Pipe", key: bytes) -> bytes:
        """The last entry of the stream: later entries may be missing in the data that is read next."""
        entries = await _run_command(redis, b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1")
        with _wrong_answers():
            return bytes(memoryview(entries[0][0])) if entries else b"0-0"

    async def _merge(self, redis: "Pipe", keys: Keys) -> None:
        self._unsent.clear()
        self.is_there = True  # later entries may be missing in the comparison
        theirs = [piece async for piece in self._all(redis, keys[0])]
        for piece in theirs:
            self._take(piece, [])
        lacking = self._revoked.lacking(b"".join(theirs))
        for at in range(0, len(lacking), PIECE * LENGTH):
            await self._write(redis, keys, [(lacking[at : at + PIECE * LENGTH], [])])

    async def _all(self, redis: "Pipe", key: bytes) -> AsyncIterator[bytes]:
        at, now = 0, b"%d" % time.time()
        while True:
            limit = b"LIMIT", b"%d" % at, b"%d" % _READ
            found = await _run_command(redis, b"ZRANGEBYSCORE", key, now, b"+inf", b"WITHSCORES", *limit)
            with _wrong_answers():
                scores = [*zip(found[::2], found[1::2], strict=True)]
                piece = b"".join(_record(member, float(score)) for member, score in scores if len(member) == LENGTH - 4)
            yield piece
            if len(scores) < _READ:
                return
            at += _READ

    async def _replicate(self, redis: "Pipe", url: str, keys: Keys, latest: bytes) -> None:
        """Publish and read new revocations, until Redis fails."""
        tasks = {
            asyncio.create_task(self._publish(url, keys)),
            asyncio.create_task(self._read_stream(redis, keys, latest)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _publish(self, url: str, keys: Keys) -> None:
        """Publish new revocations, on a connection of its own: a blocking read would delay later commands."""
        await self._wake.wait()
        async with _connected(url) as redis:
            while True:
                self._wake.clear()
                while self._unsent:
                    items = [self._unsent.popleft() for _ in range(min(len(self._unsent), PIECE))]
                    await self._write(redis, keys, items)
                await self._wake.wait()

    async def _read_stream(self, redis: "Pipe", keys: Keys, latest: bytes) -> None:
        merge_at = time.monotonic() + MERGE_S
        waiting = b"COUNT", b"100", b"BLOCK", b"%d" % (BLOCK_S * 1000)
        while True:
            answer = await _run_command(redis, b"XREAD", *waiting, b"STREAMS", keys[1], latest)
            with _wrong_answers():
                news = [_entry(number, fields) for _, entries in answer or () for number, fields in entries]
            for number, records, events in news:
                self._take(records, events)
                latest = number
            if time.monotonic() >= merge_at:
                await self._merge(redis, keys)
                merge_at = time.monotonic() + MERGE_S

    async def _write(self, redis: "Pipe", keys: Keys, items: list[Item]) -> None:
        """Write everything in one transaction."""
        everything, news = keys
        commands: list[Sequence[bytes]] = []
        for records, events in items:
            scores: list[bytes] = []
            for record in records_in(records):
                scores += b"%d" % int.from_bytes(record[_EXPIRES]), record[:MARK] + record[MARK + 4 :]
            if scores:
                commands.append((b"ZADD", everything, b"GT", *scores))
            fields = b"r", records, b"t", msgspec.msgpack.encode(events)
            commands.append((b"XADD", news, b"MAXLEN", b"~", b"%d" % LOG_MOST, b"*", *fields))
        commands.append((b"ZREMRANGEBYSCORE", everything, b"-inf", b"(%d" % time.time()))
        commands.append((b"ZREMRANGEBYRANK", everything, b"0", b"%d" % (-MOST - 1)))
        with _wrong_answers():
            async with asyncio.timeout(TIMEOUT_S):
                await redis.execute_transaction(*commands)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["Pipe"]:
    """Connect to Redis. Raises errors of the connection."""
    from fastgw.redis.pipelined_connection import opened

    with closing(await opened(url, TIMEOUT_S, lambda why: None)) as redis:
        yield redis


async def _run_command(redis: "Pipe", *words: bytes) -> Any:
    """Return the response to a command. Raises errors of the connection, also after a timeout."""
    async with asyncio.timeout(TIMEOUT_S):
        return await redis.execute(*words)


@contextmanager
def _wrong_answers() -> Iterator[None]:
    """Raise `WrongAnswer` for errors in parsing an unexpected response."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WrongAnswer(str(error)) from error


def _entry(number: bytes, fields: Sequence[bytes]) -> tuple[bytes, bytes, list[RevocationEvent]]:
    """Decode an entry of the stream. Raises the errors that `_wrong_answers` converts."""
    held = dict(zip(fields[::2], fields[1::2], strict=True))
    number, records, data = (bytes(memoryview(each)) for each in (number, held.get(b"r", b""), held.get(b"t", b"")))
    return number, records, _decode_events(data)


def _record(member: bytes, score: float) -> bytes:
    return member[:MARK] + int(min(max(score, 0), 2**32 - 1)).to_bytes(4) + member[MARK:]


def _decode_events(raw: bytes) -> list[RevocationEvent]:
    try:
        return msgspec.msgpack.decode(raw, type=list[RevocationEvent])
    except msgspec.DecodeError:  # of another version
        return []
