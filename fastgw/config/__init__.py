"""The configuration: settings (`settings`), reading and validation (`load`), and the JSON Schema.

Names are imported on first use: a program that only needs an address or a secret parsed does not load the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__all__ = [
    "Config",
    "ConfigError",
    "Loaded",
    "Problem",
    "Remembered",
    "Source",
    "effective",
    "filter_types_of",
    "from_flags",
    "load",
    "load_sources",
    "load_text",
]

if TYPE_CHECKING:
    from fastgw.config.base.problems import ConfigError, Problem
    from fastgw.config.loading.load import (
        Loaded,
        Remembered,
        filter_types_of,
        from_flags,
        load,
        load_sources,
        load_text,
    )
    from fastgw.config.loading.writer import effective
    from fastgw.config.settings.gateway import Config
    from fastgw.config.sources.documents import Source
else:
    _HOMES: Final = {
        "sources.documents": ("Source",),
        "loading.load": ("Loaded", "Remembered", "filter_types_of", "from_flags", "load", "load_sources", "load_text"),
        "base.problems": ("ConfigError", "Problem"),
        "settings.gateway": ("Config",),
        "loading.writer": ("effective",),
    }
    _HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = found
        return found
