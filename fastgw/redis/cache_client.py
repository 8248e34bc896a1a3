"""A Redis behind aiocache. This module needs the extra `fastgw[redis]`; it is imported only if configured."""

from contextlib import suppress
from typing import Any, Final

from aiocache import RedisCache
from aiocache.serializers import NullSerializer
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

ERRORS: Final = (OSError, RedisError)
MOST_CONNECTIONS: Final = 32
"""Maximum number of connections of one worker."""


def opened(host: str, port: int, database: int, tls: bool, username: str, password: str, timeout: float) -> RedisCache:
    """Return a client that connects on first use. It stores bytes unchanged, and has no timeout of its own."""
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
