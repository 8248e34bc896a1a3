"""The Redis tier of a store: small objects that several gateways share, beside their memory and disks.

Objects that this node stores are written there as well, and objects that neither memory nor disk has are looked for
there. It is optional: no request waits for it longer than the timeout of `state`, and while Redis is unreachable it is
not asked.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from msgspec import structs

from fastgw.cache.shared.layout import REDIS_DAMAGED, REDIS_DROPPED, REDIS_HITS, REDIS_WRITTEN
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.watches import WatchLoop
from fastgw.cache.store import FetchBegin, PurgePosition, RedisNumbers
from fastgw.cache.tiers.object_file import ObjectRecord
from fastgw.cache.tiers.promotion import check_record, promote_object
from fastgw.cache.tiers.redis_purges import RedisPurges
from fastgw.cache.tiers.redis_values import BadValue, StoredFields, decode_object, encode_object

if TYPE_CHECKING:
    from fastgw.cache.tiers.redis_client import CacheRedis

LONGEST: Final = 256 * 1024
"""Maximum bytes of a body in Redis."""
MOST_TTL_S: Final = 86_400.0
"""Maximum seconds for which Redis keeps an object."""
MOST_AHEAD: Final = 4 * 1024 * 1024
"""Maximum bytes that are written and not confirmed. With more, objects are dropped."""
MOST_READS: Final = 256
"""Objects of a process that are read at a time to freshen them. With more, they stay as they are."""
_MOST_VALUE: Final = b"%d" % (2 * LONGEST)


@final
class RedisTier:
    """The tier in one process. `name`: of the store. `expires`: see `DiskTier`."""

    def __init__(self, name: str, store: SharedStore, loop: WatchLoop, expires: Callable[[bytes], float]) -> None:
        self._store, self._expires, self._name = store, expires, name.encode()
        self._client: CacheRedis | None = None
        self._namespace = b""
        self._ahead = self._reads = 0
        self.purges = RedisPurges(store.memory, store.counters, loop, self._send_purges)
        self.position: PurgePosition | None = None
        """The last known one: a fetch that begins now is newer. None: Redis has not answered yet."""

    def __repr__(self) -> str:
        return f"<RedisTier {self._client!r} ahead={self._ahead}>"

    def use_client(self, client: "CacheRedis | None") -> None:
        """Use this connection from now on; None: none."""
        self._client, self.position = client, None
        if client is not None:
            self._namespace = b"%b:cache:%b:" % (client.prefix, self._name)

    def resume_after_connect(self) -> None:
        """Send what has waited for a connection, and ask for the position."""
        self.purges.write_next()
        self._run_script([], b"n", [], lambda answer: None)

    # look-ups

    def recall(self, keys: Sequence[bytes], done: Callable[[], None]) -> bool:
        """See `SlowerTiers.recall`: what is found is in memory then."""
        began = self.purges.confirmed()

        def answered(answer: list[Any] | None) -> None:
            if answer is not None and answer[2]:
                self._use(keys[answer[2] - 1], answer, began)
            done()

        return self._run_script(keys, b"g", [_MOST_VALUE], answered)

    def _use(self, key: bytes, answer: list[Any], began: int) -> None:
        """Put an object into memory. `began`: purge sequence up to which Redis has checked it."""
        found, store = self._decoded(key, answer, began), self._store
        if found is None:
            return
        record, body = found
        if record.is_outdated(store.date()):
            self.remove(key)
            return
        if answer[3] or check_record(store, key, record).is_purged:
            return  # one that another node has softly purged would be taken as fresh here
        self.count(REDIS_HITS)
        promote_object(store, key, record, body)

    def _decoded(self, key: bytes, answer: list[Any], began: int) -> tuple[ObjectRecord, bytes] | None:
        """Return the record and the body of an object that Redis has found; None: it was damaged, and is removed."""
        try:
            fields = StoredFields(*answer[4:])
            return decode_object(key, fields, began), fields.body
        except (BadValue, TypeError):
            self.count(REDIS_DAMAGED)
            self.remove(key)
            return None

    # writes

    def write(
        self,
        key: bytes,
        record: ObjectRecord,
        length: int,
        pieces: Iterable[bytes | memoryview],
        position: PurgePosition | None,
        former_date: float | None = None,
    ) -> None:
        """Write an object. `length`, `pieces`: of its body. `position`: as of the begin of its fetch. `former_date`:
        `stored_date` of the object that it goes in the place of, if that is still there; None: of any.
        """
        ttl = self._ttl(record.expires_date)
        if position is None or self._client is None or not self._client.is_connected:
            return
        fits = ttl > 0 and length <= LONGEST
        if not fits or self._ahead + length > MOST_AHEAD:
            self.count(REDIS_DROPPED, int(fits))
            if not fits or former_date is None:
                self.remove(key)  # an older one
            return
        fields = encode_object(key, record, b"".join(pieces))
        self._ahead += length

        def answered(answer: list[Any] | None) -> None:
            self._ahead -= length
            self.count(REDIS_WRITTEN if answer is not None and answer[2] else REDIS_DROPPED)

        arguments = [
            position.epoch,
            b"%d" % position.number,
            fields.tags,
            fields.url,
            b"%d" % ttl,
            b"%.6f" % record.stored_date,
            fields.sealed,
            fields.body,
        ]
        if former_date is not None:
            arguments.append(b"%.6f" % former_date)
        if not self._run_script([key], b"s", arguments, answered):
            self._ahead -= length

    def freshen(self, key: bytes, before: bytes, head: bytes, fetched: FetchBegin) -> None:
        """Give an object another head, if it still has the one from before: it is read, and written again unless it was
        removed or replaced in between. If there is too much to read or to write, it stays as it is.
        """

        def answered(answer: list[Any] | None) -> None:
            self._reads -= 1
            found = None if answer is None or not answer[2] else self._decoded(key, answer, fetched.began)
            if found is not None and found[0].head == before:
                record = structs.replace(
                    found[0], head=head, stored_date=fetched.date, expires_date=self._expires(head)
                )
                self.write(key, record, len(found[1]), (found[1],), fetched.position, found[0].stored_date)

        if fetched.position is None:
            return
        if self._reads >= MOST_READS:
            self.count(REDIS_DROPPED)
        elif self._run_script([key], b"g", [_MOST_VALUE], answered):
            self._reads += 1

    def remove(self, key: bytes) -> None:
        """Remove the object of a key. It may come back from elsewhere, unless it is purged as well."""
        self._run_script([key], b"d", [], lambda answer: None)

    def _ttl(self, expires: float) -> int:
        """Return milliseconds."""
        left = expires - self._store.date() if expires else MOST_TTL_S
        return int(1000 * min(left, MOST_TTL_S))

    # calls

    def _send_purges(self, words: Sequence[bytes], answered: Callable[[Any], None]) -> bool:
        return self._run_script([], b"p", words, answered)

    def _run_script(
        self, keys: Sequence[bytes], what: bytes, arguments: Sequence[bytes], answered: Callable[[Any], None]
    ) -> bool:
        client = self._client
        if client is None:
            return False

        def note(answer: list[Any] | None) -> None:
            if answer is not None and self._client is client:
                self.position = PurgePosition(answer[0], answer[1])
                self.purges.find_epoch(answer[0])
            answered(answer)

        names = [self._namespace + b"purges", *(self._namespace + key.hex().encode() for key in keys)]
        return client.run_script(names, what, arguments, note)

    def count(self, word: int, count: int = 1) -> None:
        self._store.memory.add(self._store.counters + word, count)

    def numbers(self) -> RedisNumbers:
        total = self._store.memory.total
        return RedisNumbers(total(REDIS_HITS), total(REDIS_WRITTEN), total(REDIS_DROPPED), total(REDIS_DAMAGED))

    def close(self) -> None:
        self.purges.close()
        self._client = None
