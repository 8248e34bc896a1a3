"""Shared issuing: the nodes with the same Redis (`state`) order each certificate once, and answer challenges together.

Of each certificate there is a record, which holds it with its key and the result of the last attempt, and a lease,
which the ordering node holds. A stream announces changes. Rule 1: Redis sees nothing: records and challenges are
encrypted and bound to their names by `acme.shared_secret`. Rule 2: a lease ends by itself when its node does. Rule 3:
whatever Redis does, a certificate in use stays in use; a node orders by itself only where `may_order_alone` says so.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from fastgw.acme.messages import ToAnswer
from fastgw.acme.storage import CertificateState
from fastgw.config.settings.acme import Acme
from fastgw.config.settings.secrets import SecretError, secret_in
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, notice
from fastgw.runtime.control.acme.challenge_board import ChallengeBoard
from fastgw.runtime.control.acme.schedule import Held
from fastgw.runtime.control.sharing.shared_stream import (
    TIMEOUT_S,
    SharedStream,
    run_command,
    run_transaction,
    wrong_answers,
)
from fastgw.runtime.node.config_snapshot import ConfigSnapshot

if TYPE_CHECKING:
    from fastgw.redis.pipelined_connection import Pipe
    from fastgw.redis.sealing import Sealer

LEASE_S: Final = 10.0
"""Seconds after which the lease of a node that has ended is free."""
LOOK_S: Final = 1.0
"""Seconds after which a lease that another node holds is tried again."""
LIVE_S: Final = 10
"""Seconds after its last sign of life for which a node has to answer challenges."""
ANSWER_S: Final = 15.0
"""Seconds that the other nodes have to answer challenges, before the issuer is asked to verify them."""
ANSWER_LOOK_S: Final = 0.05
ALONE_S: Final = 30.0
"""Seconds without Redis after which a node may order by itself."""
NEARLY_EXPIRED: Final = 1 / 6
"""Part of the validity period: a certificate with less of it left does not wait for Redis."""
POSTED_S: Final = 900
"""Seconds after which challenges of a node that has ended are removed."""
RECORD_S: Final = 2 * 24 * 3600
"""Seconds for which a record is kept at least: longer than the longest delay after a failure."""
MOST_POSTED: Final = 1024
"""Maximum number of certificates whose challenges are answered for other nodes."""
MOST_UNSENT: Final = 10_000
PURPOSE: Final = b"acme"

BEAT: Final = b"""
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return redis.call('EXPIRE', KEYS[1], 3600)
"""
EXTEND: Final = b"""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
RELEASE: Final = b"""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

TAKE_ORDER: Final = b"""
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 3600)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now, ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""

Commands = Sequence[Sequence[bytes]]


class RedisAway(Exception):
    """Redis is unreachable, or has not executed a command."""


class OrderLease(Enum):
    """Whether this node may order a certificate now."""

    TAKEN = "no other node orders it"
    HELD = "another node orders it"
    AWAY = "Redis is unreachable"


class SharedRecord(Struct, frozen=True):
    """Knowledge of all nodes about a certificate. `content`: the file with its chain and key; b"": there is none."""

    content: bytes
    state: CertificateState

    def __repr__(self) -> str:
        return f"<SharedRecord {self.state.serial}>"


class Posted(Struct, frozen=True):
    """Challenges of a node. `turn`: unique. `posted_date`: epoch seconds."""

    node: str
    turn: str
    posted_date: float
    challenges: ToAnswer


class SharedIssuing(SharedStream[Commands]):
    """Shared issuing of this node. `board`: its challenges."""

    def __init__(self, board: ChallengeBoard) -> None:
        super().__init__(
            "ACME certificates",
            "they are ordered by one node of all",
            "certificates in use stay; nodes whose own is missing or nearly expired order by themselves after 30 s",
            OperatorEvent.CERTIFICATE_NOT_ISSUED,
        )
        self._board = board
        self._node = os.urandom(8).hex()
        self._prefix, self._url = b"", ""
        self._posted: set[str] = set()  # names of certificates with challenges of this node
        self._sealer: Sealer | None = None
        self._pipe: Pipe | None = None
        self._connecting = asyncio.Lock()
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._others: dict[bytes, Posted] = {}  # challenges of other nodes, by the name of their certificate
        self._answering: dict[bytes, asyncio.Task[None]] = {}
        self._are_others_known = False
        self._complain = RareNotice()

    def __repr__(self) -> str:
        return f"<SharedIssuing {self.scope}, {len(self._others)} answered for others>"

    def use_configuration(self, accepted: ConfigSnapshot, source: tuple[str, str] | None) -> None:
        """Share by these settings from now on. `source`: URL and prefix of the Redis of `state`, if any."""
        secret = _secret_of(accepted)
        if not secret or source is None:
            self.use_state(None)
            return
        from fastgw.redis.sealing import Sealer, derived_key  # it needs an extra

        url, prefix = source
        self._sealer = Sealer(secret.encode(), PURPOSE)
        group = derived_key(secret.encode(), b"name", PURPOSE).hex()[:16]  # nodes with another secret share nothing
        self.use_state((url, f"{prefix}:acme:{group}"))

    def stop(self) -> None:
        super().stop()
        for task in self._answering.values():
            task.cancel()
        for name in self._others:
            self._board.remove(_board_key(name))
        self._answering.clear()
        self._others.clear()
        self._drop_connection()

    def listen(self, name: str, changed: Callable[[], None]) -> None:
        """Call `changed` when the record of a certificate has changed, or Redis is reachable again."""
        self._listeners.setdefault(name, []).append(changed)

    def ignore(self, name: str, changed: Callable[[], None]) -> None:
        """Undo `listen`."""
        left = [each for each in self._listeners.pop(name, ()) if each != changed]
        if left:
            self._listeners[name] = left

    # records

    async def read(self, name: str) -> SharedRecord | None:
        """Return the record of a certificate; None: there is none. Raises `RedisAway`."""
        key = self._key(b"certificate", name)
        sealed = await self._execute(b"GET", key)
        opened = self._opened(key, sealed)
        try:
            return None if opened is None else msgspec.msgpack.decode(opened, type=SharedRecord)
        except msgspec.DecodeError:  # of another version
            return None

    def store(self, name: str, record: SharedRecord, until: float) -> None:
        """Replace the record of a certificate. `until`: epoch seconds of its expiry."""
        assert self._sealer is not None
        key = self._key(b"certificate", name)
        seconds = b"%d" % max(until - time.time(), RECORD_S)
        sealed = self._sealer.seal(key, msgspec.msgpack.encode(record))
        self._send((b"SET", key, sealed, b"EX", seconds), self._adding(b"certificate", name.encode()))

    # the lease

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[OrderLease]:
        """Try to take the lease of a certificate, and keep it until the end."""
        if self.is_alone:
            yield OrderLease.TAKEN
            return
        key, node = self._key(b"lease", name), self._node.encode()
        try:
            taken = await self._execute(b"SET", key, node, b"NX", b"PX", b"%d" % (LEASE_S * 1000))
        except RedisAway:
            yield OrderLease.AWAY
            return
        if taken is None:
            yield OrderLease.HELD
            return
        keeping = asyncio.get_running_loop().create_task(self._keep_lease(key))
        try:
            yield OrderLease.TAKEN
        finally:
            keeping.cancel()
            self._send((b"EVAL", RELEASE, b"1", key, node))

    async def _keep_lease(self, key: bytes) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(RedisAway):
                await self._execute(b"EVAL", EXTEND, b"1", key, self._node.encode(), b"%d" % (LEASE_S * 1000))

    async def take_order(self, most: int) -> bool:
        """Count an order on demand, unless all nodes together have made `most` within an hour. Raises `RedisAway`."""
        key, turn = self._key(b"orders"), os.urandom(8).hex().encode()
        return bool(await self._execute(b"EVAL", TAKE_ORDER, b"1", key, b"%d" % most, turn))

    # challenges

    async def post(self, name: str, challenges: ToAnswer) -> None:
        """Make the other nodes answer challenges, and return once all that live do."""
        if not self.is_there or self._sealer is None:
            return
        turn = os.urandom(8).hex()
        self._posted.add(name)
        field, key = name.encode(), self._key(b"challenges")
        posted = Posted(self._node, turn, time.time(), challenges)
        sealed = self._sealer.seal(key + b":" + field, msgspec.msgpack.encode(posted))
        expiry = b"EXPIRE", key, b"%d" % POSTED_S
        self._send((b"HSET", key, field, sealed), expiry, self._adding(b"challenges", field))
        try:
            async with asyncio.timeout(ANSWER_S):
                while self.is_there and await self._lacking(turn):
                    await asyncio.sleep(ANSWER_LOOK_S)
        except RedisAway:  # the nodes that have read them answer
            return
        except TimeoutError:  # a node hangs; others may be asked
            text = "other nodes do not answer ACME challenges"
            self._complain(OperatorEvent.CERTIFICATE_NOT_ISSUED, text, "answers")

    async def _lacking(self, turn: str) -> bool:
        """Whether a live node does not answer these challenges yet."""
        lacking = await self._execute(b"ZDIFF", b"2", self._key(b"nodes"), self._key(b"answered", turn))
        return isinstance(lacking, list) and bool({*lacking} - {self._node.encode()})

    def withdraw(self, name: str) -> None:
        """Have the challenges of a certificate answered no more."""
        if name not in self._posted:
            return
        self._posted.remove(name)
        field = name.encode()
        self._send((b"HDEL", self._key(b"challenges"), field), self._adding(b"challenges", field))

    async def _answer_others(self, redis: "Pipe") -> None:
        """Answer the challenges that other nodes have posted, and no others of theirs."""
        self._are_others_known = True
        key = self._key(b"challenges")
        answer = await run_command(redis, b"HGETALL", key)
        with wrong_answers():
            pairs = [*zip(answer[::2], answer[1::2], strict=True)][:MOST_POSTED]
            found = {bytes(field): self._posted_in(key, bytes(field), sealed) for field, sealed in pairs}
        theirs = {field: posted for field, posted in found.items() if posted is not None}
        for field in [field for field in self._others if field not in theirs]:
            del self._others[field]
            self._end_answering(field)
            self._board.remove(_board_key(field))
        for field, posted in theirs.items():
            if posted != self._others.get(field):
                self._others[field] = posted
                self._end_answering(field)
                self._answering[field] = asyncio.get_running_loop().create_task(self._answer(field, posted))

    def _posted_in(self, key: bytes, field: bytes, sealed: Any) -> Posted | None:
        """Return what another node has posted; None: it is this node's, too old, or invalid."""
        opened = self._opened(key + b":" + field, sealed)
        try:
            posted = None if opened is None else msgspec.msgpack.decode(opened, type=Posted)
        except msgspec.DecodeError:  # of another version
            return None
        if posted is None or posted.node == self._node or posted.posted_date < time.time() - POSTED_S:
            return None
        return posted

    async def _answer(self, field: bytes, posted: Posted) -> None:
        await self._board.post(_board_key(field), posted.challenges)
        key = self._key(b"answered", posted.turn)
        self._send((b"SADD", key, self._node.encode()), (b"EXPIRE", key, b"%d" % POSTED_S))

    def _end_answering(self, field: bytes) -> None:
        task = self._answering.pop(field, None)
        if task is not None:
            task.cancel()

    # the stream

    async def replicate(self, url: str, prefix: str) -> None:
        self._url, self._prefix = url, prefix.encode()
        await self.run(url, self._prefix + b":log")

    async def _join(self, redis: "Pipe") -> bytes:
        latest = await self._latest(redis)
        self._unsent.clear()
        await self._beat(redis)
        self.is_there = True
        await self._answer_others(redis)
        for listeners in [*self._listeners.values()]:
            for changed in listeners:
                changed()
        return latest

    async def _pass_time(self, redis: "Pipe") -> None:
        await self._beat(redis)
        if not self._are_others_known:
            await self._answer_others(redis)

    async def _beat(self, redis: "Pipe") -> None:
        """Give a sign of life."""
        await run_command(redis, b"EVAL", BEAT, b"1", self._key(b"nodes"), self._node.encode(), b"%d" % LIVE_S)

    def _receive(self, number: bytes, fields: Mapping[bytes, bytes]) -> None:
        if b"challenges" in fields:
            self._are_others_known = False
        for changed in self._listeners.get(fields.get(b"certificate", b"").decode("ascii"), ()):
            changed()

    async def _write(self, redis: "Pipe", items: list[Commands]) -> None:
        await run_transaction(redis, [command for commands in items for command in commands])

    def _send(self, *commands: Sequence[bytes]) -> None:
        """Send commands in order, without waiting. While Redis is unreachable, they are dropped: `_join` catches up."""
        if self.is_there and len(self._unsent) < MOST_UNSENT:
            self._unsent.append(commands)
            self._wake.set()

    async def _execute(self, *words: bytes) -> Any:
        """Return the response to a command. Raises `RedisAway`."""
        from fastgw.redis.pipelined_connection import ERRORS, opened

        if not self.is_there:
            raise RedisAway
        try:
            async with self._connecting:
                if self._pipe is None or self._pipe.is_closed:
                    self._pipe = await opened(self._url, TIMEOUT_S, lambda why: None)
            return await run_command(self._pipe, *words)
        except ERRORS as error:  # the connection of the stream reports it
            self._drop_connection()
            raise RedisAway from error

    def _drop_connection(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def _key(self, *parts: bytes | str) -> bytes:
        words = (each.encode() if isinstance(each, str) else each for each in parts)
        return b":".join((self._prefix, *words))

    def _opened(self, name: bytes, sealed: Any) -> bytes | None:
        if not isinstance(sealed, bytes) or self._sealer is None:
            return None
        opened = self._sealer.open(name, sealed)
        if opened is None:
            text = "ACME certificates: Redis has a value that no node with this `acme.shared_secret` has written"
            self._complain(OperatorEvent.STATE_STRANGE, text, "strange")
        return opened


def may_order_alone(held: Held | None, waited: float, now: float) -> bool:
    """Whether a node without Redis orders by itself: only what is missing, or nearly expired, is worth orders of
    several nodes. `waited`: seconds for Redis. `now`: epoch seconds.
    """
    if waited < ALONE_S:
        return False
    return held is None or held.until - now < (held.until - held.since) * NEARLY_EXPIRED


def is_newer(held: Held, other: Held | None) -> bool:
    """Whether a certificate is to be used rather than the other one. All nodes choose the same of two."""
    return other is None or (held.since, held.until, held.serial) > (other.since, other.until, other.serial)


def shared_name(acme: Acme, file: Path) -> str:
    """Return the name by which nodes share the certificate in a file: the same for the same names, kind of key and
    issuers.
    """
    return sha256("\n".join((file.name, *(str(each.directory) for each in acme.issuers))).encode()).hexdigest()[:32]


def _secret_of(accepted: ConfigSnapshot) -> str:
    """Return the secret that certificates are shared by; "": they are not shared."""
    acme = accepted.settings.acme
    if acme is None or acme.shared_secret is None:
        return ""
    file = acme.shared_secret.file
    try:
        return secret_in(file, accepted.captured[file]) if file else acme.shared_secret.value()
    except SecretError as error:
        notice(OperatorEvent.CERTIFICATE_NOT_ISSUED, f"ACME certificates are not shared: {error}")
        return ""


def _board_key(field: bytes) -> str:
    return f"shared {field.hex()}"
