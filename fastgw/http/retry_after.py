"""`Retry-After` (RFC 9110 section 10.2.3), as servers send it to the gateway."""

from math import inf
from time import time

from fastgw.http.dates import parse_lenient_date


def wait_in(value: bytes | None) -> float:
    """Return the seconds in a value of `Retry-After`; None: it is missing."""
    if value is None:
        return 0.0
    if value.isdigit():
        return float(value) if len(value) < 10 else inf
    date = parse_lenient_date(value)
    return 0.0 if date is None else max(date - time(), 0.0)
