"""Media types and their patterns: `text/html`, `text/*`, `application/*+json`, in lower case."""

from collections.abc import Iterable


def media_type_of(content_type: bytes) -> bytes:
    """Return the media type of a value of `Content-Type`, in lower case, without parameters."""
    return content_type.partition(b";")[0].strip(b" \t").lower()


def patterns_of(media_type: bytes) -> Iterable[bytes]:
    """Yield the patterns that match a media type in lower case."""
    main, _, subtype = media_type.partition(b"/")
    if subtype and b"/" not in subtype:
        yield media_type
        yield main + b"/*"
        _, plus, suffix = subtype.rpartition(b"+")
        if plus:
            yield b"%b/*+%b" % (main, suffix)
