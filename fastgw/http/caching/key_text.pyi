"""The text of a key."""

def joined_parts(parts: list[bytes | None] | tuple[bytes | None, ...], end: bytes = b"") -> bytes:
    """Return parts of a key as one text, each with its length, so that none can pass for the beginning of the next one.
    None: a missing part, which is not an empty one. `end`: what follows.
    """

def swapped_key(key: bytes) -> bytes:
    """Return the search key for the primary key of a resource without a query, and the other way round."""
