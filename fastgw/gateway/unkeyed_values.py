"""Values of requests that a filter sends to the upstream although the cache key has neither them nor the header.

The cache forwards no query parameter and no header of `UNKEYED` that is not in the key (`filters.policies.cache`): with
one of them a client could choose what the others get. A value of it in another header would undo that.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fastgw.config.base.value_templates import names_in
from fastgw.config.base.variables import MAP_PREFIX
from fastgw.config.settings.gateway import FilterUse
from fastgw.config.settings.value_maps import ValueMap
from fastgw.filters.policies.cache.filter import Cache
from fastgw.filters.policies.headers import BY_PRESENCE, Edits, Headers

_UNSHARED: Final = frozenset(("authorization",))
"""Headers with which responses are stored for all only if they say so (RFC 9111 section 3.5)."""


class UnkeyedValue(NamedTuple):
    """A use of `headers` that sends such a value, and the error."""

    use: FilterUse
    error: str


def find_unkeyed_values(
    uses: Sequence[FilterUse], maps: Mapping[str, ValueMap], route: str, methods: Sequence[str]
) -> Iterator[UnkeyedValue]:
    """Yield such values among the filters of a route. `maps`: those of the gateway; `methods`: of the route, none: all.

    Filters in shadow mode do not act.
    """
    if methods and "GET" not in methods:  # only responses to GET are stored
        return
    acting = [use for use in uses if not use.shadow]
    for cache in acting:
        if isinstance(cache.settings, Cache) and "GET" in cache.settings.methods:
            yield from _UnkeyedSearch(cache, route).unkeyed_values(acting, maps)


class _UnkeyedSearch:
    """A search for what the key of one cache does not have, over the filters in running order."""

    __slots__ = ("_cache", "_found", "_in_key", "_key", "_route", "_written")

    def __init__(self, cache: FilterUse, route: str) -> None:
        settings: Cache = cache.settings
        self._cache, self._route, self._key = cache, route, settings.key
        self._in_key = {name.lower() for name in settings.key.headers} | _UNSHARED
        self._found: dict[str, UnkeyedValue] = {}
        """The first one of each header that is sent."""
        self._written: set[str] = set()
        """Variables of headers that filters have written, so they are not the client's any more."""

    def unkeyed_values(self, uses: Iterable[FilterUse], maps: Mapping[str, ValueMap]) -> Iterable[UnkeyedValue]:
        for use in uses:
            if isinstance(use.settings, Headers):
                self._search_edits(use, use.settings.request, {**maps, **use.settings.maps})
        return self._found.values()

    def _search_edits(self, use: FilterUse, edits: Edits, maps: Mapping[str, ValueMap]) -> None:
        names = (*edits.remove, *edits.rename, *edits.rename.values(), *edits.set, *edits.replace)
        replaced = {header.lower() for header in names}
        for header in replaced:
            self._found.pop(header, None)
        for where, header, text in _written(edits):
            name = self._unkeyed_name(header, text, maps)
            if name is not None:
                error = _error(f"request.{where}", header, name, self._cache, self._route)
                self._found.setdefault(header.lower(), UnkeyedValue(use, error))
        self._written.update(f"header.{header}" for header in replaced)

    def _unkeyed_name(self, header: str, text: str, maps: Mapping[str, ValueMap]) -> str | None:
        """Return the first variable of a text that a header must not have."""
        if header.lower() in self._in_key:
            return None
        names = (name for name in _names_in(text, maps) if name.lower() not in self._written)
        return next((name for name in names if self._key.leaves_out(name)), None)


def _written(edits: Edits) -> Iterator[tuple[str, str, str]]:
    """Yield the place of each change that writes a header, the header, and a text with the values that it depends
    on.
    """
    for name, new in edits.rename.items():
        yield f"rename.{name}", new, f"{{header.{name}}}"
    for key, values in edits.written():
        for header, value in values.items():
            text = value if isinstance(value, str) else ""
            yield f"{key}.{header}", header, f"{{header.{header}}}{text}" if key in BY_PRESENCE else text


def _names_in(text: str, maps: Mapping[str, ValueMap]) -> Iterator[str]:
    """Yield the variables of a text, and those that its maps look up."""
    for name in names_in(text):
        table = maps.get(name.removeprefix(MAP_PREFIX)) if name.startswith(MAP_PREFIX) else None
        yield from (name,) if table is None else names_in(table.source)


def _error(where: str, header: str, name: str, cache: FilterUse, route: str) -> str:
    kind = "headers" if name.startswith("header.") else "query"
    return (
        f"{where}: {{{name}}} is not in the key of the cache `{cache.name}` of route `{route}`, so one client could "
        f"choose what others get; expected {header} in `key.headers` of the cache, or what it stands for in "
        f"`key.{kind}`"
    )
