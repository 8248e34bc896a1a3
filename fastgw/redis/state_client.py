"""The Redis that nodes share their state in. This module needs the extra `fastgw[redis]`; nothing imports it but what
is configured. What a URL says is told by `redis.url`, without it.
"""

from contextlib import suppress
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

ERRORS: Final = (OSError, RedisError)
"""Errors that every use may raise; a timeout is an `OSError` or a `RedisError`."""


def opened(url: str, patience: float, connections: int = 8) -> Redis:
    """Connects when it is first asked; knows bytes alone, and tries nothing twice.

    `patience`: seconds for a connect, and for each answer. `connections`: so many at most; more raise.
    """
    return Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        max_connections=connections,
        retry=Retry(NoBackoff(), 0),
    )


async def close(client: Redis) -> None:
    with suppress(*ERRORS):
        await client.aclose()
