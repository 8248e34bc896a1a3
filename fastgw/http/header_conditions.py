"""Header conditions: whether a request has a header with a certain value.

Rule: a condition is satisfied if any value in any line or list member satisfies it. An upstream may read the first
value, the last one or all of them, so repeating a header never bypasses a route that has a condition on it.
"""

from collections.abc import Callable, Sequence
from typing import Final

SINGLE: Final = frozenset(
    b"age authorization content-length content-location content-type cookie date etag expires from host "
    b"if-modified-since if-range if-unmodified-since last-modified location max-forwards origin proxy-authorization "
    b"referer retry-after server set-cookie user-agent".split()
)
"""Headers that are not lists: a comma is a part of their value (RFC 9110 section 5.5)."""


def has_value(name: bytes, wanted: bytes, values: Sequence[bytes]) -> bool:
    """Whether `wanted` is the value of a line, a member of a list, or the whole list (RFC 9110 section 5.3).

    `name`: in lower case. `values`: of the lines of that name, in order.
    """
    if wanted in values:
        return True
    if name in SINGLE or not values:
        return False
    members = [member for value in values for member in _members(value)]
    return wanted in members or (b"," in wanted and _members(wanted) == members)


def any_value(name: bytes, accepts: Callable[[bytes], bool], values: Sequence[bytes]) -> bool:
    """Whether `accepts` is true for the value of a line, or for a member of a list. `name`, `values`: as above."""
    if any(map(accepts, values)):
        return True
    if name in SINGLE:
        return False
    return any(accepts(member) for value in values if b"," in value for member in _members(value))


def _members(value: bytes) -> list[bytes]:
    """Return the members of a list without empty ones (RFC 9110 section 5.6.1)."""
    return [member for part in value.split(b",") if (member := part.strip(b" \t"))]
