"""Messages of a client, put together from its frames (RFC 6455 section 5.4)."""

from typing import Final, NamedTuple, final

from fastgw.http.websocket.frame_reader import FrameReader
from fastgw.http.websocket.frames import CLOSE, CONTINUATION, PING, PONG, Violation, unmask

_CONTROL: Final = frozenset((CLOSE, PING, PONG))


class Received(NamedTuple):
    """A whole message, or a ping or pong, without its mask. `opcode`: `TEXT`, `BINARY`, `PING` or `PONG`."""

    opcode: int
    payload: bytes


@final
class WebsocketMessageReader:
    """Reader of the messages of a client, without extensions. `message_bytes`: maximum payload of one.

    Frames are checked by `FrameReader`, so what is read here is valid, and no longer than the limit.
    """

    __slots__ = ("_frames", "_message", "_opcode", "_received")

    def __init__(self, message_bytes: int) -> None:
        self._frames = FrameReader(True, message_bytes)
        self._received = bytearray()  # an incomplete frame
        self._opcode = 0
        self._message = bytearray()  # the frames of a message so far

    def limit_messages(self, message_bytes: int) -> None:
        """Set the maximum payload of messages from the next frame on."""
        self._frames.limit_messages(message_bytes)

    @property
    def close(self) -> int | None:
        """Code of the received close frame, as in `FrameReader`."""
        return self._frames.close

    @property
    def violation(self) -> Violation | None:
        """Violation after which nothing is read."""
        return self._frames.violation

    def feed(self, chunk: bytes) -> list[Received]:
        """Parse received bytes; return what is complete. Sets `close` or `violation`."""
        received, at, complete = self._received, 0, []
        received += self._frames.feed(chunk)
        while len(received) - at >= 2:
            length, payload_at = received[at + 1] & 127, at + 6
            if length > 125:
                count = 2 if length == 126 else 8
                length = int.from_bytes(received[at + 2 : at + 2 + count], "big")
                payload_at += count
            end = payload_at + length
            if len(received) < end:
                break
            payload = unmask(bytes(received[payload_at:end]), bytes(received[payload_at - 4 : payload_at]), 0)
            message = self._take_frame(received[at], payload)
            if message is not None:
                complete.append(message)
            at = end
        del received[:at]
        return complete

    def _take_frame(self, first: int, payload: bytes) -> Received | None:
        opcode = first & 15
        if opcode == CLOSE:
            return None
        if opcode in _CONTROL:
            return Received(opcode, payload)
        if opcode != CONTINUATION:
            self._opcode, self._message = opcode, bytearray()
        self._message += payload
        if not first & 128:
            return None
        message, self._message = bytes(self._message), bytearray()
        return Received(self._opcode, message)
