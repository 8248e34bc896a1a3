"""Revocations of all nodes: what one node's control process says in Redis, and hears of the others there.

A sorted set, by when records end, holds them all; a stream says what is new in it. Rule 1: lists are only merged, so
whoever was away, node or Redis, catches up by reading all and adding what is lacking. Rule 2: nobody waits for Redis:
while it is away each node goes by its own list.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from fastgw.operator_events import OperatorEvent, say
from fastgw.redis.error_messages import in_words
from fastgw.redis.url import place_in
from fastgw.sync.revocations import LENGTH, MARK, MOST, RevocationEvent, RevocationList, records_in

AGAIN_S: Final = 0.5
"""How soon it is tried again when it was away."""
BLOCK_S: Final = 1.0
"""How long a question for what is new waits there."""
PATIENCE_S: Final = 3.0
"""Seconds for an answer; longer than `BLOCK_S`."""
MERGE_S: Final = 60.0
"""How often both lists are compared in full: a failover may have lost what was said."""
LOG_MOST: Final = 10_000
"""Entries of the stream, about."""
PIECE: Final = 1000
"""Records that are written at a time."""
_READ: Final = 5000
_EXPIRES: Final = slice(MARK, MARK + 4)

Item = tuple[bytes, list[RevocationEvent]]


class WrongAnswer(Exception):
    """Redis, or what is there instead, has answered something that is no answer to the question."""


class RevocationReplicator:
    """This node among the others. `take`: gets what others have revoked, and keeps what is new."""

    def __init__(self, revoked: RevocationList, take: Callable[[bytes, list[RevocationEvent]], object]) -> None:
        self._revoked = revoked
        self._take = take
        self._unsent: deque[Item] = deque()
        self._wake = asyncio.Event()
        self.is_there = False

    def say(self, records: bytes, told: list[RevocationEvent]) -> None:
        """Publish revocations that are new on this node."""
        if self.is_there:  # else they are found by the merge
            self._unsent.append((records, told))
            self._wake.set()

    async def run(self, url: str, prefix: str) -> None:
        """Replicate until cancelled."""
        from fastgw.redis import state_client

        place, complaint = place_in(url), ""
        client = state_client.opened(url, PATIENCE_S)
        try:
            while True:
                keys = f"{prefix}:revoked", f"{prefix}:revoked:log"
                try:
                    latest = await self._latest(client, keys[1])
                    await self._merge(client, keys)
                    if complaint:
                        say(
                            OperatorEvent.STATE_BACK,
                            "revocations: the Redis at %s answers again; the lists are merged",
                            place,
                        )
                    complaint = ""
                    await self._follow(client, keys, latest)
                except (*state_client.ERRORS, WrongAnswer) as error:
                    if not complaint:
                        is_wrong = isinstance(error, WrongAnswer)
                        complaint = "it answers something else" if is_wrong else in_words(error)
                        say(
                            OperatorEvent.STATE_UNREACHABLE,
                            "revocations: the Redis at %s does not answer: %s; this node goes by its own list",
                            place,
                            complaint,
                        )
                self.is_there = False
                await asyncio.sleep(AGAIN_S)
        finally:
            self.is_there = False
            await state_client.close(client)

    async def _latest(self, client: Any, key: str) -> bytes:
        """The last entry of the stream: what comes behind it is not in what is read after this."""
        with _judging():
            entries = await client.xrevrange(key, count=1)
            return bytes(memoryview(entries[0][0])) if entries else b"0-0"

    async def _merge(self, client: Any, keys: tuple[str, str]) -> None:
        self._unsent.clear()
        self.is_there = True  # what is said from here on may be too late for the comparison
        theirs = [piece async for piece in self._all(client, keys[0])]
        for piece in theirs:
            self._take(piece, [])
        lacking = self._revoked.lacking(b"".join(theirs))
        for at in range(0, len(lacking), PIECE * LENGTH):
            await self._write(client, keys, [(lacking[at : at + PIECE * LENGTH], [])])

    async def _all(self, client: Any, key: str) -> AsyncIterator[bytes]:
        at, now = 0, int(time.time())
        while True:
            with _judging():
                found = await client.zrangebyscore(key, now, "+inf", start=at, num=_READ, withscores=True)
                piece = b"".join(_record(member, score) for member, score in found if len(member) == LENGTH - 4)
            yield piece
            if len(found) < _READ:
                return
            at += _READ

    async def _follow(self, client: Any, keys: tuple[str, str], latest: bytes) -> None:
        """Say and hear what is new, until Redis fails."""
        tasks = {asyncio.create_task(self._say(client, keys)), asyncio.create_task(self._hear(client, keys, latest))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _say(self, client: Any, keys: tuple[str, str]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unsent:
                items = [self._unsent.popleft() for _ in range(min(len(self._unsent), PIECE))]
                await self._write(client, keys, items)

    async def _hear(self, client: Any, keys: tuple[str, str], latest: bytes) -> None:
        merge_at = time.monotonic() + MERGE_S
        while True:
            with _judging():
                answer = await client.xread({keys[1]: latest}, count=100, block=int(BLOCK_S * 1000))
                news = [_entry(number, fields) for _, entries in answer for number, fields in entries]
            for number, records, told in news:
                self._take(records, told)
                latest = number
            if time.monotonic() >= merge_at:
                await self._merge(client, keys)
                merge_at = time.monotonic() + MERGE_S

    async def _write(self, client: Any, keys: tuple[str, str], items: list[Item]) -> None:
        """All at once, or nothing."""
        everything, news = keys
        async with client.pipeline(transaction=True) as steps:
            for records, told in items:
                scores = {
                    record[:MARK] + record[MARK + 4 :]: int.from_bytes(record[_EXPIRES])
                    for record in records_in(records)
                }
                steps.zadd(everything, scores, gt=True)
                fields = {b"r": records, b"t": msgspec.msgpack.encode(told)}
                steps.xadd(news, fields, maxlen=LOG_MOST, approximate=True)
            steps.zremrangebyscore(everything, "-inf", f"({int(time.time())}")
            steps.zremrangebyrank(everything, 0, -MOST - 1)
            with _judging():
                await steps.execute()


@contextmanager
def _judging() -> Iterator[None]:
    """Raise, as errors of the connection, what redis-py and the parsing of its answers raise where those have another
    shape.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WrongAnswer(str(error)) from error


def _entry(number: bytes, fields: dict[bytes, bytes]) -> tuple[bytes, bytes, list[RevocationEvent]]:
    """Decode an entry of the stream. Raises what `_judging` takes."""
    number, records, told = (bytes(memoryview(each)) for each in (number, fields.get(b"r", b""), fields.get(b"t", b"")))
    return number, records, _decode_events(told)


def _record(member: bytes, score: float) -> bytes:
    return member[:MARK] + int(min(max(score, 0), 2**32 - 1)).to_bytes(4) + member[MARK:]


def _decode_events(raw: bytes) -> list[RevocationEvent]:
    try:
        return msgspec.msgpack.decode(raw, type=list[RevocationEvent])
    except msgspec.DecodeError:  # of another version
        return []
