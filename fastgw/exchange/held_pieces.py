"""Pieces of a body that is held until it is complete, or until it cannot be sent again."""

from typing import Final, cast

SMALL: Final = 1024
"""Pieces smaller than this are joined: each separate object costs some fifty bytes more, which no limit counts."""
BLOCK: Final = 65536
"""Size from which a joined piece does not grow, because appending to a piece copies it."""


def append_piece(pieces: list[bytes], payload: bytes) -> None:
    """Append the next piece of a body; small ones are joined. Read the list with `b"".join` only: a joined piece is a
    `bytearray`, which grows.
    """
    last: bytes | bytearray = pieces[-1] if pieces else b""
    if not pieces or len(payload) >= SMALL:
        pieces.append(payload)
    elif isinstance(last, bytearray) and len(last) < BLOCK:
        last += payload
    elif len(last) < SMALL:
        pieces[-1] = cast(bytes, bytearray(last) + payload)
    else:
        pieces.append(payload)
