"""Purges of a process on their way to Redis.

A purge holds in the shared memory at once. Until Redis has confirmed it, a word of the process says since when: all
processes of the node take what they find in Redis as fetched before that, and check it against their own purges.

Purges in Redis have an epoch (see `redis_script`). A process whose purges were confirmed in one epoch and that finds
another purges everything there: after a failover and back, a Redis has the objects and the epoch of before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from fastgw.cache.shared.layout import COLUMNS, PURGE_SEQUENCE, REDIS_PENDING, CacheMemory
from fastgw.cache.shared.watches import TimerHandle, WatchLoop
from fastgw.cache.tiers.purge_journal import Purge
from fastgw.cache.tiers.purge_queue import PurgeQueue
from fastgw.cache.tiers.redis_values import key_name, tag_name

_AGAIN_S: Final = 1.0
ALL: Final = Purge("all", 0)
_KINDS: Final[Mapping[str, tuple[bytes, Callable[[bytes], bytes]]]] = {
    "key": (b"t", key_name),
    "tag": (b"t", tag_name),
    "prefix": (b"p", bytes),
    "all": (b"a", bytes),
}
"""Kinds of purges in the script, and what their values are made of."""
Call = Callable[[Sequence[bytes], Callable[[Any], None]], bool]


@final
class RedisPurges(PurgeQueue):
    """Purges of one process in one store. `column`: the first word of the process; `call`: calls the script with the
    triples of purges (kind, soft, value), see `CacheRedis.run_script`.
    """

    most_at_once = 500

    def __init__(self, memory: CacheMemory, column: int, loop: WatchLoop, call: Call) -> None:
        super().__init__()
        self._memory, self._words, self._word = memory, memory.words, column + REDIS_PENDING
        self._loop, self._call = loop, call
        if self._words[self._word]:
            # A former process of this column may have died with purges that Redis does not know.
            self.pending.append(ALL)
        self._timer: TimerHandle | None = None
        self._epoch = b""  # in which the last purge was confirmed

    def announce_purge(self) -> None:
        """Announce a purge, before it holds in memory; `write` has to follow."""
        if not self._words[self._word]:
            self._words[self._word] = self._words[PURGE_SEQUENCE]
            self._memory.fence()

    def find_epoch(self, epoch: bytes) -> None:
        """Note the epoch that Redis has."""
        if self._epoch not in (b"", epoch):
            self._epoch = b""
            self.announce_purge()
            self.write([ALL])

    def write_batch(self, batch: Sequence[Purge], written: Callable[[], None], failed: Callable[[], None]) -> bool:
        def answered(answer: list[Any] | None) -> None:
            if answer is None:
                if self._timer is None:
                    self._timer = self._loop.call_later(_AGAIN_S, self._send_again)
                failed()
                return
            self._epoch = answer[0]
            if not self.pending:
                self._words[self._word] = 0
            written()

        triples: list[bytes] = []
        for each in batch:
            letter, name = _KINDS[each.kind]
            triples += (letter, b"1" if each.soft else b"0", name(each.value))
        return self._call(triples, answered)

    def _send_again(self) -> None:
        self._timer = None
        self.write_next()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def confirmed(self) -> int:
        """Return a purge sequence up to which Redis knows all purges of this node."""
        words, memory = self._words, self._memory
        sequence = words[PURGE_SEQUENCE]  # first: a purge announces itself before it has a number
        memory.fence()
        pending = (words[memory.column(column) + REDIS_PENDING] for column in range(words[COLUMNS]))
        return min((since for since in pending if since), default=sequence)
