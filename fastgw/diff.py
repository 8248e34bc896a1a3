"""Differences between two configurations, and the side effects of a reload from one to the other.

Decoded values are compared: files, their order, and defaults that one configuration spells out make no difference.
Secrets and the values of secret headers are compared, and shown as `***`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import unified_diff
from typing import Any, Final, Literal

import yaml
from msgspec import Struct
from msgspec.structs import replace

from fastgw.config import Config, Loaded
from fastgw.config.base.problems import Path, path_text, shorten
from fastgw.config.decoding.decoder import (
    Decoder,
    Either,
    Field,
    File,
    Hidden,
    Sequence,
    Structure,
    Table,
    Text,
    fields_of,
    shape_of,
)
from fastgw.config.egress.expand import service_of
from fastgw.config.loading.writer import effective, fitting, masked, written
from fastgw.config.openapi.expand import FILTER as OPERATION
from fastgw.config.openapi.shared_schemas import SharedSchemas, changed_schemas
from fastgw.config.settings.gateway import Filters, FilterUse, Route
from fastgw.config.settings.secrets import MASK
from fastgw.config.sources.virtual_files import is_derived
from fastgw.consumers.index import ConsumerEntry, Index, index_of

MOST_COMPARED: Final = 1024 * 1024
"""Maximum size in bytes of a configuration, in JSON, that is compared line by line: a MiB takes some seconds."""
_ROUTES_SHOWN: Final = 5
"""Maximum number of routes that a line names."""
Deed = Literal["added", "removed", "changed", "reordered"]


class Change(Struct, frozen=True):
    """A value that differs."""

    path: str
    """Path within the item, such as `timeouts.connect`; "" for the whole item. For a setting it is the full path."""
    deed: Deed
    words: str
    """Path, values and kind of change, for people."""
    old: Any = None
    """Old value as written in a file; null if it was added."""
    new: Any = None
    """New value as written in a file; null if it was removed."""


class Item(Struct, frozen=True, omit_defaults=True):
    """Differences under one name."""

    name: str
    level: str = ""
    """Level of a filter: `the gateway`, `listener public`, `upstream users`, `route user` or `filter set api`."""
    changes: tuple[Change, ...] = ()
    """None if it was added or removed as a whole."""
    routes: tuple[str, ...] = ()
    """Routes that use the filter set of a filter, before or after, in the order of the new configuration."""


class Part(Struct, frozen=True):
    """Differences of one kind: names of the old configuration in its order, then new ones in theirs."""

    added: tuple[Item, ...] = ()
    removed: tuple[Item, ...] = ()
    changed: tuple[Item, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Differences(Struct, frozen=True):
    """All differences. False if there are none."""

    settings: Part = Part()
    """Settings by their first key, such as `workers` or `timeouts`; `routes` for their order."""
    listeners: Part = Part()
    upstreams: Part = Part()
    routes: Part = Part()
    consumers: Part = Part()
    """Consumers; for their credentials only whether they differ."""
    filters: Part = Part()
    """Filters of every level."""
    needs: tuple[str, ...] = ()
    """Side effects of a reload: processes that start or end, sockets that close."""

    def __bool__(self) -> bool:
        return any((self.settings, self.listeners, self.upstreams, self.routes, self.consumers, self.filters))


KINDS: Final = {
    "settings": "",
    "listeners": "listener",
    "upstreams": "upstream",
    "routes": "route",
    "consumers": "consumer",
    "filters": "filter",
}
"""Parts of `Differences` in the order of the report, each with the noun for its items."""
NAMED: Final = ("listeners", "upstreams", "filter_sets", "filters", "routes", "consumers", "egress")
"""Keys of a configuration that are not compared as settings, or are compared as what they generate (`egress`);
`include` only says where files are.
"""


def differences(old: Loaded | Config, new: Loaded | Config, *, known: tuple[Index, Index] | None = None) -> Differences:
    """Return the differences between `old` and `new`. For `Loaded`, the contents of certificates are compared as well.

    `known`: the consumers of both, with a common key; None = those of the configurations.
    """
    before, after = (each.config if isinstance(each, Loaded) else each for each in (old, new))
    compare = _Comparison(_rewritten(old, new), (_captured(old), _captured(new)))
    old_routes, new_routes = ({route.name: route for route in each.routes} for each in (before, after))
    services = _services(old_routes), _services(new_routes)
    settings = [*compare.settings(before, after)]
    if moved := _reordered("routes", [*old_routes], [*new_routes]):
        settings.append(Item("routes", changes=(moved,)))
    return Differences(
        settings=Part(changed=tuple(settings)),
        listeners=compare.part(before.listeners, after.listeners),
        upstreams=compare.part(before.upstreams, after.upstreams),
        routes=_merge_services(compare.part(old_routes, new_routes), "name", *services),
        consumers=_consumers(*(known or _known(old, new))),
        filters=_with_routes(
            _merge_services(compare.filters(_levels(before), _levels(after)), "level", *map(_as_levels, services)),
            _routes_by_set(before, after),
        ),
        needs=tuple(_needs(before, after)),
    )


def as_text(differences: Differences) -> str:
    """Return one line for each difference, without a final line end."""
    lines = [line for key, kind in KINDS.items() for line in _lines(kind, getattr(differences, key))]
    return "\n".join([*lines, *(f"note: {need}" for need in differences.needs)]) or "nothing changes"


def _lines(kind: str, part: Part) -> Iterator[str]:
    for deed in ("removed", "changed", "added"):
        for item in getattr(part, deed):
            level = f" of {item.level}{_of_routes(item.routes)}" if item.level else ""
            subject = f"{kind} {_plain(item.name)}{level}: " if kind else ""
            yield from (f"{subject}{words}" for words in [change.words for change in item.changes] or [deed])


def _of_routes(names: tuple[str, ...]) -> str:
    """Return the routes that use a filter set, for people."""
    if not names:
        return ""
    shown = ", ".join(map(_plain, names[:_ROUTES_SHOWN]))
    more = f" and {len(names) - _ROUTES_SHOWN} more" if len(names) > _ROUTES_SHOWN else ""
    return f" (route{'s' if len(names) > 1 else ''} {shown}{more})"


def _routes_by_set(old: Config, new: Config) -> Mapping[str, tuple[str, ...]]:
    """Return the routes that use each filter set, by its level."""
    found: dict[str, dict[str, None]] = {}
    for route in (*new.routes, *old.routes):
        for name in route.use:
            found.setdefault(f"filter set {_plain(name)}", {})[route.name] = None
    return {level: tuple(names) for level, names in found.items()}


def _with_routes(part: Part, routes: Mapping[str, tuple[str, ...]]) -> Part:
    """Return the differences of filters with the routes that use their filter sets."""

    def with_routes(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(replace(each, routes=routes[each.level]) if each.level in routes else each for each in items)

    return Part(added=with_routes(part.added), removed=with_routes(part.removed), changed=with_routes(part.changed))


def _captured(side: Loaded | Config) -> Mapping[str, bytes]:
    """Return the contents of the files that a configuration names."""
    return side.captured if isinstance(side, Loaded) else {}


def _rewritten(old: Loaded | Config, new: Loaded | Config) -> frozenset[str]:
    """Return files that both configurations name, with different contents."""
    if not (isinstance(old, Loaded) and isinstance(new, Loaded)):
        return frozenset()
    return frozenset(file for file, content in old.captured.items() if new.captured.get(file, content) != content)


def _known(old: Loaded | Config, new: Loaded | Config) -> tuple[Index, Index]:
    """Return the consumers of both configurations, in comparable form."""
    before = _index(old)
    return before, _index(new, before.key)


def _index(side: Loaded | Config, key: bytes = b"") -> Index:
    if isinstance(side, Loaded):
        return index_of(side.config.consumers, side.captured, key)
    return index_of(side.consumers, {}, key)


def _consumers(old: Index, new: Index) -> Part:
    if old.digest == new.digest:
        return Part()
    before, after = ({each.name: each for each in index.known()} for index in (old, new))
    return _part(before, after, _of_consumer)


def _of_consumer(old: ConsumerEntry, new: ConsumerEntry) -> Iterator[Change]:
    if old.groups != new.groups:
        yield _changed(("groups",), list(old.groups), list(new.groups))
    if old.namespace != new.namespace:
        yield _changed(("namespace",), old.namespace or None, new.namespace or None)
    counts = (
        ("key_auth", "keys"),
        ("basic_auth", "passwords"),
        ("hmac", "signing_keys"),
        ("jwt", "subjects"),
        ("certificates", "certificates"),
    )
    changed = [(key, getattr(old, name), getattr(new, name)) for key, name in counts]
    changed = [(key, was, now) for key, was, now in changed if was != now]
    for key, was, now in changed:
        yield Change(key, "changed", f"{key}: {was} -> {now}", was, now)
    if old.digest != new.digest and not changed and old.namespace == new.namespace:
        yield Change("", "changed", "has other credentials")


def _levels(config: Config) -> dict[str, Filters]:
    """Return the filters of each level that has any."""
    held = {
        "the gateway": config.filters,
        **{f"filter set {_plain(name)}": each for name, each in config.filter_sets.items()},
        **{f"listener {_plain(name)}": each.filters for name, each in config.listeners.items()},
        **{f"upstream {_plain(name)}": each.filters for name, each in config.upstreams.items()},
        **{_level_of(each.name): each.filters for each in config.routes},
    }
    return {level: filters for level, filters in held.items() if filters}


def _level_of(route: str) -> str:
    return f"route {_plain(route)}"


Services = Mapping[str, str]
"""Names of services of `egress`, by the names of the routes that serve them, one on each of several listeners."""


def _services(routes: Mapping[str, Route]) -> Services:
    return {name: service for name, route in routes.items() if (service := service_of(route))}


def _as_levels(services: Services) -> Services:
    return {_level_of(name): _level_of(service) for name, service in services.items()}


def _merge_services(part: Part, key: str, old: Services, new: Services) -> Part:
    """Merge the equal changes of a service on all of its listeners. `key`: where items name the route."""
    return Part(
        added=_of_all(part.added, key, new),
        removed=_of_all(part.removed, key, old),
        changed=_of_all(part.changed, key, {name: service for name, service in new.items() if name in old}),
    )


def _of_all(items: tuple[Item, ...], key: str, services: Services) -> tuple[Item, ...]:
    listeners = Counter(services.values())
    names = (services.get(getattr(item, key), "") for item in items)
    of_services = [replace(item, **{key: name}) if name else item for item, name in zip(items, names, strict=True)]
    found: dict[tuple[str, str], list[Item]] = {}
    for each in of_services:
        found.setdefault((each.name, each.level), []).append(each)
    merged: list[Item] = []
    for item, of_service in zip(items, of_services, strict=True):
        alike = found[of_service.name, of_service.level]
        if item is of_service or alike.count(of_service) < max(listeners[getattr(of_service, key)], 2):
            merged.append(item)
        elif alike[alike.index(of_service)] is of_service:  # only for the first of them
            merged.append(of_service)
    return tuple(merged)


def _needs(old: Config, new: Config) -> Iterator[str]:
    if old.workers != new.workers:
        yield f"workers: {old.workers} -> {new.workers}: {_of_workers(old.workers, new.workers)}"
    for name, listener in old.listeners.items():
        subject = f"listener {_plain(name)}"
        if name not in new.listeners:
            yield f"{subject}: its socket is closed, its connections after the request in flight"
        elif (address := new.listeners[name].address) != listener.address:
            wrong = f"{listener.address} -> {address}"
            yield f"{subject}: {wrong}: the old socket is closed, its connections after the request in flight"
    for key in ("status", "admin"):
        before, after = (getattr(each, key) for each in (old, new))
        if before is not None and (after is None or before.address != after.address):
            yield f"{key}: {before.address} is closed"


def _of_workers(old: int | str, new: int | str) -> str:
    if isinstance(old, str) or isinstance(new, str):
        return "workers are started or retired one at a time"
    count, verb = abs(new - old), "started" if new > old else "retired"
    return f"1 worker is {verb}" if count == 1 else f"{count} workers are {verb} one at a time"


class _Comparison:
    """Comparison of two values at once, by their type. `rewritten`: files whose contents have changed; `captured`: the
    contents of all files, before and after.
    """

    def __init__(self, rewritten: frozenset[str], captured: tuple[Mapping[str, bytes], Mapping[str, bytes]]) -> None:
        self._rewritten = rewritten
        self._captured = captured
        self._schemas: dict[str, tuple[SharedSchemas, SharedSchemas]] = {}

    def settings(self, old: Config, new: Config) -> Iterator[Item]:
        for key, field in fields_of(Config).items():
            if key in (*NAMED, "include"):
                continue
            if changes := tuple(self._values(field.shape, *_field_values(field, old, new), (key,))):
                yield Item(key, changes=changes)

    def part(self, old: Mapping[str, Struct], new: Mapping[str, Struct]) -> Part:
        """Return the differences under each name, without its filters."""
        return _part(old, new, self._but_filters)

    def filters(self, old: Mapping[str, Filters], new: Mapping[str, Filters]) -> Part:
        parts = []
        for level in dict.fromkeys((*old, *new)):
            before, after = old.get(level, {}), new.get(level, {})
            if not self._same(before, after):
                parts.append(_part(before, after, self._uses, level))
        return Part(
            added=tuple(item for part in parts for item in part.added),
            removed=tuple(item for part in parts for item in part.removed),
            changed=tuple(item for part in parts for item in part.changed),
        )

    def _same(self, old: Any, new: Any) -> bool:
        return not self._rewritten and bool(old == new)

    def _but_filters(self, old: Struct, new: Struct) -> Iterator[Change]:
        return iter(()) if self._same(old, new) else self._fields(old, new, (), without=("name", "filters"))

    def _uses(self, old: FilterUse | None, new: FilterUse | None) -> Iterator[Change]:
        if old is None or new is None or old.type != new.type:
            yield from self._leaves(_USE, old, new, ())
            return
        yield from self._leaves(shape_of(bool), old.enforced, new.enforced, ("enforced",))
        yield from self._leaves(shape_of(bool), old.shadow, new.shadow, ("shadow",))
        if new.type == OPERATION and old.settings.schemas == new.settings.schemas in self._rewritten:
            yield from self._operations(old.settings, new.settings)
        else:
            yield from self._fields(old.settings, new.settings, ())

    def _operations(self, old: Any, new: Any) -> Iterator[Change]:
        """Compare operations of two versions of a document, with the schemas that they use."""
        if new.schemas not in self._schemas:
            before, after = (SharedSchemas(files[new.schemas]) for files in self._captured)
            self._schemas[new.schemas] = before, after
        before, after = self._schemas[new.schemas]
        same = before.named(old.operation) == after.named(new.operation)
        yield from self._fields(old, new, (), without=("operation", "schemas") if same else ("schemas",))
        for location in changed_schemas(before.used_by(old.operation), after.used_by(new.operation)):
            yield Change(location, "changed", f"{_plain(location)} has other contents")

    def _values(self, shape: Decoder, old: Any, new: Any, path: Path) -> Iterator[Change]:
        if self._same(old, new):
            return iter(())
        if isinstance(shape, Either):
            shape, other = fitting(shape, old), fitting(shape, new)
            if shape is not other:
                return iter([_changed(path, written(shape, old), written(other, new))])
        below: _Below = _BELOW.get(type(shape), _Comparison._leaves)
        return below(self, shape, old, new, path)

    def _fields(self, old: Struct, new: Struct, path: Path, without: tuple[str, ...] = ()) -> Iterator[Change]:
        for key, field in fields_of(type(new)).items():
            if key not in without:
                yield from self._values(field.shape, *_field_values(field, old, new), (*path, key))

    def _leaves(self, shape: Decoder, old: Any, new: Any, path: Path) -> Iterator[Change]:
        if old == new:
            return
        before, after = written(shape, old), written(shape, new)
        # Equal: they differ in a secret part, such as a value of a query.
        yield _changed(path, before, after) if before != after else _hidden(path, before)

    def _secrets(self, shape: Hidden, old: Any, new: Any, path: Path) -> Iterator[Change]:
        if old != new:
            yield _hidden(path)

    def _files(self, shape: File, old: str, new: str, path: Path) -> Iterator[Change]:
        if old == new and new in self._rewritten:
            yield Change(path_text(path), "changed", f"{path_text(path)} {_plain(new)} has other contents", old, new)
        else:
            yield from self._leaves(shape, old, new, path)

    def _texts(self, shape: Text, old: Any, new: Any, path: Path) -> Iterator[Change]:
        """Compare texts, of which one may name a file that is made of others, such as the page about a document."""
        if old == new and new in self._rewritten and is_derived(new):
            yield Change(path_text(path), "changed", f"{path_text(path)} {_plain(new)} has other contents", old, new)
        else:
            yield from self._leaves(shape, old, new, path)

    def _structures(self, shape: Structure, old: Struct, new: Struct, path: Path) -> Iterator[Change]:
        return self._fields(old, new, path)

    def _tables(self, shape: Table, old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> Iterator[Change]:
        for key in dict.fromkeys((*old, *new)):
            below = (*path, key)
            if key in old and key in new and not masked(shape, key):
                yield from self._values(shape.each, old[key], new[key], below)
            elif key in old and key in new:
                if old[key] != new[key]:
                    yield _hidden(below)
            else:
                owner, deed = (old, _removed) if key in old else (new, _added)
                value = MASK if masked(shape, key) else written(shape.each, owner[key])
                yield deed(below, f"{path_text(below)} {_rendered(value)}", value)

    def _sequences(self, shape: Sequence, old: tuple[Any, ...], new: tuple[Any, ...], path: Path) -> Iterator[Change]:
        """Compare sequences. Elements are identified by their text, structs by their first field; with duplicates the
        whole value is compared.
        """
        old_by_key, new_by_key = ({_key_of(shape.each, each): each for each in values} for values in (old, new))
        if len(old_by_key) < len(old) or len(new_by_key) < len(new):
            yield from self._leaves(shape, old, new, path)
            return
        noun = path_text((*path[:-1], _singular(str(path[-1]))))
        named = {_key_of(shape.each, each): _named(shape.each, each) for each in (*old, *new)}
        for key in dict.fromkeys((*old_by_key, *new_by_key)):
            shown = _rendered(named[key])
            below = (*path, key if isinstance(named[key], str) else shown)
            if key in old_by_key and key in new_by_key:
                yield from self._values(shape.each, old_by_key[key], new_by_key[key], below)
            else:
                owner, deed = (old_by_key, _removed) if key in old_by_key else (new_by_key, _added)
                yield deed(below, f"{noun} {shown}", written(shape.each, owner[key]))
        if moved := _reordered(path_text(path), [*old_by_key], [*new_by_key]):
            yield moved


_Below = Callable[[_Comparison, Any, Any, Any, Path], Iterator[Change]]
_BELOW: Final[Mapping[type[Decoder], _Below]] = {
    Structure: _Comparison._structures,
    Table: _Comparison._tables,
    Sequence: _Comparison._sequences,
    File: _Comparison._files,
    Text: _Comparison._texts,
    Hidden: _Comparison._secrets,
}
"""Comparisons by type of value; values of other types are compared as a whole."""
_USE: Final = shape_of(FilterUse | None)


def _part(
    old: Mapping[str, Any], new: Mapping[str, Any], changes: Callable[[Any, Any], Iterable[Change]], level: str = ""
) -> Part:
    common = [(name, tuple(changes(old[name], new[name]))) for name in old if name in new]
    return Part(
        added=tuple(Item(name, level, _of_null("added", new[name])) for name in new if name not in old),
        removed=tuple(Item(name, level, _of_null("removed", old[name])) for name in old if name not in new),
        changed=tuple(Item(name, level, found) for name, found in common if found),
    )


def _of_null(deed: Deed, held: object) -> tuple[Change, ...]:
    """Describe the effect of adding or removing a null, which removes an inherited filter."""
    words = "switched off" if deed == "added" else "no longer switched off"
    return (Change("", deed, words),) if held is None else ()


def _field_values(field: Field, old: Struct, new: Struct) -> tuple[Any, Any]:
    return getattr(old, field.name), getattr(new, field.name)


def _changed(path: Path, old: Any, new: Any) -> Change:
    where = path_text(path)
    return Change(where, "changed", f"{where} {_rendered(old)} -> {_rendered(new)}".lstrip(), old, new)


def _hidden(path: Path, shown: Any = MASK) -> Change:
    return Change(path_text(path), "changed", f"{path_text(path)} changed", shown, shown)


def _added(path: Path, subject: str, value: Any) -> Change:
    return Change(path_text(path), "added", f"{subject} added", new=value)


def _removed(path: Path, subject: str, value: Any) -> Change:
    return Change(path_text(path), "removed", f"{subject} removed", old=value)


def _reordered(path: str, old: list[str], new: list[str]) -> Change | None:
    common = {*old} & {*new}
    before, after = ([name for name in names if name in common] for names in (old, new))
    return Change(path, "reordered", f"{path} in another order", before, after) if before != after else None


def _named(shape: Decoder, value: Any) -> Any:
    """Return what identifies an element of a sequence: of an object its first value, without nulls if that is an object
    or a list itself, such as the sink of a log.
    """
    rendered = written(fitting(shape, value), value)
    if not isinstance(rendered, dict):
        return rendered
    first = next(iter(rendered.values()))
    if isinstance(first, dict) and len(rendered) == 1:  # a filter: its type is the only key
        first = rendered
    return _without_nulls(first)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _key_of(shape: Decoder, value: Any) -> str:
    named = _named(shape, value)
    return named if isinstance(named, str) else json.dumps(named)


def _singular(noun: str) -> str:
    return f"{noun[:-3]}y" if noun.endswith("ies") else noun.removesuffix("s")


def _rendered(value: Any) -> str:
    """Return a value as it is shown in a line of text."""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, dict):
        return shorten(f"{{{', '.join(f'{_plain(key)}: {_rendered(each)}' for key, each in value.items())}}}")
    if isinstance(value, list):
        return shorten(f"[{', '.join(map(_rendered, value))}]")
    return json.dumps(value)


def _plain(text: str) -> str:
    """Return the text unquoted if it is unambiguous, otherwise quoted, with terminal control characters escaped."""
    if text and text.isprintable() and not set(text) & set(" \"',"):
        return shorten(text)
    return shorten(json.dumps(text, ensure_ascii=not text.isprintable()))


def yaml_diff(old: Config, new: Config) -> str:
    """Return a unified diff of two whole configurations in YAML, without secrets and consumers; "" if nothing in it
    differs, or one of them is larger than `MOST_COMPARED`.
    """
    both = effective(old), effective(new)
    if max(len(json.dumps(each)) for each in both) > MOST_COMPARED:
        return ""
    before, after = (yaml.safe_dump(each, sort_keys=False, allow_unicode=True, width=120) for each in both)
    lines = unified_diff(before.splitlines(), after.splitlines(), "before", "now", lineterm="")
    return "\n".join(lines)
