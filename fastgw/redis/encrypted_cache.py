"""Encrypted cache of all nodes: a tier of aiocache in Redis. Read access to Redis discloses nothing.

Rule 1: names are keyed digests and values are encrypted; the keys come from a secret that Redis never sees. A value is
bound to its name, so it cannot replace another, and contains its expiry. Rule 2: it is optional: if Redis is
unreachable or slow, the cache behaves as if it were empty. Nothing waits longer than `TIMEOUT_S`; after that Redis is
not used for `AWAY_S`, and then tried again. Rule 3: all caches of one Redis share its connections, and log a problem
once: there may be thousands.
"""

import asyncio
import struct
import time
from hashlib import sha256
from hmac import digest
from math import inf
from typing import Any, Final, NamedTuple, final

from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis.address import RedisAddress
from fastgw.redis.error_messages import in_words
from fastgw.redis.sealing import Sealer, derived_key
from fastgw.token_tier import TokenSerializer, TokenTier

TIMEOUT_S: Final = 0.25
AWAY_S: Final = 1.0
_UNTIL: Final = struct.Struct("<d")


class Kept(NamedTuple):
    """Entry of the cache. `until_date`: its expiry (epoch seconds), by which copies of it end too."""

    value: bytes
    until_date: float


def _dumps(kept: Kept) -> bytes:
    return _UNTIL.pack(kept.until_date) + kept.value


def _loads(stored: bytes) -> Kept | None:
    kept = Kept(stored[_UNTIL.size :], _UNTIL.unpack_from(stored)[0])
    return kept if time.time() < kept.until_date else None


_SERIALIZER: Final = TokenSerializer(_dumps, _loads)


class _Away(Exception):
    """Redis did not respond."""


@final
class _Redis:
    """One Redis in this process: its users share connections and log messages."""

    __slots__ = ("_address", "_answered_at", "_cache", "_library", "_logged", "_users")

    def __init__(self, address: RedisAddress, library: Any) -> None:
        self._address = address
        self._library = library
        self._cache: Any = None
        self._answered_at = 0.0
        self._logged: set[str] = set()
        self._users = 0

    def start(self) -> None:
        self._users += 1

    def stop(self) -> None:
        self._users -= 1
        if self._users:
            return
        del _known[self._address]
        if self._cache is not None:
            _closing.add(task := asyncio.get_running_loop().create_task(self._library.close(self._cache)))
            task.add_done_callback(_closing.discard)

    async def execute(self, command: str, *words: Any, **more: Any) -> Any:
        """Run a command. Raises `_Away`."""
        if not self._users:
            raise _Away
        if self._cache is None:
            self._cache = self._library.opened(*self._address, timeout=TIMEOUT_S)
        begun_at = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await getattr(self._cache, command)(*words, **more)
        except TimeoutError as error:
            if self._answered_at < begun_at:  # otherwise Redis responds, and only this response was late
                self._log_problem(in_words(error))
            raise _Away from error
        except self._library.ERRORS as error:
            self._log_problem(in_words(error))
            raise _Away from error
        self._answered_at = time.monotonic()
        if self._logged:
            self._logged.clear()
            log_event(OperatorEvent.STATE_BACK, "second level: %s is reachable again", self._address.host)
        return answer

    def _log_problem(self, why: str) -> None:
        if why not in self._logged:
            self._logged.add(why)
            log_event(OperatorEvent.STATE_UNREACHABLE, "second level: %s is unreachable: %s", self._address.host, why)


_known: Final[dict[RedisAddress, _Redis]] = {}
"""The Redis servers in use, in the one loop of this process."""


@final
class EncryptedRedisCache(TokenTier):
    """Cache for credentials, shared by all nodes: their values are `Kept`. Its user has to stop it."""

    def __init__(self, address: RedisAddress, secret: bytes, purpose: bytes) -> None:
        """Create the cache. `secret`: known to all nodes, and not to Redis. `purpose`: entries of other purposes are
        not accessible.

        Raises `ValueError` if a package is missing.
        """
        try:
            from fastgw.redis import cache_client
        except ImportError as error:
            raise ValueError(f"the package {error.name} is missing; pip install 'fastgw[redis]'") from error
        super().__init__(serializer=_SERIALIZER, key_builder=self._name)
        self._library = cache_client
        self._address = address
        self._name_key = derived_key(secret, b"name", purpose)
        self._sealer = Sealer(secret, purpose)
        self._redis: _Redis | None = None
        self._away_until = 0.0  # one timeout each: of many concurrent requests some may be late

    def __repr__(self) -> str:
        return f"<EncryptedRedisCache {self._address!r}{' away' if time.monotonic() < self._away_until else ''}>"

    def start(self) -> None:
        """Add a user, in this process's loop."""
        if self._address not in _known:
            _known[self._address] = _Redis(self._address, self._library)
        self._redis = _known[self._address]
        self._redis.start()

    def stop(self) -> None:
        """Remove a user. After the last user of the same Redis, the connections are closed."""
        if self._redis is not None:
            self._redis.stop()

    async def _get(self, name: str, encoding: str | None = None, _conn: Any = None) -> bytes | None:
        """Return the entry; None: there is none, or Redis did not respond."""
        sealed = await self._send_command("get", name)
        if not isinstance(sealed, bytes):
            return None
        opened = self._sealer.open(name.encode(), sealed)
        if opened is None:
            log_event(
                OperatorEvent.STATE_STRANGE,
                "second level: %s has a value that fastgw did not write",
                self._address.host,
            )
        return opened

    async def _set(
        self, name: str, value: bytes, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        """Store an entry until its expiry, or for `ttl` seconds if that is sooner."""
        left = min(_UNTIL.unpack_from(value)[0] - time.time(), inf if ttl is None else ttl)
        if left < 0.001:
            return False
        sealed = self._sealer.seal(name.encode(), value)
        return bool(await self._send_command("set", name, sealed, ttl=float(left)))

    async def _delete(self, name: str, _conn: Any = None) -> int:
        return int(await self._send_command("delete", name) or 0)

    def _name(self, credential: bytes, namespace: str | None = None) -> str:
        return f"fastgw:{digest(self._name_key, credential, sha256).hex()}"

    async def _send_command(self, command: str, *words: Any, **more: Any) -> Any:
        if self._redis is None or time.monotonic() < self._away_until:
            return None
        try:
            return await self._redis.execute(command, *words, **more)
        except _Away:
            self._away_until = time.monotonic() + AWAY_S
            return None


_closing: Final[set[asyncio.Task[None]]] = set()
