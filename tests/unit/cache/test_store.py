"""The interface of a cache store, for all implementations: what one worker stores another finds, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import LEASE_S, MOST_HEAD, MOST_TAGS, MOST_URL, Counting, Eviction, NotStored, Refusal, Writer
from fastgw.routing.table import at_once
from tests.unit.cache.nodes import (
    Node,
    SharedNode,
    TieredNode,
    begin,
    body_of,
    leased,
    put,
    read,
)

K, L, M = (bytes([each]) * 16 for each in b"KLM")
NODES = [SharedNode, TieredNode]


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    made: Node = TieredNode(str(tmp_path)) if request.param is TieredNode else request.param()
    yield made
    made.close()


def test_a_stored_object_is_found_by_all_workers(node: Node) -> None:
    assert node.a.find(K) is node.b.find(K) is None
    put(node.a, K, b"body", b"a head")
    assert read(node.a, K) == read(node.b, K) == (b"a head", b"body")
    assert node.a.find(L) is None
    assert node.a.numbers().objects == 1
    assert node.a.numbers().bytes >= 10


@pytest.mark.parametrize("length", [0, 1, 1000, 60_000])
def test_a_whole_object_is_stored_at_once(node: Node, length: int) -> None:
    body = (b"0123456789" * (length // 10 + 1))[:length]
    lease = leased(node.a, K)
    assert node.b.lease(K) is Refusal.IN_FLIGHT
    assert lease.store_whole(b"a head", body, url=b"http://a/", tags=(b"tag",))
    assert read(node.b, K) == (b"a head", body)
    leased(node.b, K).give_up()  # it ended with the object
    assert node.a.numbers().objects == 1
    at_once(node.a.purge("tag", [b"tag"]))
    assert node.b.find(K) is None


def test_a_whole_object_under_another_key_is_told_to_those_that_watch_it(node: Node) -> None:
    seen: list[bytes] = []
    watches = [node.b.watch(key, partial(seen.append, key)) for key in (K, L)]
    lease = leased(node.a, K)
    assert lease.store_whole(b"a head", b"body", key=L, url=b"http://a/", tags=())
    node.run()
    assert {*seen} == {K, L}
    assert node.b.find(K) is None
    assert read(node.b, L) == (b"a head", b"body")
    leased(node.b, K).give_up()  # it ended with the object
    at_once(node.a.purge("key", [K]))
    assert node.b.find(L) is None
    for watch in watches:
        watch.cancel()


def test_a_purge_during_a_fetch_keeps_a_whole_object_out(node: Node) -> None:
    lease = leased(node.a, K)
    at_once(node.b.purge("all"))
    assert not lease.store_whole(b"head", b"body", url=b"http://a/", tags=())
    assert lease.why_not is NotStored.PURGED
    lease.give_up()
    assert node.a.find(K) is None


def test_an_object_without_body(node: Node) -> None:
    put(node.a, K)
    assert read(node.b, K) == (b"head", b"")
    found = node.b.find(K)
    assert found is not None
    assert found.pieces() == []


def test_a_later_object_replaces_the_earlier_one_that_readers_keep(node: Node) -> None:
    put(node.a, K, b"first")
    found = node.b.find(K)
    assert found is not None
    put(node.b, K, b"second", b"other")
    assert body_of(found) == b"first"
    found.release()
    assert read(node.a, K) == (b"other", b"second")
    assert node.a.numbers().objects == 1


@pytest.mark.parametrize("size", [None, 70_000])
def test_a_growing_object_is_read_while_it_grows(node: Node, size: int | None) -> None:
    writer = begin(node.a, K, size=size)
    found = node.b.find(K)
    assert found is not None
    assert (found.head, found.length, found.size, found.is_complete) == (b"head", 0, size, False)
    assert writer.append(b"a" * 30_000)
    assert found.length == 30_000
    assert writer.append(bytearray(b"b" * 40_000))
    assert body_of(found, 29_999) == b"a" + b"b" * 40_000
    assert body_of(found, 69_999) == b"b"
    assert body_of(found, 70_000) == b""
    assert writer.complete()
    assert found.is_complete
    assert not found.has_failed
    assert found.size == 70_000
    found.release()
    assert read(node.a, K) == (b"head", b"a" * 30_000 + b"b" * 40_000)


def test_small_pieces_add_up(node: Node) -> None:
    writer = begin(node.a, K)
    pieces = [bytes([number % 256]) * (number % 97) for number in range(1500)]
    for piece in pieces:
        assert writer.append(piece)
    assert writer.complete()
    assert read(node.b, K) == (b"head", b"".join(pieces))


def test_an_aborted_object_is_gone_and_those_who_read_it_see_it(node: Node) -> None:
    writer = begin(node.a, K)
    writer.append(b"half")
    found = node.b.find(K)
    assert found is not None
    writer.abort()
    writer.abort()
    assert found.has_failed
    assert not found.is_complete
    assert node.a.find(K) is node.b.find(K) is None
    assert not writer.append(b"more")
    assert not writer.complete()
    assert body_of(found) == b"half"
    found.release()
    assert node.b.numbers().objects == 0


def end_early(writer: Writer) -> None:
    """End an object of 8 bytes before it is whole."""
    writer.append(b"half")
    writer.abort()


def complete_early(writer: Writer) -> None:
    writer.append(b"half")
    assert not writer.complete()


@pytest.mark.parametrize("end", [end_early, complete_early])
def test_what_an_aborted_object_has_replaced_comes_back(node: Node, end: Callable[[Writer], None]) -> None:
    put(node.a, K, b"first", tags=[b"t"])
    for _ in range(3):
        writer = begin(node.b, K, size=8)
        reader = node.a.find(K)
        assert reader is not None
        assert not reader.is_complete
        end(writer)
        assert reader.has_failed
        reader.release()
        assert read(node.a, K) == (b"head", b"first")
        assert node.a.numbers().objects == 1
    leased(node.a, K).give_up()
    assert at_once(node.b.purge("tag", [b"t"])) == 1
    assert node.a.find(K) is None


@pytest.mark.parametrize("purge", ["key", "tag", "prefix", "all", "remove"])
def test_what_was_purged_meanwhile_does_not_come_back(node: Node, purge: str) -> None:
    put(node.a, K, b"first", url=b"http://a.test/x", tags=[b"t"])
    writer = begin(node.b, K, tags=[b"other"], url=b"http://a.test/x")
    writer.append(b"half")
    if purge == "key":
        at_once(node.a.purge("key", [K]))
    elif purge == "tag":
        at_once(node.a.purge("tag", [b"t"]))
    elif purge == "prefix":
        at_once(node.a.purge("prefix", [b"http://a.test/"]))
    elif purge == "all":
        at_once(node.a.purge("all"))
    else:
        node.a.remove(K)
    writer.abort()
    assert node.a.find(K) is node.b.find(K) is None


def test_what_was_soft_purged_meanwhile_comes_back_stale(node: Node) -> None:
    put(node.a, K, b"first", tags=[b"t"])
    writer = begin(node.b, K, tags=[b"other"])
    at_once(node.a.purge("tag", [b"t"], soft=True))
    writer.abort()
    found = node.a.find(K)
    assert found is not None
    assert found.is_soft_purged
    assert body_of(found) == b"first"
    found.release()


def test_what_another_request_has_stored_meanwhile_stays(node: Node) -> None:
    put(node.a, K, b"first")
    writer = begin(node.b, K)
    node.clock.now += LEASE_S + 1
    put(node.a, K, b"second")
    writer.abort()
    assert read(node.a, K) == (b"head", b"second")


def test_a_whole_object_that_does_not_fit_leaves_nothing_of_the_one_it_outdates(node: Node) -> None:
    put(node.a, K, b"first")
    writer = begin(node.b, K)
    while writer.append(bytes(100_000)):
        pass
    assert node.a.find(K) is node.b.find(K) is None


@pytest.mark.parametrize("given", [b"short", b"too long to fit"])
def test_another_size_than_announced_is_a_failure(node: Node, given: bytes) -> None:
    writer = begin(node.a, K, size=8)
    found = node.b.find(K)
    assert found is not None
    writer.append(given)
    assert not writer.complete()
    assert found.has_failed
    found.release()
    assert node.b.find(K) is None
    leased(node.b, K).give_up()


# leases


def test_one_request_fetches_a_key(node: Node) -> None:
    lease = leased(node.a, K)
    assert node.a.lease(K) is node.b.lease(K) is Refusal.IN_FLIGHT
    leased(node.b, L).give_up()
    lease.give_up()
    lease.give_up()
    other = leased(node.b, K)
    lease.give_up()
    assert node.a.lease(K) is Refusal.IN_FLIGHT
    other.give_up()


def test_a_lease_ends_with_its_object(node: Node) -> None:
    writer = begin(node.a, K)
    assert node.b.lease(K) is Refusal.IN_FLIGHT
    writer.complete()
    other = leased(node.b, K)
    writer = other.store(b"head")  # type: ignore[assignment]
    writer.abort()
    leased(node.a, K).give_up()


def test_a_lease_ends_after_a_time_and_its_holder_may_still_store(node: Node) -> None:
    slow = leased(node.a, K)
    node.clock.now += LEASE_S + 1
    other = leased(node.b, K)
    writer = slow.store(b"slow")
    if writer is not None:
        assert writer.complete()
    assert node.a.lease(K) is Refusal.IN_FLIGHT
    writer = other.store(b"other")
    assert writer is not None
    assert writer.complete()
    assert read(node.a, K) == (b"other", b"")


def test_an_uncacheable_answer_leaves_a_mark(node: Node) -> None:
    leased(node.a, K).give_up(mark_s=2.0)
    assert node.a.lease(K) is node.b.lease(K) is Refusal.UNCACHEABLE
    node.clock.now += 3.0
    leased(node.b, K).give_up()


def test_an_answer_that_has_outgrown_the_store_leaves_a_longer_mark(node: Node) -> None:
    leased(node.a, K).give_up(mark_s=60.0)
    assert node.a.lease(K) is node.b.lease(K) is Refusal.OUTGROWN
    node.clock.now += 59.0
    assert node.a.lease(K) is node.b.lease(K) is Refusal.UNCACHEABLE
    node.clock.now += 2.0
    leased(node.b, K).give_up()


def test_a_lease_that_has_ended_stores_nothing(node: Node) -> None:
    lease = leased(node.a, K)
    lease.give_up()
    assert lease.store(b"head") is None
    assert lease.why_not is NotStored.EXPIRED
    assert not lease.store_head(b"head")
    assert node.b.find(K) is None


def test_too_large_is_refused_at_once(node: Node) -> None:
    lease = leased(node.a, K)
    assert lease.store(b"x" * (MOST_HEAD + 1)) is None
    assert lease.why_not is NotStored.HEAD_SIZE
    assert lease.store(b"", tags=[b"%d" % number for number in range(MOST_TAGS + 1)]) is None
    assert lease.store(b"", url=b"x" * (MOST_URL + 1)) is None
    assert lease.store(b"", size=(1 << 30) + 1) is None
    assert lease.why_not is NotStored.BODY_SIZE
    lease.give_up()
    writer = begin(node.a, K)
    for _ in range(node.a.most_bytes // 65_536):
        assert writer.append(bytes(65_536))
    assert not writer.append(bytes(65_536))
    assert node.b.find(K) is None


def test_a_variant_is_stored_under_a_key_of_its_own(node: Node) -> None:
    lease = leased(node.a, K)
    assert lease.store_head(b"which headers vary")
    assert node.b.lease(K) is Refusal.IN_FLIGHT
    writer = lease.store(b"variant", key=L)
    assert writer is not None
    assert writer.append(b"x")
    assert writer.complete()
    assert read(node.b, K) == (b"which headers vary", b"")
    assert read(node.b, L) == (b"variant", b"x")
    leased(node.b, K).give_up()


# heads


def test_a_head_is_replaced_and_the_body_stays(node: Node) -> None:
    put(node.a, K, b"body" * 1000, b"old", tags=[b"t"], url=b"http://h/p")
    found = node.a.find(K)
    assert found is not None
    node.date.now += 100
    assert leased(node.a, K).freshen(found, b"a longer new head")
    assert (found.head, body_of(found)) == (b"old", b"body" * 1000)
    found.release()
    assert read(node.b, K) == (b"a longer new head", b"body" * 1000)
    after = node.b.find(K)
    assert after is not None
    assert after.stored_date == node.date.now
    after.release()
    assert node.b.numbers().objects == 1
    leased(node.b, K).give_up()
    assert at_once(node.b.purge("tag", [b"t"])) == 1
    assert node.a.find(K) is None


def test_a_head_of_an_object_that_is_gone_is_not_replaced(node: Node) -> None:
    put(node.a, K, b"body")
    found = node.a.find(K)
    assert found is not None
    lease = leased(node.a, K)
    assert node.b.remove(K)
    assert not lease.freshen(found, b"new")
    lease.give_up()
    assert node.b.find(K) is None
    put(node.a, K, b"again")
    lease = leased(node.a, K)
    assert not lease.freshen(found, b"new")
    lease.give_up()
    found.release()
    assert read(node.b, K) == (b"head", b"again")


def test_a_purge_during_a_revalidation_is_not_undone(node: Node) -> None:
    put(node.a, K, b"body")
    put(node.a, L, b"body")
    found, other = node.a.find(K), node.a.find(L)
    assert found is not None
    assert other is not None
    first, second = leased(node.a, K), leased(node.a, L)
    at_once(node.b.purge("key", [K]))
    at_once(node.b.purge("key", [L], soft=True))
    assert not first.freshen(found, b"new")
    first.give_up()
    found.release()
    assert node.b.find(K) is None
    if second.freshen(other, b"new"):
        after = node.b.find(L)
        assert after is not None
        assert after.is_soft_purged
        after.release()
    second.give_up()
    other.release()


# purges


def fill(node: Node) -> None:
    put(node.a, K, b"k", url=b"http://h/a/1", tags=[b"red", b"round"])
    put(node.b, L, b"l", url=b"http://h/a/2", tags=[b"red"])
    put(node.a, M, b"m", url=b"http://h/b/1")


def found_keys(node: Node) -> bytes:
    return b"".join(key[:1] for key in (K, L, M) if read(node.b, key) is not None)


def test_purges_hit_what_they_name(node: Node) -> None:
    fill(node)
    assert at_once(node.a.purge("key", [K])) == 1
    assert found_keys(node) == b"LM"
    assert at_once(node.a.purge("key", [K])) == 0
    fill(node)
    assert at_once(node.a.purge("tag", [b"round", b"square"])) == 1
    assert found_keys(node) == b"LM"
    fill(node)
    assert at_once(node.a.purge("tag", [b"red"])) == 2
    assert found_keys(node) == b"M"
    fill(node)
    assert at_once(node.a.purge("prefix", [b"http://h/a"])) == 2
    assert found_keys(node) == b"M"
    assert at_once(node.a.purge("prefix", [b"http://h/b/1/"])) == 0
    assert found_keys(node) == b"M"
    fill(node)
    assert at_once(node.a.purge("all")) == 3
    assert found_keys(node) == b""
    assert node.a.numbers().objects == 0
    fill(node)
    assert found_keys(node) == b"KLM"
    with pytest.raises(ValueError, match="prefix"):
        node.a.purge("prefix", [b"x" * (MOST_URL + 1)])


def test_a_purge_holds_before_it_is_counted(node: Node) -> None:
    fill(node)
    node.a.purge("tag", [b"red"])
    assert found_keys(node) == b"M"


def test_soft_purged_objects_stay_and_say_so(node: Node) -> None:
    fill(node)
    assert at_once(node.a.purge("tag", [b"red"], soft=True)) == 2
    found = [node.b.find(key) for key in (K, L, M)]
    assert [each and each.is_soft_purged for each in found] == [True, True, False]
    for each in found:
        assert each is not None
        each.release()
    put(node.a, K, b"new", tags=[b"red"])
    fresh = node.b.find(K)
    assert fresh is not None
    assert not fresh.is_soft_purged
    fresh.release()
    assert at_once(node.a.purge("all")) == 3


def test_a_purge_reaches_the_variants_of_a_key(node: Node) -> None:
    lease = leased(node.a, K)
    assert lease.store_head(b"vary")
    writer = lease.store(b"variant", key=L)
    assert writer is not None
    assert writer.complete()
    assert at_once(node.b.purge("key", [K])) == 2
    assert node.a.find(K) is node.a.find(L) is None


PURGES: dict[str, Callable[[SharedStore, bool], Counting]] = {
    "key": lambda store, soft: store.purge("key", [K], soft=soft),
    "tags": lambda store, soft: store.purge("tag", [b"red"], soft=soft),
    "prefix": lambda store, soft: store.purge("prefix", [b"http://h/"], soft=soft),
    "all": lambda store, soft: store.purge("all", soft=soft),
}


@pytest.mark.parametrize("how", PURGES)
def test_a_lease_that_is_taken_late_is_as_old_as_the_fetch(node: Node, how: str) -> None:
    """A mark has refused it when the fetch began. What was purged since is not stored, nor what the purge made stale as
    fresh.
    """
    for soft in (False, True):
        leased(node.a, K).give_up(mark_s=60.0)
        begun = node.a.present_moment()
        node.date.now += 5
        PURGES[how](node.b, soft)
        lease = node.a.lease(K, begun)
        assert not isinstance(lease, Refusal)
        writer = lease.store(b"head", url=b"http://h/a", tags=[b"red"])
        assert (writer is None) is not soft
        if writer is None:
            assert lease.why_not is NotStored.PURGED
            lease.give_up()
            assert node.a.find(K) is None
        else:
            assert writer.complete()
            found = node.b.find(K)
            assert found is not None
            assert found.is_soft_purged
            assert found.stored_date == begun.date == node.date.now - 5
            found.release()


def test_a_lease_that_is_taken_late_ends_the_mark_alone(node: Node) -> None:
    put(node.a, K, b"before")
    put(node.a, L, b"of another key")
    leased(node.a, K).give_up(mark_s=60.0)
    begun = node.a.present_moment()
    lease = node.a.lease(K, begun)
    assert not isinstance(lease, Refusal)
    assert node.b.lease(K) is Refusal.IN_FLIGHT
    assert node.b.lease(K, node.b.present_moment()) is Refusal.IN_FLIGHT  # it ends marks, and no leases
    assert read(node.b, K) == (b"head", b"before")
    assert lease.store_whole(b"head", b"after", url=b"http://h/a", tags=())
    assert read(node.b, K) == (b"head", b"after")
    assert read(node.b, L) == (b"head", b"of another key")
    leased(node.b, K).give_up()


@pytest.mark.parametrize("how", ["tags", "prefix", "all"])
def test_a_fetch_that_began_before_a_purge_fills_nothing_and_is_not_joined(node: Node, how: str) -> None:
    def purge() -> None:
        if how == "tags":
            node.b.purge("tag", [b"red"])
        elif how == "prefix":
            node.b.purge("prefix", [b"http://h/"])
        else:
            node.b.purge("all")

    lease = leased(node.a, K)
    purge()
    other = leased(node.b, K)
    assert lease.store(b"head", key=L, url=b"http://h/a", tags=[b"red"]) is None
    assert lease.why_not is NotStored.PURGED
    lease.give_up()
    writer = other.store(b"head", key=L, url=b"http://h/a", tags=[b"red"])
    assert writer is not None
    reader = node.a.find(L)
    assert reader is not None
    purge()
    assert node.a.find(L) is None
    assert writer.append(b"goes on for those who read it")
    assert not writer.complete()
    assert body_of(reader) == b"goes on for those who read it"
    reader.release()
    assert node.a.find(L) is None
    assert node.a.numbers().objects == 0


def test_a_purge_ends_marks(node: Node) -> None:
    leased(node.a, K).give_up(mark_s=60.0)
    node.b.purge("tag", [b"red"])
    leased(node.a, K).give_up()


def test_many_purges_in_a_row(node: Node) -> None:
    """However many purges there were, what they do not name stays, and what they name is gone."""
    fill(node)
    growing = begin(node.a, b"G" * 16, url=b"http://h/g", tags=[b"g"])
    for number in range(300):
        at_once(node.b.purge("prefix", [b"http://h/none/%d" % number]))
        at_once(node.b.purge("tag", [b"none%d" % number]))
    assert found_keys(node) == b"KLM"
    assert growing.complete()
    assert read(node.b, b"G" * 16) is not None


# watches


def test_watches_are_called_for_all_that_happens(node: Node) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    def called() -> bool:
        nonlocal calls
        node.run()
        calls, was = 0, calls
        return was > 0

    watch = node.b.watch(K, count)
    other = node.b.watch(L, lambda: None)
    assert not called()
    lease = leased(node.a, K)
    writer = lease.store(b"head")
    assert writer is not None
    assert called()
    writer.append(b"x")
    assert called()
    writer.complete()
    assert called()
    assert not called()
    leased(node.a, K).give_up()
    assert called()
    node.b.purge("all")
    assert called()
    writer = begin(node.a, K)
    called()
    writer.abort()
    assert called()
    watch.cancel()
    watch.cancel()
    put(node.a, K)
    assert not called()
    other.cancel()


def test_a_callback_may_use_the_store(node: Node) -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(read(node.b, K))
        watch.cancel()

    watch = node.b.watch(K, look)
    put(node.a, K, b"x")
    node.run()
    assert (b"head", b"x") in seen


# memory


def test_the_memory_holds_and_what_is_asked_for_stays(node: Node) -> None:
    keys = [b"%016d" % number for number in range(3000)]
    body = b"x" * 1000
    put(node.a, K, b"popular")
    for number, key in enumerate(keys):
        put((node.a, node.b)[number % 2], key, body + b"%d" % number)
        if number % 100 == 0:
            assert read(node.b, K) == (b"head", b"popular")
    numbers = node.a.numbers()
    assert numbers.bytes <= 1 << 20
    assert 300 < numbers.objects < 1100
    assert numbers.evictions[Eviction.CAPACITY] > 1900
    kept = {number: found for number, key in enumerate(keys) if (found := read(node.a, key)) is not None}
    assert kept == {number: (b"head", body + b"%d" % number) for number in kept}
    assert len(kept) + 1 == numbers.objects


def test_what_is_read_stays_in_place_while_all_else_is_overwritten(node: Node) -> None:
    put(node.a, K, b"slow client" * 5000)
    found = node.b.find(K)
    assert found is not None
    pieces = found.pieces()
    for number in range(3000):
        put(node.a, b"%016d" % number, b"%d" % number * 200)
    assert b"".join(pieces) == b"slow client" * 5000
    found.release()
    found.release()


def test_a_stamp_recognizes_an_object_until_anything_has_happened_to_it(node: Node) -> None:
    def stamped() -> object:
        put(node.a, K, b"body", tags=[b"red"])
        found = node.b.find(K)
        assert found is not None
        stamp = node.b.stamp(found)
        found.release()
        assert stamp is not None
        assert node.b.is_unchanged(stamp)
        return stamp

    for happens in (
        lambda: put(node.a, K, b"another"),
        lambda: node.a.remove(K),
        lambda: node.a.purge("key", [K]),
        lambda: node.a.purge("tag", [b"red"], soft=True),
        lambda: node.a.purge("all"),
    ):
        stamp = stamped()
        happens()
        assert not any(node.b.is_unchanged(stamp) for _ in range(130))  # some look the object up again
