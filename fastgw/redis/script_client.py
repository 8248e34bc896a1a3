"""Calls of a script in Redis, from one process over one connection.

Calls of one turn of the loop are sent in one write. Rule 1: nothing waits longer than `timeout`. Rule 2: after a late
response, or a lost connection that could not be reopened, Redis is `away`: it is not used until it has answered again,
which is tried in the background. Needs the extra `fastgw[redis]`.
"""

import asyncio
import random
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from hashlib import sha1
from typing import Any, ClassVar, Final, final

from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis import availability
from fastgw.redis.error_messages import in_words
from fastgw.redis.pipelined_connection import ERRORS, Pipe, opened, packed
from fastgw.redis.url import server_of

TIMEOUT_S: Final = 1.0
"""Timeout of a connect in the background."""
AGAIN_S: Final = 0.1
AGAIN_MOST_S: Final = 2.0
"""Delay before a reconnect: first and maximum, plus up to half at random."""
STEADY_S: Final = 1.0
"""Seconds for which Redis must be reachable before the recovery is logged."""
MOST_UNANSWERED: Final = 10_000
"""Maximum number of calls without a response."""

Answered = Callable[[Any], None]


@final
class _Call:
    __slots__ = ("answered", "late_at", "words")

    def __init__(self, words: tuple[bytes, ...], late_at: float, answered: Answered | None) -> None:
        self.words, self.late_at, self.answered = words, late_at, answered

    def settle(self, answer: Any) -> None:
        if self.answered is not None:
            self.answered(answer)


class ScriptClient:
    """The calls of one script, in one process. `topic`: of the log lines. It is connected from `hold_connection` to
    `release`.
    """

    def __init__(self, url: str, timeout: float, script: bytes, topic: str) -> None:
        self._url, self._server, self._timeout, self._topic = url, server_of(url), timeout, topic
        self._script, self._digest = script, sha1(script, usedforsecurity=False).hexdigest().encode()
        self._users = 0
        self._loop: Any = None
        self._pipe: Pipe | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: deque[_Call] = deque()
        self._sent: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_flushing = self._is_trusted = False
        self._again_s = AGAIN_S
        self._is_outage_logged = False  # for the log
        self._steady: asyncio.TimerHandle | None = None  # until the recovery is logged
        self.away = ""
        """Reason why Redis is not used; "" = it is used."""

    def __repr__(self) -> str:
        state = "away" if self.away else "connecting" if self._pipe is None else "connected"
        return f"<{type(self).__name__} at {self._server}: {state}, {len(self._sent)} asked>"

    @property
    def server(self) -> str:
        return self._server

    @property
    def retry_s(self) -> float:
        return self._again_s

    def hold_connection(self) -> None:
        self._users += 1
        if self._users == 1:
            self._loop = asyncio.get_running_loop()
            self.away, self._is_outage_logged, self._again_s = "", False, AGAIN_S
            self._connect(0.0)

    def release(self) -> None:
        self._users -= 1
        if not self._users:
            self._drop("closed")
            availability.unasked(self)
            if self._connecting is not None:
                self._connecting.cancel()
                self._connecting = None

    @property
    def _may_ask(self) -> bool:
        return not self.away and self._users > 0 and len(self._sent) + len(self._unsent) < MOST_UNANSWERED

    def call_script(self, words: tuple[bytes, ...], answered: Answered | None) -> bool:
        """Call the script with the number of its keys, the keys and the arguments. False: Redis is unreachable, or has
        too many calls to answer; there is no call of `answered` then. It gets None if there is no proper response.
        """
        if not self._may_ask:
            return False
        self._enqueue(_Call(words, self._loop.time() + self._timeout, answered))
        return True

    def _enqueue(self, call: _Call) -> None:
        self._unsent.append(call)
        if self._timer is None:
            self._timer = self._loop.call_at(call.late_at, self._check_deadline)
        if not self._is_flushing and self._pipe is not None:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._pipe is not None and self._unsent:
            calls = tuple(self._unsent)
            self._unsent.clear()
            self._sent.extend(calls)
            self._pipe.send(
                [packed(b"EVALSHA", self._digest, *call.words) for call in calls],
                [self._response_received] * len(calls),
            )

    def _response_received(self, answer: Any) -> None:
        call = self._sent.popleft()
        if self._is_expected(answer):
            self._is_trusted = True
            self._again_s = AGAIN_S
            call.settle(answer)
        elif str(answer).startswith("NOSCRIPT") and self._pipe is not None:  # its scripts were flushed
            self._sent.append(call)
            self._pipe.send([packed(b"EVAL", self._script, *call.words)], [self._response_received])
        elif isinstance(answer, Exception) and str(answer).startswith(self._passing):
            call.settle(None)
        else:
            call.settle(None)
            self._is_trusted = False
            self._connection_lost(
                in_words(answer) if isinstance(answer, Exception) else "it sent an unexpected response"
            )

    def _check_deadline(self) -> None:
        """Check whether a call has waited for too long."""
        self._timer = None
        first = self._sent or self._unsent
        if not first:
            return
        late_at = min(call.late_at for call in first)  # repeated calls come after later ones
        if late_at <= self._loop.time():
            self._disconnect(f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(late_at, self._check_deadline)

    def _connection_lost(self, why: str) -> None:
        """Reopen a connection that had worked; new calls wait for it, within the usual timeout."""
        if not self._is_trusted or not self._users:
            self._disconnect(why)
            return
        self._is_trusted = False
        self._drop("")
        self._connect(0.0)

    def _disconnect(self, why: str) -> None:
        if not self._is_outage_logged and self._users:
            self._is_outage_logged = True
            log_event(
                OperatorEvent.STATE_UNREACHABLE,
                "%s: the Redis at %s is unreachable: %s; it is not queried until it is reachable again",
                self._topic,
                self._server,
                why,
            )
        self._drop(why)
        if self._users:
            availability.record_reachability(self, is_up=False)
        if self._users and self._connecting is None:
            self._connect(self._pause())

    def _drop(self, why: str) -> None:
        self.away = why
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._steady is not None:
            self._steady.cancel()
            self._steady = None
        waiting = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        for call in waiting:
            call.settle(None)

    def _connect(self, pause: float) -> None:
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._keep_connecting(pause))
            self._connecting.add_done_callback(self._tell_defect)

    def _tell_defect(self, task: asyncio.Task[None]) -> None:
        """Handle an unexpected failure of a connect: it is retried with the maximum delay."""
        if task is self._connecting and not task.cancelled() and (error := task.exception()) is not None:
            if not self._is_outage_logged:
                self._is_outage_logged = True
                log_event(
                    OperatorEvent.DEFECT,
                    "%s: a defect while the Redis at %s is connected to",
                    self._topic,
                    self._server,
                    error=error,
                )
            self._connecting = None
            self._connect(AGAIN_MOST_S)
            self._disconnect(type(error).__name__)

    def _pause(self) -> float:
        """Return the seconds until the next attempt: increasing, until Redis has answered a call."""
        pause, self._again_s = self._again_s, min(self._again_s * 2, AGAIN_MOST_S)
        return pause

    async def _keep_connecting(self, pause: float) -> None:
        while True:
            if pause:
                await asyncio.sleep(pause * random.uniform(1.0, 1.5))
            try:
                load, timeout = (b"SCRIPT", b"LOAD", self._script), max(TIMEOUT_S, self._timeout)
                pipe = await opened(self._url, timeout, self._connection_lost, load)
                await self._set_up(pipe, timeout)
            except ERRORS as error:
                self._disconnect(in_words(error))
            else:
                break
            pause = self._pause()
        self._connecting = None
        if self._is_outage_logged:
            self._steady = self._loop.call_later(STEADY_S, self._tell_back)
        self.away, self._pipe = "", pipe
        availability.record_reachability(self, is_up=True)
        self._flush()
        self._connected()

    def _tell_back(self) -> None:
        """Log the recovery only after a while: an unstable Redis, or one with invalid responses, would fill the log."""
        self._steady, self._is_outage_logged = None, False
        log_event(OperatorEvent.STATE_BACK, "%s: the Redis at %s is reachable again", self._topic, self._server)

    # of subclasses

    _passing: ClassVar[tuple[str, ...]] = ()
    """Beginnings of errors that concern one call only."""

    @abstractmethod
    def _is_expected(self, answer: Any) -> bool:
        """Whether a response is one of the script."""

    async def _set_up(self, pipe: Pipe, timeout: float) -> None:
        failed = True
        try:
            async with asyncio.timeout(timeout):
                await self._begin_connection(pipe)
            failed = False
        finally:
            if failed:
                pipe.close()

    async def _begin_connection(self, pipe: Pipe) -> None:
        """Run commands on a new connection, before the script is called. Raises `ERRORS`."""

    def _connected(self) -> None:
        """Go on after a new connection."""
