"""The token cache: what it remembers, for how long, and that it forgets its oldest first."""

import gc
import time
import weakref
from array import array
from collections.abc import Iterator
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http1.parser import parse_request
from fastgw.http.messages import RequestHead
from fastgw.sync.credential_cache import HITS, MISSES, TokenCache, count_in, uncollected

LATER = time.monotonic() + 3600


@pytest.fixture
def words() -> Iterator[memoryview]:
    """The words in which hits and misses are counted."""
    words = memoryview(array("Q", [0, 0]))
    count_in(words)
    yield words
    count_in(memoryview(array("Q", [0, 0])))


def test_what_was_put_is_got_and_nothing_else() -> None:
    cache = TokenCache(10)
    cache.store(b"one", 1, LATER)
    cache.store(b"two", 2, LATER)
    assert [cache.get(each) for each in (b"one", b"two", b"three", b"", b"one\0", b"on")] == [
        1,
        2,
        None,
        None,
        None,
        None,
    ]
    cache.store(b"one", "other", LATER)
    assert (cache.get(b"one"), len(cache)) == ("other", 2)
    cache.forget(b"one")
    cache.forget(b"never")
    assert (cache.get(b"one"), len(cache)) == (None, 1)


def test_what_is_over_is_not_got_and_leaves_its_place() -> None:
    cache = TokenCache(10)
    cache.store(b"gone", 1, time.monotonic())
    ends = time.monotonic() + 0.01
    cache.store(b"going", 2, ends)
    assert cache.get(b"gone") is None
    while time.monotonic() < ends:
        pass
    assert cache.get(b"going") is None
    assert len(cache) == 0


def head_of(*lines: bytes) -> RequestHead:
    return parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


def test_a_credential_is_got_by_the_only_authorization_field_of_a_request(words: memoryview) -> None:
    """Whichever way the head was read, and whether or not its fields were taken apart or changed."""
    cache = TokenCache(10)
    cache.store(b"Bearer x", 1, LATER)
    cache.store(b"", 2, LATER)
    shown: list[tuple[list[bytes], int | None]] = [
        ([b"Authorization: Bearer x"], 1),
        ([b"X-A: 1", b"aUTHORIZATION:\t Bearer x \t", b"X-B: 2"], 1),
        ([b"Authorization:"], 2),
        ([b"Authorization: Bearer y"], None),
        ([b"Authorization: Bearer x", b"Authorization: Bearer x"], None),
        ([b"X-Authorization: Bearer x"], None),
        ([], None),
    ]
    for lines, expected in shown:
        head = head_of(*lines)
        assert cache.shown_by(head) == expected
        head.fields()
        assert cache.shown_by(head) == expected
    head = head_of(b"Authorization: Bearer y")
    head.fields().set(b"Authorization", b"Bearer x")
    assert cache.shown_by(head) == 1
    head.fields().remove(b"Authorization")
    assert cache.shown_by(head) is None
    assert cache.shown_by(head_of(b"Connection: authorization", b"Authorization: Bearer x")) == 1  # never named away
    assert (words[HITS], words[MISSES]) == (2 * 3 + 2, 2)


def test_a_full_cache_forgets_its_oldest_one_by_one() -> None:
    cache = TokenCache(3)
    for number in range(5):
        cache.store(b"%d" % number, number, LATER)
    assert [cache.get(b"%d" % number) for number in range(5)] == [None, None, 2, 3, 4]
    cache.store(b"2", 22, LATER)  # the newest now
    cache.store(b"5", 5, LATER)
    assert [cache.get(b"%d" % number) for number in range(6)] == [None, None, 22, None, 4, 5]
    assert len(cache) == 3


def test_what_is_not_wanted_any_more_is_forgotten() -> None:
    cache = TokenCache(10)
    for number in range(6):
        cache.store(b"%d" % number, number, LATER)
    cache.retain_only(lambda number: number % 2 == 0)
    assert [cache.get(b"%d" % number) for number in range(6)] == [0, None, 2, None, 4, None]


def test_hits_and_misses_are_counted_in_the_words_of_the_process(words: memoryview) -> None:
    one, other = TokenCache(10), TokenCache(10)
    one.store(b"a", 1, LATER)
    one.store(b"over", 1, 0.0)
    for cache, credential in ((one, b"a"), (one, b"a"), (one, b"b"), (one, b"over"), (other, b"a")):
        cache.get(credential)
    assert (words[HITS], words[MISSES]) == (2, 3)


def test_words_of_another_form_are_refused() -> None:
    for words in (memoryview(array("Q", [0])), memoryview(array("Q", [0] * 3))):
        with pytest.raises(ValueError, match="two words"):
            count_in(words)


def test_what_one_policy_accepted_is_in_no_other_cache() -> None:
    """And what is kept is found by no one who does not know the key of this cache: two caches have none in common."""
    one, other = TokenCache(10), TokenCache(10)
    one.store(b"token", 1, LATER)
    assert other.get(b"token") is None
    assert "token" not in repr(one)
    assert repr(one) == "<TokenCache 1 of 10>"


def test_what_is_uncollected_is_the_same_and_is_freed_with_its_last_user() -> None:
    class Seen(str):
        """Text that can be watched."""

    text = Seen("x")
    gone = weakref.ref(text)
    claims = {"a": [1, {"b": [text]}, "c"], "d": {}, "e": 1.5}
    assert uncollected(claims) is claims
    assert claims == {"a": [1, {"b": [text]}, "c"], "d": {}, "e": 1.5}
    for each in (None, "a", b"a", 1, (), ([],), {1}, text, MappingProxyType({})):
        assert uncollected(each) is each
    gc.collect()
    claims["f"], claims["g"] = [text], claims.pop("a")
    gc.collect()
    del text, claims, each
    assert gone() is None


def test_what_was_remembered_is_freed_with_the_cache() -> None:
    class Value:
        pass

    cache = TokenCache(10)
    values = [Value() for _ in range(20)]
    gone = [weakref.ref(value) for value in values]
    for number, value in enumerate(values):
        cache.store(b"%d" % number, value, LATER)
    cache.forget(b"19")
    del values, value
    assert sum(ref() is not None for ref in gone) == 9
    del cache
    assert not [ref for ref in gone if ref() is not None]


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for one"):
        TokenCache(0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "forget"]), st.binary(max_size=3), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 4),
)
def test_any_use_is_that_of_a_bounded_map_in_order(uses: list[tuple[str, bytes, bool]], most: int) -> None:
    cache, model = TokenCache(most), dict[bytes, tuple[int, bool]]()
    for number, (use, credential, lasts) in enumerate(uses, 1):
        if use == "put":
            model.pop(credential, None)
            if len(model) == most:
                del model[next(iter(model))]
            model[credential] = number, lasts
            cache.store(credential, number, LATER if lasts else 0.0)
        elif use == "forget":
            model.pop(credential, None)
            cache.forget(credential)
        else:
            held, good = model.get(credential, (None, False))
            if not good:
                model.pop(credential, None)
            assert cache.get(credential) == (held if good else None)
        assert len(cache) == len(model)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_credentials_of_any_length_are_told_apart(one: bytes, other: bytes) -> None:
    cache: TokenCache[int] = TokenCache(2)
    cache.store(one, 1, LATER)
    assert (cache.get(other) == 1) is (one == other)
