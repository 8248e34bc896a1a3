"""Names of the gateway's maps, which values of routes and filters may use."""

from contextlib import suppress
from typing import Any

from fastgw.config.base.route_patterns import parse_path
from fastgw.config.base.value_templates import KnownNames
from fastgw.config.base.variables import MAP_PREFIX
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged
from fastgw.config.settings.value_maps import is_whole, needed_parameters


def known_maps(merged: Merged) -> KnownNames:
    """Return the names of the maps as `map.NAME`, also of those whose settings are wrong."""
    tables = {MAP_PREFIX + name: table for name, (_, table) in merged.maps["maps"].items()}
    late = (name for name, table in tables.items() if is_whole(table) and table.reads_response)
    needed = {name: needed_parameters(table) for name, table in tables.items() if is_whole(table)}
    needed = {name: each for name, each in needed.items() if each}
    if needed:  # one that no route has is reported at the map
        anywhere = parameters_anywhere(merged)
        needed = {name: each & anywhere for name, each in needed.items()}
    return KnownNames(frozenset(tables), frozenset(late), needed)


def parameters_anywhere(merged: Merged) -> frozenset[str]:
    return frozenset().union(*(parameters_of(route.paths) for _, route in merged.routes()))


def parameters_of(paths: Any) -> frozenset[str]:
    """Return the names of the parameters in paths; invalid paths are skipped."""
    names: set[str] = set()
    for path in () if paths is BROKEN else paths:
        if path is BROKEN or ("{" not in path and "<" not in path):  # no segment has a parameter, and no group a name
            continue
        with suppress(ValueError):
            names.update(parse_path(path).names)
    return frozenset(names)
