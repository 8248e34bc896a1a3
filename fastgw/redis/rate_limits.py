"""Rate limits by key, exact for all nodes: counted in the Redis of `state`, by one script that gets the limit with each
call. Its semantics are those of `rate_limit_table`: the same buckets, windows and parts of windows, by the clock of
Redis.

A key is a string there, under a hash, and expires when it is fully replenished:
- bucket: an instant, and the ns by which the bucket was short of full then;
- window: the last part in which anything was spent, its count and those of the parts before it.

Calls of one turn of the loop are sent in one write. Rule 1: nothing waits longer than `timeout`. Rule 2: after a late
response, or a lost connection that could not be reopened, Redis is `away`: it is not used until it has answered again,
which is tried in the background. Earlier calls may still have been counted there; no request is admitted twice for
them.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable
from hashlib import blake2b, sha1
from typing import Any, Final, NamedTuple, final

from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis import availability
from fastgw.redis.error_messages import in_words
from fastgw.redis.pipelined_connection import ERRORS, Pipe, opened, packed
from fastgw.redis.url import server_of
from fastgw.shm.rate_limit_table import COUNT_MAX

log = logging.getLogger("fastgw")

CLOCK: Final = "local told = redis.call('TIME')\nlocal now = told[1] * 1000000 + told[2]"
SCRIPT: Final = (
    CLOCK
    + f"\nlocal COUNT_MAX = {COUNT_MAX}"
    + """
local what, limit, step, parts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local cost, mark = tonumber(ARGV[5]), tonumber(ARGV[6])
local raw = redis.call('GET', KEYS[1])
local function keep(state, microseconds)
  redis.call('SET', KEYS[1], state, 'PX', string.format('%.0f', math.ceil(microseconds / 1000) + 1))
end
local wait = 0
if parts < 0 then -- a bucket; `step`: ns
  local ahead, is_set_back = 0, false
  if raw and #raw == 16 then
    local at, was = struct.unpack('>dd', raw)
    is_set_back = at > now -- the clock was; else nothing would come back until it is there again
    ahead = math.max(was - math.max(now - at, 0) * 1000, 0)
  end
  local before = ahead
  if what == 's' then
    wait = math.max(ahead + (cost - limit) * step, 0)
    if wait == 0 then ahead = ahead + cost * step end
  elseif what == 'c' then
    ahead = math.max(math.min(ahead + cost * step, 2 * limit * step), ahead)
  else
    ahead = math.max(ahead - math.max(cost * step - math.max(now - mark, 0) * 1000, 0), 0)
  end
  if ahead == 0 then
    if raw then redis.call('DEL', KEYS[1]) end
  elseif ahead ~= before or is_set_back then
    keep(struct.pack('>dd', now, ahead), ahead / 1000)
  end
  local left = math.max(limit - math.ceil(ahead / step), 0)
  return {math.ceil(wait / 1000), left, math.ceil(ahead / 1000), now, math.ceil(before / 1000)}
end
local part, counts, spent = math.floor(now / step), {}, 0 -- a window; `step`: us, of a part
local is_set_back = false
for age = 0, parts do counts[age] = 0 end
if raw and #raw == 12 + 4 * parts then
  local moved = part - struct.unpack('>d', raw)
  is_set_back = moved < -1
  if moved == -1 then part, moved = part + 1, 0 end
  for age = 0, parts do
    -- a clock that was set back: all counts as spent now
    local to = moved < 0 and 0 or age + moved
    if to <= parts then
      local count = struct.unpack('>I4', raw, 9 + 4 * age)
      counts[to], spent = counts[to] + count, spent + count
    end
  end
end
if what == 's' then
  if spent + cost > limit then
    local age = parts
    spent = spent - counts[age]
    while age > 0 and spent + cost > limit do
      age = age - 1
      spent = spent - counts[age]
    end
    wait = (part - age + 1 + parts) * step - now
  end
elseif what == 'c' then
  cost = math.max(math.min(cost, math.min(2 * limit, COUNT_MAX) - spent), 0)
else
  cost = math.floor(mark / step) == part and -math.min(cost, counts[0]) or 0 -- what an earlier part had is final
end
if wait == 0 then counts[0] = counts[0] + cost end
spent = 0
local ends = 0
for age = parts, 0, -1 do
  spent = spent + counts[age]
  if counts[age] > 0 then ends = (part - age + 1 + parts) * step - now end
end
if wait == 0 or is_set_back then
  local packed = {struct.pack('>d', part)}
  for age = 0, parts do packed[age + 2] = struct.pack('>I4', counts[age]) end
  if spent == 0 then redis.call('DEL', KEYS[1]) else keep(table.concat(packed), ends) end
end
return {wait, math.max(limit - spent, 0), ends, math.max(now, part * step), 0}
"""
)
DIGEST: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest().encode()
TIMEOUT_S: Final = 1.0
"""Timeout of a connect in the background."""
AGAIN_S: Final = 0.1
AGAIN_MOST_S: Final = 2.0
"""Delay before a reconnect: first and maximum, plus up to half at random."""
STEADY_S: Final = 1.0
"""Seconds for which Redis must be reachable before the recovery is logged."""
MOST_UNANSWERED: Final = 10_000
"""Maximum number of calls without a response."""

Answer = list[int]
"""Result of the script: us to wait (0: admitted), permits left, us until all are available, the mark, us until the
caller's turn.
"""
_ANSWERED: Final = [int] * 5

Awaited = asyncio.Future[list[int] | None]


class Asking(NamedTuple):
    """Arguments of the script that are the same in each call for a limit."""

    prefix: bytes
    identity: bytes
    limit: bytes
    step: bytes
    parts: bytes

    def question(self, what: bytes, key: bytes, cost: int, mark: int = 0) -> tuple[bytes, ...]:
        name = blake2b(self.identity + key, digest_size=16).hexdigest().encode()
        arguments = (what, self.limit, self.step, self.parts, b"%d" % cost, b"%d" % mark)
        return b"1", self.prefix + name, *arguments


def asking(prefix: str, algorithm: str, window: float, depth: int, step_ns: int, name: bytes) -> Asking:
    """Return the arguments. `depth`, `step_ns`: of a bucket: burst, and ns between two permits. `name`: of the
    limit.
    """
    microseconds = round(window * 1e6)
    of_window = {"fixed_window": 0, "sliding_window": 7}
    parts = of_window.get(algorithm, -1)
    step = step_ns if parts < 0 else -(-microseconds // (parts or 1))
    identity = b"%b\n%d\n%d:%b" % (algorithm.encode(), microseconds, len(name), name)
    return Asking(f"{prefix}:limit:".encode(), identity, b"%d" % depth, b"%d" % step, b"%d" % parts)


@final
class _Question:
    __slots__ = ("answer", "late_at", "words")

    def __init__(self, words: tuple[bytes, ...], late_at: float, answer: Awaited | None) -> None:
        self.words, self.late_at, self.answer = words, late_at, answer

    def settle(self, answer: Answer | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)


@final
class StateLimits:
    """The limits of `state`, in one worker. It exists as long as a filter uses it."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._server, self._timeout = url, server_of(url), timeout
        self._users = 0
        self._loop: Any = None
        self._pipe: Pipe | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: deque[_Question] = deque()
        self._sent: deque[_Question] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_flushing = self._is_trusted = False
        self._again_s = AGAIN_S
        self._is_outage_logged = False  # for the log
        self._steady: asyncio.TimerHandle | None = None  # until the recovery is logged
        self.away = ""
        """Reason why Redis is not used; "" = it is used."""

    def __repr__(self) -> str:
        state = "away" if self.away else "connecting" if self._pipe is None else "connected"
        return f"<StateLimits at {self._server}: {state}, {len(self._sent)} asked>"

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

    def send_command(self, words: tuple[bytes, ...]) -> Awaited | None:
        """Send a call. None, at once or later: Redis is unreachable."""
        if not self._may_ask:
            return None
        answer: Awaited = self._loop.create_future()
        self._enqueue(_Question(words, self._loop.time() + self._timeout, answer))
        return answer

    def send_without_reply(self, words: tuple[bytes, ...]) -> bool:
        """Send a call without waiting for its result. False: Redis is unreachable."""
        if not self._may_ask:
            return False
        self._enqueue(_Question(words, self._loop.time() + self._timeout, None))
        return True

    def _enqueue(self, question: _Question) -> None:
        self._unsent.append(question)
        if self._timer is None:
            self._timer = self._loop.call_at(question.late_at, self._check_deadline)
        if not self._is_flushing and self._pipe is not None:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._pipe is not None and self._unsent:
            questions = tuple(self._unsent)
            self._unsent.clear()
            self._sent.extend(questions)
            self._pipe.send(
                [packed(b"EVALSHA", DIGEST, *question.words) for question in questions],
                [self._response_received] * len(questions),
            )

    def _response_received(self, answer: Any) -> None:
        question = self._sent.popleft()
        if type(answer) is list and [type(each) for each in answer] == _ANSWERED:
            self._is_trusted = True
            self._again_s = AGAIN_S
            question.settle(answer)
        elif str(answer).startswith("NOSCRIPT") and self._pipe is not None:  # its scripts were flushed
            self._sent.append(question)
            self._pipe.send([packed(b"EVAL", SCRIPT.encode(), *question.words)], [self._response_received])
        else:
            question.settle(None)
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
        late_at = min(question.late_at for question in first)  # repeated calls come after later ones
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
                "limits: the Redis at %s is unreachable: %s; it is not queried until it is reachable again",
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
        waiting: Iterable[_Question] = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        for question in waiting:
            question.settle(None)

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
                    "limits: a defect while the Redis at %s is connected to",
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
                load = b"SCRIPT", b"LOAD", SCRIPT.encode()
                pipe = await opened(self._url, max(TIMEOUT_S, self._timeout), self._connection_lost, load)
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

    def _tell_back(self) -> None:
        """Log the recovery only after a while: an unstable Redis, or one with invalid responses, would fill the log."""
        self._steady, self._is_outage_logged = None, False
        log_event(OperatorEvent.STATE_BACK, "limits: the Redis at %s is reachable again", self._server)
