"""The shared store: its memory holds, a kill at any moment leaves nothing wrong, and a model knows what is found."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastgw.cache.shared import lifecycle, shared_store
from fastgw.cache.shared.layout import CacheMemory, OtherCacheLayout
from fastgw.cache.shared.popular import popular_objects
from fastgw.cache.shared.recovery import clean_up
from fastgw.cache.shared.segments import Queue, Segments, SegmentState, StateWord
from fastgw.cache.shared.space import Extent, Space
from fastgw.cache.store import MOST_TAGS, MOST_URL, NotStored, Refusal, StoredObject, Writer
from fastgw.routing.table import at_once
from tests.support.small_process import run_in_small_process
from tests.unit.cache.kills import MEMORY, content, key_of, kill_at_any_change, kill_some_at_once
from tests.unit.cache.nodes import (
    SharedNode,
    begin,
    body_of,
    leased,
    objects_in,
    pins_in,
    put,
    read,
)


@pytest.fixture
def node() -> Iterator[SharedNode]:
    made = SharedNode()
    yield made
    made.close()


def test_a_callback_that_raises_keeps_no_other_from_being_called(node: SharedNode) -> None:
    log: list[str] = []

    def fail() -> None:
        log.append("fails")
        raise ArithmeticError

    key = key_of(1)
    watches = [node.b.watch(key, each) for each in (fail, lambda: log.append("one"), lambda: log.append("dropped"))]
    watches += [node.b.watch(key, each) for each in (fail, lambda: log.append("other"))]
    watches[2].cancel()
    node.a.report(key)
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            node.run()
    node.run()
    assert log == ["fails", "one", "fails", "other"]
    for watch in watches:
        watch.cancel()


# what is found most often


def popular(store: shared_store.SharedStore, most: int = 10) -> list[tuple[bytes, int, int]]:
    search = popular_objects(store.memory.words, store.cells, most)
    while True:
        try:
            next(search)
        except StopIteration as end:
            return [tuple(each) for each in end.value]


def test_the_objects_that_are_found_most_often_are_told_in_order(node: SharedNode) -> None:
    for number in range(100):
        put(node.a, key_of(number), content(number, 0, number), url=b"http://a/%d" % number)
    put(node.a, key_of(1000), b"of another one")  # without a URL
    for number, times in ((7, 30), (50, 20), (99, 10), (1000, 40)):
        for store in (node.a, node.b) * (times // 2):
            assert read(store, key_of(number)) is not None
    assert popular(node.a, 3) == [(b"http://a/7", 30, 7), (b"http://a/50", 20, 50), (b"http://a/99", 10, 99)]
    found = node.b.find(key_of(50))
    assert found is not None
    stamp = node.b.stamp(found)
    found.release()
    for _ in range(1280):  # ready answers, of which some are counted for all
        assert node.b.is_unchanged(stamp)
    ((url, count, _),) = popular(node.a, 1)
    assert (url, count) == (b"http://a/50", 21 + 1280)
    node.a.remove(key_of(50))
    put(node.a, key_of(99), b"again", url=b"http://a/99")
    assert [url for url, _, _ in popular(node.a)] == [b"http://a/7"]


# memory


def test_the_memory_is_sealed_and_of_one_layout() -> None:
    memory = CacheMemory(MEMORY)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 1)
    again = CacheMemory(MEMORY, os.dup(memory.fd))
    assert again.secrets == memory.secrets
    with pytest.raises(OtherCacheLayout):
        CacheMemory(2 * MEMORY, os.dup(memory.fd))
    words, version = memory.words, memory.words[0]
    words[0] = 3
    with pytest.raises(OtherCacheLayout):
        CacheMemory(MEMORY, os.dup(memory.fd))
    words[0] = version
    CacheMemory(MEMORY, os.dup(memory.fd))
    words[1] += 1
    with pytest.raises(OtherCacheLayout):
        CacheMemory(MEMORY, os.dup(memory.fd))
    assert fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW


@pytest.mark.parametrize("length", [0, 700, 20_000])
def test_the_memory_stays_within_its_limit_whatever_is_stored(length: int) -> None:
    memory = 4 << 20
    node = SharedNode(memory)
    for number in range(6000 if length < 1000 else 1000):
        put((node.a, node.b)[number % 2], key_of(number), bytes(length))
    assert os.fstat(node.memory.fd).st_blocks * 512 <= memory * 1.05
    assert node.a.numbers().bytes <= memory
    assert sum(node.a.numbers().evictions.values()) > 50
    assert node.a.numbers().objects == objects_in(node.a)
    assert pins_in(node.memory) == 0
    node.close()


def test_a_long_head_fits_into_the_smallest_store_however_full_it_is(node: SharedNode) -> None:
    """Nothing is in use, so nothing is a reason to refuse it: what survives leaves space for what is new."""
    tags = [b"%d" % number for number in range(MOST_TAGS)]
    order = random.Random(1)
    for number in range(600):
        head, body = bytes(order.randrange(20_000)), content(number, 0, order.choice((5, 3000, 30_000, 100_000)))
        lease = leased((node.a, node.b)[number % 2], key_of(number))
        assert lease.store_whole(head, body, url=b"x" * MOST_URL, tags=tags), (number, lease.why_not)
        for recent in range(max(0, number - 8), number + 1):
            read(node.a, key_of(recent))
    lease = leased(node.a, key_of(1))
    assert not lease.store_head(bytes(node.memory.geometry.segment // 2))
    assert lease.why_not is NotStored.HEAD_SIZE
    assert pins_in(node.memory) == 0


def test_a_whole_object_with_many_tags_stays_in_its_space(node: SharedNode) -> None:
    """With its tags it is a little longer than what is never divided, and its segment has space for its head only."""
    store = node.a
    put(store, key_of(0), b"first")
    segment = store.space.opened(Queue.SMALL)
    put(node.b, key_of(1), b"next" * 300)  # in the segment behind
    tags, head, body = [b"%d" % number for number in range(500)], bytes(1560), content(3, 0, 2536)
    begins = 128 + 8 * (len(tags) + 1) + len(head)
    put(store, key_of(2), bytes(store.segments.size - store.cells.used(segment) - 8000 - 200))
    left = store.segments.size - store.cells.used(segment)
    assert begins <= left < begins + len(body)
    assert leased(store, key_of(3)).store_whole(head, body, url=b"", tags=tags)
    assert read(node.b, key_of(3)) == (head, body)
    assert read(node.b, key_of(1)) == (b"head", b"next" * 300)
    assert pins_in(node.memory) == 0


def test_what_is_asked_for_again_survives_a_scan(node: SharedNode) -> None:
    popular = range(50)
    for number in popular:
        put(node.a, key_of(number), content(number, 0, 500))
    for number in range(1000, 4000):
        put(node.b, key_of(number), bytes(1000))
        if number % 4 == 0:
            read(node.a, key_of(number // 4 % 50))
    assert sum(read(node.a, key_of(number)) is not None for number in popular) > 40


@pytest.mark.parametrize("length", [1000, 30_000, 60_000, 100_000])
def test_bodies_over_several_segments(node: SharedNode, length: int) -> None:
    for number in range(40):
        writer = begin(node.a, key_of(number), size=None if number % 2 else length)
        body = content(number, 0, length)
        other = begin(node.a, key_of(1000 + number), size=None)
        for at in range(0, length, 7000):
            assert writer.append(body[at : at + 7000])
            assert other.append(body[at : at + 7000])
        assert writer.complete()
        other.abort()
    found = [number for number in range(40) if read(node.b, key_of(number)) == (b"head", content(number, 0, length))]
    assert 39 in found
    assert sum(read(node.b, key_of(number)) is not None for number in range(40)) == len(found) > 2
    assert pins_in(node.memory) == 0


def test_readers_and_writers_that_hold_all_memory_make_it_full_and_not_wrong(node: SharedNode) -> None:
    held: list[StoredObject] = []
    refused = 0
    for number in range(200):
        lease = leased(node.a, key_of(number))
        writer = lease.store(b"head", 30_000)
        if writer is None or not writer.append(content(number, 0, 30_000)):
            assert writer is not None or lease.why_not is NotStored.FULL
            refused += 1
            lease.give_up()
            continue
        writer.complete()
        found = node.b.find(key_of(number))
        assert found is not None
        held.append(found)
    assert refused > 100
    for found in held:
        assert body_of(found) == content(int(found.key), 0, 30_000)
        found.release()
    assert pins_in(node.memory) == 0
    put(node.a, key_of(0), b"again")
    assert read(node.b, key_of(0)) == (b"head", b"again")


def hold_all(node: SharedNode) -> list[StoredObject]:
    """Read objects until there is no space for another one, and return them."""
    held: list[StoredObject] = []
    for length in (40_000, 5000, 0):
        for number in range(1000, 2000):
            lease = leased(node.b, key_of(number))
            if not lease.store_whole(b"head", bytes(length), url=b"", tags=()):
                assert lease.why_not is NotStored.FULL
                lease.give_up()
                break
            found = node.b.find(key_of(number))
            assert found is not None
            held.append(found)
    return held


def release(held: list[StoredObject]) -> None:
    for found in held:
        found.release()
    held.clear()


@pytest.mark.parametrize("step", [1000, 100_000])
def test_an_object_of_known_length_that_is_found_has_space_for_all_of_its_body(node: SharedNode, step: int) -> None:
    body = content(1, 0, 100_000)
    writer = begin(node.a, key_of(1), size=len(body))
    found = node.b.find(key_of(1))
    assert found is not None
    held = hold_all(node)
    for at in range(0, len(body), step):
        assert writer.append(body[at : at + step]), at
    assert writer.complete()
    assert body_of(found) == body
    release([*held, found])
    assert pins_in(node.memory) == 0


def test_an_object_of_known_length_without_space_for_all_of_its_body_is_not_stored(node: SharedNode) -> None:
    put(node.a, key_of(1), b"former")
    lease = leased(node.a, key_of(1))
    held = hold_all(node)
    pins = pins_in(node.memory)
    assert lease.store(b"head", 100_000) is None
    assert lease.why_not is NotStored.FULL
    assert read(node.b, key_of(1)) in (None, (b"head", b"former"))
    assert node.b.lease(key_of(1)) is Refusal.IN_FLIGHT
    lease.give_up(1)
    assert node.b.lease(key_of(1)) is Refusal.UNCACHEABLE
    assert pins_in(node.memory) == pins
    release(held)
    for number in range(3, 10):
        put(node.a, key_of(number), content(number, 0, 100_000))
    assert pins_in(node.memory) == 0


@pytest.fixture
def slow_node() -> Iterator[SharedNode]:
    """A larger node, whose clock goes on whenever a writer reads it: a call reserves space in one segment, no more."""
    made = SharedNode(4 << 20)
    passing = itertools.count()
    for store in (made.a, made.b):
        assert isinstance(store, shared_store.SharedStore)
        store.clock = lambda: made.clock.now + next(passing) / 100
    yield made
    made.close()


def test_an_object_whose_space_takes_long_to_reserve_is_found_when_there_is_all_of_it(slow_node: SharedNode) -> None:
    node = slow_node
    body = content(1, 0, 300_000)
    put(node.a, key_of(1), b"former")
    changes: list[None] = []
    watch = node.b.watch(key_of(2), lambda: changes.append(None))
    writer = leased(node.a, key_of(2)).store(b"head", len(body), key=key_of(1))  # as a variant
    assert writer is not None
    assert read(node.b, key_of(1)) == (b"head", b"former")
    own = writer.hold(key_of(1))
    assert own is not None
    length, found = 0, None
    while found is None:
        assert own.size is None
        assert writer.append(body[length : length + 1000])
        length += 1000
        found = node.b.find(key_of(1))
        if found is not None and found.is_complete:  # the former one
            found.release()
            found = None
    assert length > 1000
    assert found.size == own.size == len(body)
    assert body_of(found) == body_of(own) == body[:length]
    node.run()
    assert changes
    held = hold_all(node)
    assert writer.append(body[length:])
    assert writer.complete()
    assert body_of(found) == body_of(own) == body
    watch.cancel()
    release([found, own, *held])
    assert pins_in(node.memory) == 0


@pytest.mark.parametrize("end", ["space", "abort", "early"])
def test_an_object_that_ends_before_there_is_space_for_all_of_it_was_never_found(
    slow_node: SharedNode, end: str
) -> None:
    node = slow_node
    put(node.a, key_of(1), b"former")
    former = node.a.find(key_of(1))
    assert former is not None
    writer = begin(node.a, key_of(1), size=300_000)
    own = writer.hold(key_of(1))
    held = hold_all(node) if end == "space" else []
    if end == "space":
        assert not writer.append(b"half")
    elif end == "abort":
        writer.abort()
    assert not writer.complete()
    assert own is not None
    assert own.has_failed
    assert read(node.b, key_of(1)) == (b"head", b"former")
    release([former, own, *held])
    assert pins_in(node.memory) == 0
    leased(node.b, key_of(1)).give_up()
    for number in range(3, 30):
        put(node.a, key_of(number), content(number, 0, 300_000))
    assert node.a.numbers().objects == objects_in(node.a)


def test_of_two_writers_that_have_half_of_the_space_each_one_gives_it_up(slow_node: SharedNode) -> None:
    node = slow_node
    segments, held = node.a.segments, []
    for number in range(segments.count - 8):  # one in a segment each
        put(node.a, key_of(100 + number), bytes(segments.size - 1000))
        held.append(node.a.find(key_of(100 + number)))
    writers = {number: begin(store, key_of(number), size=300_000) for number, store in ((1, node.a), (2, node.b))}
    whole = []
    for at in range(0, 300_000, 10_000):
        for number in list(writers):
            if not writers[number].append(content(number, 0, 300_000)[at : at + 10_000]):
                del writers[number]
    for number, writer in writers.items():
        assert writer.complete()
        whole.append(number)
    assert len(whole) == 1
    assert read(node.b, key_of(whole[0])) == (b"head", content(whole[0], 0, 300_000))
    release(held)
    put(node.b, key_of(3 - whole[0]), content(0, 0, 300_000))
    assert pins_in(node.memory) == 0


@pytest.mark.parametrize("found_before", [0, 400])
def test_a_few_objects_that_are_read_slowly_do_not_make_the_store_full(
    slow_node: SharedNode, found_before: int
) -> None:
    """Their segments are the oldest ones after a while, and more than are passed over in one search. `found_before`:
    objects that were found, so that most segments are in the main queue.
    """
    node = slow_node
    held, refused = [], 0
    for number in range(found_before):
        put(node.a, key_of(2000 + number), content(number, 0, 20_000))
        read(node.b, key_of(2000 + number))
    for number in range(24):  # one in a segment each
        put(node.a, key_of(number), content(number, 0, 60_000))
        held.append(node.b.find(key_of(number)))
    for number in range(1000, 1300):
        lease = leased((node.a, node.b)[number % 2], key_of(number))
        refused += lease.store(b"head", 60_000) is None
        lease.give_up()
    assert refused < 20
    for number, found in enumerate(held):
        assert found is not None
        assert body_of(found) == content(number, 0, 60_000)
        found.release()
    assert pins_in(node.memory) == 0


def test_the_oldest_objects_are_read_and_the_others_make_way(slow_node: SharedNode) -> None:
    """More than a search yields: the next one finds what is behind them."""
    node, held, refused = slow_node, [], []
    count = node.a.segments.count
    for number in range(count - 4):  # one in a segment each
        put(node.a, key_of(number), content(number, 0, 60_000))
        if number < 40:
            held.append(node.b.find(key_of(number)))
    for number in range(1000, 1000 + 8 * count):
        lease = leased(node.a, key_of(number))
        if not lease.store_whole(b"head", bytes(3000), url=b"", tags=()):
            refused.append(number)
        lease.give_up()
    assert not refused
    for number, found in enumerate(held):
        assert found is not None
        assert body_of(found) == content(number, 0, 60_000)
        found.release()
    assert pins_in(node.memory) == 0


def test_a_long_object_that_may_no_longer_be_stored_stays_as_it_was_when_it_is_validated(slow_node: SharedNode) -> None:
    """`max_object` has become smaller."""
    node, body = slow_node, content(0, 0, 300_000)
    put(node.a, key_of(0), body, b"old")
    for store in (node.a, node.b):
        assert isinstance(store, shared_store.SharedStore)
        store.most_bytes = 200_000
    found, lease = node.a.find(key_of(0)), leased(node.b, key_of(0))
    assert found is not None
    assert not lease.freshen(found, b"new")
    found.release()
    assert read(node.a, key_of(0)) == (b"old", body)


def test_a_long_object_is_validated_also_if_its_space_takes_long_to_reserve(slow_node: SharedNode) -> None:
    node, body = slow_node, content(0, 0, 300_000)
    put(node.a, key_of(0), body, b"old")
    found, lease = node.a.find(key_of(0)), leased(node.b, key_of(0))
    assert found is not None
    assert lease.freshen(found, b"new")
    assert (found.head, body_of(found)) == (b"old", body)
    found.release()
    assert read(node.a, key_of(0)) == (b"new", body)
    assert node.a.numbers().objects == objects_in(node.a) == 1
    assert pins_in(node.memory) == 0


def test_an_object_whose_space_takes_long_to_reserve_does_not_replace_a_later_one(slow_node: SharedNode) -> None:
    node = slow_node
    writer = begin(node.a, key_of(0), b"older", size=300_000)
    node.clock.now += 31
    node.date.now += 31
    put(node.b, key_of(0), b"x" * 200, b"newer")
    for _ in range(30):
        writer.append(bytes(10_000))
    assert not writer.complete()
    assert read(node.b, key_of(0)) == (b"newer", b"x" * 200)
    assert pins_in(node.memory) == 0


@pytest.mark.parametrize("end", ["purge", "lease"])
def test_a_large_object_does_not_replace_one_whose_fetch_has_begun_later(node: SharedNode, end: str) -> None:
    """Also if that is complete before the head of the earlier response arrives."""
    earlier = leased(node.a, key_of(0))
    if end == "purge":
        at_once(node.b.purge("tag", [b"another"]))
    else:
        node.clock.now += 31
    node.date.now += 31
    put(node.b, key_of(0), b"x" * 100_000, b"newer")
    writer = earlier.store(b"older", 100_000)
    assert writer is None or not writer.append(bytes(100_000))
    assert earlier.why_not is NotStored.CONTESTED
    assert read(node.b, key_of(0)) == (b"newer", b"x" * 100_000)
    assert pins_in(node.memory) == 0


@contextmanager
def recycling(node: SharedNode, *, but: int = -1) -> Iterator[None]:
    """The first worker has all sealed segments in hand, and keeps them in the end. `but`: one that it leaves alone."""
    segments, owned = node.a.segments, []
    states = [(segment, segments.state(segment)) for segment in range(segments.count)]
    for segment, state in states:
        if state.state is not SegmentState.SEALED:
            continue
        wanted = StateWord(state.generation, segments.owner, state.queue, SegmentState.RECYCLING)
        if segment != but:
            assert segments.change(segment, state, wanted)
            owned.append((segment, state, wanted))
    yield
    for segment, state, wanted in owned:
        assert segments.change(segment, wanted, state)


def fill_up(node: SharedNode) -> None:
    """Seal the segments that the second worker has open."""
    for number in range(5000, 5030):
        put(node.b, key_of(number), bytes(3900))


def test_a_search_for_space_takes_no_object_of_several_segments_from_others(node: SharedNode) -> None:
    put(node.b, key_of(1), content(1, 0, 100_000))
    found = node.b.find(key_of(1))
    assert found is not None
    fill_up(node)
    with recycling(node, but=found._segment):
        assert node.b.find(key_of(1)) is None
    assert read(node.b, key_of(1)) == (b"head", content(1, 0, 100_000))
    found.release()


@pytest.mark.parametrize("length", [100, 100_000])
def test_a_search_for_space_hides_no_object_from_a_removal(node: SharedNode, length: int) -> None:
    put(node.b, key_of(1), bytes(length))
    fill_up(node)
    with recycling(node):
        assert node.b.remove(key_of(1))
        assert not node.b.remove(key_of(1))
    assert node.a.find(key_of(1)) is node.b.find(key_of(1)) is None
    assert node.a.numbers().objects == objects_in(node.a)


@pytest.mark.parametrize("length", [100, 100_000])
def test_a_search_for_space_hides_no_object_from_the_one_that_replaces_it(node: SharedNode, length: int) -> None:
    put(node.b, key_of(1), bytes(length), b"older")
    fill_up(node)
    with recycling(node):
        put(node.b, key_of(1), b"x" * length, b"newer")
    assert read(node.a, key_of(1)) == read(node.b, key_of(1)) == (b"newer", b"x" * length)
    assert node.a.numbers().objects == objects_in(node.a)


def test_a_removal_holds_also_while_the_object_is_moved(node: SharedNode) -> None:
    """Within its segment, which is the first one of the main queue: for a moment nothing is where its entry points."""
    for number in range(4):
        put(node.a, key_of(number), content(number, 0, 500))
        read(node.a, key_of(number))
    open_segment = Segments.open_segment
    removed: list[bool] = []

    def remove_then(segments: Segments, segment: int, seen: StateWord, queue: Queue) -> bool:
        is_open = open_segment(segments, segment, seen, queue)
        if queue is Queue.MAIN and seen.state is SegmentState.RECYCLING and not removed:
            removed.append(node.b.remove(key_of(2)))
        return is_open

    with mock.patch.object(Segments, "open_segment", remove_then):
        for number in range(100, 1000):
            put(node.a, key_of(number), bytes(3000))
            if removed:
                break
    assert removed
    assert [number for number in range(4) if read(node.b, key_of(number)) is not None] == [0, 1, 3]
    assert node.a.numbers().objects == objects_in(node.a)


@pytest.mark.parametrize("meanwhile", ["removed", "replaced"])
@pytest.mark.parametrize("length", [1000, 100_000])
def test_an_object_that_is_removed_while_it_is_validated_does_not_come_back(
    node: SharedNode, length: int, meanwhile: str
) -> None:
    key = key_of(1)
    put(node.a, key, bytes(length), b"old")
    found, lease = node.a.find(key), leased(node.a, key)
    assert found is not None
    removed: list[bool] = []

    class Beside(Space):
        """The space of a worker. Another one comes before it is used."""

        def reserve(self, queue: int, least: int, wanted: int) -> Extent | None:
            if not removed:
                removed.append(node.b.remove(key))
                if meanwhile == "replaced":
                    put(node.b, key_of(2), b"newer")
                    assert node.b.restore(key, node.b.present_moment()).store_head(b"newer")
            return super().reserve(queue, least, wanted)

    node.a.space = Beside(node.memory, node.a.segments, node.a.cells)
    assert not lease.freshen(found, b"new head")
    assert removed == [True]
    assert lease.why_not is NotStored.GONE
    found.release()
    assert read(node.b, key) == (None if meanwhile == "removed" else (b"newer", b""))
    assert node.a.numbers().objects == objects_in(node.a)
    assert pins_in(node.memory) == 0


@pytest.mark.parametrize("length", [1000, 100_000])
def test_an_object_from_before_the_clock_was_set_back_is_validated_and_replaced(node: SharedNode, length: int) -> None:
    put(node.a, key_of(1), bytes(length), b"old")
    node.date.now -= 400
    found = node.a.find(key_of(1))
    assert found is not None
    assert leased(node.a, key_of(1)).freshen(found, b"validated")
    found.release()
    assert read(node.b, key_of(1)) == (b"validated", bytes(length))
    node.date.now -= 400
    put(node.b, key_of(1), b"x" * length, b"newer")
    assert read(node.a, key_of(1)) == (b"newer", b"x" * length)


@pytest.mark.parametrize("length", [1000, 100_000])
def test_an_object_that_is_validated_stays_as_popular_as_it_was(node: SharedNode, length: int) -> None:
    put(node.a, key_of(1), bytes(length), url=b"http://a/1")
    for _ in range(20):
        read(node.a, key_of(1))
    found = node.a.find(key_of(1))
    assert found is not None
    assert leased(node.a, key_of(1)).freshen(found, b"new")
    found.release()
    assert popular(node.a) == [(b"http://a/1", 21, length)]


def test_what_is_forgotten_is_released(node: SharedNode) -> None:
    """A handler that is cancelled may drop what it holds."""
    put(node.a, key_of(0), b"body")
    found = node.a.find(key_of(0))
    writer = begin(node.a, key_of(1))
    assert found is not None
    assert pins_in(node.memory) == 2
    del found, writer
    assert pins_in(node.memory) == 0
    assert node.b.find(key_of(1)) is None
    leased(node.b, key_of(1)).give_up()


# deaths


def test_a_death_at_the_begin_of_a_recycling_takes_nothing_from_readers(node: SharedNode) -> None:
    """The worker has not looked yet whether others read the segment."""
    for number in range(200):
        put(node.a, key_of(number), content(number, 0, 3000))
    segments = node.a.segments
    sealed = [each for each in range(segments.count) if segments.state(each).state is SegmentState.SEALED]
    found = next(
        each
        for number in range(200)
        if (each := node.b.find(key_of(number))) is not None and each._segment == sealed[0]
    )
    for segment in sealed:
        state = node.a.segments.state(segment)
        recycling = StateWord(state.generation, node.a.segments.owner, state.queue, SegmentState.RECYCLING)
        assert node.a.segments.change(segment, state, recycling)
    clean_up(node.memory, 1, node.wakers)
    states = [node.b.segments.state(segment).state for segment in sealed]
    assert states == [SegmentState.SEALED] + [SegmentState.FREE] * (len(sealed) - 1)
    assert read(node.b, found.key) is not None
    for number in range(200, 600):
        put(node.b, key_of(number), content(number, 0, 3000))
    assert body_of(found) == content(int(found.key), 0, 3000)
    found.release()


def test_a_dead_worker_leaves_no_fetch_and_no_pin(node: SharedNode) -> None:
    put(node.a, key_of(0), b"stays")
    pid = os.fork()
    if pid == 0:
        held = node.a.find(key_of(0)), leased(node.a, key_of(1)), begin(node.a, key_of(2))
        held[-1].append(b"half")
        os._exit(0)
    os.waitpid(pid, 0)
    reader = node.b.find(key_of(2))
    assert reader is not None
    assert node.b.lease(key_of(1)) is Refusal.IN_FLIGHT
    assert pins_in(node.memory) == 3
    calls: list[None] = []
    watch = node.b.watch(key_of(2), lambda: calls.append(None))
    clean_up(node.memory, 1, node.wakers)
    node.run()
    node.run()
    assert calls
    watch.cancel()
    assert reader.has_failed
    assert body_of(reader) == b"half"
    reader.release()
    assert pins_in(node.memory) == 0
    assert read(node.b, key_of(0)) == (b"head", b"stays")
    assert node.b.find(key_of(2)) is None
    for number in (1, 2):
        put(node.b, key_of(number), b"by the other")
    assert node.b.numbers().objects == objects_in(node.b) == 3


def test_a_kill_at_any_change_leaves_nothing_wrong() -> None:
    run_in_small_process(kill_at_any_change)


def test_workers_at_once_and_kills_among_them() -> None:
    run_in_small_process(kill_some_at_once)


class StoreModel(RuleBasedStateMachine):
    """Two workers and a model that knows, for each key, what may be found: the last valid object or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.node: SharedNode = SharedNode(MEMORY)
        self.version = 0
        self.valid: dict[int, tuple[bytes, bytes, frozenset[bytes], bool]] = {}  # head, body, tags, soft
        self.replaced: dict[int, tuple[bytes, bytes, frozenset[bytes], bool] | None] = {}
        self.writers: dict[int, tuple[Writer, bytes, bytes, frozenset[bytes], list[bool]]] = {}
        self.held: list[tuple[StoredObject, bytes]] = []

    keys = st.integers(0, 11)
    lengths = st.sampled_from([0, 1, 63, 64, 500, 4096, 9000, 40_000, 70_000])
    tag_sets = st.sets(st.sampled_from([b"red", b"blue"])).map(frozenset)

    def handle(self, second: bool) -> Any:
        return self.node.b if second else self.node.a

    @rule(key=keys, length=lengths, second=st.booleans(), tags=tag_sets, known=st.booleans())
    def begin(self, key: int, length: int, second: bool, tags: frozenset[bytes], known: bool) -> None:
        if key in self.writers:
            assert self.handle(second).lease(key_of(key)) is Refusal.IN_FLIGHT or self.purged(key)
            return
        self.version += 1
        head, body = b"head %d" % self.version, content(key, self.version, length)
        lease = leased(self.handle(second), key_of(key))
        writer = lease.store(head, length if known else None, url=b"http://h/%d" % key, tags=tags)
        assert writer is not None, lease.why_not
        self.replaced[key] = self.valid.pop(key, None)
        self.writers[key] = writer, head, body, tags, [False, False]

    def purged(self, key: int) -> bool:
        return self.writers[key][4][0]

    @rule(key=keys, second=st.booleans())
    def finish(self, key: int, second: bool) -> None:
        if key not in self.writers:
            return
        writer, head, body, tags, (purged, soft) = self.writers.pop(key)
        half = len(body) // 2
        assert writer.append(body[:half])
        assert writer.append(body[half:])
        if second:
            writer.abort()
            if (replaced := self.replaced[key]) is not None:
                self.valid[key] = replaced
        elif writer.complete():
            assert not purged
            self.valid[key] = head, body, tags, soft
        else:
            self.valid.pop(key, None)

    @rule(key=keys, second=st.booleans(), hold=st.booleans())
    def find(self, key: int, second: bool, hold: bool) -> None:
        found = self.handle(second).find(key_of(key))
        if found is None:
            return
        if found.is_complete:
            head, body, _, soft = self.valid[key]
            assert (found.head, body_of(found), found.is_soft_purged) == (head, body, soft)
        else:
            assert key in self.writers
            assert not self.purged(key)
        if hold and found.is_complete and len(self.held) < 3:
            self.held.append((found, body_of(found)))
        else:
            found.release()

    @rule()
    def release(self) -> None:
        if self.held:
            found, body = self.held.pop(0)
            assert body_of(found) == body
            found.release()

    @rule(key=keys, second=st.booleans())
    def freshen(self, key: int, second: bool) -> None:
        store = self.handle(second)
        found = store.find(key_of(key))
        if found is None or not found.is_complete or key in self.writers:
            return
        self.version += 1
        lease, head = leased(store, key_of(key)), b"fresh %d" % self.version * 20
        if lease.freshen(found, head):
            _, body, tags, _ = self.valid[key]
            self.valid[key] = head, body, tags, False
        lease.give_up()
        found.release()

    @rule(key=keys, second=st.booleans())
    def remove(self, key: int, second: bool) -> None:
        if key not in self.writers:
            self.handle(second).remove(key_of(key))
            self.valid.pop(key, None)

    def note_purge(self, hit: Any, soft: bool) -> None:
        for key, (head, body, tags, _) in list(self.valid.items()):
            if hit(key, tags):
                if soft:
                    self.valid[key] = head, body, tags, True
                else:
                    del self.valid[key]
        for key, (_, _, _, tags, state) in self.writers.items():
            state[soft] = state[soft] or hit(key, tags)

    @rule(key=keys, soft=st.booleans(), count=st.booleans())
    def purge_key(self, key: int, soft: bool, count: bool) -> None:
        if key not in self.writers:
            self.run_purge(self.node.a.purge("key", [key_of(key)], soft=soft), count)
            self.note_purge(lambda each, tags: each == key, soft)

    @rule(tag=st.sampled_from([b"red", b"blue"]), soft=st.booleans(), count=st.booleans())
    def purge_tag(self, tag: bytes, soft: bool, count: bool) -> None:
        if not self.writers:
            self.run_purge(self.node.b.purge("tag", [tag], soft=soft), count)
            self.note_purge(lambda each, tags: tag in tags, soft)

    @rule(key=keys, soft=st.booleans())
    def purge_prefix(self, key: int, soft: bool) -> None:
        if not self.writers:
            prefix = b"http://h/%d" % key
            self.run_purge(self.node.b.purge("prefix", [prefix], soft=soft), True)
            self.note_purge(lambda each, tags: (b"http://h/%d" % each).startswith(prefix), soft)

    @rule()
    def purge_all(self) -> None:
        if not self.writers:
            self.run_purge(self.node.b.purge("all"), False)
            self.note_purge(lambda each, tags: True, False)

    def run_purge(self, counting: Any, count: bool) -> None:
        if count:
            at_once(counting)

    @rule(amount=st.integers(1, 40))
    def flood(self, amount: int) -> None:
        for number in range(amount):
            lease = leased(self.node.b, key_of(100_000 + self.version * 100 + number))
            writer = lease.store(b"flood", 8000)
            if writer is None or not (writer.append(bytes(8000)) and writer.complete()):
                lease.give_up()
        self.version += 1

    @invariant()
    def counters_are_right(self) -> None:
        numbers = self.node.a.numbers()
        assert numbers.objects == objects_in(self.node.a)
        assert numbers.bytes <= MEMORY
        assert pins_in(self.node.memory) == len(self.held) + len(self.writers)

    def teardown(self) -> None:
        for writer, *_ in self.writers.values():
            writer.abort()
        for found, body in self.held:
            assert body_of(found) == body
            found.release()
        assert pins_in(self.node.memory) == 0
        self.node.close()


StoreModel.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestStoreModel = StoreModel.TestCase


def test_a_head_of_an_object_of_several_segments_is_replaced(node: SharedNode) -> None:
    """A response that a 304 has validated is fresh again, however large it is."""
    body = content(1, 1, 100_000)
    assert len(body) > node.memory.geometry.segment
    put(node.a, key_of(1), body, b"old", tags=[b"t"], url=b"http://a.test/x")
    for turn in range(12):
        found = node.b.find(key_of(1))
        assert found is not None
        node.date.now += 1
        assert leased(node.b, key_of(1)).freshen(found, b"new %d" % turn)
        assert body_of(found) == body
        found.release()
        assert read(node.a, key_of(1)) == (b"new %d" % turn, body)
    after = node.a.find(key_of(1))
    assert after is not None
    assert after.stored_date == node.date.now
    lease = leased(node.a, key_of(1))
    node.b.purge("tag", [b"t"])
    assert not lease.freshen(after, b"too late")
    after.release()
    lease.give_up()
    assert node.a.find(key_of(1)) is None
    with mock.patch.object(lifecycle, "_MOST_COPIED", 1000):
        put(node.a, key_of(2), body)
        found = node.a.find(key_of(2))
        assert found is not None
        lease = leased(node.a, key_of(2))
        assert not lease.freshen(found, b"new")
        assert lease.why_not is NotStored.BODY_SIZE
        found.release()
        lease.give_up()
        assert read(node.b, key_of(2)) == (b"head", body)
    assert not pins_in(node.memory)


def test_a_long_object_that_cannot_be_copied_stays_as_it_was(node: SharedNode) -> None:
    """Its new head would need a copy, for which there is no space, or not enough of it."""
    key, body = key_of(1), random.Random(1).randbytes(100_000)
    put(node.a, key, body, b"old")
    found, held = node.a.find(key), []
    assert found is not None
    for number in range(2, 1000):
        lease = leased(node.a, key_of(number))
        if not lease.store_head(b"h" * 30_000):
            lease.give_up()
            break
        lease.give_up()
        held.append(node.a.find(key_of(number)))
    outcomes = set()
    while True:
        is_fresh = leased(node.b, key).freshen(found, b"new")
        outcomes.add(is_fresh)
        assert read(node.b, key) == (b"new" if is_fresh else b"old", body)
        if is_fresh or not held:
            break
        for each in held[-1:]:
            assert each is not None
            each.release()
        held.pop()
    assert outcomes == {False, True}
    found.release()
    for each in held:
        assert each is not None
        each.release()
    assert node.a.numbers().objects == objects_in(node.a)
    assert pins_in(node.memory) == 0
