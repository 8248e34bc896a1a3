"""The configuration: what it may say (`settings`), how it is read and checked (`load`), and its JSON Schema."""

from fastgw.config.documents import Source
from fastgw.config.loading import Loaded, filter_types_of, from_flags, load, load_sources, load_text
from fastgw.config.problems import ConfigError, Problem
from fastgw.config.settings import Config
from fastgw.config.writing import effective

__all__ = [
    "Config",
    "ConfigError",
    "Loaded",
    "Problem",
    "Source",
    "effective",
    "filter_types_of",
    "from_flags",
    "load",
    "load_sources",
    "load_text",
]
