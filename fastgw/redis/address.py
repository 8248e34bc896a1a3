"""Address of the Redis of a second-level cache, validated without connecting."""

import re
from importlib.util import find_spec
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

_IS_NUMBER: Final = re.compile("[0-9]{1,9}").fullmatch


class RedisAddress(NamedTuple):
    """Address of a Redis. `password`: "" for none; it is a secret."""

    host: str
    port: int
    database: int
    tls: bool
    username: str
    password: str

    def __repr__(self) -> str:
        return f"<Redis at {self.host}:{self.port}/{self.database}>"


def parse_redis(url: str) -> RedisAddress:
    """Parse `redis://[[user]:password@]host[:port][/database]`; `rediss://` for TLS. Raises `ValueError`, without the
    URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", 6379 if parts.port is None else parts.port
        database = parts.path.removeprefix("/") or "0"
    except ValueError:
        host, port = "", 0
    if (
        not (host and port)
        or parts.scheme not in ("redis", "rediss")
        or parts.query
        or parts.fragment
        or not _IS_NUMBER(database)
    ):
        raise ValueError("not a URL such as redis://:password@host:6379/0")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    return RedisAddress(host, port, int(database), parts.scheme == "rediss", username, password)


def check_redis(url: str) -> None:
    """Check the URL. Raises `ValueError`, without the URL, if it is not supported."""
    parse_redis(url)
    if find_spec("redis") is None:
        raise ValueError("the package redis is missing; pip install 'fastgw[redis]'")
