"""Purges of a process on their way to Redis.

A purge holds in the shared memory at once. Until Redis has confirmed it, a word of the process says since when: all
processes of the node take what they find in Redis as fetched before that, and check it against their own purges.

Purges in Redis have an epoch (see `redis_script`). A process whose purges were confirmed in one epoch and that finds
another purges everything there: after a failover and back, a Redis has the objects and the epoch of before.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from fastgw.cache.shared.layout import COLUMNS, PURGE_SEQUENCE, REDIS_PENDING, CacheMemory
from fastgw.cache.shared.watches import TimerHandle, WatchLoop

MOST_PENDING: Final = 10_000
"""Purges that Redis has yet to confirm; with more, everything is purged there."""
_AT_ONCE: Final = 500
_AGAIN_S: Final = 1.0

Triple = tuple[bytes, bytes, bytes]
"""A purge as the script takes it: kind (t tag or key, p prefix, a all), b"1" for soft, and the value."""
ALL: Final[Triple] = (b"a", b"0", b"")
Call = Callable[[Sequence[bytes], Callable[[Any], None]], bool]


@final
class RedisPurges:
    """Purges of one process in one store. `column`: the first word of the process; `call`: calls the script with the
    triples of purges, see `CacheRedis.run_script`.
    """

    def __init__(self, memory: CacheMemory, column: int, loop: WatchLoop, call: Call) -> None:
        self._memory, self._words, self._word = memory, memory.words, column + REDIS_PENDING
        self._loop, self._call = loop, call
        # A former process of this column may have died with purges that Redis does not know.
        self._pending: list[Triple] = [ALL] if self._words[self._word] else []
        self._waiting: list[Callable[[], None]] = []
        self._timer: TimerHandle | None = None
        self._is_sending = False
        self._epoch = b""  # in which the last purge was confirmed

    def __repr__(self) -> str:
        return f"<RedisPurges pending={len(self._pending)}>"

    @property
    def is_busy(self) -> bool:
        """Whether Redis has not confirmed all purges."""
        return bool(self._pending) or self._is_sending

    def announce_purge(self) -> None:
        """Announce a purge, before it holds in memory; `write` has to follow."""
        if not self._words[self._word]:
            self._words[self._word] = self._words[PURGE_SEQUENCE]
            self._memory.fence()

    def write(self, purges: Sequence[Triple]) -> None:
        """Send purges, which hold in memory already."""
        self._pending += purges
        if len(self._pending) > MOST_PENDING:
            self._pending = [ALL]
        self.send_next()

    def find_epoch(self, epoch: bytes) -> None:
        """Note the epoch that Redis has."""
        if self._epoch not in (b"", epoch):
            self._epoch = b""
            self.announce_purge()
            self.write([ALL])

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call back once Redis has confirmed all purges so far, or is unreachable."""
        if self._is_sending:
            self._waiting.append(callback)
        else:
            callback()

    def send_next(self) -> None:
        """Send what is pending, if Redis is there."""
        if self._is_sending or not self._pending:
            return
        purges, self._pending = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
        self._is_sending = True

        def answered(answer: list[Any] | None) -> None:
            self._is_sending = False
            if answer is None:
                self._pending = [*purges, *self._pending]
                if self._timer is None:
                    self._timer = self._loop.call_later(_AGAIN_S, self._send_again)
            else:
                self._epoch = answer[0]
                if self._pending:
                    self.send_next()
                else:
                    self._words[self._word] = 0
            if not self._is_sending:
                waiting, self._waiting = self._waiting, []
                for each in waiting:
                    each()

        if not self._call([word for purge in purges for word in purge], answered):
            self._is_sending = False
            self._pending = [*purges, *self._pending]

    def _send_again(self) -> None:
        self._timer = None
        self.send_next()

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
