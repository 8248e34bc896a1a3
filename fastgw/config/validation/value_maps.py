"""Names of the gateway's maps, which values of routes and filters may use."""

from fastgw.config.base.value_templates import KnownNames
from fastgw.config.base.variables import MAP_PREFIX
from fastgw.config.decoding.merge import Merged
from fastgw.config.settings.value_maps import is_whole


def known_maps(merged: Merged) -> KnownNames:
    """Return the names of the maps as `map.NAME`, also of those whose settings are wrong."""
    tables = {MAP_PREFIX + name: table for name, (_, table) in merged.maps["maps"].items()}
    late = (name for name, table in tables.items() if is_whole(table) and table.reads_response)
    return KnownNames(frozenset(tables), frozenset(late))
