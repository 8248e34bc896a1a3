"""Whatever is stored, purged, evicted, restarted and killed: a store with a disk tier finds only what is valid."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastgw.cache.store import Refusal, StoredObject
from fastgw.routing.table import at_once
from tests.unit.cache.nodes import TieredNode
from tests.unit.cache.test_disk_tier import content

KEYS = [bytes([number]) * 16 for number in range(24)]
SIZES = (0, 10, 5000, 90_000, 300_000)
"""The last one is too large for memory."""


class Model:
    """A node, and the versions that it may still have: a look-up finds one of these, or nothing."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.chance = str(path), random.Random(seed)
        self.node = TieredNode(self.path)
        self.allowed: dict[bytes, set[int]] = {key: set() for key in KEYS}
        self.version = self.found = self.found_after_restart = 0

    def url(self, key: bytes) -> bytes:
        return b"http://%d.test/%d" % (key[0] % 3, key[0])

    def tag(self, key: bytes) -> bytes:
        return b"tag %d" % (key[0] % 5)

    def body(self, key: bytes, version: int) -> bytes:
        return (b"%d %d " % (key[0], version)).ljust(SIZES[key[0] % len(SIZES)], b"%d" % (version % 10))

    def store_some(self) -> None:
        key, store = self.chance.choice(KEYS), self.chance.choice((self.node.a, self.node.b))
        self.version += 1
        self.node.date.now += 0.1
        lease, body = store.lease(key), self.body(key, self.version)
        if isinstance(lease, Refusal):
            return
        head = b"%d" % self.version
        writer = lease.store(head, len(body), url=self.url(key), tags=[self.tag(key)])
        if writer is None:
            lease.give_up()
        elif self.chance.random() < 0.1:
            writer.append(body[: len(body) // 2])
            writer.abort()
        else:
            self.allowed[key].add(self.version)
            for at in range(0, len(body), 70_000):
                if not writer.append(body[at : at + 70_000]):
                    break
            writer.complete()

    def purge_some(self) -> None:
        key, store = self.chance.choice(KEYS), self.chance.choice((self.node.a, self.node.b))
        kind = self.chance.randrange(20)
        if kind < 8:
            at_once(store.purge("key", [key]))
            gone = [key]
        elif kind < 14:
            at_once(store.purge("tag", [self.tag(key)]))
            gone = [each for each in KEYS if self.tag(each) == self.tag(key)]
        elif kind < 18:
            prefix = self.url(key).rpartition(b"/")[0]
            at_once(store.purge("prefix", [prefix]))
            gone = [each for each in KEYS if self.url(each).startswith(prefix)]
        elif kind < 19:
            store.remove(key)
            gone = [key]
        else:
            at_once(store.purge("all"))
            gone = KEYS
        for each in gone:
            self.allowed[each] = set()

    def find_some(self) -> bool:
        key = self.chance.choice(KEYS)
        found: StoredObject | None = self.node.recall(key, self.chance.choice((self.node.a, self.node.b)))
        seen = content(found)
        if seen is None:
            return False
        version = int(seen[0])
        assert version in self.allowed[key], f"version {version} of {key[0]}: allowed are {self.allowed[key]}"
        assert seen[1] == self.body(key, version)
        self.found += 1
        return True

    def restart(self, *, killed: bool) -> None:
        """End the node. `killed`: without what its threads have yet to do, but for purges, which were acknowledged."""
        tiers = [each.tiers.disk for each in (self.node.a, self.node.b)]  # type: ignore[union-attr]
        if killed:
            while any(each.purges.is_busy for each in tiers):
                self.node.ready.get(timeout=60)()
        else:
            self.node.settle()
        self.node.close()
        now = self.node.date.now
        self.node = TieredNode(self.path)
        self.node.date.now = now


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_is_not_valid_is_found(tmp_path: Path, seed: int) -> None:
    model = Model(tmp_path, seed)
    for _ in range(700):
        kind = model.chance.randrange(100)
        if kind < 40:
            model.store_some()
        elif kind < 80:
            model.find_some()
        elif kind < 90:
            model.node.settle()
        elif kind < 95:
            model.purge_some()
        elif kind < 98:
            model.node.forget()
        else:
            model.restart(killed=bool(kind % 2))
            model.found_after_restart += model.find_some()
        model.node.run()
    assert model.found > 50
    model.node.settle()
    model.node.close()
