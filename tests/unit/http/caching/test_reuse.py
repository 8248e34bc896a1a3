"""Reuse: a table of decisions, and a comparison with a model that spells out RFC 9111 section 4.2 per second."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.http.caching.directives import LONGEST, RequestDirectives
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.reuse import Decision, Reuse, Trouble, decide_reuse, find_age, is_error, may_send_stale
from tests.support.table import for_each
from tests.unit.http.caching.heads import NOW

NONE = RequestDirectives()


def stored(lifetime: int = 60, age: int = 0, **settings: int | bool) -> StoredHead:
    return StoredHead(200, b"OK", b"", NOW, age, lifetime, **settings)  # type: ignore[arg-type]


@for_each(
    ("head", "directives", "after", "reuse"),
    [
        (stored(), NONE, 0, Reuse.FRESH),
        (stored(), NONE, 59.9, Reuse.FRESH),
        (stored(), NONE, 60, Reuse.VALIDATE),
        (stored(age=30), NONE, 30, Reuse.VALIDATE),
        (stored(), NONE, -59, Reuse.FRESH),  # the clock was set back a little
        (stored(), NONE, -61, Reuse.VALIDATE),  # or so much that its age is unknown
        (stored(stale_while_revalidate=1000), NONE, -3600, Reuse.VALIDATE),
        (stored(no_cache=True), NONE, 0, Reuse.VALIDATE),
        (stored(), RequestDirectives(no_cache=True), 0, Reuse.VALIDATE_BY_REQUEST),
        (stored(), RequestDirectives(no_store=True), 0, Reuse.FRESH),
        (stored(), RequestDirectives(max_age=0), 0, Reuse.VALIDATE_BY_REQUEST),
        (stored(), RequestDirectives(max_age=10), 10, Reuse.FRESH),
        (stored(), RequestDirectives(max_age=10), 11, Reuse.VALIDATE_BY_REQUEST),
        (stored(), RequestDirectives(min_fresh=50), 10, Reuse.FRESH),
        (stored(), RequestDirectives(min_fresh=50), 11, Reuse.VALIDATE_BY_REQUEST),
        (stored(), RequestDirectives(max_stale=10), 70, Reuse.STALE),
        (stored(), RequestDirectives(max_stale=10), 71, Reuse.VALIDATE),
        (stored(), RequestDirectives(max_stale=LONGEST), 10_000_000, Reuse.STALE),
        (stored(revalidates=True), RequestDirectives(max_stale=10), 61, Reuse.VALIDATE),
        (stored(stale_while_revalidate=5), NONE, 64.9, Reuse.STALE_WHILE_REVALIDATE),
        (stored(stale_while_revalidate=5), NONE, 65, Reuse.VALIDATE),
        (stored(stale_while_revalidate=5), RequestDirectives(min_fresh=1), 61, Reuse.VALIDATE),
        (stored(stale_while_revalidate=5), RequestDirectives(max_age=10), 61, Reuse.VALIDATE_BY_REQUEST),
        (stored(no_cache=True, stale_while_revalidate=5), NONE, 61, Reuse.VALIDATE),
    ],
)
def test_what_a_stored_response_is_good_for(
    head: StoredHead, directives: RequestDirectives, after: float, reuse: Reuse
) -> None:
    assert decide_reuse(head, directives, NOW + after).use is reuse


def test_a_soft_purge_makes_stale() -> None:
    assert decide_reuse(stored(), NONE, NOW + 5, soft_purged=True) == Decision(Reuse.VALIDATE, 5, 0)
    allowed = stored(stale_while_revalidate=5)
    assert decide_reuse(allowed, NONE, NOW + 5, soft_purged=True) == Decision(Reuse.STALE_WHILE_REVALIDATE, 5, 0)
    assert decide_reuse(allowed, NONE, NOW + 65, soft_purged=True).use is Reuse.VALIDATE


@for_each(
    ("head", "directives", "after", "unreachable", "error"),
    [
        (stored(), NONE, 61, False, False),
        (stored(stale_if_error=10), NONE, 69, True, True),
        (stored(stale_if_error=10), NONE, 70, False, False),
        (stored(stale_when_unreachable=10), NONE, 69, True, False),
        (stored(stale_when_unreachable=10), NONE, 70, False, False),
        (stored(), RequestDirectives(stale_if_error=10), 69, True, True),
        (stored(revalidates=True), RequestDirectives(stale_if_error=10), 69, False, False),
        (stored(revalidates=True, stale_if_error=10), NONE, 69, True, True),
        (stored(stale_if_error=10), RequestDirectives(no_cache=True), 1, False, False),
        (stored(no_cache=True), NONE, 1, False, False),
        (stored(stale_if_error=10), RequestDirectives(max_age=0), 61, True, True),  # a browser reloads
        (stored(stale_if_error=10), RequestDirectives(min_fresh=60), 61, True, True),
        (stored(stale_if_error=10), RequestDirectives(max_stale=0), 61, True, True),
        (stored(stale_when_unreachable=10), RequestDirectives(max_age=0), 61, True, False),
        (stored(), RequestDirectives(max_age=0), 61, False, False),
        (stored(), RequestDirectives(max_age=1), 5, True, True),  # fresh, but not fresh enough for the client
    ],
)
def test_when_a_stale_response_replaces_an_error(
    head: StoredHead, directives: RequestDirectives, after: float, unreachable: bool, error: bool
) -> None:
    assert may_send_stale(head, directives, NOW + after, Trouble.UNREACHABLE) is unreachable
    assert may_send_stale(head, directives, NOW + after, Trouble.ERROR) is error


def test_a_soft_purged_response_replaces_an_error_if_staleness_is_allowed_at_all() -> None:
    assert may_send_stale(stored(stale_if_error=10), NONE, NOW, Trouble.ERROR, soft_purged=True)
    assert not may_send_stale(stored(), NONE, NOW, Trouble.ERROR, soft_purged=True)
    assert not may_send_stale(stored(revalidates=True), NONE, NOW, Trouble.UNREACHABLE, soft_purged=True)


def test_which_statuses_are_errors() -> None:
    assert [status for status in range(100, 600) if is_error(status)] == [500, 502, 503, 504]


SECONDS = st.integers(0, 12)
LIMIT = st.none() | SECONDS


def is_fresh_in_model(head: StoredHead, at: int) -> bool:
    """Count the seconds one by one: the response is fresh until it was as old as its lifetime once."""
    left = head.lifetime - head.initial_age
    for _ in range(at):
        left -= 1
    return left > 0


@settings(max_examples=300)
@given(
    st.builds(
        stored,
        lifetime=SECONDS,
        age=SECONDS,
        stale_while_revalidate=SECONDS,
        no_cache=st.booleans(),
        revalidates=st.booleans(),
    ),
    st.builds(
        RequestDirectives, no_cache=st.booleans(), max_age=LIMIT, min_fresh=LIMIT, max_stale=LIMIT | st.just(LONGEST)
    ),
    SECONDS,
    st.booleans(),
)
@example(stored(lifetime=3), NONE, 3, False)
def test_what_is_sent_is_what_the_model_allows(
    head: StoredHead, directives: RequestDirectives, at: int, purged: bool
) -> None:
    decision = decide_reuse(head, directives, NOW + at + 0.5, soft_purged=purged)
    age = head.initial_age + at
    assert decision.age == find_age(head, NOW + at + 0.5) == age
    fresh = is_fresh_in_model(head, at) and not purged
    assert (decision.ttl > 0) is fresh
    staleness = 0 if fresh else max(0, age - head.lifetime)
    may_be_stale = not head.revalidates and directives.max_stale is not None and staleness <= directives.max_stale
    in_background = staleness < head.stale_while_revalidate
    if decision.use in (Reuse.FRESH, Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE):
        # RFC 9111 section 4: sent without validation only if nothing on either side forbids it.
        assert not head.no_cache
        assert not directives.no_cache
        assert directives.max_age is None or age <= directives.max_age or directives.max_stale is not None
        assert directives.min_fresh is None or head.lifetime - age >= directives.min_fresh
        assert fresh or may_be_stale or in_background
        assert (decision.use is Reuse.FRESH) is fresh
    elif fresh and directives == NONE:
        assert head.no_cache  # nothing else keeps a fresh response from being sent
