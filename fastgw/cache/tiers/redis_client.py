"""Connection of a process to the Redis of its cache tiers. Needs the extra `fastgw[redis]`."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import hiredis

from fastgw.cache.tiers.redis_script import SCRIPT
from fastgw.redis.pipelined_connection import Pipe
from fastgw.redis.script_client import ScriptClient
from fastgw.redis.url import RedisSource

_RUN_ID: Final = b"run_id:"
_EPOCH_BYTES: Final = 16


@final
class CacheRedis(ScriptClient):
    """Calls of `redis_script` for all tiers of a process. `connected`: called after each new connection."""

    _passing = ("OOM", "READONLY", "MISCONF", "WRONGTYPE")

    def __init__(self, source: RedisSource, connected: Callable[[], None]) -> None:
        super().__init__(source.url, source.timeout, SCRIPT.encode(), "cache")
        self.prefix = source.prefix.encode()
        self._run_id = b""
        self._connected = connected  # type: ignore[method-assign]

    @property
    def is_connected(self) -> bool:
        return self._pipe is not None

    def run_script(
        self, keys: Sequence[bytes], what: bytes, arguments: Sequence[bytes], answered: Callable[[Any], None]
    ) -> bool:
        """Call the script; see `ScriptClient.call_script`. There is no call without a connection: its
        arguments name the process of Redis that it leads to.
        """
        words = b"%d" % len(keys), *keys, what, self._run_id, os.urandom(_EPOCH_BYTES), *arguments
        return self._pipe is not None and self.call_script(words, answered)

    def _is_expected(self, answer: Any) -> bool:
        return type(answer) is list and [type(each) for each in answer[:3]] == [bytes, int, int]

    async def _begin_connection(self, pipe: Pipe) -> None:
        answer = await pipe.execute(b"INFO", b"server")
        lines = answer.splitlines() if isinstance(answer, bytes) else ()
        found = next((line for line in lines if line.startswith(_RUN_ID)), b"")
        if not found:
            raise hiredis.ProtocolError("INFO has no run_id")
        self._run_id = found.removeprefix(_RUN_ID)
