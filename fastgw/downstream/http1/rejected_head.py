"""Rejected head: stand-in for a request that could not be parsed, so that its rejection is answered and logged like any
other.

Its content is for the log only: the request is rejected in any case.
"""

import re
from collections.abc import Callable
from typing import Final, final

from fastgw.http.field_names import READ_IN_REQUESTS
from fastgw.http.fields import Fields
from fastgw.http.http1.known_fields import values_in

MOST: Final = 8192
"""Maximum bytes of the request that are inspected."""
_LINE: Final = re.compile(rb"([!-~]{1,32}) ([^ \r\n]*)")
# Up to the last `@`: the end of the authority is unknown here, and a password may contain any character.
_USERINFO: Final = re.compile(rb"\A((?:[^/@]*:)?//|(?!/))[^ ]*@")


@final
class RejectedHead:
    """Stand-in for the received bytes, which may be empty (`messages.RequestHead`). None of its fields is processed."""

    __slots__ = ("_fields", "method", "query", "raw", "raw_path", "received_s", "version")

    authority = host = host_as_sent = path = request_target = scheme = connect_protocol = b""
    upgrade: tuple[bytes, ...] = ()
    payload = None
    body_length = 0
    expects_continue = accepts_trailers = forwarded = made = ordinary = path_as_sent = sized = False

    def __init__(self, received: bytes, version: int = 11) -> None:
        self.raw = received[:MOST] + b"\r\n"
        line = _LINE.match(self.raw)
        self.method, target = line.groups() if line else (b"", b"")
        self.raw_path, asked, query = _USERINFO.sub(rb"\1***@", target).partition(b"?")
        self.query = query if asked else None
        self.received_s = 0.0
        self.version = version
        self._fields: Fields | None = None

    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = self.received_fields()
        return self._fields

    def edited(self) -> Fields | None:
        return self._fields if self._fields is not None and self._fields.changed else None

    def first(self, name: bytes) -> bytes | None:
        return next(iter(self.values(name)), None)

    field = first

    def values(self, name: bytes) -> list[bytes]:
        if self._fields is not None:
            return self._fields.get_all(name)
        return [] if name in READ_IN_REQUESTS else [*values_in(self.raw, name, self.raw.find(b"\n"))]

    def received_fields(self) -> Fields:
        return Fields.parse(self.raw, self.raw.find(b"\n") + 1)

    def received_values(self, name: bytes) -> list[bytes]:
        return []

    def received_names(self) -> set[bytes]:
        return {name for name, _ in self.received_fields()}

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        return search(self.raw) is not None

    def drop_payload(self) -> None: ...
