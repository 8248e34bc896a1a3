"""Rate limits by key, exact for all nodes: counted in the Redis of `state`, by one script that gets the limit with each
call. Its semantics are those of `rate_limit_table`: the same buckets, windows and parts of windows, by the clock of
Redis.

A key is a string there, under a hash, and expires when it is fully replenished:
- bucket: an instant, and the ns by which the bucket was short of full then, which nodes of different limits share;
- window: the last part in which anything was spent, its count and those of the parts before it.

While Redis is unreachable (`ScriptClient`), earlier calls may still have been counted there; no request is admitted
twice for them.
"""

import asyncio
from hashlib import blake2b
from typing import Any, Final, NamedTuple, final

from fastgw.redis.script_client import ScriptClient
from fastgw.shm.rate_limit_table import COUNT_MAX

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
