"""What nodes remember together, in Redis behind aiocache: sealed, so that whoever reads Redis learns nothing from it.

Rule 1: names are keyed digests and values are encrypted; the keys come from a secret that Redis never sees. A value is
bound to its name, so it cannot stand in for another, and says itself until when it is good. Rule 2: it is a help, never
a need: when Redis is away or slow it is as if nothing were remembered there. Nobody waits longer than `PATIENCE_S`; it
is left alone for `AWAY_S` then, and tried again.
"""

import asyncio
import logging
import os
import struct
import time
from hashlib import sha256
from hmac import digest
from typing import Any, Final, NamedTuple, final
from urllib.parse import unquote, urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = logging.getLogger("fastgw")

PATIENCE_S: Final = 0.25
AWAY_S: Final = 1.0
_NONCE: Final = 12
_UNTIL: Final = struct.Struct("<d")


class RedisAddress(NamedTuple):
    """Where a Redis is. `password`: "" for none; it is a secret."""

    host: str
    port: int
    database: int
    tls: bool
    username: str
    password: str

    def __repr__(self) -> str:
        return f"<Redis at {self.host}:{self.port}/{self.database}>"


def parse_redis(url: str) -> RedisAddress:
    """`redis://[[user]:password@]host[:port][/database]`; `rediss://` for TLS. Raises `ValueError`, without the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 6379
        database = int(parts.path.removeprefix("/") or "0")
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("redis", "rediss") or parts.query or parts.fragment or database < 0:
        raise ValueError("not a URL such as redis://:password@host:6379/0")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    return RedisAddress(host, port, database, parts.scheme == "rediss", username, password)


@final
class SecondLevel:
    """What is remembered of credentials for all nodes. To be closed by whoever uses it."""

    __slots__ = ("_address", "_away_until", "_cache", "_name_key", "_redis", "_seal", "_users")

    def __init__(self, address: RedisAddress, secret: bytes, purpose: bytes) -> None:
        """`secret`: known to all nodes, and not to Redis. `purpose`: what is remembered for another is out of reach.

        Raises `ValueError` when a package is missing.
        """
        try:
            from fastgw.node import redis_cache
        except ImportError as error:
            raise ValueError(f"the package {error.name} is missing; install fastgw[redis]") from error
        self._redis = redis_cache
        self._address = address
        self._name_key = _derived(secret, b"name", purpose)
        self._seal = AESGCM(_derived(secret, b"value", purpose))
        self._cache: Any = None
        self._away_until = 0.0
        self._users = 0

    def __repr__(self) -> str:
        return f"<SecondLevel {self._address!r}{' away' if time.monotonic() < self._away_until else ''}>"

    def open(self) -> None:
        """One more uses it, in this process's loop."""
        self._users += 1

    def close(self) -> None:
        """One uses it no more. Behind the last one, the connections are closed."""
        self._users -= 1
        cache, self._cache = (self._cache, None) if not self._users else (None, self._cache)
        if cache is not None:
            _closing.add(task := asyncio.get_running_loop().create_task(self._redis.close(cache)))
            task.add_done_callback(_closing.discard)

    async def get(self, credential: bytes) -> tuple[bytes, float] | None:
        """What was put for it and is still good, and until when (epoch seconds); None: nothing, or nobody can tell."""
        name = self._name(credential)
        sealed = await self._ask("get", name)
        if not isinstance(sealed, bytes) or len(sealed) < _NONCE:
            return None
        try:
            opened = self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
        except InvalidTag:
            log.warning("second level: %s holds a value that is not ours", self._address.host)
            return None
        until_date: float = _UNTIL.unpack_from(opened)[0]
        return (opened[_UNTIL.size :], until_date) if time.time() < until_date else None

    async def put(self, credential: bytes, value: bytes, until_date: float) -> None:
        """Remember it until then (epoch seconds)."""
        left = until_date - time.time()
        if left >= 0.001:
            name, nonce = self._name(credential), os.urandom(_NONCE)
            sealed = nonce + self._seal.encrypt(nonce, _UNTIL.pack(until_date) + value, name.encode())
            await self._ask("set", name, sealed, ttl=float(left))

    def _name(self, credential: bytes) -> str:
        return f"fastgw:{digest(self._name_key, credential, sha256).hex()}"

    async def _ask(self, command: str, *words: Any, **more: Any) -> Any:
        if time.monotonic() < self._away_until:
            return None
        if self._cache is None:
            self._cache = self._redis.opened(*self._address, patience=PATIENCE_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await getattr(self._cache, command)(*words, **more)
        except self._redis.ERRORS as error:  # TimeoutError is an OSError
            if not self._away_until:
                log.warning("second level: %s does not answer: %s", self._address.host, type(error).__name__)
            self._away_until = time.monotonic() + AWAY_S
            return None
        if self._away_until:
            self._away_until = 0.0
            log.warning("second level: %s answers again", self._address.host)
        return answer


_closing: Final[set[asyncio.Task[None]]] = set()


def _derived(secret: bytes, use: bytes, purpose: bytes) -> bytes:
    """A key of its own for each use (RFC 5869 with one block of output)."""
    extracted = digest(b"fastgw second level", secret, sha256)
    return digest(extracted, use + b"\0" + purpose + b"\x01", sha256)
