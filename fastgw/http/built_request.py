"""A request that the gateway makes itself: the same interface as a received request, without received bytes."""

from collections.abc import Callable, Iterable
from typing import final

from fastgw.http.authority import NO_AUTHORITY, parse_authority
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import Fields
from fastgw.http.grammar import IS_TOKEN
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize


@final
class BuiltRequestHead:
    """Head of a request made by the gateway (`messages.RequestHead`).

    `authority`: b"": that of the target which it is sent to. `target`: path and query. `body_length`: bytes of its
    body; None: unknown until its end. `accepts_trailers`: it is sent with `TE: trailers`. Raises `Malformed` or
    `ValueError` for an invalid method, authority, target or field, and for fields that the gateway sets itself.
    """

    __slots__ = (
        "_fields",
        "_received",
        "accepts_trailers",
        "authority",
        "body_length",
        "host",
        "host_as_sent",
        "method",
        "path",
        "query",
        "raw_path",
        "request_target",
        "sized",
    )

    version = 11
    scheme = b""
    upgrade = ()
    connect_protocol = b""
    payload = None
    received_s = 0.0
    expects_continue = ordinary = forwarded = False

    def __init__(
        self,
        method: bytes,
        authority: bytes,
        target: bytes,
        fields: Iterable[tuple[bytes, bytes]] = (),
        body_length: int | None = 0,
        accepts_trailers: bool = False,
    ) -> None:
        if not IS_TOKEN(method):
            raise Malformed("The method is not a token.")
        if any(not 0x21 <= byte <= 0x7E for byte in target):
            raise Malformed("The target has a character that no URL has.")
        at = parse_authority(authority) if authority else NO_AUTHORITY
        path, has_query, query = target.partition(b"?")
        self.method, self.request_target = method, target
        self.authority, self.host, self.host_as_sent = at.text, at.host, authority.removesuffix(b":")
        self.raw_path, self.path = path, normalize(path)
        self.query = query if has_query else None
        self.body_length = body_length
        self.accepts_trailers = accepts_trailers
        self.sized = bool(body_length) or (body_length == 0 and method in (b"POST", b"PUT", b"PATCH"))
        self._fields = Fields(fields)
        for name, _ in self._fields:
            if name.lower() in WRITTEN_HERE:
                raise ValueError(f"the header {name.decode('latin-1')} is written by the gateway")
        self._received = self._fields.copy()

    def __repr__(self) -> str:
        return f"<BuiltRequestHead {self.method.decode('ascii')}>"

    @property
    def path_as_sent(self) -> bool:
        return self.raw_path == self.path

    def fields(self) -> Fields:
        return self._fields

    edited = fields

    def first(self, name: bytes) -> bytes | None:
        return self._fields.get(name)

    field = first

    def values(self, name: bytes) -> list[bytes]:
        return self._fields.get_all(name)

    def received_fields(self) -> Fields:
        return self._received.copy()

    def received_values(self, name: bytes) -> list[bytes]:
        return self._received.get_all(name)

    def received_names(self) -> set[bytes]:
        return {name for name, _ in self._received}

    def any_line(self, search: Callable[[bytes], object]) -> bool:
        return search(b"\r\n" + self._received.render()) is not None

    def drop_payload(self) -> None: ...
