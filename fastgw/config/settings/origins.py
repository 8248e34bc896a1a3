"""Origins of generated parts of a configuration: what a file has in their place."""

from collections.abc import Mapping

from fastgw.config.base.settings_base import NONE, Settings


class OpenApiEntry(Settings):
    """An entry `{openapi: …}` of the routes, and the routes that were made of it."""

    first: int
    """Position of the first of its routes."""
    count: int
    """Number of its routes."""
    entry: str
    """The entry as JSON, without secrets."""


class Origins(Settings):
    """Origins of the generated parts of a configuration."""

    targets: Mapping[str, str] = NONE
    """Sources of targets that are not listed, such as a DNS name, by upstream: as JSON."""
    openapi: tuple[OpenApiEntry, ...] = ()
    """Entries for OpenAPI documents, in their order."""
