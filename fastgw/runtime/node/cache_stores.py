"""Stores of the response cache that a configuration asks for."""

from fastgw.cache.shared.layout import CONTROL
from fastgw.cache.shared.node_stores import NodeStores, StoreSettings, open_wakers
from fastgw.config.settings.gateway import CacheStore, Config


def store_settings(settings: Config) -> dict[str, StoreSettings]:
    """Return the stores of a configuration by name; `main` is always among them."""
    wanted = {"main": CacheStore(), **settings.caches}
    return {name: StoreSettings(each.memory, each.max_object) for name, each in wanted.items()}


def open_stores(settings: Config, workers: int) -> NodeStores:
    """Create the stores of a node. Raises `OSError` and `MemoryError`."""
    stores = NodeStores(open_wakers(workers))
    stores.stores = stores.planned(store_settings(settings))
    return stores


def column_of(worker: int | None) -> int:
    """Return the column in the stores of a worker with this column in the shared memory; None: of control."""
    return CONTROL if worker is None else worker + 1
