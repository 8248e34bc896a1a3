"""Response taker: a filter takes part in the forwarding of an exchange, and stores the response as it passes.

It sees the response once that was received as a whole. As soon as more happens (the response arrives in pieces, the
request is sent again, the client leaves), the filter takes the exchange over, as if it had done so by its `translate`
hook, and the forwarding goes on for the request that it sends.
"""

from typing import TYPE_CHECKING, Protocol

from fastgw.http.messages import ResponseHead

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange


class ResponseTaker(Protocol):
    """A filter's part in the forwarding of one exchange (`Forward.send_for`)."""

    @property
    def dropped(self) -> frozenset[bytes]:
        """Lower-case names of the client's headers that are not sent to the upstream."""

    def take_response(self, head: ResponseHead) -> bool:
        """Handle a response that was received as a whole, as the upstream has sent it; the response steps run next.
        False: the filter has to take the exchange over.
        """

    def take_over(self, exchange: "Exchange") -> "Exchange":
        """Take the exchange of the client over. Returns the exchange of the request that was sent, or will be: its
        response is the filter's.
        """
