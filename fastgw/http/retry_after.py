"""`Retry-After` (RFC 9110 section 10.2.3), as servers send it to the gateway."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf
from time import time


def wait_in(value: bytes | None) -> float:
    """Return the seconds in a value of `Retry-After`; None: it is missing."""
    if value is None:
        return 0.0
    if value.isdigit():
        return float(value) if len(value) < 10 else inf
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        return max(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):  # also for invalid years and zones
        return 0.0
