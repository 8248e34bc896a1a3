"""Stores of the response cache that a configuration asks for."""

import os
import threading
from collections.abc import Iterable
from typing import final

from fastgw.cache.shared.layout import CONTROL
from fastgw.cache.tiers.disk_claims import LEAVING_S, mark_left
from fastgw.cache.tiers.disk_tier import DiskLocation
from fastgw.cache.tiers.node_stores import DiskSettings, NodeStores, StoreSettings
from fastgw.config.settings.gateway import CacheStore, Config
from fastgw.http.caching.records import StoredHead, decode_record
from fastgw.redis.url import RedisSource
from fastgw.runtime.ipc.channel import UseCache


def store_settings(settings: Config) -> dict[str, StoreSettings]:
    """Return the stores of a configuration by name; `main` is always among them."""
    wanted = {"main": CacheStore(), **settings.caches}
    return {
        name: StoreSettings(each.memory, each.max_object, _disk_of(each), each.redis) for name, each in wanted.items()
    }


def _disk_of(store: CacheStore) -> DiskSettings | None:
    return None if store.disk is None else DiskSettings(os.path.abspath(store.disk.path), store.disk.size)


def open_stores(settings: Config) -> NodeStores:
    """Create the stores of a node. Raises `OSError`, `UnusableDisk` and `MemoryError`."""
    stores = NodeStores()
    stores.stores = stores.planned(store_settings(settings), LEAVING_S)
    return stores


def column_of(worker: int | None) -> int:
    """Return the column in the stores, and of the waker, of a worker with this column in the shared memory; None: of
    control.
    """
    return CONTROL if worker is None else worker + 1


def disk_of(order: UseCache) -> DiskLocation | None:
    """Return the disk tier of a store that the supervisor sends."""
    return None if order.disk is None else DiskLocation(*order.disk)


def redis_of(settings: Config, source: tuple[str, str] | None) -> RedisSource | None:
    """Return the Redis of cache stores. `source`: URL and prefix of `state`. None: no store has such a tier."""
    state = settings.state
    if source is None or state is None or not any(each.redis for each in settings.caches.values()):
        return None
    return RedisSource(*source, state.timeout)


def expires(head: bytes) -> float:
    """Return the epoch seconds from which on a stored response is of no use. 0.0: it may be validated at any
    time, or is a record of another kind.
    """
    record = decode_record(head)
    if not isinstance(record, StoredHead) or record.etag is not None or record.last_modified is not None:
        return 0.0
    stale = max(record.stale_while_revalidate, record.stale_if_error, record.stale_when_unreachable)
    return max(1.0, record.stored_date - record.initial_age + record.lifetime + stale)


@final
class LeftDirectories:
    """Directories of disk tiers that reloads leave. Control marks them, as the supervisor does not wait for disks.

    `claimed`: directories that the gateway has used so far.
    """

    def __init__(self, claimed: Iterable[str]) -> None:
        self._known = set(claimed)

    def use_configuration(self, settings: Config) -> None:
        """Mark the directories that this configuration, which is active, does not use any more."""
        used = {each.disk.path for each in store_settings(settings).values() if each.disk is not None}
        left, self._known = self._known - used, used
        for path in left:
            # A disk that hangs may be why it was left: a thread of its own, which does not delay the end of control.
            threading.Thread(target=mark_left, args=(path,), name="left directory", daemon=True).start()
