"""A worker's side: what was fetched for the node, at hand for each request, and asked for when it is not there."""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final, Generic, TypeVar, final

import msgspec

from fastgw.errors import Fault
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import Feed
from fastgw.filters.policies.credentials.messages import (
    FetchContext,
    FetchedRecord,
    Getter,
    Unavailable,
    failed,
    read,
    succeeded,
)
from fastgw.filters.policies.credentials.rejected_throttle import AGAIN_S, allowance, keep_pace
from fastgw.sync.feeds import mark_of

T = TypeVar("T")

SLACK_S: Final = 0.5
"""How much longer than control for its fetch a request waits for control."""
FIRST_S: Final = 0.25
"""How soon control is asked once more, for asks may be lost; later twice as late each time."""
SOONEST_S: Final = 1.0
"""How often at most the background asks for something newer."""
SPREAD_S: Final = 0.2
"""Over so long workers begin that have to fetch for themselves: most find what the first one has got."""


@final
class WorkerCache(Generic[T]):
    """Holder of one source's value in one worker. Shared by all filters with the same settings and secrets.

    What is held was fetched with the very material of the settings it was made with; or with a newer one, where a
    configuration has followed and this serves the last requests of the one before.
    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_around",
        "_background",
        "_feed",
        "_getter",
        "_good_until",
        "_held",
        "_look_at",
        "_parse",
        "_record",
        "_silent",
        "_single_flight",
        "_used",
        "_users",
        "key",
    )

    def __init__(self, key: str, getter: Getter, parse: Callable[[bytes], T]) -> None:
        """`key`: of the source. `parse`: makes what is held out of the value that `getter` gets."""
        self.key = key
        self._getter = getter
        self._parse = parse
        self._held: T | None = None
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
        self._used = False  # by a request: its configuration is in force, or was

    def __repr__(self) -> str:
        return f"<Holder of {self._getter.name}: {self._record!r}>"

    def start(self, around: FetchContext) -> None:
        """Start the holder in a worker, for each filter that shares it."""
        self._users += 1
        if self._users == 1:
            self._around = around
            self._feed = around.feeds[self.key]
            self._feed.on_change(self._take)
            self._getter.start(around)
            self._take(self._feed.value)
        elif self._record.material != self._getter.material:  # another configuration begins with ours after all
            self._record, self._used = FetchedRecord(material=self._getter.material), False
            self._held, self._good_until, self._look_at = None, 0.0, 0.0

    def stop(self) -> None:
        """Once for each `start`."""
        self._users -= 1
        if self._users or self._feed is None or self._around is None:
            return
        self._feed.forget(self._take)
        self._around.feeds.drop(self.key)
        self._getter.stop()
        if self._background is not None:
            self._background.cancel()
        self._feed = self._around = self._background = None

    def current(self, now: float) -> T | None:
        """Return the value to send now (monotonic seconds); None: it has to be waited for (`obtain`).

        A newer one is asked for in the background before it expires.
        """
        if now < self._look_at:
            return self._held
        if self._held is None or now >= self._good_until:
            return None
        self.renew(self._held)
        self._look_at = min(self._good_until, now + SOONEST_S)
        return self._held

    @property
    def fetched_earlier(self) -> bool:
        """Whether what is held was there so long before that others may have had it replaced: see `refused.AGAIN_S`."""
        return time.time() - self._record.fetched_date >= AGAIN_S

    async def obtain(self, seen: T | None = None) -> T:
        """Wait for it, for a bounded time. Raises `Unavailable`.

        `seen`: what the API has refused: it will not be that again.
        """
        self._used = True
        if self._feed is not None:
            self._take(self._feed.value)
        held = self.current(monotonic())
        if held is not None and held != seen:
            return held
        if (problem := self._problem()) is not None:
            raise problem
        got = await self._single_flight.join(self.key, partial(self._fly, self._record))
        if isinstance(got, Unavailable):
            raise Unavailable(got.fault, got.why, got.retry_after)
        if got == seen:
            raise Unavailable(Fault.TOKEN_REFUSED, "there is no newer credential than the rejected one")
        return got

    def renew(self, seen: T) -> None:
        """Ask for something newer than this, which the API refuses, or which expires soon; wait for nothing."""
        known = self._record.failed_until_date > time.time()
        if self._held == seen and not known and (self._background is None or self._background.done()):
            joined = self._single_flight.join(self.key, partial(self._fly, self._record))
            self._background = asyncio.get_running_loop().create_task(joined)

    def _problem(self) -> Unavailable | None:
        """Return the reason why no attempt is made now."""
        if self._record.failed_until_date > time.time():
            return self._record.problem()
        if self._silent is not None and monotonic() < self._silent[0]:
            return self._silent[1]
        return None

    def _take(self, value: bytes) -> None:
        record = read(value)
        if record is None or record == self._record:
            return
        if record.material != self._getter.material and not self._is_over(record):
            return
        now_date, now = time.time(), monotonic()
        if not record.is_good(now_date):
            self._held, self._good_until, self._look_at = None, 0.0, 0.0
        else:
            if self._held is None or record.value != self._record.value:
                self._held = self._parse(record.value)
            self._good_until = now + record.good_until_date - now_date
            look_date = max(record.renew_from_date, record.failed_until_date)
            self._look_at = min(self._good_until, now + look_date - now_date)
        self._record = record

    def _is_over(self, record: FetchedRecord) -> bool:
        """Whether what was said with other material is of a configuration behind ours, and not of one before it."""
        return self._used and self._around is not None and record.generation >= self._around.generation()

    async def _fly(self, before: FetchedRecord) -> T | Unavailable:
        """Ask control until it answers; ask ourselves while it is away.

        `before`: what had been said when somebody found it wanting: another one may have come before this begins.
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
        """Return the result heard since then; None: none yet."""
        if self._record is before:
            return None
        if self._held is not None and self._record.value != before.value:
            return self._held
        return self._record.problem() or self._held  # some servers give the same token until it expires

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
        value = msgspec.structs.replace(own, generation=around.generation()).packed()
        feed.deliver(value)
        around.feed_others(self.key, value)


def _own_time() -> float:
    return random.uniform(0, SPREAD_S)
