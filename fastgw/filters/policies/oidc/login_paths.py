"""Paths of a login at the gateway, and whether a route with the filter matches them: for `check`."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from fastgw.config.base.route_patterns import either_slash, parse_path
from fastgw.config.settings.gateway import Route
from fastgw.filters.policies.oidc.settings import Login
from fastgw.routing.table import Conditions, Router

_BY_DEFAULT = "/oauth2/logout"


def own_paths(login: Login) -> Iterator[tuple[str, str]]:
    """Yield the settings with paths that the filter answers by itself, and the paths. The default `logout` is left out:
    many have no link to it.
    """
    yield "callback", login.callback
    for key, path in (
        ("login", login.login),
        ("logout", login.logout),
        ("backchannel_logout", login.backchannel_logout),
    ):
        if path is not None and (key, path) != ("logout", _BY_DEFAULT):
            yield key, path


class _Request(NamedTuple):
    """A request of which nothing but the path is known."""

    path: bytes
    host: bytes = b""
    method: bytes = b"GET"
    query: bytes | None = None

    def values(self, name: bytes) -> list[bytes]:
        return []


def reached_paths(logins: Iterable[tuple[Login, Route]]) -> frozenset[str]:
    """Return the paths of logins that a route with the filter may match, whatever its other conditions."""
    reached: set[str] = set()
    for login, route in logins:
        missing = [path for _, path in own_paths(login) if path not in reached]
        if missing:
            patterns = chain.from_iterable(map(either_slash, map(parse_path, route.paths)))
            table = Router([(Conditions(paths=tuple(patterns)), route)])
            reached.update(path for path in missing if table.find(_Request(path.encode())) is not None)
    return frozenset(reached)
