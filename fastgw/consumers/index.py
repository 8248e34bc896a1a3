"""Consumers: the API consumers of the configuration, and an index that finds them by their credentials.

All consumers of a configuration are one *image*: a table of marks (names, keys, usernames, …) and the records that they
lead to, in a single byte string. The control process builds it; workers map it and read it in place, so 100,000
consumers cost no time on reload and no memory per worker. It contains no key and no password: marks and passwords are
keyed digests. Only verification keys of signatures are stored as they are.
"""

import mmap
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from hmac import compare_digest
from os import urandom
from typing import Final, final
from unicodedata import normalize
from weakref import WeakValueDictionary

import msgspec

from fastgw.config.settings import gateway as settings
from fastgw.config.sources.files import Disk
from fastgw.consumers.credentials import CredentialKind, Read, Signer, TokenSigner, marks_of, scope_of, subject_of
from fastgw.sync.revocations import RevocationEvent, RevocationList

_KEY: Final = 32
_HEAD: Final = struct.Struct("<32s16sQQ")
"""Header: key of all digests, digest of the consumers, number of consumers, slots for marks."""
_SLOT: Final = struct.Struct("<16sII")
"""Slot: mark, offset of its record, offset of the value stored with it; 0: none."""
_LENGTH: Final = struct.Struct("<I")
_DIGEST: Final = 16
_PASSWORD: Final = 32
_FREE: Final = bytes(_DIGEST)


@final
class Consumer(msgspec.Struct, frozen=True, gc=False):
    """API consumer: a client that is configured by name."""

    name: str
    groups: frozenset[str] = frozenset()


class ConsumerEntry(msgspec.Struct, frozen=True, array_like=True):
    """Record of a consumer in the image."""

    name: str
    groups: tuple[str, ...]
    keys: int
    """Number of keys; the same for the other kinds of credentials."""
    passwords: int
    subjects: int
    certificates: int
    signing_keys: int
    digest: bytes
    """Digest of its credentials: it differs if a credential has changed."""
    namespace: str = ""
    """Namespace whose filters alone know it; "" = all filters do."""


class _ConsumerIdentity(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Beginning of a `ConsumerEntry`."""

    # PERF: to find a consumer takes 2,000 instructions less than with its whole entry (CPython 3.11, callgrind,
    # micro/filters).
    name: str
    groups: frozenset[str]


@final
class Index:
    """Index of consumers by credentials. Immutable.

    `image`: result of `image_of`, at offset `begins` of a bytes object or mapped memory. `namespace` in its methods:
    that of the filter which asks; its consumers take precedence over those that all filters know, and those of other
    namespaces are not found.
    """

    __slots__ = ("_begins", "_image", "_key", "_slots", "count", "digest")

    def __init__(self, image: bytes | mmap.mmap, begins: int = 0) -> None:
        self._image = image
        self._key, self.digest, self.count, self._slots = _HEAD.unpack_from(image, begins)
        self._begins = begins + _HEAD.size

    def __repr__(self) -> str:
        return f"<Index of {self.count} consumers>"

    @property
    def image(self) -> bytes:
        return self._image[self._begins - _HEAD.size :]

    @property
    def key(self) -> bytes:
        """Key of the digests: images with the same key are comparable."""
        key: bytes = self._key
        return key

    def find(self, kind: CredentialKind, value: bytes, namespace: str = "") -> Consumer | None:
        """Return the consumer that this credential belongs to."""
        slot = self._slot_of(kind, value, namespace)
        return None if slot is None else self._consumer(slot[0])

    def by_name(self, name: str) -> ConsumerEntry | None:
        """Return the consumer with this name, of any namespace: names are unique over all of them."""
        slot = self._slot_of(CredentialKind.NAME, name.encode("utf-8", "surrogatepass"))
        return None if slot is None else self._known(slot[0])

    def login(self, username: bytes, password: bytes, namespace: str = "") -> Consumer | None:
        """Return the consumer with this username, if the password is correct. Unknown names take as long as known
        ones.
        """
        slot = self._slot_of(CredentialKind.USERNAME, username, namespace)
        shown = _password_digest(self._key, username, password)
        at, kept_at = slot or (0, 0)
        kept = self._piece(kept_at) if kept_at else bytes(_PASSWORD)
        return self._consumer(at) if compare_digest(kept, shown) and slot else None

    def signer(self, key_id: bytes, namespace: str = "") -> tuple[Consumer, Signer] | None:
        """Return the consumer with this signing key, and the key."""
        slot = self._slot_of(CredentialKind.KEY_ID, key_id, namespace)
        return (self._consumer(slot[0]), _decode_signer(self._piece(slot[1]))) if slot is not None else None

    def token_signer(self, key_id: bytes, namespace: str = "") -> tuple[Consumer, TokenSigner] | None:
        """Return the consumer with this key for tokens, and the key."""
        slot = self._slot_of(CredentialKind.TOKEN_KEY, key_id, namespace)
        return (self._consumer(slot[0]), _decode_token_signer(self._piece(slot[1]))) if slot is not None else None

    def known(self) -> Iterator[ConsumerEntry]:
        """All consumers, in the order of the configuration."""
        at = self._begins + self._slots * _SLOT.size
        for _ in range(self.count):
            yield self._known(at)
            at += _LENGTH.size + _LENGTH.unpack_from(self._image, at)[0]

    def _slot_of(self, kind: CredentialKind, value: bytes, namespace: str = "") -> tuple[int, int] | None:
        """Return the position of the record of a mark, and the value stored with it."""
        if namespace:
            found = self._slot_at(_digest(self._key, kind, value, namespace))
            if found is not None:
                return found
        return self._slot_at(_digest(self._key, kind, value))

    def _slot_at(self, mark: bytes) -> tuple[int, int] | None:
        image = self._image
        place = int.from_bytes(mark[:8], "little") % self._slots
        while True:  # it ends: a third of the slots are free
            at = self._begins + place * _SLOT.size
            held, record, kept = _SLOT.unpack_from(image, at)
            if held == _FREE:
                return None
            if compare_digest(held, mark):
                return self._begins + record, kept and self._begins + kept
            place = (place + 1) % self._slots

    def _consumer(self, at: int) -> Consumer:
        known = _decode_identity(self._piece(at))
        return Consumer(known.name, known.groups)

    def _known(self, at: int) -> ConsumerEntry:
        return _decode(self._piece(at))

    def _piece(self, at: int) -> bytes:
        """Return the bytes at this position after their length."""
        begins = at + _LENGTH.size
        return self._image[begins : begins + _LENGTH.unpack_from(self._image, at)[0]]


def image_of(consumers: Collection[settings.Consumer], read: Read, key: bytes = b"") -> bytes:
    """Return the image of these consumers. `key`: key of another image that it will be compared with.

    `read`: function that reads files with secrets. Raises `SecretError`.
    """
    key = key or urandom(_KEY)
    records = bytearray()
    kept = bytearray()
    marks: list[tuple[bytes, int, int]] = []
    everything = blake2b(key=key, digest_size=_DIGEST)
    for consumer in consumers:
        begins = len(records)
        own = blake2b(key=key, digest_size=_DIGEST)
        for mark in marks_of(consumer, read):
            digest = _digest(key, mark.kind, mark.value, scope_of(mark.kind, consumer))
            own.update(digest)
            kept_at = -1
            if mark.secret:
                is_password = mark.kind is CredentialKind.USERNAME
                secret = _password_digest(key, mark.value, mark.secret) if is_password else mark.secret
                own.update(secret)
                kept_at = len(kept)
                kept += _LENGTH.pack(len(secret)) + secret
            marks.append((digest, begins, kept_at))
        known = ConsumerEntry(
            consumer.name,
            consumer.groups,
            len(consumer.key_auth),
            len(consumer.basic_auth),
            len(consumer.jwt),
            len(consumer.certificates),
            len(consumer.hmac),
            own.digest(),
            consumer.namespace or "",
        )
        record = msgspec.msgpack.encode(known)
        everything.update(record)
        records += _LENGTH.pack(len(record)) + record
    slots = len(marks) * 3 // 2 + 2
    table = bytearray(slots * _SLOT.size)
    kept_begins = len(table) + len(records)
    taken = bytearray(slots)
    for digest, begins, kept_at in marks:
        place = int.from_bytes(digest[:8], "little") % slots
        while taken[place]:
            place = (place + 1) % slots
        taken[place] = 1
        where = kept_begins + kept_at if kept_at >= 0 else 0
        _SLOT.pack_into(table, place * _SLOT.size, digest, len(table) + begins, where)
    head = _HEAD.pack(key, everything.digest(), len(consumers), slots)
    return b"".join((head, table, records, kept))


NOBODY: Final = Index(image_of((), lambda file: b""))
"""Index without consumers."""


def index_of(consumers: Collection[settings.Consumer], files: Mapping[str, bytes], key: bytes = b"") -> Index:
    """Return an index of these consumers. `files`: contents by path; missing ones are read. Raises `SecretError`,
    `Flaw`.
    """
    if not consumers:
        return NOBODY
    disk = Disk()
    return Index(image_of(consumers, lambda file: files[file] if file in files else disk.read(file), key))


def _nobody_else(records: bytes, about: RevocationEvent) -> None:
    pass


class Roster:
    """Roster: all consumers and their revoked credentials. A worker has one for its lifetime; a reload replaces its
    content atomically.

    `index`: caches of results of the index are invalid once it is another object. `stamp`: decisions by `index` and
    `revoked` have to be repeated once it is another object. `namespace`: the one whose filters use it; it finds the
    consumers of this namespace, and those that all filters know.
    """

    __slots__ = ("__weakref__", "_namespaces", "_root", "_tell", "index", "namespace", "revoked", "stamp")

    def __init__(self, index: Index = NOBODY) -> None:
        self.index = index
        self.revoked = RevocationList()
        self.stamp = object()
        self.namespace = ""
        self._tell: Callable[[bytes, RevocationEvent], None] = _nobody_else
        self._root: Roster | None = None  # of a namespace: the one that changes it
        self._namespaces: WeakValueDictionary[str, Roster] = WeakValueDictionary()

    def of_namespace(self, namespace: str) -> "Roster":
        """Return the roster for the filters of a namespace, which changes with this one. "": this one."""
        if not namespace:
            return self
        own = self._namespaces.get(namespace)
        if own is None:
            own = Roster(self.index)
            own.revoked, own.stamp, own.namespace, own._root = self.revoked, self.stamp, namespace, self
            self._namespaces[namespace] = own
        return own

    def use_index(self, index: Index) -> None:
        """Replace the consumers."""
        self.index = index
        self._renew()

    def share_revocations(self, revoked: RevocationList, tell: Callable[[bytes, RevocationEvent], None]) -> None:
        """Use this revocation list. `tell`: function that sends a revocation made here to the other workers."""
        self.revoked, self._tell = revoked, tell
        self._renew()

    def _renew(self) -> None:
        self.stamp = object()
        for own in self._namespaces.values():
            own.index, own.revoked, own.stamp = self.index, self.revoked, self.stamp

    def merge_revocations(self, records: bytes) -> bytes:
        """Add revocations of another process; return those that are new."""
        fresh = self.revoked.add(records, time.time())
        if fresh:
            (self._root or self)._renew()
        return fresh

    def revoke(self, records: bytes, about: RevocationEvent) -> None:
        """Revoke in this worker at once, and then in all others."""
        if fresh := self.merge_revocations(records):
            (self._root or self)._tell(fresh, about)

    def by_name(self, name: str) -> Consumer | None:
        known = self.index.by_name(name)
        if known is None or known.namespace not in ("", self.namespace):
            return None
        return Consumer(known.name, frozenset(known.groups))

    def is_named(self, name: str) -> bool:
        """Whether a consumer has this name, also one of another namespace."""
        return self.index.by_name(name) is not None

    def called(self, name: str) -> Consumer:
        """Return the consumer with this name, or one without groups. It is never named like a consumer of another
        namespace: that name gets the namespace in front.
        """
        known = self.by_name(name)
        if known is None and self.namespace and self.is_named(name):
            name = f"{self.namespace}.{name}"
        return known or Consumer(name)

    def by_key(self, digest: bytes) -> Consumer | None:
        """Return the consumer with this key. `digest`: SHA-256 of the key."""
        return self.index.find(CredentialKind.KEY, digest, self.namespace)

    def by_username(self, name: str) -> Consumer | None:
        """Return the consumer with this username; the password is not verified."""
        username = normalize("NFC", name).encode("utf-8", "surrogatepass")
        return self.index.find(CredentialKind.USERNAME, username, self.namespace)

    def by_password(self, name: str, password: str) -> Consumer | None:
        """Return the consumer with this username, if the password is correct. Unknown names take as long as known
        ones.
        """
        username, shown = (normalize("NFC", each).encode("utf-8", "surrogatepass") for each in (name, password))
        return self.index.login(username, shown, self.namespace)

    def by_key_id(self, key_id: str) -> tuple[Consumer, Signer] | None:
        """Return the consumer with this signing key, and the key; no signature is verified."""
        return self.index.signer(key_id.encode("utf-8", "surrogatepass"), self.namespace)

    def by_token_key(self, key_id: str) -> tuple[Consumer, TokenSigner] | None:
        """Return the consumer with this key for tokens, and the key; no signature is verified."""
        return self.index.token_signer(key_id.encode("utf-8", "surrogatepass"), self.namespace)

    def by_jwt_subject(self, issuer: str, subject: str) -> Consumer | None:
        return self.index.find(CredentialKind.JWT_SUBJECT, subject_of(issuer, subject), self.namespace)

    def by_certificate(self, subject: str = "", sans: Iterable[str] = (), fingerprint: bytes = b"") -> Consumer | None:
        """Return the consumer of a client certificate. `fingerprint`: its SHA-256, which takes precedence over names,
        and they over the subject.

        None also if the names belong to different consumers.
        """
        index, namespace = self.index, self.namespace
        found = index.find(CredentialKind.FINGERPRINT, fingerprint, namespace) if fingerprint else None
        if found is not None:
            return found
        texts = (san.encode("utf-8", "surrogatepass") for san in sans)
        named = {each for text in texts if (each := index.find(CredentialKind.SAN, text, namespace))}
        if named:
            return named.pop() if len(named) == 1 else None
        text = subject.encode("utf-8", "surrogatepass")
        return index.find(CredentialKind.SUBJECT, text, namespace) if subject else None


def _digest(key: bytes, kind: CredentialKind, value: bytes, namespace: str = "") -> bytes:
    if namespace:
        person = blake2b(namespace.encode(), digest_size=_DIGEST).digest()
        digest = blake2b(value, key=key, digest_size=_DIGEST, salt=_SALTS[kind], person=person).digest()
    else:
        digest = blake2b(value, key=key, digest_size=_DIGEST, salt=_SALTS[kind]).digest()
    return digest if digest != _FREE else b"\1" * _DIGEST


def _password_digest(key: bytes, username: bytes, password: bytes) -> bytes:
    return blake2b(b"%d:%b%b" % (len(username), username, password), key=key, digest_size=_PASSWORD).digest()


_SALTS: Final = [bytes([kind]) for kind in CredentialKind]
_decode: Final = msgspec.msgpack.Decoder(ConsumerEntry).decode
_decode_identity: Final = msgspec.msgpack.Decoder(_ConsumerIdentity).decode
_decode_signer: Final = msgspec.msgpack.Decoder(Signer).decode
_decode_token_signer: Final = msgspec.msgpack.Decoder(TokenSigner).decode
