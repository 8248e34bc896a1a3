"""Cache fields of a composed response, from those of its parts (RFC 9111)."""

from collections.abc import Iterable, Iterator

from fastgw.http.caching.directives import LONGEST, split_directives
from fastgw.http.caching.heads import ReceivedHead
from fastgw.http.dates import parse_date

_RESTRICTIONS = (b"no-store", b"no-cache", b"private", b"must-revalidate", b"proxy-revalidate")
"""Directives that restrict the whole as soon as one part has them. Their arguments name headers, of which the whole has
others: they count without them."""
_NO_STORE = _RESTRICTIONS[0]
_MAX_AGE, _SHARED = b"max-age", b"s-maxage"


def cache_fields(answers: Iterable[ReceivedHead], now: float) -> Iterator[tuple[bytes, bytes]]:
    """Yield `Cache-Control` and `Vary` for the whole. `now`: seconds since the epoch.

    The strictest part decides: each restriction is that of all, and the lifetime is the shortest one, less the `Age` of
    its part. A part states its lifetime by `max-age` or `Expires`, for shared caches also by `s-maxage`. If one states
    none, the whole says nothing but what restricts it.
    """
    names: set[bytes] = set()
    varies: dict[bytes, bytes] = {}
    lifetimes: list[int | None] = []
    shared: list[int | None] = []
    is_shared = False
    for head in answers:
        lines = head.values(b"cache-control")
        directives = split_directives(lines) if lines else {}
        names.update(name for name in _RESTRICTIONS if name in directives)
        own = _seconds(directives[_MAX_AGE]) if _MAX_AGE in directives else _until_expiry(head, now)
        for_shared = _seconds(directives[_SHARED]) if _SHARED in directives else own
        is_shared = is_shared or _SHARED in directives
        age = (_seconds(head.values(b"age")[:1]) or 0) if own or for_shared else 0
        lifetimes.append(None if own is None else max(own - age, 0))
        shared.append(None if for_shared is None else max(for_shared - age, 0))
        for value in head.values(b"vary"):
            varies.update((each.strip().lower(), each.strip()) for each in value.split(b",") if each.strip())
    said = [name for name in _RESTRICTIONS if name in names]
    if _NO_STORE not in names:
        said += (b"max-age=%d" % shortest for shortest in _shortest(lifetimes))
        if is_shared:
            said += (b"s-maxage=%d" % shortest for shortest in _shortest(shared))
    if said:
        yield b"Cache-Control", b", ".join(said)
    if varies:
        yield b"Vary", b"*" if b"*" in varies else b", ".join(varies.values())


def _shortest(lifetimes: list[int | None]) -> Iterator[int]:
    """Yield the shortest lifetime, if all are known."""
    known = [each for each in lifetimes if each is not None]
    if known and len(known) == len(lifetimes):
        yield min(known)


def _seconds(arguments: Iterable[bytes | None]) -> int | None:
    """Return a number of seconds; None: there is none, or it is invalid or contradictory."""
    values = set(arguments)
    value = values.pop() if len(values) == 1 else None
    return min(int(value), LONGEST) if value is not None and len(value) <= 19 and value.isdigit() else None


def _until_expiry(head: ReceivedHead, now: float) -> int | None:
    """Return the lifetime by `Expires` and `Date`, in seconds; None: not stated. An invalid date has passed."""
    values = head.values(b"expires")
    if not values:
        return None
    expires = parse_date(values[0], now) if len(values) == 1 else None
    if expires is None:
        return 0
    dates = head.values(b"date")
    begin = parse_date(dates[0], now) if dates else None
    return max(expires - int(now if begin is None else begin), 0)
