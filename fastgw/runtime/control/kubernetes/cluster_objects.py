"""Known objects of the Kubernetes provider: as they are translated, and as they were last seen."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from fastgw.config.kubernetes.cluster import Cluster, ClusterObject, ObjectKey, key_of, trimmed
from fastgw.runtime.control.kubernetes.watch import ObjectMetadata

_STATUS_READ: Final = frozenset(("Service", "Gateway"))
"""Kinds whose status is read by the translation."""


class ClusterObjects:
    """Objects of all kinds. `changed`: called after a change of what is translated; `seen`: after any other change."""

    def __init__(self, changed: Callable[[], None], seen: Callable[[], None]) -> None:
        self._changed, self._seen = changed, seen
        self._by_feed: dict[str, dict[ObjectKey, ClusterObject]] = {}
        self._latest: dict[tuple[str, str, str], ClusterObject] = {}
        self.named: Collection[str] = ()

    def __repr__(self) -> str:
        return f"<ClusterObjects: {', '.join(f'{len(held)} {feed}' for feed, held in self._by_feed.items())}>"

    def cluster(self) -> Cluster:
        """Return the objects of this moment."""
        objects: dict[str, dict[ObjectKey, ClusterObject]] = {}
        for feed, held in self._by_feed.items():
            objects.setdefault(kind_of(feed), {}).update(held)
        return Cluster(objects)

    def latest(self, kind: str, namespace: str, name: str) -> ClusterObject | None:
        """Return an object as it was last seen, with its status."""
        return self._latest.get((kind, namespace, name))

    # the side of the watches (`WatchedObjects`)

    def name_of(self, metadata: ObjectMetadata) -> str:
        return f"{metadata.namespace}/{metadata.name}"

    def is_wanted(self, feed: str, name: str) -> bool:
        return True

    def replace(self, feed: str, raws: Mapping[str, bytes], named: Collection[str]) -> None:
        """Replace all objects of a feed, or none: raises for one that cannot be decoded."""
        items = {_key(name): _decoded(feed, raw) for name, raw in raws.items()}
        gone = self._by_feed.setdefault(feed, {}).keys() - items.keys()
        changed = bool(gone)
        for key in gone:
            self._drop(feed, key)
        for key, item in items.items():
            changed = self._store(feed, key, item) or changed
        (self._changed if changed else self._seen)()

    def store(self, feed: str, name: str, raw: bytes) -> None:
        (self._changed if self._store(feed, _key(name), _decoded(feed, raw)) else self._seen)()

    def delete(self, feed: str, name: str) -> None:
        if self._drop(feed, _key(name)):
            self._changed()

    def store_written(self, kind: str, raw: bytes, before: ClusterObject) -> None:
        """Store an object that was written, as the API server returns it. `before`: as it was known when it was
        written; if it is no longer known as that, the watch was faster, with this version or a later one.
        """
        key = key_of(before)
        if self._latest.get((kind, *key)) is not before:
            return
        feed = next(each for each, held in self._by_feed.items() if kind_of(each) == kind and key in held)
        self.store(feed, "/".join(key), raw)

    def _store(self, feed: str, key: ObjectKey, item: ClusterObject) -> bool:
        kind = kind_of(feed)
        self._latest[kind, *key] = item
        before = self._by_feed.setdefault(feed, {}).get(key)
        if before is not None and _essence(kind, before) == _essence(kind, item):
            return False
        self._by_feed[feed][key] = item
        return True

    def _drop(self, feed: str, key: ObjectKey) -> bool:
        self._latest.pop((kind_of(feed), *key), None)
        return self._by_feed.get(feed, {}).pop(key, None) is not None


def kind_of(feed: str) -> str:
    """Return the kind of a feed: feeds of single namespaces have them after an @."""
    return feed.partition("@")[0]


def _decoded(feed: str, raw: bytes) -> ClusterObject:
    return trimmed(kind_of(feed), msgspec.json.decode(raw))


def _key(name: str) -> ObjectKey:
    namespace, _, own = name.partition("/")
    return namespace, own


def _essence(kind: str, item: ClusterObject) -> tuple[Any, Any]:
    """Return what the translation reads of an object."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}
    left_out = ("metadata",) if kind in _STATUS_READ else ("metadata", "status")
    if kind == "Gateway":
        status = item.get("status") or {}
        return metadata, (item.get("spec"), status.get("addresses"))
    return metadata, {key: value for key, value in item.items() if key not in left_out}
