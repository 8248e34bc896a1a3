"""Configuration files of other programs, kept as files that those who know the program can review."""

from pathlib import Path
from string import Template


class ConfigTemplate(Template):
    """`@{name}` is filled in; `$` keeps its meaning in nginx, HAProxy and Caddy files."""

    delimiter = "@"


def render(template: Path, destination: Path, **values: object) -> Path:
    """Fill in `template`, write it to `destination` and return that. A name without a value is a `KeyError`."""
    destination.write_text(ConfigTemplate(template.read_text()).substitute(values))
    return destination
