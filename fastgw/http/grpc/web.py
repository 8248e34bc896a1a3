"""gRPC-Web: gRPC for clients without access to trailers, such as browsers (PROTOCOL-WEB.md of the gRPC project).

The frames are those of gRPC; a further one after the last message contains the trailers. The text form is Base64, in
pieces that may each be padded.
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from typing import Final, NamedTuple, final

from fastgw.http.grammar import IS_TOKEN
from fastgw.http.grpc.frames import TRAILERS, FrameError, FrameScanner, frame

_TYPE: Final = re.compile(rb"application/grpc-web(-text)?(\+[a-z0-9.+_-]{1,40})?[ \t]*(?:;|$)", re.IGNORECASE)
_ALPHABET: Final = re.compile(rb"[A-Za-z0-9+/]*+")
_PADDED: Final = re.compile(rb"[A-Za-z0-9+/](?:[AQgw]=|[A-Za-z0-9+/][AEIMQUYcgkosw048])=")
"""Pattern of padded Base64 whose unused bits are 0 (RFC 4648 section 3.5)."""


class WebType(NamedTuple):
    """Content type of gRPC-Web. `codec`: suffix with the message encoding, including the plus; b"": none."""

    is_text: bool
    codec: bytes

    def line(self) -> bytes:
        """The value of `Content-Type` for it."""
        return b"application/grpc-web%b%b" % (b"-text" if self.is_text else b"", self.codec)


def parse_web_type(value: bytes | None) -> WebType | None:
    """Return the content type of a gRPC-Web message; None: it is not gRPC-Web."""
    found = None if value is None else _TYPE.match(value.strip(b" \t"))
    return None if found is None else WebType(found[1] is not None, (found[2] or b"").lower())


def response_type(asked: WebType, accept: Iterable[bytes]) -> WebType:
    """Return the form of the response: the first gRPC-Web type in `Accept`, otherwise that of the request.

    `accept`: the values of all its lines.
    """
    for value in accept:
        for each in value.split(b","):
            kind = parse_web_type(each)
            if kind is not None:
                return WebType(kind.is_text, asked.codec)
    return asked


def trailers_frame(trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the frame that ends a response. Names are in lower case, as the specification requires.

    The values of a repeated name are one line, because some clients use only its last line. Raises `FrameError` for a
    line that would be parsed as two.
    """
    joined: dict[bytes, bytes] = {}
    for name, value in trailers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not IS_TOKEN(name):
            raise FrameError("a trailer has a line break")
        name = name.lower()
        joined[name] = b"%b, %b" % (joined[name], value) if name in joined else value
    return frame(b"".join(b"%b:%b\r\n" % line for line in joined.items()), TRAILERS)


@final
class TextDecoder:
    """Decoder of Base64 in pieces, each of which may be padded. It buffers at most three characters."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, payload: bytes) -> bytes:
        """Return the decoded bytes. Raises `FrameError`."""
        text = self._held + payload
        whole = len(text) & ~3
        self._held = text[whole:]
        decoded, at = [], 0
        while at < whole:
            run = _ALPHABET.match(text, at, whole)
            assert run is not None
            end = at + (run.end() - at & ~3)
            if end > at:
                decoded.append(a2b_base64(text[at:end]))
            if end < whole:
                if _PADDED.fullmatch(text, end, end + 4) is None:
                    raise FrameError("the body is not Base64")
                decoded.append(a2b_base64(text[end : end + 4]))
                end += 4
            at = end
        return b"".join(decoded)

    def end(self) -> None:
        """Handle the end of the body. Raises `FrameError` if characters are missing."""
        if self._held:
            raise FrameError("the body is not Base64: its last characters are missing")


@final
class WebResponse:
    """Writer of a response's body: gRPC frames in, gRPC-Web frames out.

    It forwards data at once, except for up to two bytes within a message in the text form, and checks that the frames
    are complete, because trailers have to follow a complete one. `most`: maximum bytes of one message.
    """

    __slots__ = ("_held", "_is_text", "_scanner", "between_messages")

    def __init__(self, is_text: bool, most: int) -> None:
        self._is_text = is_text
        self._scanner = FrameScanner(most)
        self._held = b""
        self.between_messages = True
        """Whether the last forwarded message is complete, so that trailers can follow."""

    def feed(self, payload: bytes) -> bytes:
        """Return the data for the client. Raises `FrameError`: nothing of this piece is forwarded."""
        self._scanner.feed(payload)
        self.between_messages = self._scanner.between_messages
        if not self._is_text:
            return payload
        payload = self._held + payload
        whole = len(payload)
        if not self.between_messages:
            whole -= whole % 3  # padding only after messages, as most clients expect
        self._held = payload[whole:]
        return b2a_base64(payload[:whole], newline=False)

    def end(self, trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the end of the body. Raises `FrameError` if it is within a message."""
        if not self.between_messages:
            raise FrameError("the body ends within a message")
        last = trailers_frame(trailers)
        return b2a_base64(last, newline=False) if self._is_text else last
