"""A strict reader of the WebSocket frames of one direction (RFC 6455), which returns the checked bytes.

Rule 1: payload is forwarded as it arrives, without a copy; headers and control frames are buffered until they are
complete. Rule 2: no part of an invalid frame is forwarded, except payload forwarded before the error was detected.
"""

from typing import final

from fastgw.http.websocket.frames import Deflate, Violation

@final
class FrameReader:
    allowance: int | None
    """Messages and pings that may still begin. None: unlimited."""
    own_pong: bytes | None
    """Payload of the gateway's ping, whose response is not forwarded. None: it was answered."""

    def __init__(
        self,
        masked: bool,
        message_bytes: int | None = None,
        deflate: Deflate | None = None,
        notes: bool = False,
    ) -> None:
        """`masked`: whether the frames are sent by a client. `message_bytes`: maximum payload of a message over its
        frames, after decompression; None: unlimited. `notes`: whether it notes the frames that it forwards.
        """

    @property
    def texts(self) -> int:
        """Number of text messages that have begun, without one of which no byte is forwarded."""

    @property
    def binaries(self) -> int: ...
    @property
    def messages(self) -> int:
        """Number of messages that have begun."""

    @property
    def pings(self) -> int: ...
    @property
    def pongs(self) -> int:
        """Number of pongs, without responses to the gateway's pings."""

    @property
    def frames(self) -> int:
        """Number of complete frames, without responses to the gateway's pings."""

    @property
    def notes(self) -> list[tuple[int, int]] | None:
        """Opcode of each message and control frame that is forwarded, and its payload as it was sent, in bytes: of the
        last call of `feed`. None: none are noted."""

    @property
    def close(self) -> int | None:
        """Code of the received close frame, `NO_CODE` if it has none. Later data is dropped."""

    @property
    def unfinished(self) -> bool:
        """Whether `feed` has returned before the end of its data, which it keeps. The next call continues."""

    @property
    def violation(self) -> Violation | None:
        """Violation after which nothing is read."""

    @property
    def at_boundary(self) -> bool:
        """Whether the forwarded bytes end with a complete frame."""

    def limit_messages(self, message_bytes: int | None) -> None:
        """Set the maximum payload of a message from the next frame header on; None: unlimited. Only for readers without
        `deflate`.
        """

    def rest(self, chunk: bytes) -> bytes:
        """Like `feed`, but only for data that belongs to the current data frame. Data behind it is kept for `feed`."""

    def feed(self, chunk: bytes) -> bytes:
        """Parse received bytes; return those that may be forwarded. Sets `close`, `violation` or `unfinished`."""
