"""Reuse of stored responses (RFC 9111 section 4, RFC 5861): may this one be sent, and if not, what else is allowed."""

from enum import Enum
from typing import Final, NamedTuple

from fastgw.http.caching.directives import LONGEST, RequestDirectives
from fastgw.http.caching.records import StoredHead

ERRORS: Final = frozenset((500, 502, 503, 504))
"""Statuses of the upstream in place of which a stale response may be sent (RFC 5861 section 4)."""

CLOCK_S: Final = 60.0
"""Seconds by which a response may be from the future. Beyond, a clock is or was wrong, and it counts as stale."""


class Reuse(Enum):
    """Permitted use of a stored response."""

    FRESH = "send it"
    STALE = "send it: the client accepts stale responses"
    STALE_WHILE_REVALIDATE = "send it, and validate it in the background"
    VALIDATE = "forward a conditional request, because it is stale"
    VALIDATE_BY_REQUEST = "forward a conditional request, because the client asks for that"


class Decision(NamedTuple):
    """Whether and how a stored response is used."""

    use: Reuse
    age: int
    """Value of `Age`."""
    ttl: int
    """Seconds of freshness left; 0 or less: it is stale."""


class Trouble(Enum):
    """Failure of the upstream, after which a stale response may be sent."""

    UNREACHABLE = "no connection, or it was lost before a response; all targets ejected; the circuit breaker is open"
    ERROR = "it answered with one of `ERRORS`, or with a response that is not valid HTTP, or not in time"


def find_age(stored: StoredHead, now: float) -> int:
    """Return `current_age` (RFC 9111 section 4.2.3), in whole seconds."""
    elapsed = now - stored.stored_date
    if elapsed < -CLOCK_S:
        return LONGEST  # the clock was set back, and by how much is unknown
    # A clock that is set back a little makes nothing younger than it was when it was stored.
    return min(LONGEST, stored.initial_age + max(0, int(elapsed)))


def find_ttl(stored: StoredHead, age: int, *, soft_purged: bool) -> int:
    """Return the seconds of freshness left; 0 or less: it is stale.

    A soft-purged response has become stale by the purge. When that was is not stored: until its freshness would have
    ended it is stale by 0 seconds.
    """
    ttl = stored.lifetime - age
    return min(ttl, 0) if soft_purged else ttl


def decide_reuse(
    stored: StoredHead, directives: RequestDirectives, now: float, *, soft_purged: bool = False
) -> Decision:
    """Decide what a stored response that matches a request is good for.

    `soft_purged`: it counts as stale from now on. A request with `no-store` may be answered from the cache; only
    its own response is not stored (section 5.2.1.5).
    """
    age = find_age(stored, now)
    ttl = find_ttl(stored, age, soft_purged=soft_purged)
    if directives.no_cache or directives.max_age == 0:
        return Decision(Reuse.VALIDATE_BY_REQUEST, age, ttl)
    if stored.no_cache:
        return Decision(Reuse.VALIDATE, age, ttl)
    if directives.max_age is not None and age > directives.max_age and directives.max_stale is None:
        return Decision(Reuse.VALIDATE_BY_REQUEST, age, ttl)
    if ttl > 0:
        enough = directives.min_fresh is None or ttl >= directives.min_fresh
        return Decision(Reuse.FRESH if enough else Reuse.VALIDATE_BY_REQUEST, age, ttl)
    if directives.min_fresh is None:
        if not stored.revalidates and directives.max_stale is not None and -ttl <= directives.max_stale:
            return Decision(Reuse.STALE, age, ttl)
        if -ttl < stored.stale_while_revalidate:
            return Decision(Reuse.STALE_WHILE_REVALIDATE, age, ttl)
    return Decision(Reuse.VALIDATE, age, ttl)


def may_send_stale(
    stored: StoredHead, directives: RequestDirectives, now: float, trouble: Trouble, *, soft_purged: bool = False
) -> bool:
    """Whether a stored response may be sent because it could not be validated.

    `stale-if-error` counts "regardless of other freshness information" (RFC 5861 section 4), and so do the settings:
    `max-age`, `min-fresh` and `max-stale` of the client are preferences (RFC 9111 section 5.2.1), and a browser that
    reloads a page sends `max-age=0`. `no-cache` forbids any use without validation.
    """
    if stored.no_cache or directives.no_cache:
        return False
    staleness = find_age(stored, now) - stored.lifetime
    if soft_purged:
        staleness = max(staleness, 0)
    if staleness < 0:
        return True  # it is fresh: only the client wanted it validated
    allowed = stored.stale_if_error
    if not stored.revalidates:
        allowed = max(allowed, directives.stale_if_error or 0)
    if trouble is Trouble.UNREACHABLE:
        allowed = max(allowed, stored.stale_when_unreachable)
    return staleness < allowed


def is_error(status: int) -> bool:
    """Whether a stale response may be sent in place of a response with this status."""
    return status in ERRORS
