"""The disk tier of a store: what memory has lost is found there, also after a restart, and never anything wrong."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec import structs

from fastgw.cache.shared._cells import Cells
from fastgw.cache.shared.layout import DISK_FAILED, JOURNAL_ENDED, JOURNAL_LEFT, CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Counting, StoredObject
from fastgw.cache.tiers import disk_tier, object_directory, purge_journal, purge_writer
from fastgw.cache.tiers.disk_object import DiskObject
from fastgw.cache.tiers.object_directory import ObjectDirectory
from fastgw.cache.tiers.object_file import BLOCK, ObjectRecord, read_blocks, read_record
from fastgw.cache.tiers.shard_counts import ShardCounts
from fastgw.cache.tiers.tier_threads import Work
from fastgw.routing.table import at_once
from tests.support.small_file_system import small_file_system
from tests.unit.cache.nodes import TieredNode, begin, leased, put

K, L, M = (bytes([each]) * 16 for each in b"KLM")
URL = b"http://a.test/x"
LARGE = 3 * BLOCK + 1000
"""Bytes of a body that is too large for the memory of a node."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TieredNode]:
    made = TieredNode(str(tmp_path / "cache"))
    yield made
    made.close()


@pytest.fixture
def restart(tmp_path: Path) -> Iterator[Callable[[TieredNode], TieredNode]]:
    """Return a function that ends a node, and starts one with the same directory and empty memory."""
    made: list[TieredNode] = []

    def begin_again(node: TieredNode) -> TieredNode:
        node.settle()
        node.close()
        made.append(TieredNode(node.path, expires=node.expires))
        made[-1].date.now = node.date.now
        return made[-1]

    yield begin_again
    for each in made[-1:]:
        each.close()


def store_one(node: TieredNode, key: bytes = K, body: bytes = b"body", **about: object) -> None:
    put(node.a, key, body, **{"url": URL, **about})
    node.settle()


def content(found: StoredObject | None) -> tuple[bytes, bytes] | None:
    """Head and body of an object, from memory or from its file; it is released."""
    if found is None:
        return None
    if isinstance(found, DiskObject):
        assert found.file is not None
        body = os.pread(found.file.fd, found.length, found.file.first)
    else:
        body = b"".join(found.pieces())
    head = found.head
    found.release()
    return head, body


@pytest.mark.parametrize("end", ["complete", "broken off", "too long"])
def test_what_is_recalled_while_a_large_object_is_written_does_not_hide_it(node: TieredNode, end: str) -> None:
    store_one(node, K, b"old" * 1000, head=b"old")
    node.date.now += 10
    writer = begin(node.a, K, b"new", LARGE, url=URL)
    assert content(node.recall(K)) == content(node.a.find(K)) == (b"old", b"old" * 1000)
    if end == "complete":
        assert writer.append(bytes(LARGE))
        assert writer.complete()
    elif end == "broken off":
        writer.abort()
    else:
        assert not writer.append(bytes(LARGE + 1))
    node.settle()
    expected = {"complete": (b"new", bytes(LARGE)), "broken off": (b"old", b"old" * 1000), "too long": None}
    for store in (node.a, node.b):
        assert content(node.recall(K, store)) == expected[end]


def files_in(node: TieredNode) -> list[Path]:
    return [each for each in Path(node.path).glob("objects-*/*/*") if each.is_file() and not each.is_symlink()]


def file_of(node: TieredNode, key: bytes = K) -> Path:
    return Path(node.path) / f"objects-{node.journal.id}" / key[:1].hex() / key.hex()


def test_what_memory_has_lost_is_found_and_promoted(node: TieredNode) -> None:
    store_one(node, tags=[b"t"], head=b"a head")
    assert node.a.find(L) is None
    assert node.recall(L) is None
    node.forget()
    assert node.b.find(K) is None
    assert content(node.recall(K, node.b)) == (b"a head", b"body")
    assert content(node.a.find(K)) == (b"a head", b"body")
    at_once(node.a.purge("tag", [b"t"]))
    assert node.a.find(K) is None
    assert node.recall(K) is None
    disk = node.a.numbers().disk
    assert disk is not None
    assert (disk.hits, disk.written, disk.dropped, disk.errors, disk.damaged) == (1, 1, 0, 0, 0)


def test_what_was_whole_is_there_after_a_restart(node: TieredNode, restart: Callable[[TieredNode], TieredNode]) -> None:
    store_one(node, K, b"k" * 5000)
    assert leased(node.a, L).store_head(b"variants", url=URL)
    store_one(node, M, bytes(range(256)) * (LARGE // 256) + b"?" * (LARGE % 256))
    unfinished = begin(node.b, b"U" * 16, url=URL)
    unfinished.append(b"half")
    assert oct(os.stat(file_of(node)).st_mode & 0o777) == "0o600"
    assert oct(os.stat(file_of(node).parent).st_mode & 0o777) == "0o700"
    node = restart(node)
    assert content(node.recall(K)) == (b"head", b"k" * 5000)
    assert content(node.recall(L)) == (b"variants", b"")
    found = node.recall(M)
    assert isinstance(found, DiskObject)
    assert (found.size, found.is_complete, found.pieces()) == (LARGE, True, [])
    assert content(found) == (b"head", bytes(range(256)) * (LARGE // 256) + b"?" * (LARGE % 256))
    assert node.recall(b"U" * 16) is None


PURGES: list[Callable[[SharedStore, bool], Counting]] = [
    lambda store, soft: store.purge("key", [K], soft=soft),
    lambda store, soft: store.purge("tag", [b"other", b"t"], soft=soft),
    lambda store, soft: store.purge("prefix", [b"http://a.test/"], soft=soft),
    lambda store, soft: store.purge("all", soft=soft),
]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("purge", range(len(PURGES)))
@pytest.mark.parametrize("size", [4, LARGE])
def test_purges_hold_for_files_and_over_restarts(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode], purge: int, soft: bool, size: int
) -> None:
    node = restart(node)  # numbers of a second run
    store_one(node, L, b"b" * size, tags=[b"t"], url=URL) if purge else store_one(node, K, b"b" * size)
    key = L if purge else K
    store_one(node, M, url=b"http://b.test/", tags=[b"u"])
    node.forget()
    PURGES[purge](node.b, soft)
    node.settle()
    for _ in range(3):
        found = node.recall(key)
        assert (found is not None and found.is_soft_purged) is soft
        if found is not None:
            found.release()
        node = restart(node)
    found = node.recall(M)
    if purge == len(PURGES) - 1:
        assert found is None or (soft and found.is_soft_purged)
    else:
        assert found is not None
        assert not found.is_soft_purged
    if found is not None:
        found.release()
    store_one(node, key, b"new", tags=[b"t"])
    node = restart(node)
    found = node.recall(key)
    assert found is not None
    assert not found.is_soft_purged
    assert content(found) == (b"head", b"new")


def test_what_is_removed_does_not_come_back(node: TieredNode, restart: Callable[[TieredNode], TieredNode]) -> None:
    store_one(node)
    node.forget()
    looked: list[StoredObject | None] = []
    assert node.b.recall([K], looked.append)  # it may have read the file before it is removed
    assert not node.a.remove(K)
    node.settle()
    assert looked == [None]
    assert node.b.find(K) is None
    assert node.recall(K) is None
    assert not file_of(node).exists()
    assert restart(node).recall(K) is None


def test_a_head_is_replaced_in_memory_and_on_disk(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    store_one(node, L, b"l" * LARGE)
    for turn in range(3):
        for key in (K, L):
            lease, found = leased(node.a, key), node.recall(key)
            assert found is not None
            assert lease.freshen(found, b"validated %d" % turn)
            lease.give_up()
            found.release()
            node.settle()
            assert content(node.recall(key)) == (b"validated %d" % turn, b"body" if key == K else b"l" * LARGE)
        leased(node.a, L).give_up()
        node.forget()
        node.date.now += 10
    node = restart(node)
    assert content(node.recall(K)) == (b"validated 2", b"body")
    assert content(node.recall(L)) == (b"validated 2", b"l" * LARGE)
    lease, found = leased(node.a, L), node.recall(L)
    assert found is not None
    at_once(node.b.purge("key", [L]))
    assert not lease.freshen(found, b"too late")
    found.release()


def test_a_large_object_goes_to_its_file_and_frees_those_that_wait(node: TieredNode) -> None:
    woken: list[bool] = []
    writer = begin(node.a, K, size=LARGE, url=URL, tags=[b"t"])
    node.b.watch(K, lambda: woken.append(True))
    for _ in range(LARGE // 1000 + 1):
        assert writer.append(b"x" * min(1000, LARGE))
        if writer.append(b""):
            node.run()
        if _ == LARGE // 1000 - 1:
            break
    assert writer.append(b"y" * (LARGE % 1000))
    assert node.recall(K, node.b) is None
    assert writer.complete()
    node.settle()
    leased(node.b, K).give_up()
    node.settle()
    assert woken
    found = content(node.recall(K, node.b))
    assert found == (b"head", b"x" * (LARGE - LARGE % 1000) + b"y" * (LARGE % 1000))
    former = found
    for wrong, left in ((b"x" * (LARGE - 1), former), (b"x" * LARGE + b"!", None)):  # not whole, and too long
        writer = begin(node.a, K, size=LARGE, url=URL)
        writer.append(wrong)
        assert not writer.complete()
        node.settle()
        assert content(node.recall(K)) == left


def _flip(at: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "header": _flip(20),
    "length": _flip(17),
    "key": _flip(24),
    "record": _flip(64 + 1024 + 60),
    "body": _flip(-LARGE),
    "digest": _flip(-1),
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "long": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "other": lambda path: shutil.copyfile(path.parent.parent / L[:1].hex() / L.hex(), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_deletion(node: TieredNode, damage: str) -> None:
    store_one(node, K, b"k" * LARGE)
    store_one(node, L, b"l" * LARGE)
    DAMAGES[damage](file_of(node))
    assert node.recall(K) is None
    node.settle()
    assert not file_of(node).exists()
    assert content(node.recall(L)) == (b"head", b"l" * LARGE)
    disk = node.a.numbers().disk
    assert disk is not None
    assert disk.damaged == 1
    store_one(node, K, b"again")
    node.forget()
    assert content(node.recall(K)) == (b"head", b"again")


@pytest.mark.parametrize("damage", ["body", "short", "zeros"])
def test_an_object_that_is_damaged_after_its_check_is_not_intact(node: TieredNode, damage: str) -> None:
    store_one(node, K, b"k" * LARGE)
    found = node.recall(K)
    assert isinstance(found, DiskObject)
    file = found.file
    assert file is not None
    assert file.is_intact
    DAMAGES[damage](file_of(node))
    assert not file.is_intact
    found.release()
    assert node.recall(K) is None


def test_an_object_is_intact_while_its_record_is_replaced(node: TieredNode) -> None:
    store_one(node, K, b"k" * LARGE)
    found = node.recall(K)
    assert isinstance(found, DiskObject)
    file = found.file
    assert file is not None
    states: list[bool] = []

    def utime(*about: Any, **named: Any) -> None:
        states.append(file.is_intact)  # the record has been written, the time not yet
        original(*about, **named)

    original = os.utime
    lease = leased(node.a, K)
    with mock.patch.object(os, "utime", utime):
        assert lease.freshen(found, b"validated")
        node.settle()
    assert states
    assert all(states)
    assert file.is_intact
    assert content(node.recall(K)) == (b"validated", b"k" * LARGE)


def test_nothing_but_regular_files_is_followed(node: TieredNode, tmp_path: Path) -> None:
    store_one(node)
    node.forget()
    path = file_of(node)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert node.recall(K) is None
    path.unlink()
    os.mkfifo(path)
    assert node.recall(K) is None
    path.unlink(missing_ok=True)
    path.mkdir()
    assert node.recall(K) is None
    shutil.rmtree(path.parent)
    path.parent.symlink_to(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / K.hex())
    assert node.recall(K) is None


CALLS = ["pwrite", "link", "open", "ftruncate"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_disk_costs_nothing_but_the_file(node: TieredNode, call: str, error: int) -> None:
    store_one(node, K, b"old")
    store_one(node, L)
    with mock.patch.object(os, call, side_effect=OSError(error, os.strerror(error))):
        store_one(node, K, b"new")
        assert content(node.a.find(K)) == (b"head", b"new")
        lease = leased(node.a, M)
        writer = lease.store(b"head", LARGE, url=URL)
        if writer is not None:  # writes pause after the disk was full
            writer.append(b"m" * LARGE)
            writer.complete()
        lease.give_up()
        node.settle()
    node.settle()
    disk = node.a.numbers().disk
    assert disk is not None
    assert disk.errors > 0
    assert not disk.has_failed
    node.forget()
    assert content(node.recall(K)) in (None, (b"head", b"old"))
    assert node.recall(M) is None
    assert len(files_in(node)) == len({each.name for each in files_in(node)})
    assert not list(Path(node.path).glob("objects-*/.*"))
    tier = node.a.tiers
    assert tier is not None
    with mock.patch.object(tier.disk, "_full_until", 0.0):
        store_one(node, K, b"newer")
    node.forget()
    assert content(node.recall(K)) == (b"head", b"newer")


def test_a_reading_error_is_a_miss(node: TieredNode) -> None:
    store_one(node)
    node.forget()
    with mock.patch.object(os, "pread", side_effect=OSError(errno.EIO, "input/output error")):
        assert node.recall(K) is None
    assert content(node.recall(K)) == (b"head", b"body")


class Counts:
    """Counts of one process."""

    def __init__(self) -> None:
        self.objects = self.size = self.turns = 0

    def add_file(self, shard: int, objects: int, size: int) -> None:
        self.objects, self.size = self.objects + objects, self.size + size

    def set_shard(self, shard: int, objects: int, size: int) -> None: ...

    def next_shard(self) -> int:
        self.turns += 1
        return self.turns


def read_file(directory: ObjectDirectory) -> tuple[bytes, bytes] | None:
    fd = directory.open_object(K)
    if fd is None:
        return None
    try:
        found = read_record(fd, K)
        return found.record.head, b"".join(read_blocks(fd, K, found.layout))
    finally:
        os.close(fd)


@pytest.mark.parametrize("has_tmpfile", [True, False])
def test_a_killed_writer_leaves_whole_files_only(tmp_path: Path, has_tmpfile: bool) -> None:
    directory = ObjectDirectory(str(tmp_path / "objects"), Counts(), Cells(CacheMemory(1 << 20), 0))
    directory._has_tmpfile = has_tmpfile
    record = ObjectRecord(1, 1000.0, 0.0, K, URL, (), b"old")
    directory.write_object(K, record, [b"old"], 3)
    newer, body = structs.replace(record, began=2, head=b"new"), b"new" * 100_000
    steps = 0
    while True:
        pid = os.fork()
        if not pid:
            left = steps

            def count(real: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **named: object) -> object:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        os._exit(1)
                    return real(*args, **named)

                return call

            for name in ("open", "pwrite", "link", "unlink", "ftruncate", "stat"):
                setattr(os, name, count(getattr(os, name)))
            directory.write_object(K, newer, [body], len(body))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert read_file(directory) in (None, (b"old", b"old"), (b"new", body))
        if not status:
            break
        steps += 1
    assert steps > 5
    assert read_file(directory) == (b"new", body)
    directory.remove_abandoned(time.time() + 1000)
    assert os.listdir(tmp_path / "objects") == ["4b"]


def test_an_older_object_does_not_replace_a_newer_one(node: TieredNode) -> None:
    tier = node.a.tiers
    assert tier is not None
    first = leased(node.a, K)
    older = first.store(b"older", 0, url=URL)
    assert older is not None
    store = node.b
    node.clock.now += 100
    node.date.now += 100
    put(store, K, b"", b"newer", url=URL)
    node.settle()
    older.complete()
    node.settle()
    node.forget()
    assert content(node.recall(K)) == (b"newer", b"")


def test_the_size_is_held_and_what_is_used_stays(tmp_path: Path) -> None:
    node = TieredNode(str(tmp_path), memory=4 << 20)
    body = os.urandom(100_000)
    for number in range(400):
        put(node.a, number.to_bytes(2, "little") * 8, body, url=URL)
        node.settle()
        if number % 10 == 0:
            node.forget()
            found = node.recall(bytes(16))
            assert found is not None
            found.release()
    node.settle()
    size = sum(each.stat().st_size for each in files_in(node))
    assert 12 << 20 < size <= (16 << 20) * 1.02
    disk = node.a.numbers().disk
    assert disk is not None
    assert size <= disk.bytes <= size + 4096 * disk.objects
    assert disk.objects == len(files_in(node))
    assert disk.evicted > 200
    node.close()


def test_what_is_asked_for_again_survives_what_is_asked_for_once(tmp_path: Path) -> None:
    """The latter is younger, so that the least recently used would be what is popular."""
    node = TieredNode(str(tmp_path), memory=4 << 20)
    body, popular = os.urandom(100_000), [bytes([number]) * 16 for number in range(20)]
    for key in popular:
        put(node.a, key, body, url=URL)
        node.settle()
    for _ in range(2):
        node.forget()
        for key in popular:
            assert content(node.recall(key)) == (b"head", body)
    for number in range(400):
        put(node.a, b"once" + number.to_bytes(2, "little") * 6, body, url=URL)
        node.settle()
    node.forget()
    assert sum(node.recall(key) is not None for key in popular) == len(popular)
    node.close()


def test_what_is_asked_for_again_after_its_eviction_stays_longer(tmp_path: Path) -> None:
    memory = CacheMemory(1 << 20)
    counts, cells = ShardCounts(memory), Cells(memory, 0)
    directory = ObjectDirectory(str(tmp_path / "objects"), counts, cells)
    record = ObjectRecord(1, 1000.0, 0.0, K, URL, (), b"head")

    def is_there(key: bytes) -> bool:
        fd = directory.open_object(key)
        if fd is not None:
            os.close(fd)
        return fd is not None

    directory.write_object(K, record, [b"body"], 4)
    assert directory.evict_down_to(0) == 1
    younger = [number.to_bytes(2, "little") * 8 for number in range(50)]
    for key in (K, *younger):
        directory.write_object(key, record, [b"body"], 4)
    directory.evict_down_to(counts.size // 4)
    assert is_there(K)
    directory.write_object(K, structs.replace(record, began=2), [b"new"], 3)  # it stays there
    assert directory.evict_down_to(4096) > 0
    assert is_there(K)
    assert not any(map(is_there, younger))
    assert directory.evict_down_to(0) == 1
    directory.write_object(bytes(range(16)), record, [b"body"], 4)
    assert directory.evict_down_to(0) == 1
    assert not cells.is_remembered(bytes(range(16)))  # the memory has evicted nothing


def test_clocks_that_jump(node: TieredNode) -> None:
    store_one(node)
    node.forget()
    node.date.now -= 1000  # it was stored with a clock that was ahead
    assert node.recall(K) is None
    node.expires = lambda head: node.date.now + 10
    store_one(node, L)
    tier = node.a.tiers
    assert tier is not None
    tier.disk.expires = tier.expires = node.expires
    store_one(node, M)
    node.forget()
    node.date.now += 11
    assert node.recall(M) is None
    assert node.recall(L) is not None


@pytest.mark.parametrize("damage", ["missing", "damaged", "foreign", "short"])
def test_without_its_purges_nothing_of_a_directory_is_used(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode], damage: str
) -> None:
    store_one(node)
    at_once(node.a.purge("tag", [b"t" * 100]))
    at_once(node.a.purge("tag", [b"u" * 100]))
    node.settle()
    journal = Path(node.path) / "purges"
    content_ = bytearray(journal.read_bytes())
    if damage == "missing":
        journal.unlink()
    elif damage == "damaged":
        content_[-150] ^= 1
        journal.write_bytes(content_)
    elif damage == "foreign":
        journal.write_bytes(b"something else")
    else:
        journal.write_bytes(content_[:10])
    node = restart(node)
    assert node.recall(K) is None
    store_one(node, L)
    tier = node.a.tiers
    assert tier is not None
    tier.disk.scan()
    assert [each.name for each in files_in(node)] == [L.hex()]


def test_an_unfinished_entry_at_the_end_of_the_journal_is_dropped(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    store_one(node, L)
    node.a.remove(L)
    node.settle()
    journal = Path(node.path) / "purges"
    journal.write_bytes(journal.read_bytes() + purge_journal._entry(purge_journal.Purge("all", 1 << 40))[:-3])
    node = restart(node)
    assert content(node.recall(K)) == (b"head", b"body")
    assert node.recall(L) is None


def test_a_purge_that_cannot_be_written_ends_the_tier(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    node.forget()
    told: list[bool] = []
    with mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EIO, "input/output error")):
        at_once(node.a.purge("tag", [b"t"]))
        node.a.when_purged(lambda: told.append(True))
        node.settle()
    assert told
    disk = node.b.numbers().disk
    assert disk is not None
    assert disk.has_failed
    assert not node.b.recall([K], lambda found: None)
    assert restart(node).recall(K) is None


def failed_purge(node: TieredNode) -> tuple[bool, bool]:
    """Purge while nothing can be written, and return whether the tier has failed, and may have its purge undone."""
    with mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EROFS, "read-only file system")):
        at_once(node.a.purge("tag", [b"t"]))
        node.settle()
        disk = node.b.numbers().disk
    assert disk is not None
    return disk.has_failed, disk.may_be_undone


def may_be_undone(node: TieredNode) -> bool:
    disk = node.b.numbers().disk
    assert disk is not None
    assert disk.has_failed
    return disk.may_be_undone


def test_a_journal_that_cannot_be_removed_is_removed_later(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    assert node.b.tiers is not None
    node.b.tiers.disk.purges.begin_ending()
    with mock.patch.object(purge_journal, "_end", side_effect=OSError(errno.EROFS, "read-only file system")):
        assert failed_purge(node) == (True, True)
        (timer,) = node.loops[2].later
        timer.callback()
        node.b.tiers.disk.threads.run(Work.PURGE, lambda: None, lambda done: None)  # the last job, after the attempt
        node.ready.get(timeout=60)()
        node.ready.get(timeout=60)()
        assert may_be_undone(node)
    assert (Path(node.path) / "purges").exists()
    node.loops[2].later[-1].callback()
    node.ready.get(timeout=60)()
    assert not may_be_undone(node)
    assert not (Path(node.path) / "purges").exists()
    assert restart(node).recall(K) is None


def test_a_journal_is_removed_at_the_end_at_the_latest(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    with mock.patch.object(purge_journal, "_end", side_effect=OSError(errno.EROFS, "read-only file system")):
        assert failed_purge(node) == (True, True)
    assert restart(node).recall(K) is None


def test_a_directory_that_was_moved_has_no_purge_undone(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    store_one(node)
    os.rename(node.path, f"{node.path}.moved")
    at_once(node.a.purge("tag", [b"t"]))
    node.settle()
    assert not may_be_undone(node)
    os.rename(f"{node.path}.moved", node.path)
    assert restart(node).recall(K) is None


def test_a_journal_in_a_directory_that_cannot_be_changed_is_emptied(tmp_path: Path) -> None:
    run = purge_journal.begin_run(str(tmp_path))
    purge_journal.end_journal(str(tmp_path), "0" * 16)
    assert purge_journal.begin_run(str(tmp_path)).id == run.id  # another journal is left alone
    with mock.patch.object(os, "unlink", side_effect=OSError(errno.EACCES, "permission denied")):
        purge_journal.end_journal(str(tmp_path), run.id)
    assert (tmp_path / "purges").read_bytes() == b""
    assert purge_journal.begin_run(str(tmp_path)).id != run.id
    with pytest.raises(FileNotFoundError):
        purge_journal.end_journal(str(tmp_path / "none"), run.id)


def test_the_journal_is_rewritten_when_it_has_grown(
    node: TieredNode, restart: Callable[[TieredNode], TieredNode]
) -> None:
    with mock.patch.object(purge_journal, "MOST_BYTES", 4000):
        store_one(node)
        for number in range(60):
            at_once(node.a.purge("tag", [b"tag"]))
            at_once(node.b.purge("tag", [b"tag %d" % (number % 5)]))
            node.settle()
        assert (Path(node.path) / "purges").stat().st_size < 4100
        node.forget()
        assert content(node.recall(K)) == (b"head", b"body")
        for number in range(200):
            at_once(node.a.purge("tag", [b"another %d" % number]))
        node.settle()
        store_one(node, L)
        node = restart(node)
    # The older half was replaced by its number: what is older is gone, what is newer is not.
    assert node.recall(K) is None
    assert content(node.recall(L)) == (b"head", b"body")


def test_files_are_counted_again_by_a_scan(node: TieredNode, restart: Callable[[TieredNode], TieredNode]) -> None:
    for number in range(20):
        store_one(node, bytes([number]) * 16, b"x" * 5000)
    (Path(node.path) / "objects-0123456789abcdef" / "00").mkdir(parents=True)
    before = node.a.numbers().disk
    assert before is not None
    node = restart(node)
    tier = node.a.tiers
    assert tier is not None
    tier.disk.scan()
    after = node.b.numbers().disk
    assert after is not None
    assert (after.objects, after.bytes) == (20, before.bytes)
    assert [each.name for each in Path(node.path).glob("objects-*")] == [f"objects-{node.journal.id}"]


def test_a_full_queue_drops_writes_and_what_they_replace(node: TieredNode) -> None:
    store_one(node, K, b"old")
    tier = node.a.tiers
    assert tier is not None
    with mock.patch.object(tier.disk, "_held_bytes", 1 << 30):
        put(node.a, K, b"new", url=URL)
    node.settle()
    assert content(node.a.find(K)) == (b"head", b"new")
    disk = node.a.numbers().disk
    assert disk is not None
    assert disk.dropped == 1
    node.forget()
    assert node.recall(K) is None


def test_a_disk_that_hangs_is_a_miss(node: TieredNode) -> None:
    store_one(node)
    node.forget()
    found: list[StoredObject | None] = []
    assert node.a.recall([K], found.append)
    assert node.a.recall([K], found.append)
    for timer in list(node.loops[1].later):
        timer.callback()
    assert found == [None, None]
    node.settle()
    assert found == [None, None]
    assert content(node.a.find(K) or node.recall(K)) == (b"head", b"body")


def test_a_file_system_that_is_really_full_costs_files_only(tmp_path: Path) -> None:
    """Other files fill it as well: the tier's own size is never reached."""
    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder) as limited:
        node = TieredNode(str(folder / "cache"), size=1 << 26)
        try:
            store = node.a
            assert store.tiers is not None
            keys = [b"%016d" % number for number in range(80)]
            with mock.patch.object(disk_tier, "PAUSE_S", 0.0), limited():
                for number, key in enumerate(keys):
                    store_one(node, key, bytes([number]) * 100_000, tags=[b"t"])
                disk = store.numbers().disk
                assert disk is not None
                assert disk.errors > 0
                assert not disk.has_failed
                for number, key in enumerate(keys):
                    node.forget()
                    assert content(node.recall(key)) in (None, (b"head", bytes([number]) * 100_000))
                assert not list(Path(node.path).glob("objects-*/.*"))

                purged: list[None] = []
                store.purge("tag", [b"t"])
                store.when_purged(lambda: purged.append(None))
                node.settle()
                assert purged
                assert store.tiers.disk is not None
                assert not store.tiers.disk.has_failed
                assert [key for key in keys if node.recall(key) is not None] == []

            store_one(node, K, b"k" * 100_000)
            node.forget()
            assert content(node.recall(K)) == (b"head", b"k" * 100_000)
        finally:
            node.close()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_directory_that_was_emptied_is_made_again(node: TieredNode, is_full: bool) -> None:
    """Its files are counted again; and each process finds the new one."""
    for number in range(8):
        store_one(node, bytes([number]) * 16)
    for each in Path(node.path).iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    if is_full:  # by the counts of before
        node.a.tiers.disk.counts.set_shard(0, 1, node.a.tiers.disk.disk.most_bytes)
    store_one(node, K)  # fails, and shows it
    store_one(node, L)
    node.forget()
    assert content(node.recall(L)) is not None
    assert content(node.recall(K)) is None
    disk = node.a.numbers().disk
    assert disk is not None
    assert (disk.objects, disk.errors) == (1, 1)
    assert [each.name for each in files_in(node)] == [L.hex()]


def test_a_journal_is_ended_where_it_was_also_if_the_directory_is_closed_meanwhile(
    node: TieredNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of its descriptor is that of another directory then."""
    store_one(node)
    disk, other = node.a.tiers.disk, tmp_path / "other"
    assert disk is not None
    other.mkdir()
    shutil.copy(Path(node.path, purge_journal.JOURNAL), other)
    open_before = set(os.listdir("/proc/self/fd"))
    reused: list[int] = []

    def end_after_removal(path: str, id_: str, folder: int) -> None:
        shutil.rmtree(node.path)
        disk._forget_removed()
        for _ in open_before:  # the lowest free numbers
            reused.append(os.open(other, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        purge_journal.end_journal(path, id_, folder)

    monkeypatch.setattr(purge_writer, "end_journal", end_after_removal)
    disk.memory.words[DISK_FAILED] = JOURNAL_LEFT
    try:
        assert disk.purges.end_journal()
    finally:
        for each in reused:
            os.close(each)
    assert disk.memory.words[DISK_FAILED] == JOURNAL_ENDED
    assert (other / purge_journal.JOURNAL).exists()


def test_a_directory_that_was_removed_is_reported_and_used_when_it_is_there_again(
    node: TieredNode, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway does not make it: it may be on a file system that is not mounted."""
    store_one(node)
    shutil.rmtree(node.path)
    store_one(node, L)
    node.forget()
    assert node.recall(L) is node.recall(K) is None
    assert not Path(node.path).exists()
    assert [each.getMessage() for each in caplog.records] == [
        f"cache: the directory {node.path} was removed: nothing is stored on disk until it is there again; "
        "a restart of the gateway creates it"
    ]
    disk = node.a.numbers().disk
    assert disk is not None
    assert disk.errors > 0
    os.mkdir(node.path, 0o700)
    store_one(node, M)
    node.forget()
    assert content(node.recall(M)) == (b"head", b"body")


def test_a_directory_that_was_renamed_is_not_reported_as_removed(
    node: TieredNode, caplog: pytest.LogCaptureFixture
) -> None:
    """After it is renamed the tier goes on in it, so what is reported is the error of a write."""
    store_one(node)
    os.rename(node.path, node.path + ".moved")
    with mock.patch.object(object_directory, "write_all", side_effect=OSError(errno.EIO, "Input/output error")):
        store_one(node, L)
    assert [each.getMessage() for each in caplog.records] == [
        f"cache: {node.path} cannot be used for the moment: Input/output error"
    ]
    store_one(node, M)
    node.forget()
    assert content(node.recall(M)) == (b"head", b"body")


def test_a_directory_that_was_removed_and_cannot_be_opened_is_reported_with_the_error(
    node: TieredNode, caplog: pytest.LogCaptureFixture
) -> None:
    store_one(node)
    shutil.rmtree(node.path)
    Path(node.path).touch()
    disk = node.a.tiers.disk
    assert disk is not None
    disk._forget_removed()
    store_one(node, L)
    os.unlink(node.path)
    assert [each.getMessage() for each in caplog.records] == [
        f"cache: {node.path} cannot be used for the moment: Not a directory"
    ]
