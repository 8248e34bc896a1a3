"""Cache of a worker for values that are fetched once per node; missing ones are requested from control."""

import asyncio
import random
import time
from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, TypeVar, final

import msgspec

from fastgw.errors import Fault
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import Feed
from fastgw.filters.policies.credentials.messages import (
    FOR_EVER,
    FetchContext,
    FetchedRecord,
    FetchResult,
    Getter,
    Unavailable,
    failed,
    read,
    renewal,
    succeeded,
)
from fastgw.filters.policies.credentials.rejected_throttle import AGAIN_S, allowance, keep_pace
from fastgw.sync.feeds import mark_of
from fastgw.token_tier import TokenSerializer, TokenTier

T = TypeVar("T")

SLACK_S: Final = 0.5
"""Seconds that a request waits for control longer than the fetch may take."""
FIRST_S: Final = 0.25
"""Seconds until control is asked again, because messages may be lost; doubled each time."""
SOONEST_S: Final = 1.0
"""Minimum seconds between background requests for newer values."""
SPREAD_S: Final = 0.2
"""Seconds over which workers spread their own fetches: most find the value of the first one."""
REPLACED_WITHIN_S: Final = 2.0
"""Seconds that a call waits for another value than a rejected one, which may be valid, and rejected for other reasons.
"""


@final
class WorkerCache(TokenTier, Generic[T]):
    """Cached value of one source in one worker, shared by all filters with the same settings and secrets.

    It is a cache of aiocache with one entry, `key`: `get` waits for the value, `set` gives one to all workers, `delete`
    says that the API has rejected it. Requests read it by `peek`, without `await`.

    The value belongs to the material of these settings; or to newer material, if a new configuration is active and this
    serves the last requests of the old one.
    """

    __slots__ = (
        "_allowance",
        "_around",
        "_background",
        "_feed",
        "_getter",
        "_good_until",
        "_held",
        "_is_rejected",
        "_look_at",
        "_record",
        "_silent",
        "_single_flight",
        "_used",
        "_users",
        "key",
    )

    def __init__(self, key: str, getter: Getter, serializer: TokenSerializer, plugins: Iterable[Any] = ()) -> None:
        """`key`: of the source. `serializer`: converts between the value of `getter` and the cached form."""
        super().__init__(serializer=serializer, plugins=plugins)
        self.key = key
        self._getter = getter
        self._held: T | None = None
        self._is_rejected = False  # the API has rejected it, and another one is being fetched
        self._record = FetchedRecord(material=getter.material)
        self._good_until = 0.0
        self._look_at = 0.0
        self._feed: Feed | None = None
        self._around: FetchContext | None = None
        self._single_flight: SingleFlight[T | Unavailable] = SingleFlight()
        self._background: asyncio.Task[T | Unavailable] | None = None
        self._silent: tuple[float, Unavailable] | None = None
        self._allowance = allowance()
        self._users = 0
        self._used = False  # by a request: its configuration is or was active

    def __repr__(self) -> str:
        return f"<Holder of {self._getter.name}: {self._record!r}>"

    def start(self, around: FetchContext) -> None:
        """Start the cache in a worker, for each filter that shares it."""
        self._users += 1
        if self._users == 1:
            self._around = around
            self._feed = around.feeds[self.key]
            self._feed.on_change(self._accept_record)
            self._getter.start(around)
            self._accept_record(self._feed.value)
        elif self._record.material != self._getter.material:  # a later configuration has our material again
            self._record, self._used = FetchedRecord(material=self._getter.material), False
            self._held, self._good_until, self._look_at, self._is_rejected = None, 0.0, 0.0, False

    def stop(self) -> None:
        """Stop the cache, once for each `start`."""
        self._users -= 1
        if self._users or self._feed is None or self._around is None:
            return
        self._feed.forget(self._accept_record)
        self._around.feeds.drop(self.key)
        self._getter.stop()
        if self._background is not None:
            self._background.cancel()
        self._feed = self._around = self._background = None

    def peek(self, now: float) -> T | None:
        """Return the value to send `now` (monotonic seconds); None: wait for it (`obtain`).

        A newer one is requested in the background before it expires.
        """
        if now < self._look_at:
            return self._held
        if self._is_rejected or self.unexpired(now) is None:
            return None
        assert self._held is not None
        self.renew(self._held)
        self._look_at = min(self._good_until, now + SOONEST_S)
        return self._held

    def unexpired(self, now: float) -> T | None:
        """Return the value, even if the API has rejected it; None: there is none, or it has expired."""
        return self._held if now < self._good_until else None

    @property
    def fetched_earlier(self) -> bool:
        """Whether the cached value is so old that another token may have replaced it: see
        `rejected_throttle.AGAIN_S`.
        """
        # A date in the future is of before the clock was set back.
        return not 0.0 <= time.time() - self._record.fetched_date < AGAIN_S

    async def obtain(self, seen: T | None = None, *, repeatable: bool = False) -> T:
        """Wait for the value, for a bounded time. Raises `Unavailable`.

        `seen`: the value that the API has rejected: another one is returned. `repeatable`: the request can be sent
        again, so it does not wait while a rejected value is being replaced.
        """
        self._used = True
        if self._feed is not None:
            self._accept_record(self._feed.value)
        held = self.unexpired(monotonic()) if repeatable else self.peek(monotonic())
        if held is not None and held != seen:
            return held
        rejected = self.unexpired(monotonic()) if seen is None else None
        try:
            async with asyncio.timeout(None if rejected is None else REPLACED_WITHIN_S):
                got = self._problem() or await self._single_flight.join(
                    self.key, partial(self._fetch_shared, self._record)
                )
        except TimeoutError:
            got = None
        if got is None or isinstance(got, Unavailable):
            self._is_rejected = False
            if rejected is not None:
                return rejected  # the API may have rejected it for other reasons
            assert got is not None  # only a wait with a rejected value ends so
            raise Unavailable(got.fault, got.why, got.retry_after)
        if got == seen:
            raise Unavailable(Fault.TOKEN_REFUSED, "there is no newer credential than the rejected one")
        return got

    def reject(self, seen: T) -> None:
        """Request a newer value than this, which the API has rejected; does not wait.

        Until it is there, `peek` returns none, because requests that cannot be sent again would be rejected, too. A
        value that was rejected soon after its fetch is sent all the same: the API must have another reason.
        """
        if self._held == seen and self.fetched_earlier and not self._rests_until(time.time()):
            self._is_rejected, self._look_at = True, 0.0
        self.renew(seen)

    def renew(self, seen: T) -> None:
        """Request a newer value than this, which expires soon or was rejected; does not wait."""
        if (
            self._held == seen
            and not self._rests_until(time.time())
            and (self._background is None or self._background.done())
        ):
            joined = self._single_flight.join(self.key, partial(self._fetch_shared, self._record))
            self._background = asyncio.get_running_loop().create_task(joined)

    def _problem(self) -> Unavailable | None:
        """Return the reason why no attempt is made now."""
        if self._rests_until(time.time()):
            return self._record.problem()
        if self._silent is not None and monotonic() < self._silent[0]:
            return self._silent[1]
        return None

    def _rests_until(self, now_date: float) -> float:
        return self._record.rests_until(now_date, self._getter.negative_ttl)

    def _accept_record(self, value: bytes) -> None:
        record = read(value)
        if record is None or record == self._record:
            return
        if record.material != self._getter.material and not self._is_over(record):
            return
        # The clock may have been set back since the fetch: a value lives on for its lifetime from now, at most. In this
        # worker from its fetch; a worker that starts after the step cannot know how much of it is over.
        now_date, now = max(time.time(), record.fetched_date), monotonic()
        if not record.is_good(now_date):
            self._held, self._good_until, self._look_at = None, 0.0, 0.0
        else:
            if self._held is None or record.value != self._record.value:
                self._held = self.serializer.loads(record.value)
            self._good_until = now + record.good_until_date - now_date
            look_date = max(record.renew_from_date, record.rests_until(now_date, self._getter.negative_ttl))
            self._look_at = min(self._good_until, now + look_date - now_date)
        self._record, self._is_rejected = record, False

    def _is_over(self, record: FetchedRecord) -> bool:
        """Whether a value with other material belongs to a later configuration, and not to an earlier one."""
        return self._used and self._around is not None and record.generation >= self._around.generation()

    async def _fetch_shared(self, before: FetchedRecord) -> T | Unavailable:
        """Ask control until it answers; fetch here while it is unreachable.

        `before`: state when the value was found insufficient: a newer one may have arrived since.
        """
        feed, around = self._feed, self._around
        if feed is None or around is None:
            return Unavailable(Fault.GATEWAY_STOPPED, "the filter is stopped")
        if (answer := self._answer(before)) is not None:
            return answer
        deadline, pause = monotonic() + AGAIN_S + self._getter.timeout + SLACK_S, FIRST_S
        while (left := deadline - monotonic()) > 0:
            if around.control_is_away():
                await feed.changed(_own_time())
                if (answer := self._answer(before)) is None:
                    await self._fetch(feed, around)
                    answer = self._answer(before)
            else:
                feed.ask(mark_of(feed.value))
                await feed.changed(min(left, pause))
                answer = self._answer(before)
                pause *= 2
            if answer is not None:
                return answer
        late = Unavailable(Fault.TOKEN_TIMEOUT, f"{self._getter.name}: the control process does not answer")
        self._silent = monotonic() + max(self._getter.negative_ttl, SLACK_S), late
        return late

    def _answer(self, before: FetchedRecord) -> T | Unavailable | None:
        """Return the result received since then; None: none yet."""
        if self._record is before:
            return None
        if self._held is not None and self._record.value != before.value:
            return self._held
        return self._record.problem() or self._held  # some servers return the same token until it expires

    async def _fetch(self, feed: Feed, around: FetchContext) -> None:
        record = self._record
        own = record if record.material == self._getter.material else FetchedRecord(material=self._getter.material)
        await keep_pace(own, self._allowance)
        if self._record is not record:
            return  # another worker was faster
        try:
            own = succeeded(own, await self._getter.get(around, record))
        except Unavailable as problem:
            own = failed(own, problem, self._getter.negative_ttl)
        self._publish(own, feed, around)

    def _publish(self, record: FetchedRecord, feed: Feed, around: FetchContext) -> None:
        value = msgspec.structs.replace(record, generation=around.generation()).packed()
        feed.deliver(value)
        around.feed_others(self.key, value)

    # the interface of aiocache

    async def _get(self, key: str, encoding: str | None = None, _conn: Any = None) -> bytes | None:
        if key != self.key:
            return None
        await self.obtain()
        return self._record.value

    async def _set(
        self, key: str, value: bytes, ttl: float | None = None, _cas_token: Any = None, _conn: Any = None
    ) -> bool:
        if key != self.key or self._feed is None or self._around is None:
            return False
        now_date = time.time()
        until_date = FOR_EVER if ttl is None else now_date + ttl
        got = FetchResult(value, until_date, renewal(now_date, until_date), self._record.note)
        self._publish(succeeded(FetchedRecord(material=self._getter.material), got), self._feed, self._around)
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return key == self.key and self.unexpired(monotonic()) is not None

    async def _delete(self, key: str, _conn: Any = None) -> int:
        held = self.unexpired(monotonic()) if key == self.key else None
        if held is not None:
            self.reject(held)
        return int(held is not None)


def _own_time() -> float:
    return random.uniform(0, SPREAD_S)
