"""The Redis of `state`, if it answers but cannot be used: a start or a reload with it is refused.

One that does not answer is not refused: the gateway serves without it, and uses it once it is reachable.
"""

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from typing import Final

from fastgw.config import Config, Loaded
from fastgw.config.loading.locate_setting import UnusableSetting
from fastgw.config.settings.secrets import SecretError, secret_in

CONNECT_S: Final = 1.0
"""Timeout of the connection."""
WAIT_S: Final = 5.0
"""Maximum time for which a start waits, whatever the system's resolver does."""


def unusable_state(loaded: Loaded, before: Config | None = None) -> Iterator[UnusableSetting]:
    """Yield `state.url` if its server cannot be used. `before`: configuration whose server has been checked.

    Without it no other thread may run: the connection is made in a child process, because the resolver may hang.
    """
    state = loaded.config.state
    if state is None or (before is not None and before.state == state):
        return
    held, files = state.url, loaded.captured
    try:
        url = secret_in(held.file, files[held.file]) if held.file in files else held.value()
    except SecretError:
        return  # reported where it is used
    if why := _why_unusable(url) if before is not None else _why_in_child(url):
        yield UnusableSetting(("state", "url"), why)


def _why_unusable(url: str) -> str:
    """Connect, and return the reason why the server cannot be used. "": there is none, or it does not answer."""
    from fastgw.redis.pipelined_connection import ERRORS, UnsupportedMode, opened

    async def connect() -> None:
        (await opened(url, CONNECT_S, lambda why: None)).close()

    try:
        asyncio.run(connect())
    except UnsupportedMode as error:
        return str(error.strerror)
    except ERRORS:
        pass
    return ""


def _why_in_child(url: str) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, _why_unusable(url).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        said = os.read(reading, select.PIPE_BUF) if select.select([reading], [], [], WAIT_S)[0] else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said.decode()
