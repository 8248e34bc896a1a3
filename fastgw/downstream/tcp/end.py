"""One end of a relay: it reads for the other end, and sends what that one reads.

Rule 1: data read by one end is passed to the other (`peer.send`) before more is read; reading pauses while the other
end buffers data that its socket does not accept. Rule 2: each direction ends separately (`end_sending`), after buffered
data. Rule 3: after `close` or `reset` nothing more is reported.
"""

from typing import Protocol

from fastgw.net.proxy_protocol import Address


class ByteSink(Protocol):
    def send(self, chunk: memoryview) -> bool:
        """Send bytes, which are invalid after the call. False: some are buffered; `drained` is called when none are."""


class End(ByteSink, Protocol):
    peer: ByteSink
    """The other end, which sends the data that this one reads."""
    received: int
    """Number of bytes read."""
    has_ended: bool
    """Whether the peer will send no more."""

    @property
    def is_truncated(self) -> bool:
        """Whether the peer has ended without `close_notify` of TLS: data before its end may be missing."""

    @property
    def is_buffering(self) -> bool:
        """Whether it holds data that its socket does not accept."""

    @property
    def local(self) -> Address | None:
        """The local address; None for a unix socket."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def end_sending(self) -> None:
        """End our direction, after everything was sent."""

    def has_sent_all(self) -> bool:
        """Whether our direction has ended, and nothing is buffered."""

    def unsent(self) -> int:
        """Return the number of bytes that the kernel holds for the peer."""

    def is_done(self) -> bool:
        """Whether both directions have ended, and nothing is buffered."""

    def close(self) -> None: ...

    def truncate(self) -> None:
        """Close although the peer may expect more: without `close_notify` of TLS if our direction has not ended, and
        with a reset if data is buffered. Otherwise what the peer has got would look complete.
        """

    def reset(self) -> None:
        """Close with a reset."""
