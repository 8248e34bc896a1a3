"""Refusal of texts that are no strict JSON (RFC 8259), which all parsers read alike."""

from typing import Final


class InvalidJson(ValueError):
    """A text is no JSON, or parsers may read it differently. The message has nothing of the text."""


REASONS: Final = (
    "not JSON in UTF-8",
    "a number is too large for a double",
    "nested too deeply",
    "duplicate names in an object",
)
"""Reasons by their numbers in `scan.pxd`; the next one is that there was no memory for the check."""


def invalid(refusal: int) -> Exception:
    """Return the exception for a refusal."""
    return InvalidJson(REASONS[refusal]) if refusal < len(REASONS) else MemoryError()
