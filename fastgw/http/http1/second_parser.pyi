"""Second parser: llhttp also reads what may be read in more than one way, and has to find the same message in it: heads
of other methods, targets and versions than the usual ones or whose body ends with the connection, offers of other
protocols, and chunks that do not come with their head.

It only confirms the result of the first parser: that the bytes are well-formed, whether a body follows the head, and
that the message ends with the same byte. It runs without field callbacks, so it creates no objects, and without any
leniency flags.
"""

from typing import final

from httptools import HttpRequestParser, HttpResponseParser

from fastgw.http.malformed import Malformed

@final
class SecondParser:
    """llhttp parser of one message from its first byte to its last."""

    def __init__(self, kind: type[HttpRequestParser] | type[HttpResponseParser]) -> None: ...
    def head(self, raw: bytes, body_follows: bool | None) -> None:
        """Read exactly one head. Raises `Malformed`, also if llhttp disagrees on whether a body follows.

        `body_follows` None: llhttp cannot know (its response parser is not informed that the request was HEAD), and
        reads nothing after this.
        """

    def body(self, chunk: bytes) -> None:
        """Read bytes after which the message continues. Raises `Malformed`."""

    def last(self, chunk: bytes) -> None:
        """Read at least one byte, up to the last byte of the message. Raises `Malformed`."""

def disagreement() -> Malformed:
    """Return the error for bytes in which llhttp finds another message than the first parser."""
