"""Values that all nodes share until they expire or are ended, in the Redis of `state`, such as sessions of browsers.

A value can be in indexes, by which all of them are ended at once. Needs the extra `fastgw[redis]`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, final

from fastgw.redis.availability import Unreachable
from fastgw.redis.script_client import ScriptClient

_SCRIPT: Final = b"""
local what = ARGV[1]
if what == 'get' then
  local value = redis.call('GET', KEYS[1])
  return value and {1, value} or {0}
end
if what == 'put' then
  local ttl, time = tonumber(ARGV[3]), redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)
  for at = 2, #KEYS do
    redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', now)
    redis.call('ZADD', KEYS[at], now + ttl, KEYS[1])
    if redis.call('PTTL', KEYS[at]) < ttl then redis.call('PEXPIRE', KEYS[at], ttl) end
  end
  return {1}
end
if what == 'retire' then
  if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return {1}
end
for at = 1, #KEYS do
  if what == 'end' then
    for _, name in ipairs(redis.call('ZRANGE', KEYS[at], 0, -1)) do redis.call('DEL', name) end
  end
  redis.call('DEL', KEYS[at])
end
return {1}
"""


@final
class StateSessions(ScriptClient):
    """Stored values, in one worker."""

    _passing = ("OOM", "READONLY", "MISCONF", "WRONGTYPE", "MASTERDOWN", "LOADING")

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url, timeout, _SCRIPT, "sessions")

    async def value(self, name: bytes) -> bytes | None:
        """Return a value; None: there is none. Raises `Unreachable`."""
        answer = await self._answer((name,), b"get")
        return answer[1] if answer[0] else None

    async def store_value(self, name: bytes, value: bytes, lifetime: float, indexes: Sequence[bytes]) -> None:
        """Store a value for these seconds, in these indexes. Raises `Unreachable`."""
        await self._answer((name, *indexes), b"put", value, b"%d" % (1000 * lifetime))

    def retire(self, name: bytes, seconds: float) -> None:
        """Keep a value for at most these seconds more."""
        self._send((name,), b"retire", b"%d" % (1000 * seconds))

    def delete(self, name: bytes) -> None:
        self._send((name,), b"delete")

    def end(self, indexes: Sequence[bytes]) -> None:
        """Delete all values in these indexes."""
        self._send(indexes, b"end")

    def _send(self, keys: Sequence[bytes], *arguments: bytes) -> None:
        """Send a call without waiting for it. It is lost while Redis is unreachable: values expire by themselves."""
        self.call_script((b"%d" % len(keys), *keys, *arguments), None)

    async def _answer(self, keys: Sequence[bytes], *arguments: bytes) -> list[Any]:
        answer = asyncio.get_running_loop().create_future()

        def answered(said: Any) -> None:
            if not answer.done():
                answer.set_result(said)

        sent = self.call_script((b"%d" % len(keys), *keys, *arguments), answered)
        said: list[Any] | None = await answer if sent else None
        if said is None:
            raise Unreachable(f"the Redis at {self.server}: {self.away or 'it did not store or return the session'}")
        return said

    def _is_expected(self, answer: Any) -> bool:
        return type(answer) is list and len(answer) in (1, 2) and answer[0] in (0, 1)
