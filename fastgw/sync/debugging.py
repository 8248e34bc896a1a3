"""End of the debug tokens of a node, which the control process keeps as a feed for later control processes."""

from typing import Final

FEED: Final = "debugging"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""


def written(until_date: float) -> bytes:
    """Encode the end of the last token's lifetime, in epoch seconds."""
    return b"%d" % until_date


def read(value: bytes) -> float:
    """Decode it. b"": there was no token yet."""
    return float(value or 0)
