"""Which path an upstream is sent, as a route has it."""

from collections.abc import Callable

from fastgw.config import settings as config
from fastgw.config.patterns import Template, parse_rewrite, parse_strip_prefix
from fastgw.upstream.balance import Asked


def path_of(route: config.Route) -> Callable[[Asked], bytes] | None:
    """Which path the upstream is sent, base path of its URL not counted. None: that of the request, in normal form."""
    if route.rewrite is not None:
        template: Template = parse_rewrite(route.rewrite)
        return lambda asked: template.expand(asked.params)
    if route.strip_prefix is None:
        return (lambda asked: asked.raw_path) if route.path.forward == "raw" else None
    prefix = parse_strip_prefix(route.strip_prefix)
    folder = prefix + b"/"

    def stripped(asked: Asked) -> bytes:
        path = asked.path
        if path.startswith(folder):
            return path[len(prefix) :]
        return b"/" if path == prefix else path

    return stripped
