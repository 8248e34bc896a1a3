"""Rate limits by key, exact for all nodes: counted in the Redis of `state`, by one script that gets the limit with each
call. Its semantics are those of `rate_limit_table`: the same buckets, windows and parts of windows, by the clock of
Redis.

A key is a string there, under a hash, and expires when it is fully replenished:
- bucket: an instant, and the ns by which the bucket was short of full then, which nodes of different limits share;
- window: for each part of which permits still count, when the last of them leaves the window, and their number.

While Redis is unreachable (`ScriptClient`), earlier calls may still have been counted there; no request is admitted
twice for them.
"""

import asyncio
from hashlib import blake2b
from typing import Any, Final, NamedTuple, final

from fastgw.redis.script_client import ScriptClient
from fastgw.shm.rate_limit_table import COUNT_MAX, SLIDING_MAX, part_length

CLOCK: Final = "local told = redis.call('TIME')\nlocal now = told[1] * 1000000 + told[2]"
SCRIPT: Final = (
    CLOCK
    + f"\nlocal COUNT_MAX, SLIDING_MAX = {COUNT_MAX}, {SLIDING_MAX}"
    + """
local what, limit, step, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local cost, mark = tonumber(ARGV[5]), tonumber(ARGV[6])
local raw = redis.call('GET', KEYS[1])
local function keep(state, microseconds)
  redis.call('SET', KEYS[1], state, 'PX', string.format('%.0f', math.ceil(microseconds / 1000) + 1))
end
local wait = 0
if window < 0 then -- a bucket; `step`: ns
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
step = step / 1000 -- a window; `step`: of a part; `window`: us for which a permit of a sliding one counts, 0: fixed
local function leaves_at(at) return window > 0 and at + window or (math.floor(at / step) + 1) * step end
local function part(at) return math.floor((at - 0.001) / step) end
local leaves = leaves_at(now)
local ends, counts, last, spent, is_set_back = {}, {}, 0, 0, false
for at = 1, raw and #raw % 12 == 0 and #raw or 0, 12 do
  local till, count = struct.unpack('>dI4', raw, at)
  if till > leaves then -- the clock was set back: as spent now
    till, is_set_back = leaves, true
  end
  if till > now then
    last, spent = last + 1, spent + count
    ends[last], counts[last] = till, count
  end
end
local newest = last > 0 and part(ends[last]) or -1
if what == 's' then
  for age = 1, last do -- the oldest permits leave first
    if spent + cost <= limit then break end
    wait, spent = ends[age] - now, spent - counts[age]
  end
elseif what == 'c' then
  cost = math.max(math.min(cost, math.min(2 * limit, window > 0 and SLIDING_MAX or COUNT_MAX) - spent), 0)
else
  cost, leaves = newest == part(leaves_at(mark)) and -math.min(cost, counts[last]) or 0, ends[last]
end
if wait == 0 and cost ~= 0 then
  if newest ~= part(leaves) then last, counts[last + 1] = last + 1, 0 end
  ends[last], counts[last] = leaves, counts[last] + cost
end
spent, leaves = 0, now
local packed = {}
for age = 1, last do
  spent = spent + counts[age]
  if counts[age] > 0 then
    leaves = ends[age]
    packed[#packed + 1] = struct.pack('>dI4', leaves, counts[age])
  end
end
if (wait == 0 and cost ~= 0) or is_set_back then
  if spent == 0 then redis.call('DEL', KEYS[1]) else keep(table.concat(packed), leaves - now) end
end
return {wait, math.max(limit - spent, 0), leaves - now, now, 0}
"""
)

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
    window: bytes

    def question(self, what: bytes, key: bytes, cost: int, mark: int = 0) -> tuple[bytes, ...]:
        name = blake2b(self.identity + key, digest_size=16).hexdigest().encode()
        arguments = (what, self.limit, self.step, self.window, b"%d" % cost, b"%d" % mark)
        return b"1", self.prefix + name, *arguments


def asking(prefix: str, algorithm: str, window: float, depth: int, step_ns: int, name: bytes) -> Asking:
    """Return the arguments. `depth`, `step_ns`: of a bucket: burst, and ns between two permits. `name`: of the
    limit.
    """
    microseconds = round(window * 1e6)
    ns = 1000 * microseconds
    of_window = {"fixed_window": (ns, 0), "sliding_window": (part_length(ns), microseconds)}
    step, sliding = of_window.get(algorithm, (step_ns, -1))
    identity = b"%b\n%d\n%d:%b" % (algorithm.encode(), microseconds, len(name), name)
    return Asking(f"{prefix}:limit:".encode(), identity, b"%d" % depth, b"%d" % step, b"%d" % sliding)


@final
class StateLimits(ScriptClient):
    """The limits of `state`, in one worker. It exists as long as a filter uses it."""

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url, timeout, SCRIPT.encode(), "limits")

    def send_command(self, words: tuple[bytes, ...]) -> Awaited | None:
        """Send a call. None, at once or later: Redis is unreachable."""
        answer: Awaited = asyncio.get_running_loop().create_future()

        def answered(said: Any) -> None:
            if not answer.done():
                answer.set_result(said)

        return answer if self.call_script(words, answered) else None

    def send_without_reply(self, words: tuple[bytes, ...]) -> bool:
        """Send a call without waiting for its result. False: Redis is unreachable."""
        return self.call_script(words, None)

    def _is_expected(self, answer: Any) -> bool:
        return type(answer) is list and [type(each) for each in answer] == _ANSWERED
