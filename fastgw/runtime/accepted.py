"""A configuration as it was accepted: everything that a process needs to serve it, in a sealed memory file.

Control makes it of what it has checked in full; the supervisor keeps it. Live workers read what changed from it, and
processes born later begin with it: no file is opened again, so all of them mean the same whatever happens on the disk.

The parts are pickled one by one, so that a worker unpacks those it has not, in its own time. A pickle is a program, but
this one comes from our own supervisor over memory that nobody can write any more. Another version of fastgw does not
rely on it: it reads `sources` and `captured`, the bytes of the files themselves.
"""

import fcntl
import hashlib
import mmap
import os
import pickle
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from typing import Any, Final

import msgspec

from fastgw.compile import Plan, rest_of, uses
from fastgw.config import Loaded, Source
from fastgw.config.files import found_by_patterns, pattern_in
from fastgw.config.settings import Config, Route, Upstream
from fastgw.identity import NOBODY, Index, index_of
from fastgw.node.places import Places
from fastgw.routing import Steps, at_once
from fastgw.runtime.channel import Origin

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PIECE: Final = 256
"""Routes, names and the like that are read, or dropped, in one step: some 0.1 ms."""
_LENGTH: Final = 8
"""Bytes before each part of the file: how long it is, little-endian."""
NEW: Final = -1
"""In `same`: the base has no route that is equal."""


class Accepted(msgspec.Struct, dict=True, kw_only=True):
    """The document."""

    generation: int
    base: int
    """The generation it was compared with; 0: none."""
    date: float
    """When it was accepted, epoch seconds."""
    source: Origin
    hash: str
    """Of the bytes of all files, whatever their names: equal configurations have equal hashes."""
    sources: list[Source]
    """The files it was read from, the main one first; none when it came from flags."""
    captured: dict[str, bytes]
    """The files that it names, by absolute path; and what its patterns find."""
    pickled_settings: bytes
    pickled_upstreams: dict[str, bytes]
    pickled_routes: list[bytes]
    route_names: list[str]
    same: list[int]
    """For each route, which one of the base's is equal to it, or `NEW`."""
    places: Places
    """Where the names live in shared memory."""
    workers: int
    """How many processes serve."""
    feeds: dict[str, bytes]
    """What is fetched once per node, by key: the pickled sources."""
    known_notes: list[str] = []
    """The keys of what is worth knowing of it (`runtime.noted`)."""
    image: bytes = b""
    """Of the consumers; b"": there are none, or it is mapped."""

    @cached_property
    def index(self) -> Index:
        """Of the consumers."""
        return Index(self.image) if self.image else NOBODY

    @cached_property
    def settings(self) -> Config:
        """Without routes, upstreams and consumers."""
        settings: Config = pickle.loads(self.pickled_settings)
        return settings

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Each is unpacked when it is asked for, each time."""
        return _Unpacking(self.pickled_upstreams)

    @property
    def plan(self) -> Plan:
        """What the tables are made from."""
        return Plan(self.settings, self.upstreams, self.route_names, self._route, self.same, self.captured, self.index)

    def _route(self, index: int) -> Route:
        route: Route = pickle.loads(self.pickled_routes[index])
        return route

    @property
    def file(self) -> str:
        """The main file; "" when there is none."""
        return self.sources[0].name if self.sources else ""

    def config(self) -> Config:
        """The whole configuration, but for its consumers."""
        routes = tuple(self._route(index) for index in range(len(self.pickled_routes)))
        return msgspec.structs.replace(self.settings, upstreams=dict(self.upstreams), routes=routes)

    def emptying(self) -> Steps[None]:
        """Drop what tables were made from, which they do not need any more."""
        for held in (self.pickled_upstreams, self.pickled_routes, self.route_names, self.same):
            while held:
                if isinstance(held, dict):
                    held.popitem()
                else:
                    del held[-_PIECE:]
                yield


class _Unpacking(Mapping[str, Upstream]):
    def __init__(self, pickled: Mapping[str, bytes]) -> None:
        self._pickled = pickled

    def __getitem__(self, name: str) -> Upstream:
        upstream: Upstream = pickle.loads(self._pickled[name])
        return upstream

    def __iter__(self) -> Iterator[str]:
        return iter(self._pickled)

    def __len__(self) -> int:
        return len(self._pickled)


class Document(msgspec.Struct):
    """What it takes to come back to a configuration that was accepted."""

    generation: int
    hash: str
    sources: list[Source]
    captured: dict[str, bytes]

    @classmethod
    def of(cls, accepted: Accepted) -> "Document":
        return cls(accepted.generation, accepted.hash, accepted.sources, accepted.captured)


def accept(
    loaded: Loaded,
    *,
    generation: int,
    date: float,
    source: Origin,
    places: Places,
    workers: int,
    base: Config | None,
    index: Index | None = None,
    known_notes: Iterable[str] = (),
) -> Accepted:
    """Make the document of a configuration that was checked. `base`: of the generation before this one.

    `index`: of its consumers; None: there is none yet.
    """
    config = loaded.config
    index = index_of(config.consumers, loaded.captured) if index is None else index
    return Accepted(
        generation=generation,
        base=0 if base is None else generation - 1,
        date=date,
        source=source,
        hash=_hash(loaded),
        sources=list(loaded.sources),
        captured=dict(loaded.captured),
        pickled_settings=_pickled(rest_of(config)),
        pickled_upstreams={name: _pickled(upstream) for name, upstream in config.upstreams.items()},
        pickled_routes=[_pickled(route) for route in config.routes],
        route_names=[route.name for route in config.routes],
        same=_same(config.routes, () if base is None else base.routes),
        places=places,
        workers=workers,
        feeds=_feeds(config),
        known_notes=[*known_notes],
        image=index.image if index is not NOBODY else b"",
    )


def seal(accepted: Accepted) -> int:
    """Put the document into a memory file that nobody can change any more, and return its descriptor."""
    descriptor = os.memfd_create("fastgw-accepted", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for part in _parts(accepted):
                encoded = msgspec.msgpack.encode(part)
                file.write(len(encoded).to_bytes(_LENGTH, "little") + encoded)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unseal(descriptor: int) -> Accepted:
    """Read the document. Raises `ValueError` when it could still be changed."""
    return at_once(unsealing(descriptor))


def unsealing(descriptor: int, *, sources: bool = True) -> Steps[Accepted]:
    """`unseal`, in steps. Without `sources` these files, which may be large, are left out."""
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the accepted configuration is not sealed")
    with (
        mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped,
        memoryview(mapped) as content,
        closing(_parts_in(content)) as parts,
    ):
        begins = next(parts)
        accepted = msgspec.msgpack.decode(begins, type=Accepted)
        image_at = 2 * _LENGTH + len(begins)
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
            place, entries = msgspec.msgpack.decode(part)
            held = long[place]
            if isinstance(held, dict):
                held.update(entries)
            else:
                held += entries
        return accepted


def _mapped(descriptor: int, begins: int, length: int) -> Index:
    """An index that is read where it lies in the file, as long as somebody asks it."""
    inside = begins % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(descriptor, length + inside, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE, offset=begins - inside)
    return Index(mapped, inside)


def _long(accepted: Accepted) -> tuple[dict[str, Any] | list[Any], ...]:
    """What may have very many entries: it is written, and read, in pieces."""
    places = accepted.places
    return (
        accepted.pickled_upstreams,
        accepted.pickled_routes,
        accepted.route_names,
        accepted.same,
        places.upstreams,
        places.targets,
    )


def _parts(accepted: Accepted) -> Iterator[object]:
    """What the file holds: the document without what is long, its consumers, its files, and pieces of the rest."""
    found = found_by_patterns(accepted.captured)
    places = msgspec.structs.replace(accepted.places, upstreams={}, targets={})
    yield msgspec.structs.replace(
        accepted,
        sources=[],
        pickled_upstreams={},
        pickled_routes=[],
        route_names=[],
        same=[],
        places=places,
        captured={file: content for file, content in accepted.captured.items() if file not in found},
        known_notes=[],
        image=b"",
    )
    yield msgspec.Raw(accepted.image)
    captured = {file: content for file, content in accepted.captured.items() if file in found}
    yield accepted.sources, captured, accepted.known_notes
    for place, held in enumerate(_long(accepted)):
        entries = iter(held.items() if isinstance(held, dict) else held)
        while piece := list(islice(entries, _PIECE)):
            yield place, dict(piece) if isinstance(held, dict) else piece


def _parts_in(content: memoryview) -> Generator[memoryview, None, None]:
    at = 0
    while at < len(content):
        begins = at + _LENGTH
        at = begins + int.from_bytes(content[at:begins], "little")
        with content[begins:at] as part:
            yield part


def _same(routes: Iterable[Route], before: Sequence[Route]) -> list[int]:
    by_name = {route.name: (index, route) for index, route in enumerate(before)}
    same = []
    for route in routes:
        index, old = by_name.get(route.name, (NEW, None))
        same.append(index if route == old else NEW)
    return same


def _feeds(config: Config) -> dict[str, bytes]:
    return {source.key: _pickled(source) for use in uses(config) for source in use.settings.feeds()}


def _hash(loaded: Loaded) -> str:
    digest = hashlib.sha256()
    files = [loaded.captured[name] for name in sorted(loaded.captured) if not pattern_in(name)]
    for content in [each.text for each in loaded.sources] + files:
        digest.update(b"%d " % len(content) + content)
    return digest.hexdigest()[:16]


def _pickled(part: object) -> bytes:
    return pickle.dumps(part, pickle.HIGHEST_PROTOCOL)
