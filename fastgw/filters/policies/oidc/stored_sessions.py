"""Sessions that are too large for cookies, in the Redis of `state`: the browser has a ticket.

Rule 1: a session is encrypted with a key in its ticket, and the ticket with the secret of sessions: neither Redis nor a
browser can read it, and who has one without the other has nothing. Rule 2: a stored session is not changed: a refreshed
one is stored under a new ticket. So a worker may cache it, and what changes with each use is in the ticket. Rule 3: it
is deleted with its logout, but it ends as sessions in cookies do, by revocation: that holds while Redis is unreachable,
too.
"""

import os
from collections.abc import Iterable
from hashlib import sha256
from hmac import digest
from typing import TYPE_CHECKING, Final, final

import msgspec

from fastgw.filters.policies.oidc.session import LoginSession, read_struct
from fastgw.redis.sealing import Sealer, derived_key

if TYPE_CHECKING:
    from fastgw.redis.stored_sessions import StateSessions

MOST_STORED: Final = 256 * 1024
"""Maximum bytes of a stored session."""
_PURPOSE: Final = b"oidc session "


@final
class StoredSessions:
    """Stored sessions of one policy, in one worker."""

    __slots__ = ("_client", "_index_keys", "_prefix", "_purpose")

    def __init__(self, client: "StateSessions", prefix: str, secrets: Iterable[str], policy: bytes) -> None:
        """`policy`: identifies the policy that may use the sessions."""
        self._client = client
        self._prefix = f"{prefix}:session:".encode()
        self._purpose = _PURPOSE + sha256(policy).digest()
        self._index_keys = [derived_key(secret.encode(), b"index", self._purpose) for secret in secrets]

    def open(self) -> None:
        self._client.hold_connection()

    def close(self) -> None:
        self._client.release()

    async def session(self, key: bytes) -> LoginSession | None:
        """Return the session of a ticket's key; None: it has expired, or was deleted. Raises `Unreachable`."""
        name = self._name(key)
        sealed = await self._client.value(name)
        return None if sealed is None else read_struct(Sealer(key, self._purpose).open(name, sealed), LoginSession)

    async def store(self, session: LoginSession, lifetime: float, marks: Iterable[bytes]) -> bytes | None:
        """Store a session for these seconds, and return the key for its ticket. None: it is too large. `marks`:
        revocation keys, by which it is deleted. Raises `Unreachable`.
        """
        value = msgspec.msgpack.encode(session)
        if len(value) > MOST_STORED:
            return None
        key = os.urandom(32)
        name, index_key = self._name(key), self._index_keys[0]
        indexes = [self._index(index_key, mark) for mark in marks]
        await self._client.store_value(
            name, Sealer(key, self._purpose).seal(name, value), max(lifetime, 0.001), indexes
        )
        return key

    def retire(self, key: bytes, seconds: float) -> None:
        """Keep a session that was replaced for these seconds: requests with its ticket may be in transit."""
        self._client.retire(self._name(key), seconds)

    def delete(self, key: bytes) -> None:
        self._client.delete(self._name(key))

    def delete_all(self, mark: bytes) -> None:
        """Delete all sessions with this revocation key, whichever secret was in use when they were stored."""
        self._client.end([self._index(key, mark) for key in self._index_keys])

    def _name(self, key: bytes) -> bytes:
        return self._prefix + derived_key(key, b"name", self._purpose)[:16].hex().encode()

    def _index(self, index_key: bytes, mark: bytes) -> bytes:
        return self._prefix + b"of:" + digest(index_key, mark, sha256)[:16].hex().encode()
