"""Tunnel inspected by a filter: it sits between the two sides of an exchange after the upstream has sent 101. Or that
of an action that is itself the other end.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.reply import Reply, Response


class Tunnel(Protocol):
    """Result of a `tunnel` hook. It becomes `service` and `response_sink` of the exchange."""

    def start(self, exchange: "Exchange", early: bytes) -> bytes:
        """Insert the tunnel between the two sides; return the data for the client from the upstream's first bytes."""

    def established(self) -> None:
        """Notify that the tunnel is established: bytes pass in both directions."""

    def pause_client(self) -> None:
        """Hold the client back (`ClientSide.pause_tunnel`): the upstream accepts no more. May be called again."""

    def resume_client(self) -> None:
        """Handle that the upstream accepts data again."""

    def drain(self) -> None:
        """Close soon, in the way of the tunnel's protocol, because the worker drains."""

    def end_idle(self) -> None:
        """Close soon, in the way of the tunnel's protocol, because of `timeouts.tunnel_idle`. Not called again."""

    def summary(self) -> dict[str, object]:
        """Return its summary for the access log."""


TunnelStep: TypeAlias = "Callable[[Exchange, Response], Tunnel | Reply | None]"
