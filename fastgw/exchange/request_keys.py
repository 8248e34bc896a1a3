"""Request keys: values of requests for rate limits, sticky sessions and consistent hashing."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from fastgw.config.base.value_types import Trait
from fastgw.consumers.index import Consumer
from fastgw.http.messages import RequestHead
from fastgw.routing import requirements


class Traits(Protocol):
    """An exchange, or a request on the fast path, for which only the request itself is known."""

    @property
    def head(self) -> RequestHead: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def consumer(self) -> Consumer | None: ...


Reader = Callable[[Any], bytes]
"""Function that returns the value of a key in a request; b"" if it is absent or ambiguous."""


def reader(trait: Trait) -> Reader:
    """Return a reader for a key that is a part of the request, or its consumer."""
    if trait.kind == "header":
        return _field(trait.name.encode())
    if trait.kind == "cookie":
        return _cookie(trait.name.encode())
    return _PLAIN[trait.kind]


def cookies_named(head: RequestHead, name: bytes) -> list[bytes]:
    """The values of all cookies of this name."""
    return [*requirements.cookies_named(name, head.values(b"cookie"))]


def cookie(head: RequestHead, name: bytes) -> bytes:
    """The value of a cookie; b"" if there is none, or if several of this name have different values."""
    found = b""
    for value in cookies_named(head, name):
        if found and value != found:
            return b""
        found = value
    return found


def _field(name: bytes) -> Reader:
    def read(asked: Traits) -> bytes:
        values = asked.head.values(name)
        return values[0] if len(values) == 1 else b""

    return read


def _cookie(name: bytes) -> Reader:
    return lambda asked: cookie(asked.head, name)


def _ip(asked: Traits) -> bytes:
    return asked.client_ip.encode()


def _host(asked: Traits) -> bytes:
    return asked.head.host


def _consumer(asked: Traits) -> bytes:
    return b"" if asked.consumer is None else asked.consumer.name.encode()


_PLAIN: Final[Mapping[str, Reader]] = {"ip": _ip, "host": _host, "consumer": _consumer}
