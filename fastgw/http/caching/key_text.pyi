"""The text of a key, and its digest: BLAKE2b of 16 bytes (RFC 7693)."""

def joined_parts(parts: list[bytes | None] | tuple[bytes | None, ...], end: bytes = b"") -> bytes:
    """Return parts of a key as one text, each with its length, so that none can pass for the beginning of the next one.
    None: a missing part, which is not an empty one. `end`: what follows.
    """

def digest_of(text: bytes, person: bytes) -> bytes:
    """Return the digest of a text, as `hashlib.blake2b(text, digest_size=16, person=person)`. `person`: 16 bytes, that
    tell one use of digests from the others.

    Raises ValueError for a personalization of another length.
    """

def complement_of(digest: bytes) -> bytes:
    """Return a digest with each bit changed. Raises ValueError for another length than 16 bytes."""
