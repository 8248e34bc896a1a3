"""The counters of an exchange that its filters and its client side use while it lasts."""

from typing import TYPE_CHECKING, Final, Protocol, final

from fastgw.observe.metrics.families import FilterEvent

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange


class ExchangeCounts(Protocol):
    """Counters of this worker, as an exchange and its filters use them."""

    def count_filter(self, instance: str, event: FilterEvent, /) -> None:
        """Count the result of a filter."""

    def count_refusal(self, exchange: "Exchange", instance: str, /) -> None:
        """Count a request that a filter has refused, by the consumer of the exchange."""

    def count_shadow_decision(self, exchange: "Exchange", instance: str, decision: FilterEvent, /) -> None:
        """Count the decision of a filter in shadow mode, by the route of the exchange."""

    def count_subrequest(self, exchange: "Exchange", status: int, /) -> None:
        """Count a completed sub-request for its upstream. `status`: 0 if the response is incomplete."""

    def count_websocket(self, exchange: "Exchange", side: int, what: int, count: int, /) -> None:
        """Count messages of a kind (`WebsocketMessage`) that a side (`WebsocketSide`) has sent, or its close code."""

    def count_content_coding(
        self, exchange: "Exchange", operation: int, coding: int, bytes_in: int, bytes_out: int, /
    ) -> None:
        """Count the bytes of a body before and after a `CodingOperation` with a `ContentCoding`."""


@final
class _NoCounts:
    def count_filter(self, instance: str, event: FilterEvent, /) -> None: ...
    def count_refusal(self, exchange: "Exchange", instance: str, /) -> None: ...
    def count_shadow_decision(self, exchange: "Exchange", instance: str, decision: FilterEvent, /) -> None: ...
    def count_subrequest(self, exchange: "Exchange", status: int, /) -> None: ...
    def count_websocket(self, exchange: "Exchange", side: int, what: int, count: int, /) -> None: ...
    def count_content_coding(
        self, exchange: "Exchange", operation: int, coding: int, bytes_in: int, bytes_out: int, /
    ) -> None: ...


NO_COUNTS: Final[ExchangeCounts] = _NoCounts()
"""Counters that count nothing, for exchanges that no client waits for, such as those of `explain`."""
