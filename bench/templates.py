"""Configuration templates of other programs, kept as files for review by those who know the programs."""

from pathlib import Path
from string import Template


class ConfigTemplate(Template):
    """Template in which `@{name}` is replaced; `$` keeps its meaning in files of nginx, HAProxy and Caddy."""

    delimiter = "@"


def render(template: Path, destination: Path, **values: object) -> Path:
    """Render `template` to `destination`, and return that. Raises `KeyError` for a name without a value."""
    destination.write_text(ConfigTemplate(template.read_text()).substitute(values))
    return destination
