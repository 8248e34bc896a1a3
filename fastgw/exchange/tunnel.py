"""A tunnel that a filter looks into: it stands between the two sides of an exchange once the upstream has switched."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.reply import Reply, Response


class Tunnel(Protocol):
    """Result of a `tunnel` hook. It becomes `service` and `response_sink` of the exchange."""

    def begin(self, exchange: "Exchange", early: bytes) -> bytes:
        """Stand between the two sides; return what the client gets of the first bytes of the upstream."""

    def begun(self) -> None:
        """The tunnel stands: bytes go both ways."""

    def drain(self) -> None:
        """The worker drains: end soon, in the way of the protocol."""

    def summary(self) -> dict[str, object]:
        """Return what the access log shows of it."""


TunnelStep: TypeAlias = "Callable[[Exchange, Response], Tunnel | Reply | None]"
