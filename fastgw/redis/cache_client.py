"""A Redis behind aiocache. This module needs the extra `fastgw[redis]`; nothing imports it but what is configured."""

from contextlib import suppress
from typing import Any, Final

from aiocache import RedisCache
from aiocache.serializers import NullSerializer
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

ERRORS: Final = (OSError, RedisError)
MOST_CONNECTIONS: Final = 32
"""Most connections of one worker."""


def opened(host: str, port: int, database: int, tls: bool, username: str, password: str, timeout: float) -> RedisCache:
    """Connects when it is first asked. It holds bytes as they are, and has no time limit of its own for an answer."""
    more: dict[str, Any] = {"username": username} if username else {}
    return RedisCache(
        endpoint=host,
        port=port,
        db=database,
        password=password or None,
        ssl=tls,
        pool_max_size=MOST_CONNECTIONS,
        connection_pool_class=BlockingConnectionPool,
        connection_pool_kwargs=more | {"timeout": timeout},
        create_connection_timeout=timeout,
        serializer=NullSerializer(encoding=None),
        timeout=None,
    )


async def close(cache: RedisCache) -> None:
    with suppress(*ERRORS):
        await cache.client.aclose()
        await cache.client.connection_pool.disconnect()
