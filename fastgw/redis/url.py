"""URL of the Redis of `state`, validated without connecting."""

from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit


class RedisSource(NamedTuple):
    """The Redis of `state`. `url`: it may have a password. `prefix`: of all keys; `timeout`: seconds for an answer."""

    url: str
    prefix: str
    timeout: float

    def __repr__(self) -> str:
        return f"<Redis of {self.prefix}>"


def server_of(url: str) -> str:
    """Return the address in a URL, for people, without password. Raises `ValueError`, without parts of the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", 6379 if parts.port is None else parts.port
    except ValueError:
        host, port, parts = "", 0, urlsplit("")
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return f"unix:{parts.path}"
    database = parts.path.removeprefix("/")
    if parts.scheme not in ("redis", "rediss") or not host or not port or (database and not database.isdecimal()):
        raise ValueError("not a URL such as redis://:password@host:6379/0")
    return f"{host}:{port}"


def check_url(url: str) -> None:
    """Check the URL. Raises `ValueError` if it is not supported."""
    server_of(url)
    if find_spec("redis") is None or find_spec("hiredis") is None:
        raise ValueError("the package redis is missing; pip install 'fastgw[redis]'")
