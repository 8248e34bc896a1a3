"""Error messages of Redis for people. Its own text is not shown, because it may contain parts of the command."""

import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_CLUSTER: Final = (
    "it is a node of a Redis Cluster, which is not supported; expected the URL of a Redis without `cluster-enabled`"
)
UNSUPPORTED_MODES: Final[Mapping[bytes, str]] = MappingProxyType(
    {
        b"cluster": _CLUSTER,
        b"sentinel": "it is a Redis Sentinel, which has no keys; expected the URL of the server that it monitors",
    }
)
"""What is wrong with a server, by its `mode` in the response to HELLO."""
_MESSAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "WRONGPASS": "the user or password of the URL is wrong",
        "NOAUTH": "it requires a password, and the URL has none",
        "NOPERM": "the user of the URL lacks permissions",
        "LOADING": "it is loading its data",
        "READONLY": "it is a read-only replica",
        "MISCONF": "it rejects writes: it cannot persist its data",
        "MASTERDOWN": "it is a replica that has lost its master",
        "CLUSTERDOWN": "its cluster is down",
        "MOVED": _CLUSTER,
        "OOM": "it is out of memory",
        "BUSY": "it is busy with a script",
    }
)
"""Meanings of Redis errors, by their first word."""
_RAISED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AuthenticationError": "WRONGPASS",
        "NoPermissionError": "NOPERM",
        "BusyLoadingError": "LOADING",
        "ReadOnlyError": "READONLY",
        "OutOfMemoryError": "OOM",
    }
)
"""Exception classes of redis-py, which removes that word."""
_NO_PASSWORD_THERE: Final = ("AUTH", "without any password")


def in_words(error: object) -> str:
    """Return a message. `error`: an exception of a client, or an error response."""
    text, name = str(error), type(error).__name__
    code = _RAISED.get(name, text.partition(" ")[0])
    if text.startswith("Authentication required"):
        code = "NOAUTH"
    if name == TimeoutError.__name__:
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ConnectionError):
        return "the connection was closed"
    if isinstance(error, OSError):
        return error.strerror or name
    if name == ConnectionError.__name__:  # redis-py does not report the cause
        return "connecting to it failed"
    if code in _MESSAGES:
        return _MESSAGES[code]
    if code == "ERR" and all(part in text for part in _NO_PASSWORD_THERE):
        return "the URL has a password, but it requires none"
    if code == "ERR" and "DB index" in text:
        return "the database number of the URL does not exist"
    return f"it answers {code}" if code.isupper() and code.isascii() else name
