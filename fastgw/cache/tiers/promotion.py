"""Objects of slower tiers on their way into memory."""

from fastgw.cache.shared.purges import Validity
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import FetchBegin
from fastgw.cache.tiers.object_file import ObjectRecord


def check_record(store: SharedStore, key: bytes, record: ObjectRecord, began: int | None = None) -> Validity:
    """Return whether an object is valid. `began`: as if its fetch had begun at this purge sequence."""
    cells = store.cells
    hashes = [*{cells.key_tag(key), cells.key_tag(record.lease_key)}, *map(cells.name_tag, record.tags)]
    began = record.began if began is None else began
    return store.purges.check(began, began, hashes, lambda: record.url)


def promote_object(store: SharedStore, key: bytes, record: ObjectRecord, body: bytes) -> None:
    """Put an object into memory, unless there is one or memory has no space."""
    present = store.find(key)
    if present is not None:
        present.release()
        return
    lease = store.restore(record.lease_key, FetchBegin(record.began, record.stored_date))
    writer = lease.store(record.head, len(body), key=key, url=record.url, tags=record.tags)
    if writer is not None and (not body or writer.append(body)):
        writer.complete()
