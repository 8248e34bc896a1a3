"""Response heads as caching reads them: of the upstream, of the store, or merged."""

from typing import Protocol

from fastgw.http.fields import Fields


class ReceivedHead(Protocol):
    """Response head, without its framing. `messages.ResponseHead` is one."""

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> bytes: ...

    def fields(self) -> Fields: ...

    def first(self, name: bytes) -> bytes | None: ...

    def values(self, name: bytes) -> list[bytes]: ...
