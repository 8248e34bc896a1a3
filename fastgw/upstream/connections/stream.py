"""Stream of an upstream connection: one request and its response, whatever protocol carries them.

A borrower gets a stream from the pool (`Pool.lend`), begins a request on it and is told what comes back. Rule 1: it
ends its use exactly once, by `release` or by `cancel`; after `on_failure` the stream is over already. Rule 2: after the
last call of a listener (`on_end`, `on_failure`, or `on_head` with `ended`) nothing more is told to it.
"""

from collections.abc import Sequence
from typing import Protocol

from fastgw.errors import Fault
from fastgw.exchange import Trailers
from fastgw.http.messages import ResponseHead
from fastgw.upstream.targets.target import Target


class BodyListener(Protocol):
    """Listener to a response behind its head."""

    def on_data(self, payload: bytes) -> None:
        """More of the body came."""

    def on_end(self, trailers: Trailers) -> None:
        """All of the response has come."""

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        """Report that the stream broke; there is nothing left to release.

        `silent`: before any byte of a response. `why`: for the log; may be empty.
        """


class HeadListener(Protocol):
    """Listener to a response until its head has come; a body is told to whom it hands over (`hand_over`)."""

    def on_interim(self, head: ResponseHead) -> None:
        """An interim response came (1xx other than 101)."""

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        """The final response's head came, with the first of its body; `ended`: with all of it.

        `payload`: None where all of the body is in `head.payload`.
        """

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        """Report that the stream broke, as `BodyListener.on_failure` says."""


class ResponseListener(HeadListener, BodyListener, Protocol):
    """Listener to a whole response."""


class TunnelListener(Protocol):
    """Listener to what comes instead of a response, where an upgrade was offered and is accepted.

    That the tunnel broke is told by `on_failure` of the response's listener.
    """

    def on_switch(self, head: ResponseHead, early: bytes) -> None:
        """The target has accepted (101). `early`: bytes behind the head, of the other protocol."""

    def on_tunnel_data(self, chunk: bytes) -> None: ...

    def on_tunnel_end(self) -> None:
        """The target will send no more; the other direction may go on."""


class RequestSource(Protocol):
    """Source of a request's body, or of what goes into a tunnel: it waits while the target takes no more."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class SocketEnd(Protocol):
    """End of a plain socket on the client's side, so that bodies are read in pieces that the other side has room for.

    `fd`: its descriptor; -1: none. `body_goes_to`: the descriptor that takes what is read here.
    """

    @property
    def fd(self) -> int: ...

    body_goes_to: int


class UpstreamStream(Protocol):
    """Stream as its borrower knows it."""

    target: Target
    write_paused: bool
    """The target takes no more for now."""

    @property
    def reused(self) -> bool:
        """Whether its connection has carried a request before."""

    def begin(self, listener: HeadListener, request: bytes, method: bytes) -> None:
        """Send a request that is there as a whole, and expect the response to `method`."""

    def begin_special(
        self,
        listener: HeadListener,
        request: bytes,
        method: bytes,
        *,
        whole: bool,
        chunked: bool = False,
        source: RequestSource | None = None,
        expects_continue: bool = False,
        upgrade: Sequence[bytes] = (),
        tunnel: TunnelListener | None = None,
    ) -> None:
        """Begin as `begin` does; the request has a body that is still to come, or asks for more than its resource.

        `request`: its head, and what is there of its body, framed. `whole`: that is all. `chunked`: how the rest is
        framed. `source`: of the rest. `expects_continue`: the body comes only when the target asks for it. `upgrade`:
        the protocols that are offered, and `tunnel`: who is told when one is accepted.
        """

    def attach_source(self, source: RequestSource | None) -> None:
        """Brake this source from now on, at once if the target takes no more. None: nobody."""

    def send_body(self, payload: bytes) -> None:
        """Send more of the request's body."""

    def end_body(self, trailers: Trailers) -> None:
        """End the request's body: now it is for the target to answer."""

    def hand_over(self, listener: BodyListener) -> None:
        """Let somebody else be told what comes, once the head has been."""

    def pause(self) -> None:
        """Read no more for now: who takes the response is slower. Time stands still meanwhile."""

    def resume(self) -> None: ...

    def send_raw(self, chunk: bytes) -> None:
        """Send through the tunnel."""

    def end_raw(self) -> None:
        """Send no more through the tunnel; the other direction may go on."""

    def limit_silence(self, seconds: float) -> None:
        """Allow so long without a byte, from now on."""

    def take_body_from(self, client: SocketEnd) -> None:
        """Tell the client's side where the request's body goes."""

    def give_body_to(self, client: SocketEnd) -> None:
        """Note where the response's body goes."""

    def cancel(self) -> None:
        """Give the request up: nobody waits for the response, of which nothing more is told. The capacity is free.

        HTTP/1 cannot take a request back, so the connection is closed.
        """

    def release(self) -> None:
        """End the use of the stream, with a response that has ended or of which no more is wanted.

        The connection serves again only where both ended as they should.
        """
