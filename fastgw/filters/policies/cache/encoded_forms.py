"""Forms of a stored response with content codings: they are stored beside it, so that each is made once.

A form is found by the stored response that it was made of: its key, the date of its fetch and its length. So it is
never used for another response, whatever was purged or fetched in between; forms of removed responses are evicted. It
is a form of the stored body: one that a filter has changed for a client has none (`staged_body`).
"""

from hashlib import blake2b
from typing import final

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Refusal, StoredObject


@final
class StoredForms:
    """Forms of one complete object; implements `exchange.reply.EncodedForms`."""

    __slots__ = ("_source", "_store")

    def __init__(self, store: SharedStore, found: StoredObject) -> None:
        self._store = store
        self._source = b"%b %a %d " % (found.key, found.stored_date, found.length)

    def find(self, form: bytes) -> bytes | None:
        found = self._store.find(self._key(form))
        if found is None:
            return None
        body = b"".join(found.pieces()) if found.is_complete else None
        found.release()
        return body

    def store(self, form: bytes, body: bytes) -> None:
        lease = self._store.lease(self._key(form))
        if isinstance(lease, Refusal):
            return
        writer = lease.store(b"", len(body))
        if writer is None:
            lease.give_up()
        elif writer.append(body):
            writer.complete()
        else:
            writer.abort()

    def _key(self, form: bytes) -> bytes:
        return blake2b(self._source + form, digest_size=16, person=b"fastgw-as-stored").digest()
