"""Second parser: llhttp also reads every head and body byte, and has to find the same message in them.

It only confirms the result of the first parser: that the bytes are well-formed, whether a body follows the head, and
that the message ends with the same byte. It runs without field callbacks, so it creates no objects, and without any
leniency flags.
"""

import re
from functools import lru_cache
from typing import Final, final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from fastgw.http.malformed import Malformed

_COMMON_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_EXTENSION_METHOD: Final = re.compile(rb"(?!PRI\Z)[A-Z][A-Z0-9_-]*")
"""Methods that llhttp need not know, such as BAN, in the characters that nginx accepts. In lower case they would be
another method to the gateway, and the same one to some services; PRI begins HTTP/2.
"""
_STAND_IN: Final = b"POST"
_UNKNOWN: Final = "The method is unknown; methods are case-sensitive."
# Errors of llhttp for unknown methods, methods of RTSP only, those that begin like a known one, and PRI.
_UNKNOWN_METHOD: Final = ("Invalid method", "Expected space after method", "Expected HTTP/2 Connection Preface")


@final
class _Seen:
    """Counters of llhttp's results. The parser refers to them and to no other object of ours: no reference cycle."""

    __slots__ = ("heads", "messages")

    def __init__(self) -> None:
        self.heads = 0
        self.messages = 0

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_message_complete(self) -> None:
        self.messages += 1


@final
class SecondParser:
    """llhttp parser of one message from its first byte to its last."""

    __slots__ = ("_parser", "_seen")

    def __init__(self, parser: type[HttpRequestParser] | type[HttpResponseParser]) -> None:
        self._seen = _Seen()
        self._parser = parser(self._seen)

    def head(self, raw: bytes, body_follows: bool | None) -> None:
        """Read exactly one head. Raises `Malformed`, also if llhttp disagrees on whether a body follows.

        `body_follows` None: llhttp cannot know (its response parser is not informed that the request was HEAD), and
        reads nothing after this.
        """
        seen = self._seen
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade as upgrade:  # CONNECT or a 101 response: for llhttp, HTTP ends with the head
            if upgrade.args[0] != len(raw):
                raise disagreement() from upgrade
        except HttpParserError as error:
            raise refusal("head", error) from error
        if seen.heads != 1 or (body_follows is not None and seen.messages != (not body_follows)):
            raise disagreement()

    def whole(self, message: bytes) -> None:
        """Read exactly one message with a body. Raises `Malformed`, also if llhttp ends it at another byte."""
        seen = self._seen
        view = memoryview(message)
        try:
            self._parser.feed_data(view[:-1])
            early = seen.messages
            self._parser.feed_data(view[-1:])
        except HttpParserError as error:
            raise refusal("body" if seen.heads else "head", error) from error
        if early or seen.messages != 1 or seen.heads != 1:
            raise disagreement()

    def body(self, chunk: bytes | memoryview) -> None:
        """Read bytes after which the message continues. Raises `Malformed`."""
        self._feed(chunk)
        if self._seen.messages:
            raise disagreement()

    def last(self, chunk: bytes) -> None:
        """Read at least one byte, up to the last byte of the message. Raises `Malformed`."""
        view = memoryview(chunk)
        self.body(view[:-1])
        self._feed(view[-1:])
        if self._seen.messages != 1:
            raise disagreement()

    def _feed(self, chunk: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(chunk)
        except HttpParserError as error:
            raise refusal("body", error) from error


@final
class _Marks:
    """Callbacks that remove one mark for each head and for each message that llhttp finds. Referenced in the same way
    as `_Seen`.

    PERF: the callbacks are `list.pop` itself, which saves two calls into Python: 0.15 us (CPython 3.11, micro/framing).
    """

    __slots__ = ("on_headers_complete", "on_message_complete")

    def __init__(self, marks: list[None]) -> None:
        self.on_headers_complete = self.on_message_complete = marks.pop


@final
class LongLivedParser:
    """A shared llhttp parser for all messages that were received as a whole and leave the connection open.

    Heads and ends of messages alternate, so they can use the same marks.

    PERF: saves creating a parser: 0.5 us of 1.2 (CPython 3.11, micro/framing).
    """

    __slots__ = ("_feed", "_marks", "_parser")

    def __init__(self, parser: type[HttpRequestParser] | type[HttpResponseParser]) -> None:
        self._parser = parser
        self._reset()

    def _reset(self) -> None:
        self._marks: list[None] = [None] * 4  # a message removes two, so an additional one is detected
        self._feed = self._parser(_Marks(self._marks)).feed_data

    def head(self, raw: bytes) -> None:
        """Read exactly one head without a body. Raises `Malformed`."""
        marks = self._marks
        try:
            self._feed(raw)
            if len(marks) == 2:
                marks.append(None)
                marks.append(None)
                return
        except (HttpParserError, HttpParserUpgrade):
            pass
        self._reset()
        # The previous message may have left llhttp in an unexpected state: a new parser decides.
        SecondParser(self._parser).head(raw, body_follows=False)

    def whole(self, message: bytes) -> None:
        """Read exactly one message with a body. Raises `Malformed`."""
        marks = self._marks
        try:
            self._feed(memoryview(message)[:-1])
            early = len(marks) != 3  # one mark is removed by the head
            self._feed(message[-1:])
            if not early and len(marks) == 2:
                marks.append(None)
                marks.append(None)
                return
        except (HttpParserError, HttpParserUpgrade):
            pass
        self._reset()
        SecondParser(self._parser).whole(message)


def method_for_llhttp(method: bytes) -> bytes:
    """Return the method by which llhttp reads a request: messages with a method that it does not know have the same
    framing as others. Raises `Malformed` (501) if requests with this method are rejected. `method`: a token.
    """
    return method if method in _COMMON_METHODS else _method_for_llhttp(method)


@lru_cache(maxsize=64)
def _method_for_llhttp(method: bytes) -> bytes:
    try:
        SecondParser(HttpRequestParser).head(b"%b / HTTP/1.1\r\n\r\n" % method, body_follows=None)
    except Malformed:
        if _EXTENSION_METHOD.fullmatch(method) is None:
            raise Malformed(_UNKNOWN, 501) from None
        return _STAND_IN
    return method


def check_method(method: bytes) -> None:
    """Raise `Malformed` (501) if requests with this method are rejected. `method`: a token."""
    method_for_llhttp(method)


def knows_method(method: str) -> bool:
    """Whether requests with this method are accepted. `method`: a token."""
    try:
        check_method(method.encode())
    except Malformed:
        return False
    return True


def refusal(part: str, error: HttpParserError) -> Malformed:
    """Return the error for a head or body that llhttp refuses."""
    if part == "head" and str(error).startswith(_UNKNOWN_METHOD):
        return Malformed(_UNKNOWN, 501)
    return Malformed(f"The {part} is not valid HTTP/1.1: {error}.")


def disagreement() -> Malformed:
    """Return the error for bytes in which llhttp finds another message than the first parser."""
    return Malformed("It is ambiguous where the message ends.")
