"""Debugging of single requests in the control process: makes debug tokens, and lets workers look for them as long as
one of them is valid.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import msgspec

from fastgw.capture.debug_token import DebugToken, debug_key, sign
from fastgw.capture.story_record import DebugOrder
from fastgw.runtime.control.captures import Captures
from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.runtime.ipc.sample_stream import Sample
from fastgw.sync.debugging import FEED, read, written

BEGIN_S: Final = 2.0
"""Seconds within which all workers should look for tokens; the others do so later."""
_ORDER: Final = msgspec.msgpack.encode(DebugOrder())


@final
class Debugging:
    """`run_key`: key of the node; `workers`: returns their number; `receive`: takes the stories of the requests."""

    def __init__(
        self,
        channel: Channel,
        captures: Captures,
        run_key: bytes,
        generation: Callable[[], int],
        workers: Callable[[], int],
        receive: Callable[[Sample], None],
    ) -> None:
        self._captures, self._key, self._workers, self._receive = captures, debug_key(run_key), workers, receive
        self._known = 0  # workers that look for tokens
        self._there = asyncio.Event()
        self._until_date = 0.0
        self._feed = PublishedFeed(channel, FEED, generation, lambda: written(self._until_date))
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Debugging until={self._until_date}>"

    def start(self, left: bytes) -> None:
        """Go on for the tokens of the control process before this one. `left`: value of the feed."""
        self._until_date = read(left)
        self._run()

    async def new_token(self, route: str, seconds: float) -> tuple[str, float]:
        """Return a token for requests of a route, or of any (""), and the end of its lifetime in epoch seconds. Waits a
        little until all workers look for it.
        """
        token = DebugToken(int(time.time() + seconds) + 1, route)
        if token.expires_date > self._until_date:
            self._until_date = float(token.expires_date)
            self._feed.publish()
        self._run()
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while self._known < self._workers():
                    self._there.clear()
                    await self._there.wait()
        return sign(self._key, token), float(token.expires_date)

    def _run(self) -> None:
        if (self._task is None or self._task.done()) and time.time() < self._until_date:
            self._task = asyncio.get_running_loop().create_task(self._debug())

    async def _debug(self) -> None:
        self._known = 0
        async with self._captures.sampling(_ORDER, self._take_sample):
            while (left := self._until_date - time.time()) > 0.0:  # a later token may have moved the end
                await asyncio.sleep(left)

    def _take_sample(self, sample: Sample) -> None:
        if sample.content:
            self._receive(sample)
        else:  # the greeting of a worker
            self._known += 1
            self._there.set()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
