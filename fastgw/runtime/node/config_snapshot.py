"""Configuration snapshot: an accepted configuration with everything that a process needs to serve it, in a sealed
memory file.

Control creates it after complete validation; the supervisor keeps it. Running workers read the changes from it, and
later processes start with it: no file is opened again, so all processes have the same configuration whatever happens on
disk.

The format is MessagePack, decoded by type. The parts are encoded one by one, so a worker decodes only missing parts, in
steps. The file begins with the version of the format; a reader of another version rejects it. An upgrade does not
depend on it: the next version reads `sources` and `captured`, the bytes of the files themselves (`HandoverState`).
"""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from enum import Enum
from functools import cached_property
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from fastgw.config import Loaded, Source
from fastgw.config.base.settings_codec import decode, decode_object, encode, encode_object
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.settings.gateway import AccessLog, Config, FilterUse, Route, Upstream
from fastgw.config.settings.telemetry import Telemetry
from fastgw.config.sources.files import found_by_patterns, pattern_in
from fastgw.consumers.index import NOBODY, Index, index_of
from fastgw.filters import TYPES
from fastgw.filters.api import FeedSource, Filter
from fastgw.gateway.compiler import Plan, levels, rest_of
from fastgw.kernel import memory_file
from fastgw.routing.table import Steps, at_once
from fastgw.runtime.ipc.channel import Origin
from fastgw.shm.slot_assignment import SlotTable, upstream_of

T = TypeVar("T")
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PIECE: Final = 256
"""Number of routes, names and the like that are read or dropped in one step of about 0.1 ms."""
FORMAT: Final = b"fastgw configuration 1\n"
"""First bytes of the memory file: the number changes with the format."""
_LENGTH: Final = 8
"""Bytes of the length before each part of the file, little-endian."""
Users = tuple[str, int]
"""The first user of a feed (the level of its filter, or the route's name), and the number of users."""
NEW: Final = -1
"""Marker in `same`: the base has no equal route."""


class Retention(Enum):
    """Content of a long part that is kept if nothing is built from it."""

    NOTHING, NAMES, WHOLE = range(3)


class ConfigSnapshot(msgspec.Struct, dict=True, kw_only=True):
    """The snapshot."""

    generation: int
    base: int
    """The generation that it was compared with; 0: none."""
    date: float
    """Date of acceptance (epoch seconds)."""
    source: Origin
    hash: str
    """Hash of the contents of all files, independent of their names: equal configurations have equal hashes. "": there
    are no files.
    """
    sources: list[Source]
    """Files of the configuration, the main one first; empty if it was given by flags."""
    captured: dict[str, bytes]
    """Referenced files by absolute path, and the matches of patterns."""
    encoded_settings: bytes
    encoded_access_logs: bytes
    """Access logs as configured: those of the settings mask more."""
    encoded_telemetry: bytes
    """Telemetry as configured: that of the settings masks more, and has the objectives of routes."""
    encoded_upstreams: dict[str, bytes]
    encoded_routes: list[bytes]
    route_names: list[str]
    same: list[int]
    """Index of the base's equal route for each route, or `NEW`."""
    changed_upstreams: list[str] = []
    """Names of upstreams that the base does not have, or not unchanged."""
    slot_table: SlotTable
    """Slots of the names in shared memory."""
    workers: int
    """Number of workers."""
    feeds: dict[str, bytes]
    """Encoded sources of feeds, by key."""
    lazy_feeds: dict[str, bytes] = {}
    """Encoded sources of feeds that are fetched only on demand, by key: there may be thousands."""
    feed_users: dict[str, Users] = {}
    """Users of the feeds, by key."""
    known_notes: list[str] = []
    """Keys of the notes on it (`runtime.reload.config_notes`)."""
    refused_objects: dict[str, str] = {}
    """Objects of the Kubernetes provider that are left out, with the reasons."""
    image: bytes = b""
    """Image of the consumers' index; b"": there are no consumers, or it is mapped."""

    @cached_property
    def index(self) -> Index:
        """Return the index of the consumers."""
        return Index(self.image) if self.image else NOBODY

    @cached_property
    def settings(self) -> Config:
        """Settings without routes, upstreams and consumers."""
        return decode(self.encoded_settings, Config, TYPES.built_in)

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Upstreams, each decoded on every access."""
        return _Unpacking(self.encoded_upstreams)

    @property
    def plan(self) -> Plan:
        """Return the plan that the tables are compiled from."""
        unchanged = self.encoded_upstreams.keys() - self.changed_upstreams
        names, index = self.route_names, self.index
        return Plan(self.settings, self.upstreams, names, self._route, self.same, self.captured, index, unchanged)

    def _route(self, index: int) -> Route:
        return decode(self.encoded_routes[index], Route, TYPES.built_in)

    @property
    def file(self) -> str:
        """The main file; "": there is none."""
        return self.sources[0].name if self.sources else ""

    def config(self) -> Config:
        """The complete configuration, without its consumers."""
        routes = tuple(self._route(index) for index in range(len(self.encoded_routes)))
        logs = decode(self.encoded_access_logs, tuple[AccessLog, ...], TYPES.built_in)
        telemetry = decode(self.encoded_telemetry, Telemetry, TYPES.built_in)
        return msgspec.structs.replace(
            self.settings, upstreams=dict(self.upstreams), routes=routes, access_logs=logs, telemetry=telemetry
        )

    def emptying(self) -> Steps[None]:
        """Drop the parts that tables were built from."""
        for held, left in _long(self):
            if left is Retention.NAMES and isinstance(held, dict):
                held.update(dict.fromkeys(held, b""))
                yield
            while held and left is Retention.NOTHING:
                if isinstance(held, dict):
                    held.popitem()
                else:
                    del held[-_PIECE:]
                yield


class _Unpacking(Mapping[str, Upstream]):
    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        self._encoded = encoded

    def __getitem__(self, name: str) -> Upstream:
        return decode(self._encoded[name], Upstream, TYPES.built_in)

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


class PreviousGeneration(NamedTuple):
    """Base of a new generation, which reuses everything that is equal."""

    accepted: ConfigSnapshot
    config: Config
    """The decoded configuration."""
    feeds: "FeedsKept | None" = None

    def same(self, routes: Iterable[Route]) -> list[int]:
        """Return for each of these routes the index of the equal route of this generation, or `NEW`."""
        by_name = {route.name: (index, route) for index, route in enumerate(self.config.routes)}
        same = []
        for route in routes:
            index, before = by_name.get(route.name, (NEW, None))
            same.append(index if _is_same(route, before) else NEW)
        return same


def _is_same(one: Struct, other: Struct | None) -> bool:
    """Whether two routes are equal. PERF: identity first, because thousands of routes are the same object
    (`config.Remembered`): 0.1 us, equality takes 3 (CPython 3.11, timeit).
    """
    return one is other or one == other


class TargetChange(msgspec.Struct):
    """Other targets of some upstreams, which replace those in use without a new generation."""

    encoded_upstreams: dict[str, bytes]
    """The changed upstreams, whole."""
    targets: dict[str, int]
    """Slots of their targets."""
    target_rows: dict[str, int]

    def upstreams(self) -> Mapping[str, Upstream]:
        return {name: decode(raw, Upstream, TYPES.built_in) for name, raw in self.encoded_upstreams.items()}

    def slots_in(self, slot_table: SlotTable) -> SlotTable:
        """Return the slots with those of the changed targets."""
        changed = self.encoded_upstreams

        def with_changed(slots: Mapping[str, int], mine: Mapping[str, int]) -> dict[str, int]:
            return {name: slot for name, slot in slots.items() if upstream_of(name) not in changed} | dict(mine)

        return msgspec.structs.replace(
            slot_table,
            targets=with_changed(slot_table.targets, self.targets),
            target_rows=with_changed(slot_table.target_rows, self.target_rows),
        )


class RollbackPoint(msgspec.Struct):
    """Everything needed to return to a configuration that was accepted."""

    generation: int
    hash: str
    sources: list[Source]
    captured: dict[str, bytes]
    date: float = 0.0
    """Date of acceptance (epoch seconds); 0.0: it was accepted by an earlier version."""
    source: Origin = "start"

    @classmethod
    def of(cls, accepted: ConfigSnapshot) -> "RollbackPoint":
        parts = accepted.generation, accepted.hash, accepted.sources, accepted.captured
        return cls(*parts, accepted.date, accepted.source)


def accept(
    loaded: Loaded,
    *,
    generation: int,
    date: float,
    source: Origin,
    slot_table: SlotTable,
    workers: int,
    base: PreviousGeneration | None,
    index: Index | None = None,
    known_notes: Iterable[str] = (),
    rest: Config | None = None,
) -> ConfigSnapshot:
    """Create the snapshot of a validated configuration. `base`: the previous generation.

    `index`: index of its consumers; None: not built yet. `rest`: result of `rest_of`; None: not computed yet.
    """
    config = loaded.config
    index = index_of(config.consumers, loaded.captured) if index is None else index
    same = [NEW] * len(config.routes) if base is None else base.same(config.routes)
    before: Mapping[str, Upstream] = {} if base is None else base.config.upstreams
    changed = {name for name, each in config.upstreams.items() if not _is_same(each, before.get(name))}
    kept = None if base is None else base.feeds
    feeds, lazy_feeds, feed_users = _feeds(config, FeedsKept() if kept is None else kept)
    return ConfigSnapshot(
        generation=generation,
        base=0 if base is None else generation - 1,
        date=date,
        source=source,
        hash=_hash(loaded),
        sources=list(loaded.sources),
        captured=dict(loaded.captured),
        encoded_settings=_encoded(rest_of(config) if rest is None else rest, Config),
        encoded_access_logs=_encoded(config.access_logs, tuple[AccessLog, ...]),
        encoded_telemetry=_encoded(config.telemetry, Telemetry),
        encoded_upstreams={
            name: _encoded(each, Upstream) if name in changed or base is None else base.accepted.encoded_upstreams[name]
            for name, each in config.upstreams.items()
        },
        encoded_routes=[
            _encoded(route, Route) if base is None or at == NEW else base.accepted.encoded_routes[at]
            for route, at in zip(config.routes, same, strict=True)
        ],
        route_names=[route.name for route in config.routes],
        same=same,
        changed_upstreams=[*changed],
        slot_table=slot_table,
        workers=workers,
        feeds=feeds,
        lazy_feeds=lazy_feeds,
        feed_users=feed_users,
        known_notes=[*known_notes],
        refused_objects=dict(loaded.refused_objects),
        image=index.image if index is not NOBODY else b"",
    )


def with_targets(
    accepted: ConfigSnapshot, changed: Mapping[str, Upstream], loaded: Loaded, slot_table: SlotTable
) -> tuple[ConfigSnapshot, TargetChange]:
    """Return the snapshot of the same generation with other targets, and the change for running workers. `changed`:
    upstreams with other targets; `loaded`: what they were read from.
    """
    encoded = {name: _encoded(each, Upstream) for name, each in changed.items()}
    made = msgspec.structs.replace(
        accepted,
        hash=_hash(loaded),
        captured=dict(loaded.captured),
        encoded_upstreams=accepted.encoded_upstreams | encoded,
        changed_upstreams=[*dict.fromkeys((*accepted.changed_upstreams, *changed))],
        slot_table=slot_table,
        image=accepted.index.image if accepted.index is not NOBODY else b"",
    )
    slots = {name: slot for name, slot in slot_table.targets.items() if upstream_of(name) in changed}
    rows = {name: row for name, row in slot_table.target_rows.items() if upstream_of(name) in changed}
    return made, TargetChange(encoded, slots, rows)


def _encoded(part: T, kind: type[T]) -> bytes:
    """Encode a part, and check that it can be decoded; otherwise workers would crash. Raises `TypeError` and
    `msgspec.ValidationError`.
    """
    raw = encode(part)
    decode(raw, kind, TYPES.built_in)
    return raw


def seal(accepted: ConfigSnapshot) -> int:
    """Write the snapshot into a sealed memory file, and return its descriptor."""
    descriptor = memory_file("fastgw-accepted", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(FORMAT)
            for part in _parts(accepted):
                encoded = msgspec.msgpack.encode(part)
                file.write(len(encoded).to_bytes(_LENGTH, "little") + encoded)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unseal(descriptor: int) -> ConfigSnapshot:
    """Read the snapshot. Raises `ValueError` if the file is not sealed, or has another format."""
    return at_once(unsealing(descriptor))


def unsealing(descriptor: int, *, sources: bool = True, tables: bool = True) -> Steps[ConfigSnapshot]:
    """Read the snapshot in steps. Without `sources`, these files, which may be large, are skipped; without `tables`,
    parts that only tables and feeds need.
    """
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the accepted configuration is not sealed")
    with (
        mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped,
        memoryview(mapped) as content,
        content[len(FORMAT) :] as after,
        closing(_parts_in(after)) as parts,
    ):
        if content[: len(FORMAT)].tobytes() != FORMAT:
            raise ValueError("the accepted configuration is in the format of another version of fastgw")
        begins = next(parts)
        accepted = msgspec.msgpack.decode(begins, type=ConfigSnapshot)
        image_at = len(FORMAT) + 2 * _LENGTH + len(begins)
        if image_length := len(next(parts)):
            accepted.__dict__["index"] = _mapped(descriptor, image_at, image_length)
        files = next(parts)
        if sources:
            written = tuple[list[Source], dict[str, bytes], list[str]]
            accepted.sources, found, accepted.known_notes = msgspec.msgpack.decode(files, type=written)
            accepted.captured |= found
        long = _long(accepted)
        for part in parts:
            yield
            _read_part(part, long, tables)
        return accepted


def _read_part(part: memoryview, long: Sequence[tuple[dict[str, Any] | list[Any], Retention]], tables: bool) -> None:
    """Insert a piece of a long part, or the retained content of it."""
    index, raw = msgspec.msgpack.decode(part, type=tuple[int, msgspec.Raw])
    held, left = long[index]
    if not tables and left is Retention.NOTHING:
        return
    entries = msgspec.msgpack.decode(raw)
    if isinstance(held, dict):
        held.update(entries if tables or left is Retention.WHOLE else dict.fromkeys(entries, b""))
    else:
        held += entries


def _mapped(descriptor: int, begins: int, length: int) -> Index:
    """Return an index that is read in place from the file, as long as it is referenced."""
    inside = begins % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(descriptor, length + inside, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE, offset=begins - inside)
    return Index(mapped, inside)


def _long(accepted: ConfigSnapshot) -> tuple[tuple[dict[str, Any] | list[Any], Retention], ...]:
    """Return the parts that may have very many entries: they are written and read in steps."""
    slot_table = accepted.slot_table
    return (
        (accepted.encoded_upstreams, Retention.NOTHING),
        (accepted.encoded_routes, Retention.NOTHING),
        (accepted.route_names, Retention.NOTHING),
        (accepted.same, Retention.NOTHING),
        (accepted.changed_upstreams, Retention.NOTHING),
        (slot_table.upstreams, Retention.WHOLE),
        (slot_table.targets, Retention.WHOLE),
        (accepted.feeds, Retention.NAMES),
        (accepted.lazy_feeds, Retention.NAMES),
        (accepted.feed_users, Retention.NOTHING),
    )


def _parts(accepted: ConfigSnapshot) -> Iterator[object]:
    """Yield the contents of the memory file: the snapshot without its long parts, its consumers, its files, and pieces
    of the rest.
    """
    found = found_by_patterns(accepted.captured)
    slot_table = msgspec.structs.replace(accepted.slot_table, upstreams={}, targets={})
    yield msgspec.structs.replace(
        accepted,
        sources=[],
        encoded_upstreams={},
        encoded_routes=[],
        route_names=[],
        same=[],
        changed_upstreams=[],
        feeds={},
        lazy_feeds={},
        feed_users={},
        slot_table=slot_table,
        captured={file: content for file, content in accepted.captured.items() if file not in found},
        known_notes=[],
        image=b"",
    )
    yield msgspec.Raw(accepted.image)
    captured = {file: content for file, content in accepted.captured.items() if file in found}
    yield accepted.sources, captured, accepted.known_notes
    for index, (held, _) in enumerate(_long(accepted)):
        entries = iter(held.items() if isinstance(held, dict) else held)
        while piece := list(islice(entries, _PIECE)):
            yield index, dict(piece) if isinstance(held, dict) else piece


def _parts_in(content: memoryview) -> Generator[memoryview, None, None]:
    at = 0
    while at < len(content):
        begins = at + _LENGTH
        at = begins + int.from_bytes(content[at:begins], "little")
        with content[begins:at] as part:
            yield part


class FeedsKept:
    """Cache of the feed sources of filters, by identity of the filter."""

    def __init__(self) -> None:
        self.wanted: IncrementalCache[int, tuple[FilterUse, tuple[FeedSource, ...]]] = IncrementalCache()
        self.encoded: IncrementalCache[int, tuple[FeedSource, bytes]] = IncrementalCache()

    def of(self, use: FilterUse) -> tuple[FeedSource, ...]:
        if type(use.settings).feeds is Filter.feeds:
            return ()
        known = self.wanted.find(id(use))  # it lives as long as its cache entry
        return self.wanted.store(id(use), (use, (*use.settings.feeds(),)) if known is None else known)[1]

    def packed(self, source: FeedSource) -> bytes:
        """Encode a source, and check that it can be decoded, like `_encoded`."""
        known = self.encoded.find(id(source))
        if known is None:
            known = source, encode_object(source)
            decode_object(known[1], FeedSource)
        return self.encoded.store(id(source), known)[1]

    def end_reading(self) -> None:
        """Drop entries that were not read since the last call."""
        self.wanted.end_reading(True)
        self.encoded.end_reading(True)


def _feeds(config: Config, kept: FeedsKept) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, Users]]:
    """Return the eager feeds, the lazy feeds, and the users of both."""
    found: dict[str, FeedSource] = {}
    users: dict[str, dict[str, None]] = {}
    for level, filters in levels(config):
        for use in filters.values():
            for source in () if use is None else kept.of(use):
                found[source.key] = source
                users.setdefault(source.key, {})[level.removeprefix("route ")] = None
    eager, lazy = dict[str, bytes](), dict[str, bytes]()
    for key, source in found.items():
        (lazy if source.lazy else eager)[key] = kept.packed(source)
    kept.end_reading()
    return eager, lazy, {key: (next(iter(held)), len(held)) for key, held in users.items()}


def _hash(loaded: Loaded) -> str:
    if not loaded.sources:
        return ""
    digest = hashlib.sha256()
    files = [loaded.captured[name] for name in sorted(loaded.captured) if not pattern_in(name)]
    for content in [each.text for each in loaded.sources] + files:
        digest.update(b"%d " % len(content) + content)
    return digest.hexdigest()[:16]
