"""Revocation replication: control processes publish revocations in Redis, and read those of the other nodes there.

A sorted set, ordered by the expiry of records, holds all of them; a stream announces new ones. Rule 1: lists are only
merged, so a node or a Redis that was unreachable catches up by reading everything and adding missing records. Rule 2:
nothing waits for Redis: while it is unreachable each node uses its own list.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.operator_events import OperatorEvent
from fastgw.runtime.control.sharing.shared_stream import (
    PIECE,
    SharedStream,
    run_command,
    run_transaction,
    wrong_answers,
)
from fastgw.sync.revocations import LENGTH, MARK, MOST, RevocationEvent, RevocationList, records_in

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe

MERGE_S: Final = 60.0
"""Interval of full comparisons of both lists: a failover may have lost entries."""
_READ: Final = 5000
_EXPIRES: Final = slice(MARK, MARK + 4)

Item = tuple[bytes, list[RevocationEvent]]


class RevocationReplicator(SharedStream[Item]):
    """Replication of this node. `take`: receives revocations of other nodes, and stores new ones."""

    def __init__(self, revoked: RevocationList, take: Callable[[bytes, list[RevocationEvent]], object]) -> None:
        super().__init__(
            "revocations", "the lists are merged", "this node uses its own list", OperatorEvent.REVOCATIONS_NOT_SHARED
        )
        self._revoked = revoked
        self._take = take
        self._all_records = b""  # name of the sorted set
        self._merge_at = 0.0

    def publish(self, records: bytes, events: list[RevocationEvent]) -> None:
        """Publish revocations that are new on this node."""
        if self.is_there:  # otherwise the merge finds them
            self._unsent.append((records, events))
            self._wake.set()

    async def replicate(self, url: str, prefix: str) -> None:
        self._all_records = f"{prefix}:revoked".encode()
        await self.run(url, f"{prefix}:revoked:log".encode())

    async def _join(self, redis: "Pipe") -> bytes:
        latest = await self._latest(redis)
        await self._merge(redis)
        return latest

    async def _pass_time(self, redis: "Pipe") -> None:
        if time.monotonic() >= self._merge_at:
            await self._merge(redis)

    def _receive(self, number: bytes, fields: Mapping[bytes, bytes]) -> None:
        self._take(fields.get(b"r", b""), _decode_events(fields.get(b"t", b"")))

    async def _merge(self, redis: "Pipe") -> None:
        self._unsent.clear()
        self.is_there = True  # later entries may be missing in the comparison
        theirs = [piece async for piece in self._all(redis)]
        for piece in theirs:
            self._take(piece, [])
        lacking = self._revoked.lacking(b"".join(theirs))
        for at in range(0, len(lacking), PIECE * LENGTH):
            await self._write(redis, [(lacking[at : at + PIECE * LENGTH], [])])
        self._merge_at = time.monotonic() + MERGE_S

    async def _all(self, redis: "Pipe") -> AsyncIterator[bytes]:
        at, now = 0, b"%d" % time.time()
        while True:
            limit = b"LIMIT", b"%d" % at, b"%d" % _READ
            found = await run_command(redis, b"ZRANGEBYSCORE", self._all_records, now, b"+inf", b"WITHSCORES", *limit)
            with wrong_answers():
                scores = [*zip(found[::2], found[1::2], strict=True)]
                piece = b"".join(_record(member, float(score)) for member, score in scores if len(member) == LENGTH - 4)
            yield piece
            if len(scores) < _READ:
                return
            at += _READ

    async def _write(self, redis: "Pipe", items: list[Item]) -> None:
        """Write everything in one transaction."""
        everything = self._all_records
        commands: list[Sequence[bytes]] = []
        for records, events in items:
            scores: list[bytes] = []
            for record in records_in(records):
                scores += b"%d" % int.from_bytes(record[_EXPIRES]), record[:MARK] + record[MARK + 4 :]
            if scores:
                commands.append((b"ZADD", everything, b"GT", *scores))
            commands.append(self._adding(b"r", records, b"t", msgspec.msgpack.encode(events)))
        commands.append((b"ZREMRANGEBYSCORE", everything, b"-inf", b"(%d" % time.time()))
        commands.append((b"ZREMRANGEBYRANK", everything, b"0", b"%d" % (-MOST - 1)))
        await run_transaction(redis, commands)


def _record(member: bytes, score: float) -> bytes:
    return member[:MARK] + int(min(max(score, 0), 2**32 - 1)).to_bytes(4) + member[MARK:]


def _decode_events(raw: bytes) -> list[RevocationEvent]:
    try:
        return msgspec.msgpack.decode(raw, type=list[RevocationEvent])
    except msgspec.DecodeError:  # of another version
        return []
