"""Content types of bodies that are transformed."""

from __future__ import annotations

from enum import Enum
from typing import Final


class BodyType(Enum):
    """Format of a body, by its content type."""

    JSON = "json"
    LINES = "lines"
    """A JSON text on each line (NDJSON)."""
    EVENTS = "events"
    """Server-sent events whose data is JSON."""
    FORM = "form"
    MULTIPART = "multipart"
    """Forms with files."""
    XML = "xml"
    OTHER = "other"


_TYPES: Final = {
    b"application/json": BodyType.JSON,
    b"application/ndjson": BodyType.LINES,
    b"application/x-ndjson": BodyType.LINES,
    b"application/jsonl": BodyType.LINES,
    b"application/x-jsonlines": BodyType.LINES,
    b"text/event-stream": BodyType.EVENTS,
    b"application/x-www-form-urlencoded": BodyType.FORM,
    b"multipart/form-data": BodyType.MULTIPART,
    b"application/xml": BodyType.XML,
    b"text/xml": BodyType.XML,
}
# Their messages are in frames.
_FRAMED: Final = (b"application/grpc", b"application/connect+")


def body_type(values: list[bytes]) -> BodyType:
    """Return the format for all values of `Content-Type`, whatever their parameters: JSON is UTF-8."""
    if len(values) != 1:
        return BodyType.OTHER
    media_type = values[0].partition(b";")[0].strip(b" \t").lower()
    found = _TYPES.get(media_type)
    if found is not None:
        return found
    if media_type.startswith(_FRAMED):
        return BodyType.OTHER
    if media_type.endswith(b"+json"):
        return BodyType.JSON
    return BodyType.XML if media_type.endswith(b"+xml") else BodyType.OTHER
