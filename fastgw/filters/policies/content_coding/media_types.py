"""Media types of responses that are compressed."""

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, final

from fastgw.http.media_types import media_type_of, patterns_of

MOST_KNOWN: Final = 256
"""Maximum number of values of `Content-Type` whose kind is kept."""
LONGEST_KNOWN: Final = 128
"""Maximum bytes of such a value."""

_IS_STREAM: Final = re.compile(
    rb"text/event-stream|multipart/x-mixed-replace"
    rb"|application/(?:x-)?(?:ndjson|jsonl|json-lines|jsonlines|json-seq)|application/stream\+json"
    rb"|application/grpc-web(?:-text)?(?:\+.*+)?"
).fullmatch
# Messages of these protocols are compressed by themselves, if at all; their frames must reach the client unchanged.
_IS_FRAMED: Final = re.compile(rb"application/(?:grpc(?!-web)|connect\+).*+").fullmatch


class Kind(IntEnum):
    """Treatment of a media type."""

    OTHER = 0
    """Not compressed."""
    DOCUMENT = 1
    STREAM = 2
    """Compressed, and flushed after each piece: the client has to see an event before the next one is sent."""


@final
class MediaTypes:
    """Set of media types. `patterns`: `text/html`, `text/*`, `application/*+json`, in lower case."""

    __slots__ = ("_known", "_wanted")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._wanted = frozenset(each.encode() for each in patterns)
        self._known: dict[bytes, Kind] = {}

    def kind_of(self, content_type: bytes) -> Kind:
        """Return the kind for a value of `Content-Type`."""
        known = self._known.get(content_type)
        if known is None:
            known = self._find(media_type_of(content_type))
            if len(self._known) < MOST_KNOWN and len(content_type) <= LONGEST_KNOWN:
                self._known[content_type] = known
        return known

    def _find(self, media_type: bytes) -> Kind:
        if self._wanted.isdisjoint(patterns_of(media_type)) or _IS_FRAMED(media_type):
            return Kind.OTHER
        return Kind.STREAM if _IS_STREAM(media_type) else Kind.DOCUMENT
